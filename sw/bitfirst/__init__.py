"""Host side of Bitfirst: devices, driver, golden model, layers for PyTorch, training, command line.

Names are loaded on first use: `import bitfirst` needs neither PyTorch nor a simulator.
"""

from importlib import import_module

_EXPORTS = {
    "Device": "device",
    "TrainOptions": "training",
    "convert": "nn",
    "methods": None,
    "open": "opening",
    "optim": None,
    "train": "loop",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'bitfirst' has no attribute {name!r}")
    module = _EXPORTS[name]
    if module is None:  # the module itself
        return import_module(f".{name}", __name__)
    return getattr(import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
