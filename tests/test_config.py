"""Array configurations: bad ones give one line that names the mend; what follows from good ones."""

from dataclasses import replace
from itertools import product
from math import ceil

import pytest
from bitfirst_hdl.config import CONFIGS, MAX_BITS, ArrayConfig, ConfigError, load
from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract.packets import OCTET_BITS
from bitfirst_hdl.contract.registers import IDENTITY_WORDS, MAGIC, Identity

BAD_VALUES = [
    ({"datapath": "analog"}, "choose from serial"),
    ({"datapath": 3}, "choose from serial"),
    ({"datapath": ["serial"]}, "choose from serial"),
    ({"lanes": 0}, "positive integer"),
    ({"lanes": -8}, "positive integer"),
    ({"lanes": "32"}, "positive integer"),
    ({"lanes": 32.0}, "positive integer"),
    ({"rows": True}, "positive integer"),
    ({"slice_bits": 3}, "one of 1, 2, 4, 8"),
    ({"slice_bits": 16}, "one of 1, 2, 4, 8"),
    ({"link_bits": 24}, "one of 8, 16, 32, 64"),
    ({"lanes": 24}, "power of two, 16 .. 256"),
    ({"lanes": 512}, "power of two, 16 .. 256"),
    ({"lanes": 8}, "power of two, 16 .. 256"),
    ({"rows": 3}, "power of two, 1 .. 64"),
    ({"rows": 128}, "power of two, 1 .. 64"),
    ({"columns": 5}, "power of two, 1 .. 64"),
    ({"columns": 128}, "power of two, 1 .. 64"),
    ({"a_cells": 8}, "power of two, 16 .. 4096"),
    ({"b_cells": 8192}, "power of two, 16 .. 4096"),
    ({"store_words": 96}, "power of two, 64 .. 65536"),
    ({"store_words": 32}, "power of two, 64 .. 65536"),
    ({"store_words": 131072}, "power of two, 64 .. 65536"),
    ({"sum_tiles": 1}, "power of two, 2 .. 4096"),
    ({"rx_words": 512}, "power of two, 1024 .. 32768"),
    ({"rx_words": 256, "features": []}, "power of two, 512 .. 32768"),
    ({"rows": 1, "slice_bits": 1}, "multiple of 64"),
    ({"columns": 1, "lanes": 32}, "multiple of 64"),
    ({"rows": 64, "lanes": 256, "slice_bits": 8}, "at most"),
    ({"rows": 64, "sum_tiles": 4096}, "lower sum_tiles"),
    ({"clock_khz": 2**32}, "below 2**32"),
    ({"watchdog_cycles": 2**32}, "watchdog_cycles = 4294967296 must be below 2**32"),
    ({"features": ["update", "more"]}, "some of update, packed"),
    ({"features": "update"}, "some of update, packed"),
    ({"features": ["update"]}, "feature update needs gather"),
    ({"features": ["packed"]}, "feature packed needs gather and requantise"),
]


def one_line(error: pytest.ExceptionInfo, *names: str) -> None:
    text = str(error.value)
    assert text and "\n" not in text
    for name in names:
        assert name in text, text


@pytest.mark.parametrize(("values", "mend"), BAD_VALUES, ids=[str(values) for values, _ in BAD_VALUES])
def test_bad_values_name_the_mend(values, mend) -> None:
    with pytest.raises(ConfigError) as error:
        replace(CONFIGS["default"], **values)
    one_line(error, mend)
    assert any(name in str(error.value) for name in values)


@pytest.mark.parametrize(("values", "mend"), [pair for pair in BAD_VALUES if pair[0].get("datapath") != 3])
def test_bad_values_in_a_file_name_the_mend(tmp_path, values, mend) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(
        "".join(f"{name} = {str(value).lower() if value is True else repr(value)}\n" for name, value in values.items())
    )
    with pytest.raises(ConfigError) as error:
        load(str(file))
    one_line(error, mend)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("lane = 32", ("'lane'", "known keys", "lanes")),
        ("base = 'huge'", ("'huge'", "choose from", "tiny")),
        ("base = ['tiny']", ("choose from", "tiny")),
        ("base = 3", ("choose from", "tiny")),
        ("lanes = ", ("cannot be read",)),
        ("[array]\nlanes = 32", ("'array'", "known keys")),
    ],
)
def test_bad_files_name_the_mend(tmp_path, text, names) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        load(str(file))
    one_line(error, *names)


def test_unknown_names_and_files(tmp_path) -> None:
    with pytest.raises(ConfigError) as error:
        load("tinny")
    one_line(error, "'tinny'", "choose from", "tiny", ".toml")
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "absent.toml"))
    one_line(error, "does not exist")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "folder.toml"))
    one_line(error, "cannot be read")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "binary.toml"))
    one_line(error, "cannot be read")


