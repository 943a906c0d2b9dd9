"""Random numbers of a method's own, whose state can be copied and kept."""

import hashlib

import torch


def generator(*names: object) -> torch.Generator:
    """Seeded by `names`, such as a kind of method and a seed: other names have other numbers, also of equal seeds."""
    digest = hashlib.sha256(" ".join(map(str, names)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


class Random:
    """Two generators, one for training and one for evaluation, so that evaluating changes nothing of the training.

    Copies go on by themselves, from the same state.
    """

    def __init__(self, *names: object) -> None:
        self._training, self._evaluation = generator(*names), generator(*names, "evaluation")

    def uniform(self, count: int, training: bool = True, device: torch.device | None = None) -> torch.Tensor:
        """float32 [count], 0 or more, below 1: the same on every `device`."""
        return torch.rand(count, generator=self._training if training else self._evaluation).to(device)

    @property
    def state(self) -> torch.Tensor:
        return torch.stack((self._training.get_state(), self._evaluation.get_state()))

    @state.setter
    def state(self, state: torch.Tensor) -> None:
        self._training.set_state(state[0].clone())
        self._evaluation.set_state(state[1].clone())

    def __deepcopy__(self, memo: dict[int, object]) -> "Random":
        return _of(self.state)

    def __reduce__(self) -> "tuple[object, tuple[torch.Tensor]]":
        return _of, (self.state,)


def _of(state: torch.Tensor) -> Random:
    random = Random()
    random.state = state
    return random
