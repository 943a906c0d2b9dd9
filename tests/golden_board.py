"""A device for the tests of planning: the schedule's commands, one by one, on the golden model of the command level."""

from collections.abc import Callable

import numpy as np
import torch
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.golden.commands import GoldenDevice
from bitfirst.link import response_words
from bitfirst.lowering import Operation
from bitfirst.plan import store_sums
from bitfirst.residency import issue
from bitfirst.schedule import Schedule, Step, schedule
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Opcode, Phase, Status

UNTOUCHED = -(2**62)


class GoldenBoard(Device):
    """Checks on the way that every command is accepted, and that no sum is overwritten before it was asked for.

    planned   how an operation is scheduled; `schedule` unless a test chooses otherwise
    commands  of the latest operation, each with its step
    """

    def __init__(
        self, config: ArrayConfig, planned: Callable[[ArrayConfig, Operation], Schedule] | None = None
    ) -> None:
        super().__init__("golden", config)
        self.golden = GoldenDevice(config)
        self.planned = planned or (lambda config, operation: schedule(config, operation.task))
        self.commands: list[tuple[Command, Step | None]] = []

    def counters(self) -> dict[str, int]:
        self._answer(Command(Opcode.COUNTERS))
        return self.golden.counters

    def close(self) -> None:
        pass

    def _mark(self, phase: Phase) -> dict[str, int]:
        self._answer(Command(Opcode.MARK, {"phase": phase}))
        return self.golden.counters

    def _answer(self, command: Command) -> np.ndarray:
        status, data = self.golden.execute(command)
        assert status == Status.OK, (status, command)
        assert len(data) == response_words(command)
        assert max(len(data), len(command.data)) <= packets.MAX_DATA_WORDS
        return data

    def _execute(self, operation: Operation) -> torch.Tensor:
        planned = self.planned(self.config, operation)
        results = [np.full((product.rows, product.columns), UNTOUCHED) for product in planned.products]
        self.commands = []
        unread: set[int] = set()
        for command, step in issue(planned, self.store, operation):
            self.commands.append((command, step))
            data = self._answer(command)
            if command.opcode == Opcode.MATMUL:
                first, fields = command.fields["sum_tile"], command.fields
                tiles = set(range(first, first + fields["row_tiles"] * fields["col_tiles"]))
                assert fields["accumulate"] or not tiles & unread
                assert step.sums == ((0, 0) if fields["accumulate"] else (first, len(tiles)))
                unread |= tiles
            if command.opcode == Opcode.READ:
                first = command.fields["first"]
                unread -= set(range(first, first + command.fields["count"]))
                assert step.fetch.words == len(data)
                store_sums([(step.fetch, data, results[step.product])])
        assert not unread
        assert all((result != UNTOUCHED).all() for result in results)
        out = operation.empty_result()
        for product, result in zip(planned.products, results, strict=True):
            product.placement.add(result, out)
        return torch.from_numpy(out)