def test_files_start_from_a_base(tmp_path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("base = 'tiny'\nlanes = 16\n")
    assert load(str(file)) == replace(CONFIGS["tiny"], lanes=16)
    file.write_text("rows = 4\n")
    assert load(str(file)) == replace(CONFIGS["default"], rows=4)
    assert load("small") is CONFIGS["small"]


@pytest.mark.parametrize("name", CONFIGS)
def test_identity_holds_every_configuration(name) -> None:
    config = CONFIGS[name]
    words = codec.encode(Identity, **config.identity(fingerprint=2**64 - 1))
    assert len(words) == IDENTITY_WORDS
    fields = codec.decode(Identity, words)
    assert fields["magic"] == MAGIC
    assert bytes.fromhex(f"{fields['magic']:x}")[::-1] == b"BITFIRST"
    sizes = "slice_bits", "lanes", "rows", "columns", "a_cells", "b_cells", "sum_tiles", "store_words", "rx_words"
    for key in *sizes, "clock_khz", "watchdog_cycles":
        assert fields[key] == getattr(config, key)


def test_identity_holds_the_largest_values() -> None:
    largest = ArrayConfig(
        slice_bits=1,
        lanes=256,
        rows=64,
        columns=64,
        a_cells=4096,
        b_cells=4096,
        sum_tiles=1024,
        store_words=65536,
        rx_words=32768,
    )
    codec.encode(Identity, **largest.identity())


@pytest.mark.parametrize("name", CONFIGS)
def test_lanes_are_a_permutation(name) -> None:
    config = CONFIGS[name]
    assert sorted(config.lane_of_bit(bit) for bit in range(config.lanes)) == list(range(config.lanes))


@pytest.mark.parametrize("name", CONFIGS)
def test_accumulators_hold_the_longest_pass(name) -> None:
    config = CONFIGS[name]
    for planes in range(1, MAX_BITS + 1):
        chunks = config.max_chunks(planes)
        assert chunks * ceil(planes / OCTET_BITS) <= config.b_cells and chunks <= config.a_cells
        largest = (2**config.a_digit_bits - 1) * (2**planes - 1) * config.lanes * chunks
        assert largest < 2 ** (config.accumulator_bits - 1)


@pytest.mark.parametrize("name", CONFIGS)
def test_operand_rows_hold_the_cells(name) -> None:
    config = CONFIGS[name]
    assert config.a_rows * config.a_row_bits == config.a_cells * config.rows * config.lanes * OCTET_BITS
    assert config.b_rows * config.b_row_bits == config.b_cells * config.columns * config.lanes * OCTET_BITS


def test_cycles_of_a_matmul() -> None:
    """Two set-up cycles, one per step, and waits for the shadow registers between passes shorter than R."""
    config = CONFIGS["default"]
    assert config.matmul_cycles(slices=2, planes=8, chunks=9, row_tiles=3, col_tiles=4) == 2 + 2 * 8 * 9 * 12
    assert config.stall_cycles(slices=2, planes=3, chunks=1, row_tiles=1, col_tiles=4) == 7 * 5
    assert config.matmul_cycles(slices=2, planes=3, chunks=1, row_tiles=1, col_tiles=4) == 2 + 8 * 3 + 7 * 5


def test_fusion_multiplies_more_of_narrow_operands() -> None:
    """As often 8 x 8 bits as `default`; 16 times as often 2 x 2 bits. Passes of wide operands are those of 8 bits."""
    fusion, default = CONFIGS["fusion"], CONFIGS["default"]
    assert fusion.bit_macs_per_cycle == default.bit_macs_per_cycle == 8192
    for a, b in product((2, 4, 8, 16), repeat=2):
        assert fusion.array_steps(fusion.slices_of(a), fusion.planes_of(b), 1, 1, 1) == a * b // 4
    assert [fusion.slices_of(bits) for bits in range(1, 17)] == [1, 1, 2, 2, *[4] * 4, *[8] * 8]
    assert [fusion.planes_of(bits) for bits in range(1, 17)] == [2, 2, 4, 4, *[8] * 4, *[16] * 8]
    stalls = [fusion.stall_cycles(slices, planes, 1, 1, 2) for slices, planes in ((1, 2), (2, 4), (4, 8), (8, 2))]
    assert stalls == [7, 4, 0, 3 * 4]  # between passes of 1, 4, 16, and 4 steps


def test_fixed_multiplies_as_much_as_default() -> None:
    """8 x 8 bits in one step; 3 x 5 bits are not less. 16 x 16 bits: all in two steps of half the lanes."""
    wide = CONFIGS["fixed16"]
    assert wide.bit_macs_per_cycle == 4 * 8192
    for slices, planes in product(wide.slice_counts, wide.plane_counts):
        assert wide.array_steps(slices, planes, 3, 1, 1) == 6
    fixed, default = CONFIGS["fixed"], CONFIGS["default"]
    assert fixed.bit_macs_per_cycle == default.bit_macs_per_cycle == 8192
    assert fixed.array_steps(1, 8, 1, 1, 1) == 1 and fixed.array_steps(2, 16, 3, 1, 1) == 12
