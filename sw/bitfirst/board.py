"""The driver: a device on a link, be it a board, simulated RTL or a recording."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from bitfirst_hdl.config import DATAPATHS, FEATURES, ArrayConfig, ConfigError
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract.packets import Opcode, Phase, Space

from .command import Command
from .device import Device
from .errors import DeviceError
from .golden import psg
from .link import Link, LinkStatistics, Request
from .lowering import Operation, WeightGradient
from .plan import store_sums
from .residency import Store, forget, issue
from .schedule import Schedule, schedule
from .sign_gradient import SignGradient
from .steps import Step
from .transports import Transport

_VERSION_WORDS = 2  # enough of the identity to see who answers; the same in every contract version
_NOT_IN_IDENTITY = ("link_bits",)


class BoardDevice(Device):
    """A device on a link. Opens it, checks who answers, clears the counters.

    config      what the device must have been built with; None takes what it says
    statistics  what happened on the link: bytes, frames, retransmissions

    Raises `LinkError` when nothing answers, `DeviceError` when the contract or the configuration differs.
    """

    def __init__(self, url: str, transport: Transport, config: ArrayConfig | None = None) -> None:
        self._link = Link(transport)
        try:
            self._link.restart()
            identity = self._read_identity()
            actual = _config_of(identity)
            if config is not None:
                _check_config(config, actual)
            self._link.set_window(actual.rx_words)
            super().__init__(url, config or actual)
            self.forget_tensors()
            self._link.reset_counters()
        except BaseException:
            transport.close()
            raise
        self.fingerprint = identity["fingerprint"]
        self._opening_bytes = self._link_bytes()

    @property
    def transport(self) -> Transport:
        """What carries the bytes; who speaks on it himself leaves the device to be opened anew."""
        return self._link.transport

    @property
    def statistics(self) -> LinkStatistics:
        return self._link.statistics

    def counters(self) -> dict[str, int]:
        return self._named(self.execute(Command(Opcode.COUNTERS)))

    def close(self) -> None:
        self._link.close()

    def execute(self, command: Command) -> np.ndarray:
        """One command on its own: the answer's data words (uint64). Raises `DeviceError` when it is refused."""
        data = self._link.call(command)
        self._link.drain()
        self._note_bytes()
        return data

    def perform(self, commands: Iterable[Command]) -> list[np.ndarray]:
        try:
            requests = [self._link.submit(command) for command in commands]
            self._link.drain()
        except DeviceError:
            self.forget_tensors()
            raise
        self._note_bytes()
        return [request.data for request in requests]

    def _mark(self, phase: Phase) -> dict[str, int]:
        return self._named(self.execute(Command(Opcode.MARK, {"phase": phase})))

    def _execute(self, operation: Operation) -> torch.Tensor:
        return self._execute_all((operation,))[0]

    def _execute_all(self, operations: Sequence[Operation]) -> list[torch.Tensor]:
        try:
            runs: list[_Run] = []
            for operation in operations:
                planned = schedule(self.config, operation.task)
                self._ready(operation, planned)
                runs.append(_Run(self._link, self.store, operation, planned, runs[-1] if runs else None))
                runs[-1].start()
            results = [run.result() for run in runs]
            self._link.drain()
        except DeviceError:
            self.forget_tensors()
            raise
        self._note_bytes()
        return results

    def _decide(self, operation: WeightGradient, rule: psg.Rule, state: psg.State | None) -> psg.Decision:
        """The first pass of all sums, then the rest of those that it does not decide.

        Operands that are no longer in the store have to be sent twice: `store.refetched_bytes` shows it.
        """
        wanted = SignGradient(operation, rule)

        def execute(operation: SignGradient, planned: Schedule) -> list[tuple[Step, np.ndarray]]:
            run = _Run(self._link, self.store, operation, planned)
            run.start()
            answers = run.answers()
            self._link.drain()
            return answers

        try:
            decision = wanted.decide(self.store, state, execute)
        except DeviceError:
            self.forget_tensors()
            raise
        self._note_bytes()
        return decision

    def submit(self, command: Command) -> None:
        """One command among others: sent as far as the credit allows, its answer not waited for."""
        self._link.submit(command)

    def settle(self) -> dict[str, int]:
        """All counters, once everything is done; the phase stays."""
        return self._mark(self._phase)

    def forget_tensors(self) -> None:
        """The device's store is to hold nothing."""
        self.store = Store(self.config, self.store.reserved)
        if self.config.gathers:
            for slot in range(packets.TENSOR_SLOTS):
                self._link.submit(forget(slot))
        self._link.drain()

    def _link_bytes(self) -> int:
        return self.statistics.sent_bytes + self.statistics.received_bytes

    def _note_bytes(self) -> None:
        self.bytes_moved = self._link_bytes() - self._opening_bytes

    @staticmethod
    def _named(words: np.ndarray) -> dict[str, int]:
        return {name: int(words[index]) for name, index in registers.COUNTER_INDEX.items()}

    def _read_identity(self) -> dict[str, int]:
        words = self._read_registers(0, _VERSION_WORDS)
        start = codec.decode(registers.Identity, [*words, *[0] * (registers.IDENTITY_WORDS - _VERSION_WORDS)])
        if start["magic"] != registers.MAGIC:
            raise DeviceError("what answers is no Bitfirst device; check the port, and that the bitstream is loaded")
        theirs, ours = start["contract_version"], packets.CONTRACT_VERSION
        if theirs != ours:
            mend = "rebuild the bitstream" if theirs < ours else "update this software"
            raise DeviceError(f"the device speaks contract version {theirs}, this software {ours}; {mend}")
        words += self._read_registers(_VERSION_WORDS, registers.IDENTITY_WORDS - _VERSION_WORDS)
        return codec.decode(registers.Identity, words)

    def _read_registers(self, first: int, count: int) -> list[int]:
        place = {"space": Space.REGISTERS, "first": first, "count": count}
        return [int(word) for word in self._link.call(Command(Opcode.READ, place))]


