"""The array's clock: settings of the families' PLLs, and a clock domain that one of them drives.

A PLL divides its input by D (to the phase frequency detector, PFD), multiplies by N (to the oscillator, VCO) and
divides by Q. Limits are those of the data sheets, for the slowest speed grade where grades differ: ECP5 FPGA-DS-02012
(sysCLOCK PLL timing), iCE40 FPGA-DS-02008 and FPGA-TN-02052, Gowin DS117 (GW1NR, C6/I5), DS102 (GW2A: what all its
grades allow) and UG286, 7-series DS181 and UG472.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from amaranth.build import Platform
from amaranth.hdl import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Mux, Signal, Value
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer, ResetSynchronizer

from .errors import FlowError

Range = tuple[int, int]  # least and most, both allowed
#: iCE40: block RAM reads as zeros for 3 us after configuration, five times which allows for all chips.
ICE40_HOLD_S = Fraction(15, 10**6)


class ClockError(FlowError):
    """A frequency that the PLL cannot make; the message is one line that names those that it can."""


@dataclass(frozen=True)
class Pll:
    """One kind of PLL; frequencies in Hz.

    name         as in `PLLS`
    input_hz, pfd_hz, vco_hz, output_hz   limits
    input_divider, multiplier   allowed D, and N in steps of 1 / `fraction` (where `from_output`, N / Q)
    output_divider              allowed Q
    fraction     steps of the multiplier in 1
    from_output  the feedback comes from behind the output divider: output = input / D * multiplier
    """

    name: str
    input_hz: Range
    pfd_hz: Range
    vco_hz: Range
    output_hz: Range
    input_divider: Range
    multiplier: Range
    output_divider: tuple[int, ...]
    fraction: int = 1
    from_output: bool = False


MHZ = 1_000_000
_ECP5 = Pll(
    name="ecp5",
    input_hz=(8 * MHZ, 400 * MHZ),
    pfd_hz=(10 * MHZ, 400 * MHZ),
    vco_hz=(400 * MHZ, 800 * MHZ),
    output_hz=(3_125_000, 400 * MHZ),
    input_divider=(1, 128),
    multiplier=(1, 80),  # of the VCO; no more fit between PFD and VCO
    output_divider=tuple(range(1, 129)),
)
_ICE40 = Pll(
    name="ice40",
    input_hz=(10 * MHZ, 133 * MHZ),
    pfd_hz=(10 * MHZ, 133 * MHZ),
    vco_hz=(533 * MHZ, 1066 * MHZ),
    output_hz=(16 * MHZ, 275 * MHZ),
    input_divider=(1, 16),
    multiplier=(1, 128),
    output_divider=(2, 4, 8, 16, 32, 64),
)
_GOWIN_DIVIDERS = (2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
_GW1N = Pll(
    name="gw1n",
    input_hz=(3 * MHZ, 400 * MHZ),
    pfd_hz=(3 * MHZ, 400 * MHZ),
    vco_hz=(400 * MHZ, 1200 * MHZ),
    output_hz=(3_125_000, 600 * MHZ),
    input_divider=(1, 64),
    multiplier=(1, 64),
    output_divider=_GOWIN_DIVIDERS,
    from_output=True,
)
_GW2A = Pll(
    name="gw2a",
    input_hz=(3 * MHZ, 400 * MHZ),
    pfd_hz=(3 * MHZ, 400 * MHZ),
    vco_hz=(500 * MHZ, 1000 * MHZ),
    output_hz=(3_906_250, 500 * MHZ),
    input_divider=(1, 64),
    multiplier=(1, 64),
    output_divider=_GOWIN_DIVIDERS,
    from_output=True,
)
_PLLE2 = Pll(
    name="plle2",
    input_hz=(19 * MHZ, 800 * MHZ),
    pfd_hz=(19 * MHZ, 450 * MHZ),
    vco_hz=(800 * MHZ, 1600 * MHZ),
    output_hz=(6_250_000, 800 * MHZ),
    input_divider=(1, 56),
    multiplier=(2, 64),
    output_divider=tuple(range(1, 129)),
)
_MMCME2 = Pll(
    name="mmcme2",
    input_hz=(10 * MHZ, 800 * MHZ),
    pfd_hz=(10 * MHZ, 450 * MHZ),
    vco_hz=(600 * MHZ, 1200 * MHZ),
    output_hz=(4_690_000, 800 * MHZ),
    input_divider=(1, 106),
    multiplier=(2, 64),
    output_divider=tuple(range(1, 129)),  # those in eighths, which it has as well, add jitter
    fraction=8,
)
PLLS = {pll.name: pll for pll in (_ECP5, _ICE40, _GW1N, _GW2A, _PLLE2, _MMCME2)}


@dataclass(frozen=True)
class Setting:
    """One PLL's dividers, for one input frequency."""

    pll: Pll
    input_hz: int
    input_divider: int
    multiplier: Fraction
    output_divider: int

    @property
    def pfd_hz(self) -> Fraction:
        return Fraction(self.input_hz, self.input_divider)

    @property
    def vco_hz(self) -> Fraction:
        return self.pfd_hz * self.multiplier * (self.output_divider if self.pll.from_output else 1)

    @property
    def output_hz(self) -> Fraction:
        """The frequency that it makes, exactly."""
        return self.vco_hz / self.output_divider


