"""Predictive sign gradient: signs from the first bits."""

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..golden.psg import Mode, Predictor, Rule, Split, Threshold, beta_units
from .sign_sgd import SignSGD

E2TRAIN = "e2train"
_LEADING = re.compile(r"(\d+)x(\d+) (round|floor|sign-magnitude)")


@dataclass(frozen=True)
class Leading:
    """Which first bits predict: `x` of the input's, `g` of the output gradient's, and how the numbers are cut there.

    x, g    at least 1 and 2, less than the whole widths
    cut     `Predictor.ROUND` alone is for hardware; the others are there to compare
    repair  the high part of x meets the mean of g's low part too
    """

    x: int = 4
    g: int = 10
    cut: Predictor = Predictor.ROUND
    repair: bool = False

    @classmethod
    def of(cls, name: str) -> "Leading":
        """By name: "e2train", that is 4 bits of x and 10 of g, rounded and repaired; or such as "4x6 floor"."""
        if name == E2TRAIN:
            return cls(repair=True)
        match = _LEADING.fullmatch(name)
        if match is None:
            raise UsageError(f"predictor {name!r} is unknown: give {E2TRAIN}, or such as '4x10 round', '4x10 floor'")
        return cls(int(match[1]), int(match[2]), Predictor(match[3].replace("-", "_")))

    def split(self, bits: int, leading: int, signed: bool, name: str) -> Split:
        """Raises `UsageError` when the first bits are not fewer than all of them."""
        if not 1 + signed <= leading < bits:
            kind = "signed " if signed else ""
            raise UsageError(
                f"{leading} leading bits of {bits} {kind}bits of {name}: choose {1 + signed} to {bits - 1}, "
                "or make the whole wider"
            )
        return Split(bits, bits - leading, signed, self.cut)


@dataclass(frozen=True)
class PSG(SignSGD):
    """Predictive sign gradient (E2-Train): signs from the first bits where these decide, else from all of them.

    beta       the threshold is beta times the largest prediction of the weight's tensor; 0 to 1, kept to 2**-12.
               0 is the predictor alone, which finishes nothing
    predictor  "e2train", such as "4x6 round", or `Leading`
    tau        "exact": of this very step; "lagged": of the step before, kept by each layer and in its `state_dict`,
               "exact" where there is none or the scales have moved by more than 2**31; "constant": `constant`
    constant   threshold in real units, of tau="constant"; 0 is the predictor alone
    repair     None: as the predictor has it
    linear, update   as in `SignSGD`

    x and g are quantised so that the first part cannot overflow (see `golden.psg.Split.limits`), in all three products.
    Raises `UsageError` for values outside these ranges.
    """

    beta: float = 0.05
    predictor: str | Leading = E2TRAIN
    tau: str = "exact"
    constant: float | None = None
    repair: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.leading, self.threshold

    @property
    def leading(self) -> Leading:
        """Which first bits predict."""
        return self.predictor if isinstance(self.predictor, Leading) else Leading.of(self.predictor)

    @property
    def threshold(self) -> Threshold:
        """tau, for the golden model."""
        if self.tau not in list(Mode):
            raise UsageError(f"tau {self.tau!r} is unknown: choose from {', '.join(Mode)}")
        if (self.tau == Mode.CONSTANT) != (self.constant is not None):
            raise UsageError("tau='constant' needs constant=..., a real number, and no other tau takes it")
        return Threshold(Mode(self.tau), beta_units(self.beta), self.constant or 0.0)

    @property
    def lagged(self) -> bool:
        return self.tau == Mode.LAGGED

    def low_bits(self, x_bits: int, g_bits: int) -> tuple[int, int]:
        leading = self.leading
        return (x_bits - leading.x, g_bits - leading.g) if leading.cut == Predictor.ROUND else (0, 0)

    def rule(self, x_bits: int, x_signed: bool, g_bits: int) -> Rule:
        leading = self.leading
        x = leading.split(x_bits, leading.x, x_signed, "the input")
        g = leading.split(g_bits, leading.g, True, "the gradient")
        return Rule(x, g, self.threshold, leading.repair if self.repair is None else self.repair)
