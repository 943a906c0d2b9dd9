"""The estimate of energy by toggles: nets counted once, and what it tells that counters do not."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bitfirst import cli, energy_model
from bitfirst.board import BoardDevice
from bitfirst.energy import Energy
from bitfirst.errors import UsageError
from bitfirst.quantised import Quantised
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract.packets import Phase
from bitfirst_sim import saif, switching
from bitfirst_sim.saif import Activity
from bitfirst_sim.switching import CORE, compare, counted, drivers, parts_of, switched

MICRO = CONFIGS["micro"]
HOROWITZ = energy_model.load("horowitz-45nm")
VERILOG = r"""module made(clk, a, y);
  input [3:0] a;
  wire [3:0] a;
  reg [3:0] \$1 ;
  reg [3:0] held = 4'h0;
  reg [3:0] memory [7:0];
  initial begin
    memory[0] = 4'h0;
  end
  always @(posedge clk) begin
    if (write_enable)
      memory[{ address, 1'h1 }][1:0] <= held[1:0];
  end
  assign read = memory[address];
  assign through = held;
  assign \part$2  = { a[1:0], 2'h3 };
  assign sum = a + held;
  \made.store  store (
    .clk(clk)
  );
  always @(posedge clk)
    held <= \$1 ;
  always @* begin
    \$1  = held;
  end
endmodule

module \made.store (clk);
  reg [3:0] bank_0 [7:0];
  assign \read$3  = bank_0[\$2 [2:0]];
endmodule
"""
DRIVEN = {(): {"read": "memory", "sum": "logic", "held": "logic", "$1": "logic"}, ("store",): {"read$3": "memory"}}


def test_each_net_is_counted_where_it_is_driven() -> None:
    assert drivers(VERILOG, "made") == DRIVEN


def test_joules_are_those_of_the_kind() -> None:
    places = [("a", ()), ("sum[3]", ()), ("through[0]", ()), ("read[1]", ()), ("read$3[1]", ("store",))]
    places += [("rx__payload[7]", ()), ("rx__payload[7]", ("link",))]
    nets = (*(((*CORE, *place), name) for name, place in places), (CORE[:1], "clk"))
    made = Activity(nets, 100, np.zeros(8, int), 10 ** np.arange(8))
    found = switched(made, *parts_of(made, DRIVEN))
    by_kind = switching.COEFFICIENTS
    assert found["control"] == (1010, pytest.approx(10 * by_kind["logic"] + 1000 * by_kind["memory"]))
    assert found["store"] == (10**4, pytest.approx(10**4 * by_kind["store"]))
    assert found["link"] == (10**5, pytest.approx(10**5 * by_kind["pin"]))
    assert not any(found["array"] + found["operands"] + found["sums"])


def test_every_joule_of_the_counters_is_of_some_part() -> None:
    counters = {"array_steps": 7, "gated_steps": 3, "fetches_a": 5, "fetches_b": 6, "rx_words": 8, "tx_words": 9}
    counters |= {"words_written": 10, "elements_read": 11, "cycles": 12, "update_cycles": 13}
    total = HOROWITZ.energy(energy_model.activity(counters, MICRO), MICRO).total_j
    parts = counted(counters, MICRO, HOROWITZ)
    assert sum(parts.values()) == pytest.approx(total) and parts["control"] == 0 < parts["array"]
    named = {term for terms in switching.TERMS.values() for term in terms}
    assert named | set(energy_model.HOST_TERMS) == set(energy_model.TERMS)


def test_coefficients_of_a_board_are_refused() -> None:
    board = replace(HOROWITZ, scope="board", joules=HOROWITZ.joules | {"cycles": 1e-9}, name="mine")
    with pytest.raises(UsageError, match="mine is of scope board"):
        compare({}, {}, MICRO, board)


@pytest.mark.parametrize(("options", "said"), [({"images": 1}, "images = 1"), ({"scale": 0.0}, "scale = 0.0")])
def test_bad_options_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        switching.run(**{"name": "micro", "images": 2} | options)


def test_bad_input_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "switching", "--images", "1"]) == 2
    assert capsys.readouterr().err == "bitfirst: images = 1: give 2 or more, as batch norm needs\n"


def random(shape: tuple[int, ...], bits: int, generator: torch.Generator) -> Quantised:
    peak = 2 ** (bits - 1) - 1
    return Quantised(torch.randint(-peak, peak + 1, shape, generator=generator).float(), bits, True, 0)


def test_operands_of_zeros_toggle_less_and_count_the_same(tmp_path: Path, monkeypatch, capsys) -> None:
    """A product of random numbers, one of zeros of the same shapes and widths (here "backward"), and no work at all."""
    generator = torch.Generator().manual_seed(1)
    x, w = random((2, 24), 8, generator), random((4, 24), 8, generator)
    zero_x, zero_w = (replace(one, values=torch.zeros_like(one.values)) for one in (x, w))
    transport = RtlTransport(MICRO, toggles=True)
    with BoardDevice("rtl", transport, MICRO) as device:
        device.linear(zero_x, zero_w)  # from here on the store's book is the same
        device.mark(Phase.OTHER)
        transport.activity()
        device.phase_counters.clear()
        device.linear(x, w)
        device.mark(Phase.UPDATE)
        device.mark(Phase.OTHER)
        first, first_counters = transport.activity(), dict(device.phase_counters)
        device.phase_counters.clear()
        device.linear(zero_x, zero_w)
        device.mark(Phase.OTHER)
        second, second_counters = transport.activity(), device.phase_counters
    activities = {Phase.FORWARD: first[1], Phase.UPDATE: first[4], Phase.BACKWARD: second[1]}
    counters = {Phase.FORWARD: first_counters[1], Phase.UPDATE: first_counters[4], Phase.BACKWARD: second_counters[1]}
    assert all(activities[phase].duration_ps // 10_000 == counters[phase]["cycles"] for phase in activities)
    found = compare(activities, counters, MICRO, HOROWITZ)
    work, nothing, zeros = found["phases"]
    assert counters[Phase.FORWARD]["array_steps"] == counters[Phase.BACKWARD]["array_steps"] > 0
    assert zeros["counted"] == work["counted"]
    assert Energy(**zeros["switching"]).total_j < 0.5 * Energy(**work["switching"]).total_j
    assert zeros["parts"]["array"]["toggles"] < 0.1 * work["parts"]["array"]["toggles"]
    assert nothing["toggles"] < 0.1 * work["toggles"] and nothing["parts"]["array"]["toggles"] == 0
    assert sum(row["switching_share"] for row in found["phases"]) == pytest.approx(1)
    halved = compare(activities, counters, MICRO, HOROWITZ, found["scale"] / 2)
    assert halved["phases"][2]["ratio"] == pytest.approx(zeros["ratio"] / 2)
    assert {row["switching"]["provenance"] for row in found["phases"]} == {"modelled"}

    monkeypatch.setattr(switching, "step", lambda *_: (activities, counters))
    folder = tmp_path / "saif"
    assert cli.run(["bench", "switching", "micro", "--saif", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["phases"] == found["phases"] and len(shown["files"]) == len(list(folder.iterdir())) == 3
    assert saif.read(folder / "forward.saif").duration_ps == first[1].duration_ps