def choose(pll: Pll, input_hz: int, output_hz: int, tolerance_ppm: int = 1) -> Setting:
    """The setting nearest to `output_hz`; of those alike, the fastest PFD and a VCO in the middle (least jitter).

    Raises `ClockError` when none is within `tolerance_ppm` of it; oscillators themselves keep to 20 .. 100 ppm.
    """
    below, above = nearest(pll, input_hz, output_hz)
    found = [setting for setting in (below, above) if setting is not None]
    best = min(found, key=lambda setting: abs(setting.output_hz - output_hz))
    if abs(best.output_hz - output_hz) * 10**6 > output_hz * tolerance_ppm:
        names = " and ".join(f"{megahertz(setting.output_hz)} MHz" for setting in found)
        raise ClockError(
            f"the {pll.name} PLL makes no {megahertz(output_hz)} MHz of {megahertz(input_hz)} MHz; nearest: {names}"
        )
    return best


def nearest(pll: Pll, input_hz: int, output_hz: int) -> tuple[Setting | None, Setting | None]:
    """The settings with the highest frequency not above `output_hz`, and with the lowest not below; the same if exact.

    One of them may be missing, not both. Raises `ClockError` when the PLL takes no such input.
    """
    low, high = pll.input_hz[0], pll.input_hz[1]
    settings = list(_candidates(pll, input_hz, output_hz)) if low <= input_hz <= high else []
    if not settings:
        low = max(low, pll.pfd_hz[0])
        raise ClockError(
            f"the {pll.name} PLL takes {megahertz(low)} to {megahertz(high)} MHz, not {megahertz(input_hz)} MHz"
        )
    below = [setting for setting in settings if setting.output_hz <= output_hz]
    above = [setting for setting in settings if setting.output_hz >= output_hz]
    middle = sum(pll.vco_hz) // 2

    def worse(setting: Setting) -> tuple[Fraction, ...]:
        return abs(setting.output_hz - output_hz), -setting.pfd_hz, abs(setting.vco_hz - middle)

    return min(below, key=worse, default=None), min(above, key=worse, default=None)


def _candidates(pll: Pll, input_hz: int, output_hz: int) -> Iterator[Setting]:
    """For each pair of dividers the multipliers next to the wanted one, as far as the limits let it go."""
    for divider in range(pll.input_divider[0], pll.input_divider[1] + 1):
        pfd_hz = Fraction(input_hz, divider)
        if not pll.pfd_hz[0] <= pfd_hz <= pll.pfd_hz[1]:
            continue
        for quotient in pll.output_divider:
            to_vco, to_output = (quotient, 1) if pll.from_output else (1, Fraction(1, quotient))
            step_hz = pfd_hz * to_output / pll.fraction  # of the output, for one step of the multiplier
            vco_step_hz = pfd_hz * to_vco / pll.fraction
            least = max(
                pll.multiplier[0] * pll.fraction,
                ceil(pll.vco_hz[0] / vco_step_hz),
                ceil(pll.output_hz[0] / step_hz),
            )
            most = min(
                pll.multiplier[1] * pll.fraction,
                floor(pll.vco_hz[1] / vco_step_hz),
                floor(pll.output_hz[1] / step_hz),
            )
            if least > most:
                continue
            wanted = output_hz / step_hz
            for steps in {min(max(floor(wanted), least), most), min(max(ceil(wanted), least), most)}:
                yield Setting(pll, input_hz, divider, Fraction(steps, pll.fraction), quotient)


def megahertz(hertz: int | Fraction) -> str:
    """In decimal, rounded to whole hertz."""
    return f"{float(hertz) / MHZ:.6f}".rstrip("0").rstrip(".")


def pll_of(platform: Platform) -> Pll:
    """The kind of PLL that a board's chip has. Raises `ClockError` for a chip without one that is known here."""
    device = platform.device.lower() if hasattr(platform, "device") else platform.part.lower()
    kinds = {"lfe5": _ECP5, "ice40": _ICE40, "gw1n": _GW1N, "gw2a": _GW2A, "xc7": _MMCME2}
    for start, pll in kinds.items():
        if device.startswith(start):
            return pll
    raise ClockError(f"no PLL of {device} is known; drive the array with the board's own clock")


RESET_STAGES = 4  #: two synchronise; more let the placer go from the PLL, in a corner, to the middle of what is reset


