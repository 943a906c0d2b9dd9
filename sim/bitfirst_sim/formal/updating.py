"""The update's roundings, differences and saturation are what their definitions say, for every number."""

from types import ModuleType

from amaranth.hdl import Assert, C, Cover, Module, Mux, Value, signed
from amaranth.lib.wiring import In
from bitfirst_hdl import update
from bitfirst_hdl.contract.numeric import limits

from .prove import Property


class UpdateArithmetic(Property):
    """Combinational; `bits` of the number that is shifted, saturated to half of them, and taken from.

    Shifts are those that the unit's levels make of it, up to its width and more.
    """

    def __init__(self, module: ModuleType = update, bits: int = 16) -> None:
        self.module, self.bits = module, bits
        self.levels = [tuple(bit for bit in level if 1 << bit < bits) for level in module._LEVELS]
        members = {"number": In(signed(bits)), "amount": In(sum(map(len, self.levels)))}
        super().__init__(members | {"other": In(signed(bits)), "one": In(1)})

    def state(self, m: Module) -> None:
        self._to_nearest(m)
        self._upwards(m)
        self._rest(m)

    def _to_nearest(self, m: Module) -> None:
        """The error is at most half a unit; where it is half a unit, the result is even."""
        parts = self.number, C(0, 1), C(0, 1)
        for bits in self.levels:
            parts = self.module.shifted(*parts, self.amount, bits)
        rounded = parts[0] + self.module.carry_of(*parts)
        twice = (self.number - (rounded << self.amount)) << 1
        unit = C(1) << self.amount
        tie = (twice == unit) | (twice == -unit)
        m.d.comb += [
            Assert((twice <= unit) & (twice >= -unit), "nearest"),
            Assert(~tie | ~rounded[0], "even"),
            Cover(tie & (self.amount == 3) & (self.number < 0) & parts[0][0]),
        ]

    def _upwards(self, m: Module) -> None:
        """Of a number without sign: the least that is not less."""
        number: Value = self.number.as_unsigned()
        quotient, rest = number, C(0, 1)
        for bits in self.levels:
            quotient, rest = self.module.shifted_up(quotient, rest, self.amount, bits)
        above = ((quotient + rest) << self.amount) - number
        m.d.comb += Assert((above >= 0) & (above < (C(1) << self.amount)), "up")

    def _rest(self, m: Module) -> None:
        difference = self.module.less(self.number, self.other, self.one)
        low, high = limits(self.bits // 2, True)
        clipped = Mux(self.number > high, high, Mux(self.number < low, low, self.number))
        m.d.comb += [
            Assert(difference == (self.number - self.other - self.one)[: self.bits], "difference"),
            Assert(self.module.saturated(self.number, self.bits // 2) == clipped, "saturated"),
        ]
