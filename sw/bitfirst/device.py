"""What every device offers: the matrix products of convolutions and linear layers, and its counters."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import Phase
from bitfirst_hdl.contract.power import PHASES
from bitfirst_hdl.contract.registers import COUNTERS

from .command import Command
from .errors import UsageError
from .golden import psg
from .lowering import Forward, Geometry, InputGradient, Operation, Pair, WeightGradient
from .masters import WORDS_OF_GROUP, Masters, MasterWeights, groups_of
from .quantised import Quantised
from .quantiser import Halves, to_float
from .residency import Store, tensors_of
from .schedule import Schedule

if TYPE_CHECKING:
    from .measuring.monitor import Monitor
    from .measuring.windows import Window

#: counters that add up; all but `phase`
ADDITIVE_COUNTERS = tuple(counter.name for counter in COUNTERS if counter.unit)


class Device(ABC):
    """A device, whatever answers: the golden model, simulated RTL, or a board.

    Operations take integers (`Quantised`) and return a tensor of exact integers: float32 (below 2**24), float64
    (below 2**53) or int64, on the device of the operands. With `real` they return the real numbers instead: float32,
    the integers times the scales of both operands, rounded once.

    Each belongs to a phase; when the phase changes, a MARK is issued first, so that the counters can be told apart by
    phase. A product whose sums could leave 48 bits is refused: 16 x 16 bits signed may have 131,072 terms, 8 x 16
    over 33 million.

    url             as given to `bitfirst.open`
    config          the array's configuration
    bit_macs        useful bit multiply-accumulates so far: no padding, no inserted zeros, at the requested widths
    macs            useful multiply-accumulates so far, of whatever widths
    largest_bits    of any operand so far; 0 before the first
    bytes_moved     bytes of all frames on the link so far, both ways (`model`: what a link would carry)
    counting        whether cycles and commands are counted; only a model can be without
    place           PyTorch's device on which networks and data had best be; None: wherever they are
    store           the book of the device's tensor store; `store.refetched_bytes` were sent again, for want of room or
                    in another order
    phase_counters  Phase -> counter -> how much it grew in that phase, as of the latest MARK
    returns_to_rest by phase: times that it was left for `Phase.OTHER`
    monitor         its sensors; None before `measuring.monitor.Monitor.of`
    """

    counting = True
    place: torch.device | None = None
    monitor: "Monitor | None" = None

    def __init__(self, url: str, config: ArrayConfig) -> None:
        self.url = url
        self.config = config
        self.store = Store(config)
        self.bit_macs = self.macs = self.largest_bits = 0
        self.bytes_moved = 0
        self.phase_counters: dict[Phase, dict[str, int]] = {}
        self._phase = Phase.OTHER
        self.returns_to_rest = [0] * PHASES
        self._marked: dict[str, int] = {}

    # operations
    def conv2d(
        self, x: Quantised, w: Quantised, stride: int | Pair = 1, padding: int | Pair = 0, real: bool = False
    ) -> torch.Tensor:
        """y [n, o, h, w] of x [n, c, h, w] and w [o, c, kh, kw]."""
        geometry = self._geometry(x.values.shape, w.values.shape, stride, padding)
        return self.run(Forward(x, w, geometry), real)

    def conv2d_input_gradient(
        self,
        g: Quantised,
        w: Quantised,
        input_shape: tuple[int, ...],
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        real: bool = False,
    ) -> torch.Tensor:
        """dX [n, c, h, w] (`input_shape`) of g = dL/dy [n, o, h, w] and w [o, c, kh, kw]."""
        geometry = self._geometry(input_shape, w.values.shape, stride, padding)
        self._check_gradient(g, geometry)
        return self.run(InputGradient(g, w, geometry), real)

    def conv2d_weight_gradient(
        self,
        g: Quantised,
        x: Quantised,
        weight_shape: tuple[int, ...],
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        real: bool = False,
    ) -> torch.Tensor:
        """dW [o, c, kh, kw] (`weight_shape`) of g = dL/dy [n, o, h, w] and x [n, c, h, w]."""
        geometry = self._geometry(x.values.shape, weight_shape, stride, padding)
        self._check_gradient(g, geometry)
        return self.run(WeightGradient(g, x, geometry), real)

    def conv2d_gradients(
        self,
        g: Quantised,
        x: Quantised,
        w: Quantised,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        real: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """dX and dW as above, dW computed while dX is still on its way to the host. Both belong to phase BACKWARD."""
        geometry = self._geometry(x.values.shape, w.values.shape, stride, padding)
        self._check_gradient(g, geometry)
        operations = InputGradient(g, w, geometry), WeightGradient(g, x, geometry, after_dx=True)
        dx, dw = self._run_all(operations, Phase.BACKWARD, real)
        return dx, dw

    def linear(self, x: Quantised, w: Quantised, real: bool = False) -> torch.Tensor:
        """y [..., o] of x [..., i] and w [o, i]."""
        leading, features = x.values.shape[:-1], w.values.shape[1]
        if x.values.shape[-1] != features:
            raise UsageError(f"a linear layer of {features} inputs takes [..., {features}], not {list(x.values.shape)}")
        return self.conv2d(_as_image(x), _as_kernel(w), real=real).reshape(*leading, -1)

    def linear_input_gradient(self, g: Quantised, w: Quantised, real: bool = False) -> torch.Tensor:
        """dX [..., i] of g = dL/dy [..., o] and w [o, i]."""
        leading, features = g.values.shape[:-1], w.values.shape[1]
        image = _as_image(g)
        shape = (image.values.shape[0], features, 1, 1)
        return self.conv2d_input_gradient(image, _as_kernel(w), shape, real=real).reshape(*leading, features)

    def linear_weight_gradient(self, g: Quantised, x: Quantised, real: bool = False) -> torch.Tensor:
        """dW [o, i] of g = dL/dy [..., o] and x [..., i]."""
        shape = (g.values.shape[-1], x.values.shape[-1])
        image, gradient = _as_image(x), _as_image(g)
        return self.conv2d_weight_gradient(gradient, image, (*shape, 1, 1), real=real).reshape(shape)

    def linear_gradients(
        self, g: Quantised, x: Quantised, w: Quantised, real: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """dX [..., i] and dW [o, i] of g = dL/dy [..., o], x [..., i] and w [o, i]; see `conv2d_gradients`."""
        dx, dw = self.conv2d_gradients(_as_image(g), _as_image(x), _as_kernel(w), real=real)
        return dx.reshape(x.values.shape), dw.reshape(w.values.shape)

    # signs of dW
    def conv2d_weight_signs(
        self,
        g: Quantised,
        x: Quantised,
        weight_shape: tuple[int, ...],
        rule: psg.Rule | None = None,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        state: psg.State | None = None,
    ) -> psg.Decision:
        """Signs of dW, int8 [o, c, kh, kw] (`weight_shape`), of g = dL/dy [n, o, h, w] and x [n, c, h, w].

        By `rule`, predicted from the first bits and finished where these do not decide; `state` is what the decision
        of the step before says. By None, of the whole product; the decision's threshold is then `psg.NEVER` and
        nothing is resolved. `bit_macs` grows by what had to be done. Phase WEIGHT_GRADIENT.

        Raises `UsageError` when the operands' width or sign is not that of the rule, for one outside the rule's
        limits, and by a rule where the device has no part for it.
        """
        geometry = self._geometry(x.values.shape, weight_shape, stride, padding)
        self._check_gradient(g, geometry)
        operation = WeightGradient(g, x, geometry)
        if rule is None:
            signs = self.run(operation).sign().to(torch.int8)
            return psg.Decision(
                signs, torch.zeros_like(signs, dtype=torch.bool), psg.NEVER, 0, psg.State(0, 0), operation.bit_macs, 0
            )
        if not self.predicts:
            raise UsageError(self.no_prediction)
        self._prepare((operation,), operation.phase)
        decision = self._decide(operation, rule, state)
        self.bit_macs += decision.done
        return decision

    def linear_weight_signs(
        self, g: Quantised, x: Quantised, rule: psg.Rule | None = None, state: psg.State | None = None
    ) -> psg.Decision:
        """Signs of dW, int8 [o, i], of g = dL/dy [..., o] and x [..., i]; see `conv2d_weight_signs`."""
        shape = (g.values.shape[-1], x.values.shape[-1])
        image, gradient = _as_image(x), _as_image(g)
        decision = self.conv2d_weight_signs(gradient, image, (*shape, 1, 1), rule, state=state)
        return replace(decision, signs=decision.signs.reshape(shape), resolved=decision.resolved.reshape(shape))

    # weights that the device updates
    def masters(self, shape: Sequence[int]) -> Masters | None:
        """Room for masters and momenta of a weight of this shape, as long as what is returned lives; None if there is
        none: at most half of the store holds masters. Raises `UsageError` where the device cannot update."""
        if not self.config.updates or type(self).perform is Device.perform:
            raise UsageError(self.no_update)
        state = self.store.reserve(WORDS_OF_GROUP * groups_of(shape))
        if state is None:
            return None
        masters = Masters(self, shape, state)
        weakref.finalize(masters, self._release, state)
        return masters

    def _release(self, state: int) -> None:
        self.store.release(state)

    def perform(self, commands: Iterable[Command]) -> list[np.ndarray]:
        """Executes them in order; the data words (uint64) of each answer. Raises `DeviceError` when one is refused, and
        `UsageError` where the device takes whole operations alone."""
        raise UsageError(self.no_update)

    @property
    def no_update(self) -> str:
        """What is said where the device cannot update."""
        mend = "update them on the host, or take a configuration with the feature update, such as psg"
        return f"{self.url} has no part that updates weights: {mend}"

    def peek(self, masters: Masters) -> np.ndarray | None:
        """A model's masters, flat as in the store, by no command; None where there are commands alone."""
        return None

    @staticmethod
    def _ready(operation: Operation, planned: Schedule) -> None:
        """Reads back weights that the device made, where parts of them are tensors: these are sent."""
        for tensor in tensors_of(planned, operation):
            if isinstance(tensor.operand, MasterWeights) and not tensor.made_there:
                _ = tensor.operand.read_back

    # energy
    def window(self, name: str, **options: Any) -> "Window":
        """`with device.window("forward") as window` measures its body: `measuring.windows.Window`, with its options, by
        the sensors that `measuring.monitor.Monitor.of` was told of. Raises `UsageError` before that."""
        if self.monitor is None:
            raise UsageError(f"no sensors of {self.url} are set up: Monitor.of(device, [Rail(...)]) before its windows")
        return self.monitor.window(name, **options)

    # counters
    @abstractmethod
    def counters(self) -> dict[str, int]:
        """The counters by name (`bitfirst_hdl.contract.registers`) by a COUNTERS command, itself counted.

        The execution counters always, the arrival counters where there is a link.
        """

    def mark(self, phase: Phase) -> None:
        """Wait for all work, book the counters' growth to the phase that ends, and begin `phase`."""
        counters = self._mark(phase)
        booked = self.phase_counters.setdefault(self._phase, {})
        for name in ADDITIVE_COUNTERS:
            if name in counters:
                booked[name] = booked.get(name, 0) + counters[name] - self._marked.get(name, 0)
        self._marked = counters
        if phase == Phase.OTHER:
            self.returns_to_rest[self._phase] += 1
        self._phase = phase

    def enter(self, phase: Phase) -> None:
        """`mark`, where it is another phase."""
        if phase != self._phase:
            self.mark(phase)

    # what a device must do
    @abstractmethod
    def _mark(self, phase: Phase) -> dict[str, int]:
        """Execute a MARK; returns the counters it answers with."""

    @abstractmethod
    def _execute(self, operation: Operation) -> torch.Tensor | Halves:
        """The operation's result, exact integers, by its products in their order."""

    def _execute_all(self, operations: Sequence[Operation]) -> Sequence[torch.Tensor | Halves]:
        """Each operation's result; a device may begin one while the one before is not at its end."""
        return [self._execute(operation) for operation in operations]

    def _decide(self, operation: WeightGradient, rule: psg.Rule, state: psg.State | None) -> psg.Decision:
        """The signs of the operation's result, by `rule`. A device that predicts does otherwise than this one."""
        raise UsageError(self.no_prediction)

    @property
    def predicts(self) -> bool:
        """Whether it takes a rule for signs of dW."""
        return self._can_predict and type(self)._decide is not Device._decide

    @property
    def _can_predict(self) -> bool:
        return self.config.gathers and self.config.requantises and self.config.datapath == "serial"

    @property
    def no_prediction(self) -> str:
        """What is said where `predicts` is False."""
        mend = "use the device model" if self._can_predict else "take a configuration such as psg, default or small"
        return f"{self.url} does not predict signs of dW (PSG): {mend}"

    @abstractmethod
    def close(self) -> None:
        """Give back what the device holds; it cannot be used afterwards."""

    # shared behaviour
    def run(self, operation: Operation, real: bool = False) -> torch.Tensor:
        """Any operation's result."""
        return self._run_all((operation,), operation.phase, real)[0]

    def _prepare(self, operations: Sequence[Operation], phase: Phase) -> None:
        """Checks the operands, books what they are; begins the phase."""
        for operation in operations:
            for _, operand in operation.operands:
                operand.check()
            _check_sums(operation)
            self.macs += operation.geometry.useful_macs
            self.largest_bits = max(self.largest_bits, *operation.bits)
        self.enter(phase)

    def _run_all(self, operations: Sequence[Operation], phase: Phase, real: bool) -> list[torch.Tensor]:
        self._prepare(operations, phase)
        results = self._execute_all(operations)
        self.bit_macs += sum(operation.bit_macs for operation in operations)
        return [_finished(operation, result, real) for operation, result in zip(operations, results, strict=True)]

    @staticmethod
    def _geometry(*arguments: object) -> Geometry:
        try:
            return Geometry.of(*arguments)
        except ValueError as error:
            raise UsageError(str(error)) from None

    @staticmethod
    def _check_gradient(g: Quantised, geometry: Geometry) -> None:
        if tuple(g.values.shape) != geometry.output_shape:
            raise UsageError(
                f"the output gradient must have the output's shape {list(geometry.output_shape)}, "
                f"not {list(g.values.shape)}"
            )

    def __enter__(self) -> "Device":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __deepcopy__(self, memo: dict[int, object]) -> "Device":
        return self  # a copied network shares its board

    def __copy__(self) -> "Device":
        return self

    def __reduce__(self) -> str:
        raise TypeError(
            f"a device ({self.url}) cannot be pickled: save the network's state_dict, and open the device again"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def _finished(operation: Operation, result: torch.Tensor | Halves, real: bool) -> torch.Tensor:
    """The result as its caller wants it, where the operands are."""
    if real:
        result = to_float(result, operation.exponent)
    elif isinstance(result, Halves):
        result = result.integers()
    return result.to(operation.operands[1][1].values.device)


def _as_image(x: Quantised) -> Quantised:
    """[..., features] as [n, features, 1, 1]."""
    return x.reshape(-1, x.values.shape[-1], 1, 1)


def _as_kernel(w: Quantised) -> Quantised:
    """[o, i] as [o, i, 1, 1]."""
    return w.reshape(*w.values.shape, 1, 1)


def _check_sums(operation: Operation) -> None:
    """Raises `UsageError` when a partial sum could leave its 48 bits, whatever the data."""
    if operation.largest_sum > 2 ** (numeric.SUM_BITS - 1) - 1:
        a_bits, b_bits = operation.bits
        raise UsageError(
            f"{operation.depth} products of {a_bits} x {b_bits} bits may leave a sum of {numeric.SUM_BITS} bits: "
            "use fewer bits or a smaller batch"
        )
