"""Ctrl-C that is not lost.

Python drops the KeyboardInterrupt that is raised while it finalises an object (`__del__`, a weak reference's callback):
it prints "Exception ignored in" and goes on. So long work asks now and then whether there was one.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


def _note(number: int, frame: FrameType | None) -> None:
    _came.set()
    raise KeyboardInterrupt


@contextmanager
def noted() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt as ever, and `check` knows of it. Outside the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _came.clear()


def check() -> None:
    """Raises KeyboardInterrupt if one came since `noted` began."""
    if _came.is_set():
        raise KeyboardInterrupt
