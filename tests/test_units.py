"""Units of the compiled simulator that rest: their registers would not change, and nobody sees those that may."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import bitfirst
import numpy as np
import pytest
import test_stress
from bitfirst.benches import cycles
from bitfirst.errors import LinkError
from bitfirst_hdl.config import CONFIGS
from bitfirst_sim import build, units
from bitfirst_sim.simulator import Schedule, Simulator
from test_stress import stress

TINY = CONFIGS["tiny"]
Call = tuple[bytes, int]  # bytes to send, least bytes to receive then


class AnyCommands(test_stress.Commands):
    """With WRITEs to every space: those of `Commands` leave out PROGRAM."""

    def payload(self) -> np.ndarray:
        return self.program.write().payload() if self.rng.random() < 0.1 else super().payload()


@pytest.fixture(autouse=True)
def any_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_stress, "Commands", AnyCommands)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulators that stop where a resting unit would change; soon compiled, which takes longer than they run."""
    monkeypatch.setattr(build, "build_simulator", partial(build.build_simulator, checked=True))
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    monkeypatch.setattr(build, "NATIVE_FLAGS", ())


def change(monkeypatch: pytest.MonkeyPatch, name: str, **fields: object) -> None:
    changed = tuple(replace(unit, **fields) if unit.name == name else unit for unit in units.UNITS)
    assert changed != units.UNITS
    monkeypatch.setattr(units, "UNITS", changed)


def test_units_at_rest_stand_still(checked: None) -> None:
    """Each register of a resting unit would keep its value, and the loose ones are spoilt to no effect."""
    for seed, commands, schedule in (
        (7, 2000, None),
        (8, 1500, Schedule(2, 0.5, 0.5)),
        (9, 1000, Schedule(3, 0, 0.98)),
    ):
        stress(seed, commands, schedule)


def test_units_at_rest_stand_still_where_block_ram_turns_b(checked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """No rotation, so other registers stand in front of B's banks."""
    monkeypatch.setitem(CONFIGS, "deep", replace(TINY, lanes=32, b_cells=512))
    stress(7, 300, config_name="deep")


def test_units_at_rest_stand_still_where_the_host_writes_cells(checked: None) -> None:
    found = cycles.Findings()
    with bitfirst.open("rtl:least") as board:
        cycles.compare(board, 150, 3, found)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.commands > 150


@pytest.mark.parametrize(
    ("name", "fields", "register"),
    [
        pytest.param("readout", {"settles": 4}, "", marks=pytest.mark.soak),
        ("engine", {"moves": "core.engine.busy | core.engine.start__valid"}, "word_|ahead"),
        ("partial_sums", {"loose": ""}, "corrected_|shifted_|added_|slices_left"),
    ],
)
def test_narrow_conditions_are_found(
    name: str, fields: dict, register: str, checked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It falls to rest before its pipelines are empty; it misses a program; it takes for kept what is not."""
    change(monkeypatch, name, **fields)
    with pytest.raises(LinkError, match=rf"{name} changes ({register}).* in cycle \d+, in which it rests"):
        stress(7, 2000)


@pytest.mark.soak
def test_registers_that_are_looked_at_are_not_loose(checked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the `valid` that goes with cells of B among the loose ones, cells are written that nobody sent."""
    change(monkeypatch, "b_write", loose=r"planes_turn.*|taken_\d+|write_.*")
    with pytest.raises((AssertionError, LinkError)):
        stress(7, 2000)


def recorded(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object]) -> list[Call]:
    """What a run asks of its simulator."""
    calls: list[Call] = []

    class Recorder(Simulator):
        unsent = b""

        def send(self, data: bytes) -> None:
            self.unsent += data
            super().send(data)

        def receive(self, min_bytes: int = 2**40) -> bytes:
            calls.append((self.unsent, min_bytes))
            self.unsent = b""
            return super().receive(min_bytes)

    with monkeypatch.context() as patch:
        patch.setattr(test_stress, "Simulator", Recorder)
        run()
    return calls


@pytest.mark.parametrize(
    "schedule", [pytest.param(Schedule(4), marks=pytest.mark.soak), Schedule(5, 0.6, 0.3)], ids=str
)
def test_same_bytes_in_the_same_cycles(schedule: Schedule, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With waveforms no unit rests: the same calls give the same bytes and cycles there, one by one."""
    calls = recorded(monkeypatch, lambda: stress(random.Random(schedule.seed).getrandbits(16), 600, schedule))
    answers = []
    for trace in None, tmp_path / "waves.vcd":
        with Simulator(TINY, trace, schedule) as board:
            if trace:
                board.set_tracing(False)
            answers.append([])
            for data, min_bytes in calls:
                board.send(data)
                answers[-1].append((board.receive(min_bytes), board.cycles))
    assert len(calls) > 20 and answers[0] == answers[1]


def test_every_unit_is_in_the_core() -> None:
    """Registers of a unit whose names have changed would go on without rest, and nobody would notice."""
    core, clocks, count = units.divide(build.core_verilog(TINY), "bitfirst_core")
    assert count == len(units.UNITS)
    assert all(f"// {unit.name}\n" in clocks for unit in units.UNITS)
    assert core.count("@(edge simulated.clocks[") > 0.8 * (core.count("@(edge ") + core.count("@(posedge clk)"))


def test_waveforms_show_units_without_rest() -> None:
    text = build.core_verilog(TINY)
    assert units.divide(text, "bitfirst_core", ()) == (text, "assign moves = 0;\n", 0)