class _Run:
    """One operation: commands as far as the credit allows, then the result; `before`: the run before it."""

    def __init__(
        self, link: Link, store: Store, operation: Operation, planned: Schedule, before: "_Run | None" = None
    ) -> None:
        self._link = link
        self._operation = operation
        self._before = before
        self._schedule = planned
        self._commands = issue(planned, store, operation)
        self._results = [
            np.empty((product.rows, product.columns), dtype=np.int64) for product in self._schedule.products
        ]
        self._reads: list[tuple[Request, Step]] = []
        self._answered_reads = 0
        self._reads_of_tile = [0] * store.config.sum_tiles  # so many READs must be answered before it is written anew

    def start(self) -> None:
        """Send all commands."""
        for command, step in self._commands:
            if step is not None and step.sums[1]:  # a lost answer is asked for again: its sums must still be there
                self.vacate(*step.sums)
            request = self._link.submit(command)
            if step is not None and step.fetch is not None:
                self._note_read(request, step)

    def vacate(self, first: int, count: int) -> None:
        """Wait for all READs of these tiles of sums."""
        if self._before is not None:
            self._before.vacate(first, count)
        self._await(max(self._reads_of_tile[first : first + count]))

    def answers(self) -> list[tuple[Step, np.ndarray]]:
        """Wait for those to all READs: each with its data words."""
        self._await(len(self._reads))
        return [(step, request.data) for request, step in self._reads]

    def result(self) -> torch.Tensor:
        """Wait for all answers."""
        store_sums([(step.fetch, words, self._results[step.product]) for step, words in self.answers()])
        out = self._operation.empty_result()
        for product, result in zip(self._schedule.products, self._results, strict=True):
            product.placement.add(result, out)
        return torch.from_numpy(out)

    def _note_read(self, request: Request, step: Step) -> None:
        self._reads.append((request, step))
        first, count = step.fields["first"], step.fields["count"]
        self._reads_of_tile[first : first + count] = [len(self._reads)] * count

    def _await(self, count: int) -> None:
        """Wait for the first `count` READs."""
        for request, _ in self._reads[self._answered_reads : count]:
            self._link.wait(request)
        self._answered_reads = max(self._answered_reads, count)


def _config_of(identity: dict[str, int]) -> ArrayConfig:
    datapaths = {number: name for name, number in DATAPATHS.items()}
    names = [name for name in ArrayConfig().as_dict() if name in identity and name not in ("datapath", "features")]
    features = [name for bit, name in enumerate(FEATURES) if identity["features"] >> bit & 1]
    try:
        datapath = datapaths.get(identity["datapath"], f"number {identity['datapath']}")
        return ArrayConfig(datapath=datapath, features=tuple(features), **{name: identity[name] for name in names})
    except ConfigError as error:
        raise DeviceError(f"this software cannot drive the device: {error}; update the software") from None


def _check_config(wanted: ArrayConfig, actual: ArrayConfig) -> None:
    differences = [
        f"{name} {value} instead of {wanted.as_dict()[name]}"
        for name, value in actual.as_dict().items()
        if name not in _NOT_IN_IDENTITY and value != wanted.as_dict()[name]
    ]
    if differences:
        raise DeviceError(
            f"the device was built with {', '.join(differences)}; rebuild the bitstream with the configuration asked "
            "for, or open the device with its own"
        )
