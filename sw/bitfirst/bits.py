"""The widths of a layer's operands."""

from dataclasses import dataclass

from .quantiser import check_bits


@dataclass(frozen=True)
class Bits:
    """Widths of x, w and of the output's gradient."""

    activation: int = 8
    weight: int = 8
    gradient: int = 16

    def __post_init__(self) -> None:
        check_bits(self.activation, False, "activation")
        check_bits(self.weight, True, "weight")
        check_bits(self.gradient, True, "gradient")
