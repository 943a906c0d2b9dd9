"""The `model` device: whole operations at once, exact, with the counters that a board would show."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from math import prod

import numpy as np
import torch
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Phase, Status
from bitfirst_hdl.contract.registers import COUNTERS, EXECUTION_COUNTERS

from ..command import Command
from ..device import Device
from ..errors import DeviceError, LinkError
from ..lowering import Forward, InputGradient, Operation, Range, WeightGradient
from ..masters import Masters, MasterWeights
from ..plan import FRAME_WORDS
from ..quantised import Quantised
from ..residency import Supplies
from ..schedule import Schedule, schedule
from ..sign_gradient import SignGradient
from ..sign_schedule import lead
from . import exact, psg, sign_gradient
from .commands import GoldenDevice, states_of

_ANSWER_WORDS = 1 + FRAME_WORDS
_COMMAND_AND_ANSWER_WORDS = packets.COMMAND_WORDS + FRAME_WORDS + _ANSWER_WORDS
_PLAIN_COMMAND_BYTES = (packets.COMMAND_WORDS + FRAME_WORDS) * packets.WORD_BYTES
_COUNTERS_ANSWER_BYTES = (1 + len(COUNTERS) + FRAME_WORDS) * packets.WORD_BYTES


class ModelDevice(Device):
    """Computes each operation by exact kernels; counts by the schedule and the store's book
    that a board would follow. With `counting` off the work of the array and the link is not counted, which takes a
    third of the time: for studies of accuracy.

    Operands may lie on a GPU, and are multiplied there; with a `place` all are multiplied there, wherever they lie.
    There is no link: `counters` has the execution counters alone.
    """

    def __init__(
        self, config: ArrayConfig, url: str = "model", counting: bool = True, place: torch.device | None = None
    ) -> None:
        super().__init__(url, config)
        self.counting, self.place = counting, place
        self._supplies = Supplies(self.store)
        self._counters = Counter(dict.fromkeys(EXECUTION_COUNTERS, 0))
        self._cut: tuple[Quantised, exact.Pieces] | None = None
        self._closed = False

    def close(self) -> None:
        self._cut = None
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise LinkError(f"the device {self.url} is closed; open it again")

    def counters(self) -> dict[str, int]:
        return self._command()

    def _mark(self, phase: Phase) -> dict[str, int]:
        self._counters["phase"] = int(phase)
        return self._command()

    def _command(self) -> dict[str, int]:
        """One command that answers with the counters, itself counted."""
        self._check_open()
        self._counters["commands"] += 1
        self.bytes_moved += _PLAIN_COMMAND_BYTES + _COUNTERS_ANSWER_BYTES
        return dict(self._counters)

    def _execute_all(self, operations: Sequence[Operation]) -> Sequence[exact.Exact]:
        with exact.plain_kernels():
            return super()._execute_all(operations)

    def _execute(self, operation: Operation) -> exact.Exact:
        self._check_open()
        result = self._evaluate(operation)
        self._count(operation)
        return result

    def _decide(self, operation: WeightGradient, rule: psg.Rule, state: psg.State | None) -> psg.Decision:
        """Counts as a board does; where the gateware does not split as the rule says, the whole product."""
        self._check_open()
        g, x = self._pieces(operation.g), self._pieces(operation.x)
        with exact.plain_kernels():
            decision = sign_gradient.decide(g, x, operation.geometry, rule, operation.exponent, state)
        if not self.counting:
            return decision
        if {rule.x.predictor, rule.g.predictor} == {psg.Predictor.ROUND}:
            self._count_signs(SignGradient(operation, rule), decision)
        else:
            self._count(operation)
        return decision

    def _count_signs(self, wanted: SignGradient, decision: psg.Decision) -> None:
        led = lead(self.config, wanted.task)
        self._count_schedule(led.schedule, wanted, wanted.ones_led(led))
        if led.whole:
            return
        resolved = decision.resolved.cpu().numpy()
        rest = wanted.finish(self.config, resolved, np.zeros(resolved.shape, dtype=np.int64))
        rest.note_sent_again(self.store)
        self._count_schedule(rest.plan.schedule, rest.operation, rest.operation.ones_finished(rest.plan))

    def perform(self, commands: Iterable[Command]) -> list[np.ndarray]:
        self._check_open()
        before, answers = self._masters.counters, []
        for command in commands:
            status, words = self._masters.execute(command)
            if status != Status.OK:
                raise DeviceError(f"{self.url} refused {command.opcode.name} {command.fields} with {status.name}")
            answers.append(words)
            self.bytes_moved += (_COMMAND_AND_ANSWER_WORDS + len(command.data) + len(words)) * packets.WORD_BYTES
        for name, count in self._masters.counters.items():
            self._counters[name] += count - before[name]
        return answers

    def peek(self, masters: Masters) -> np.ndarray:
        words = self._masters.store[masters.state : masters.state + packets.STATE_WORDS * masters.groups]
        return states_of(words)[0].reshape(-1)[: prod(masters.shape)]

    @cached_property
    def _masters(self) -> GoldenDevice:
        """Its store holds masters and momenta, and nothing else; it executes what `Masters` asks for."""
        return GoldenDevice(self.config)

    def _count(self, operation: Operation) -> None:
        if not self.counting:
            return
        planned = schedule(self.config, operation.task)
        self._ready(operation, planned)
        ones = sum(
            int(np.vdot(self._ones(operation.operand(role), channels, images), uses))
            for role, channels, images, uses in planned.serial_uses
        )
        self._count_schedule(planned, operation, ones)

    def _ones(self, operand: Quantised, channels: Range, images: Range) -> np.ndarray:
        """One bits of its pixels among the planes that the array is fed."""
        return operand.ones_of_pixels(channels, images, self.config.planes_of(operand.bits))

    def _count_schedule(self, planned: Schedule, operation: Operation, ones: int) -> None:
        """`ones`: those that the array is fed."""
        data_words, commands, more = self._supplies.bring(planned, operation)
        self._counters.update(planned.counters)
        self._counters.update(more)
        self._counters["commands"] += commands
        self._counters["words_written"] += data_words
        self._counters["serial_ones"] += ones
        commands += planned.counters["commands"]
        data_words += planned.counters["words_written"]
        words = commands * _COMMAND_AND_ANSWER_WORDS + data_words + planned.answer_words
        words -= planned.quiet_commands * _ANSWER_WORDS
        self.bytes_moved += words * packets.WORD_BYTES

    def _evaluate(self, operation: Operation) -> exact.Exact:
        geometry = operation.geometry
        match operation:
            case Forward(x=x, w=w):
                return exact.convolution(self._pieces(x), self._pieces(w), geometry)
            case InputGradient(g=g, w=w):
                return exact.input_gradient(self._pieces(g), self._pieces(w), geometry)
            case WeightGradient(g=g, x=x):
                return exact.weight_gradient(self._pieces(g), self._pieces(x), geometry)
        raise TypeError(f"{type(operation).__name__} is no operation")

    def _placed(self, operand: Quantised) -> Quantised:
        if self.place is None or operand.values.device == self.place:
            return operand
        return replace(operand, values=operand.values.to(self.place), known_peak=operand.peak)

    def _pieces(self, operand: Quantised) -> exact.Pieces:
        """The operand, cut; the latest one that took work is kept: dX and dW have the same g."""
        if isinstance(operand, MasterWeights):
            operand = operand.real
        if self._cut is not None and self._cut[0] is operand:
            return self._cut[1]
        pieces = exact.cut(self._placed(operand))
        if len(pieces.weights) > 1:
            self._cut = operand, pieces
        return pieces
