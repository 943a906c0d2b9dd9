"""Ctrl-C is not lost where Python drops it."""

import signal
from pathlib import Path

import pytest
from bitfirst import interrupts, training


class Unlucky:
    """Ctrl-C comes while it is finalised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_that_python_drops_is_noted() -> None:
    with interrupts.noted():
        Unlucky()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    interrupts.check()


def test_interrupt_raises_at_once_and_the_handler_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), interrupts.noted():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    interrupts.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_without_it_python_drops_the_interrupt() -> None:
    Unlucky()
    interrupts.check()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_training_ends_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, loss = [], training._cross_entropy

    def interrupted(scores, labels):
        steps.append(len(steps))
        Unlucky()
        return loss(scores, labels)

    monkeypatch.setattr(training, "_cross_entropy", interrupted)
    with interrupts.noted(), pytest.raises(KeyboardInterrupt):
        training.train_and_compare(training.TrainOptions(device="model", out=tmp_path))
    assert len(steps) == 1
