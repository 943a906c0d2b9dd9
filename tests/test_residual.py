"""The packing of unresolved sums: every listed element once and no other; what programs say; packed MATMULs."""

from collections import Counter

import numpy as np
import pytest
from bitfirst import residual
from bitfirst.command import Command
from bitfirst.golden import programs
from bitfirst.golden.commands import GoldenDevice
from bitfirst.residual import NONE, ResidualTile, count_tiles, order_columns, pack
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract.packets import PROGRAM_ROWS, Opcode, Space, Status, Target
from hypothesis import given, settings
from hypothesis import strategies as st

TINY = CONFIGS["tiny"]
COLUMN = {"slice_bits": 2, "lanes": 64, "rows": 8, "columns": 1, "a_cells": 32, "b_cells": 32, "sum_tiles": 16}
SHAPES = {name: CONFIGS[name] for name in ("tiny", "default", "slice1", "slice8")} | {"column": ArrayConfig(**COLUMN)}


def elements_of(config: ArrayConfig, tiles: list[ResidualTile], turn: int) -> Counter:
    """How often each (row, output) is multiplied."""
    found: Counter = Counter()
    for tile in tiles:
        own = tile.row_tile
        for r, c in zip(*np.nonzero(own != NONE), strict=True):
            row = (int(r) - (int(own[r, c]) >> turn - 1 if turn else 0)) % config.rows  # as LOAD says
            found[int(own[r, c]) * config.rows + row, tile.col_tile * config.columns + int(tile.column[c])] += 1
    return found


def check_packing(config: ArrayConfig, listed: np.ndarray, turn: int = 0) -> list[ResidualTile]:
    tiles = pack(config, listed, turn)
    assert len(tiles) == count_tiles(config, listed, turn)
    wanted = Counter(zip(*(part.tolist() for part in np.nonzero(listed)), strict=True))
    assert elements_of(config, tiles, turn) == wanted
    for tile in tiles:
        assert (tile.masks.sum(axis=0) <= 1).all(), "an element takes two words"
        assert tile.masks.any(axis=(1, 2)).all(), "a row of PROGRAM without use"
        assert (tile.masks.any(axis=2) == (tile.words != NONE)).all()
        group = np.arange(config.columns) // config.group_columns
        assert (tile.column // config.group_columns == group).all(), "a column of another group"
    return tiles


@st.composite
def lists(draw) -> tuple[ArrayConfig, np.ndarray]:
    """Of any size and density; outputs and channels differ in how much they have to do."""
    config = SHAPES[draw(st.sampled_from(sorted(SHAPES)))]
    rows, columns = draw(st.integers(1, 5 * config.rows)), draw(st.integers(1, 2 * config.columns + 3))
    source = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from((0.0, 0.02, 0.3, 0.9, 1.0)))
    uneven = source.random(columns) ** draw(st.sampled_from((0, 1, 4)))
    return config, source.random((rows, columns)) < density * uneven


@settings(max_examples=150, deadline=None)
@given(lists(), st.integers(0, 7))
def test_every_listed_element_is_packed_once(drawn: tuple[ArrayConfig, np.ndarray], turn: int) -> None:
    check_packing(*drawn, turn)


def test_a_packing_that_forgets_is_found(monkeypatch) -> None:
    """Columns that are not laid as deep as their outputs need leave elements behind."""
    right = residual._work_of_columns
    monkeypatch.setattr(residual, "_work_of_columns", lambda config, needs: right(config, needs)[:, :-1])
    with pytest.raises(AssertionError):
        check_packing(TINY, np.ones((4, 4), dtype=bool))


def test_turned_rows_are_spread_over_banks() -> None:
    """One channel of all taps is listed: unturned, all its rows lie in one bank."""
    config = CONFIGS["default"]
    listed = np.zeros((9 * 2 * config.rows, config.columns), dtype=bool)
    listed[3 :: 2 * config.rows] = True
    assert [len(check_packing(config, listed, turn)) for turn in (0, 2)] == [9, 2]


def test_columns_help_each_other() -> None:
    """One output has everything to do: its group's columns share it."""
    config = CONFIGS["default"]
    listed = np.zeros((16 * config.rows, config.columns), dtype=bool)
    listed[:, 5] = True
    size = config.group_columns
    tiles = check_packing(config, listed)
    assert len(tiles) == 16 // size
    for tile in tiles:
        assert (tile.column[5 - 5 % size :][:size] == 5).all() and len(tile.words) == size
    full = check_packing(config, np.ones((2 * config.rows, 2 * config.columns), dtype=bool))
    assert len(full) == 4 and all(len(tile.words) <= 2 for tile in full)


@settings(max_examples=60, deadline=None)
@given(lists(), st.integers(0, 7))
def test_an_order_has_every_column_once(drawn: tuple[ArrayConfig, np.ndarray], turn: int) -> None:
    config, listed = drawn
    order = order_columns(config, listed, turn)
    assert sorted(order) == list(range(listed.shape[1]))
    check_packing(config, listed[:, order], turn)


