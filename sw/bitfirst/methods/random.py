"""Random numbers of a network's own, whose state can be copied and kept."""

import torch


class Random:
    """A generator; copies go on by themselves, from the same state."""

    def __init__(self, seed: int = 0, state: torch.Tensor | None = None) -> None:
        self.generator = torch.Generator()
        self.generator.manual_seed(seed) if state is None else self.generator.set_state(state)

    def uniform(self, count: int) -> torch.Tensor:
        """float32 [count], 0 or more, below 1."""
        return torch.rand(count, generator=self.generator)

    @property
    def state(self) -> torch.Tensor:
        return self.generator.get_state()

    @state.setter
    def state(self, state: torch.Tensor) -> None:
        self.generator.set_state(state)

    def __deepcopy__(self, memo: dict[int, object]) -> "Random":
        return Random(state=self.state)

    def __reduce__(self) -> tuple[type["Random"], tuple[int, torch.Tensor]]:
        return Random, (0, self.state)