class ClockedByPll(Elaboratable):
    """Drives clock domain `domain`, which a module around it defines, from a PLL.

    setting  from `choose`
    clock    the PLL's input: a signal, or the port of the clock's pin (`platform.request(..., dir="-")`)
    domain   name of the domain
    reset    asynchronous, active high

    locked   out(1), asynchronous

    The domain's reset is active from power-up until the PLL has locked, whenever it loses its lock, and with `reset`;
    it ends in step with the clock, `RESET_STAGES` cycles later (iCE40: 15 us later, when its block RAM can be read).
    The clock gets a constraint of its frequency where the tools do not derive one themselves.
    """

    def __init__(
        self, setting: Setting, clock: Value | io.PortLike, domain: str = "sync", reset: Value | int = 0
    ) -> None:
        self.setting = setting
        self.clock = clock
        self.domain = domain
        self.reset = Value.cast(reset)
        self.locked = Signal()

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        made, output = Signal(), Signal(name=f"{self.domain}_clock", attrs={"keep": "true"})
        kind = self.setting.pll.name
        m.submodules.pll = _INSTANCES[kind](self.setting, self._input(m), made, self.locked, platform)
        if kind in _DERIVED:
            m.submodules.buffer = Instance("BUFG", i_I=made, o_O=output)
        else:
            m.d.comb += output.eq(made)
            platform.add_clock_constraint(output, float(self.setting.output_hz))
        m.d.comb += ClockSignal(self.domain).eq(output)
        settled = self._settled(m, output) if kind == "ice40" else self.locked
        m.submodules.reset = ResetSynchronizer(self.reset | ~settled, domain=self.domain, stages=RESET_STAGES)
        return m

    def _input(self, m: Module) -> Value | io.PortLike:
        """What the PLL's input is tied to; an iCE40's has a pin of its own, which no buffer may stand before."""
        if not isinstance(self.clock, io.PortLike) or self.setting.pll.name == "ice40":
            return self.clock
        m.submodules.pin = pin = io.Buffer("i", self.clock)
        return pin.i

    def _settled(self, m: Module, output: Signal) -> Signal:
        """Whether the PLL has been locked for `ICE40_HOLD_S`."""
        cycles = ceil(ICE40_HOLD_S * self.setting.output_hz)
        locked, left, settled = Signal(), Signal(range(cycles + 1), init=cycles), Signal()
        m.domains += ClockDomain("waiting", reset_less=True, local=True)
        m.d.comb += ClockSignal("waiting").eq(output)
        m.submodules.lock = FFSynchronizer(self.locked, locked, o_domain="waiting")
        m.d.waiting += [settled.eq(locked & (left == 0)), left.eq(Mux(locked, left - (left != 0), cycles))]
        return self.locked & settled


def _ecp5(setting: Setting, clock: Value, made: Signal, locked: Signal, platform: Platform) -> Instance:
    """Feedback inside the PLL from CLKOP, which divides the multiplier further; the output is CLKOS."""
    feedback, loop = Signal(), _loop_divider(setting)
    return Instance(
        "EHXPLLL",
        a_FREQUENCY_PIN_CLKI=megahertz(setting.input_hz),
        a_FREQUENCY_PIN_CLKOP=megahertz(setting.vco_hz / loop),
        a_FREQUENCY_PIN_CLKOS=megahertz(setting.output_hz),
        a_ICP_CURRENT="12",
        a_LPF_RESISTOR="8",
        a_MFG_ENABLE_FILTEROPAMP="1",
        a_MFG_GMCREF_SEL="2",
        p_PLLRST_ENA="DISABLED",
        p_INTFB_WAKE="DISABLED",
        p_STDBY_ENABLE="DISABLED",
        p_DPHASE_SOURCE="DISABLED",
        p_OUTDIVIDER_MUXA="DIVA",
        p_OUTDIVIDER_MUXB="DIVB",
        p_OUTDIVIDER_MUXC="DIVC",
        p_OUTDIVIDER_MUXD="DIVD",
        p_FEEDBK_PATH="INT_OP",
        p_CLKI_DIV=setting.input_divider,
        p_CLKFB_DIV=int(setting.multiplier) // loop,
        p_CLKOP_ENABLE="ENABLED",
        p_CLKOP_DIV=loop,
        p_CLKOP_CPHASE=loop - 1,
        p_CLKOP_FPHASE=0,
        p_CLKOS_ENABLE="ENABLED",
        p_CLKOS_DIV=setting.output_divider,
        p_CLKOS_CPHASE=setting.output_divider - 1,
        p_CLKOS_FPHASE=0,
        i_CLKI=clock,
        i_CLKFB=feedback,
        o_CLKINTFB=feedback,
        i_RST=0,
        i_STDBY=0,
        i_PLLWAKESYNC=0,
        i_PHASESEL0=0,
        i_PHASESEL1=0,
        i_PHASEDIR=1,
        i_PHASESTEP=1,
        i_PHASELOADREG=1,
        i_ENCLKOP=0,
        i_ENCLKOS=0,
        o_CLKOS=made,
        o_LOCK=locked,
    )