def test_busy_columns_are_put_apart() -> None:
    """Four outputs have everything to do, and stand in one group: each comes into a group of its own."""
    config = CONFIGS["psg"]
    listed = np.zeros((16 * config.rows, config.columns + 3), dtype=bool)
    listed[:, :4] = True
    order = order_columns(config, listed, 0)
    assert [len(check_packing(config, mask)) for mask in (listed, listed[:, order])] == [16, 4]


# programs
def program_of(config: ArrayConfig, tiles: list[ResidualTile], row_cells: int, col_cells: int) -> np.ndarray:
    return programs.encode(config, [row for tile in tiles for row in tile.program(config, row_cells, col_cells)])


@pytest.mark.parametrize("name", SHAPES)
def test_programs_say_what_tiles_do(name: str) -> None:
    config = SHAPES[name]
    listed = np.random.default_rng(3).random((2 * config.rows, 2 * config.columns)) < 0.4
    tiles = check_packing(config, listed)
    row_cells, col_cells = 3, 4
    first = PROGRAM_ROWS - 1 - sum(len(tile.words) for tile in tiles[:1])  # the second tile ends with the last row
    memory = np.zeros((PROGRAM_ROWS, config.program_words), dtype=np.uint64)
    rows = program_of(config, tiles, row_cells, col_cells)
    memory[(first + np.arange(len(rows))) % PROGRAM_ROWS] = rows
    for tile, found in zip(tiles[:1], programs.tiles_of(config, memory, first, 1), strict=True):
        used = tile.row_tile != NONE
        assert found.rows == len(tile.words) and found.b_cell == tile.col_tile * col_cells
        assert np.array_equal(found.column, tile.column) and np.array_equal(found.used, used)
        assert np.array_equal(found.a_cell[used], tile.row_tile[used] * row_cells)


def test_a_program_ends_with_the_memory() -> None:
    """Without an end, with the last row; and behind that it goes on with the first."""
    memory = np.zeros((PROGRAM_ROWS, TINY.program_words), dtype=np.uint64)
    ends = programs.tiles_of(TINY, memory, PROGRAM_ROWS - 3, 2)
    assert [tile.rows for tile in ends] == [3, PROGRAM_ROWS]


# packed MATMULs
SIZES = {"slices": 2, "planes": 11, "chunks": 2, "a_octets": 1, "b_octets": 2, "b_first": 3, "a_offset": 1}
FULL = SIZES | {"b_negative": 1, "row_tiles": 4, "col_tiles": 2}


@pytest.mark.parametrize("accumulate", [0, 1])
@pytest.mark.parametrize("name", ["tiny", "slice8"])
def test_a_packed_matmul_does_for_the_listed_what_a_plain_one_does_for_all(name: str, accumulate: int) -> None:
    config, source = CONFIGS[name], np.random.default_rng(6)
    device, plain = GoldenDevice(config), GoldenDevice(config)
    fields = FULL | {"slices": config.slices_per_octet}
    for target in Target:
        cells = source.integers(0, 256, device.cells[target].shape)
        device.cells[target][:] = plain.cells[target][:] = cells
    listed = source.random((4 * config.rows, 2 * config.columns)) < 0.3
    tiles = check_packing(config, listed)
    rows = program_of(config, tiles, fields["chunks"] * fields["a_octets"], fields["chunks"] * fields["b_octets"])
    where = {"space": Space.PROGRAM, "rows": len(rows), "words": config.program_words, "row": 7}
    started = source.integers(-(2**40), 2**40, (len(tiles), config.rows, config.columns))
    device.sums[: started[:, :, 0].size] = started.reshape(-1, config.columns)
    packed = fields | {"packed": 1, "tiles": len(tiles), "program": 7, "accumulate": accumulate}
    for board, command in (
        (device, Command(Opcode.WRITE, where, rows.reshape(-1))),
        (device, Command(Opcode.MATMUL, packed)),
        (plain, Command(Opcode.MATMUL, fields)),
    ):
        assert board.execute(command)[0] == Status.OK
    whole = plain.sums[: 8 * config.rows].reshape(4, 2, config.rows, config.columns)
    for place, tile in enumerate(tiles):
        got = device.sums[place * config.rows : (place + 1) * config.rows] - accumulate * started[place]
        for r, c in zip(*np.nonzero(tile.row_tile != NONE), strict=True):
            assert got[r, c] == whole[tile.row_tile[r, c], tile.col_tile, r, tile.column[c]]
    cycles, stalls = config.packed_cycles(
        [len(tile.words) for tile in tiles], *(fields[n] for n in ("slices", "planes", "chunks"))
    )
    assert device.counters["matmul_cycles"] == cycles and device.counters["stall_cycles"] == stalls
    steps = fields["slices"] * 11 * 2  # of a tile
    assert device.counters["array_steps"] == len(tiles) * steps
    elements = len(tiles) * config.rows * config.columns
    assert device.counters["gated_steps"] == (elements - int(listed.sum())) * steps > 0
    assert plain.counters["gated_steps"] == 0