def _loop_divider(setting: Setting) -> int:
    """CLKOP's divider: the least divisor of the multiplier that brings CLKOP into the output's limits."""
    multiplier = int(setting.multiplier)
    divisors = (divisor for divisor in range(1, multiplier + 1) if multiplier % divisor == 0)
    return next(divisor for divisor in divisors if setting.vco_hz / divisor <= setting.pll.output_hz[1])


def _ice40(
    setting: Setting, clock: Value | io.SingleEndedPort, made: Signal, locked: Signal, platform: Platform
) -> Instance:
    filters = (17, 26, 44, 66, 101)  # least PFD, in MHz, of FILTER_RANGE 2, 3, ...
    at_pin = isinstance(clock, io.PortLike)
    return Instance(
        "SB_PLL40_PAD" if at_pin else "SB_PLL40_CORE",
        p_FEEDBACK_PATH="SIMPLE",
        p_DIVR=Const(setting.input_divider - 1, 4),
        p_DIVF=Const(int(setting.multiplier) - 1, 7),
        p_DIVQ=Const(setting.output_divider.bit_length() - 1, 3),
        p_FILTER_RANGE=Const(1 + sum(setting.pfd_hz >= least * MHZ for least in filters), 3),
        i_RESETB=1,
        i_BYPASS=0,
        o_PLLOUTGLOBAL=made,
        o_LOCK=locked,
        **({"i_PACKAGEPIN": clock.io} if at_pin else {"i_REFERENCECLK": clock}),
    )


def _rpll(setting: Setting, clock: Value, made: Signal, locked: Signal, platform: Platform) -> Instance:
    off = ("CLKOUT_BYPASS", "CLKOUTP_BYPASS", "CLKOUTD_BYPASS", "DYN_IDIV_SEL", "DYN_FBDIV_SEL", "DYN_ODIV_SEL")
    zeros = {"RESET": 1, "RESET_P": 1, "CLKFB": 1, "FBDSEL": 6, "IDSEL": 6, "ODSEL": 6, "PSDA": 4, "DUTYDA": 4}
    return Instance(
        "rPLL",
        p_FCLKIN=megahertz(setting.input_hz),
        p_DEVICE=platform.family,
        p_CLKFB_SEL="internal",
        p_DYN_DA_EN="false",
        p_IDIV_SEL=setting.input_divider - 1,
        p_FBDIV_SEL=int(setting.multiplier) - 1,
        p_ODIV_SEL=setting.output_divider,
        **{f"p_{name}": "false" for name in off},
        **{f"i_{name}": Const(0, width) for name, width in (zeros | {"FDLY": 4}).items()},
        i_CLKIN=clock,
        o_CLKOUT=made,
        o_LOCK=locked,
    )


def _plle2(setting: Setting, clock: Value, made: Signal, locked: Signal, platform: Platform) -> Instance:
    dividers = {
        "p_CLKFBOUT_MULT": int(setting.multiplier),
        "p_DIVCLK_DIVIDE": setting.input_divider,
        "p_CLKOUT0_DIVIDE": setting.output_divider,
    }
    return _xilinx("PLLE2_BASE", dividers, setting, clock, made, locked)


def _mmcme2(setting: Setting, clock: Value, made: Signal, locked: Signal, platform: Platform) -> Instance:
    dividers = {
        "p_CLKFBOUT_MULT_F": float(setting.multiplier),
        "p_DIVCLK_DIVIDE": setting.input_divider,
        "p_CLKOUT0_DIVIDE_F": float(setting.output_divider),
    }
    return _xilinx("MMCME2_BASE", dividers, setting, clock, made, locked)


def _xilinx(
    name: str, dividers: Mapping[str, float], setting: Setting, clock: Value, made: Signal, locked: Signal
) -> Instance:
    feedback = Signal()
    return Instance(
        name,
        **dividers,
        p_CLKIN1_PERIOD=10**9 / setting.input_hz,  # ns
        i_CLKIN1=clock,
        i_CLKFBIN=feedback,
        o_CLKFBOUT=feedback,
        i_RST=0,
        i_PWRDWN=0,
        o_CLKOUT0=made,
        o_LOCKED=locked,
    )


_INSTANCES = {"ecp5": _ecp5, "ice40": _ice40, "gw1n": _rpll, "gw2a": _rpll, "plle2": _plle2, "mmcme2": _mmcme2}
_DERIVED = ("plle2", "mmcme2")  # Vivado derives the output's constraint from the input's; it needs a global buffer
