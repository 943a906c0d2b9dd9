"""The contract: packer, golden bytes, numeric rules, hash, rendered documents."""

import math
import re
import shutil
import subprocess
import zlib
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from bitfirst_hdl.contract import codec, numeric, packets, registers, render
from bitfirst_hdl.contract.packets import Opcode, Rounding, Space, Target
from hypothesis import given, settings
from hypothesis import strategies as st

DOCS = Path(__file__).parents[1] / "docs"
STRUCTS = render.STRUCTS
struct_strategy = st.sampled_from(STRUCTS)


@st.composite
def struct_values(draw) -> tuple[type, dict[str, int]]:
    """A struct and a value for each of its fields, extremes often."""
    struct = draw(struct_strategy)
    number = {
        name: draw(st.sampled_from([0, (1 << width) - 1]) | st.integers(0, (1 << width) - 1))
        for name, (_, width) in codec.fields(struct).items()
    }
    return struct, number


# packer


@given(struct_values())
def test_round_trip(pair) -> None:
    struct, values = pair
    words = codec.encode(struct, **values)
    assert len(words) == codec.word_count(struct)
    assert all(0 <= word < 2**64 for word in words)
    assert codec.decode(struct, words) == values


@given(struct_values(), st.integers(1, 5))
def test_encode_many_equals_encode(pair, count) -> None:
    struct, values = pair
    arrays = {
        name: np.array([value >> place for place in range(count)], dtype=np.uint64) for name, value in values.items()
    }
    words = codec.encode_many(struct, **arrays)
    assert words.shape == (count, codec.word_count(struct)) and words.dtype == np.uint64
    for place in range(count):
        assert tuple(words[place].tolist()) == codec.encode(struct, **{n: v >> place for n, v in values.items()})


@given(struct_values(), st.data())
def test_out_of_range_is_refused(pair, data) -> None:
    struct, values = pair
    name = data.draw(st.sampled_from(sorted(values)))
    width = codec.fields(struct)[name][1]
    wrong = data.draw(st.integers(max_value=-1) | st.integers(min_value=1 << width))
    with pytest.raises(codec.FieldError, match=rf"{struct.__name__}\.{name}"):
        codec.encode(struct, **(values | {name: wrong}))
    with pytest.raises(codec.FieldError, match=rf"{struct.__name__}\.{name}"):
        codec.encode_many(struct, **{name: [wrong, 0]})


@pytest.mark.parametrize("value", [1.5, "1", None, math.nan, math.inf, [1]])
def test_what_is_no_integer_is_refused(value) -> None:
    with pytest.raises(codec.FieldError, match=r"Write\.row"):
        codec.encode(packets.Write, row=value)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(codec.FieldError, match="no field 'column'"):
        codec.encode(packets.Write, column=1)
    with pytest.raises(codec.FieldError, match="no field 'column'"):
        codec.encode_many(packets.Write, column=[1])


def test_encode_many_broadcasts_and_refuses_other_shapes() -> None:
    words = codec.encode_many(packets.Write, opcode=1, row=[3, 4])
    assert words.tolist() == [[1, 3, 0, 0], [1, 4, 0, 0]]
    assert codec.encode_many(packets.Write, opcode=1, row=np.zeros(0, dtype=int)).shape == (0, 4)
    with pytest.raises(codec.FieldError, match="one length"):
        codec.encode_many(packets.Write, row=[1, 2, 3], rows=[1, 2])
    with pytest.raises(codec.FieldError, match="one-dimensional"):
        codec.encode_many(packets.Write, row=[[1, 2]])
    with pytest.raises(codec.FieldError, match="integers"):
        codec.encode_many(packets.Write, row=[0.5])


def test_every_command_fills_its_words() -> None:
    assert set(packets.COMMANDS) == set(Opcode) - {Opcode.LINK, Opcode.TRACE}
    for opcode, struct in packets.COMMANDS.items():
        assert codec.word_count(struct) == packets.COMMAND_WORDS
        assert codec.fields(struct)["opcode"] == (0, 8)
        assert codec.encode(struct, opcode=opcode)[0] & 0xFF == opcode
    for struct in (packets.Header, packets.Trailer, packets.Response):
        assert codec.word_count(struct) == 1
    assert codec.word_count(registers.Identity) == registers.IDENTITY_WORDS


def test_counters_are_named_once() -> None:
    names = [counter.name for counter in registers.COUNTERS]
    assert len(set(names)) == len(names) > 0
    assert {counter.kind for counter in registers.COUNTERS} == {"execution", "arrival"}
    assert all(counter.doc.endswith(".") for counter in registers.COUNTERS)


# golden bytes: these never change within a contract version

GOLDEN_WRITE = bytes.fromhex(
    "7fb1068002015b29"  # header: sync, length 6, restart, sequence 0x0102, check
    "0101020001000100"  # WRITE to STORE, 2 rows from word 1, 1 word each
    "0500000000000000"  # from row 5
    "0000000000000000"
    "0000000000000000"
    "efcdab8967452301"  # row 5
    "1032547698badcfe"  # row 6
    "d4d9056800000000"  # trailer: CRC-32
)


GOLDEN_COMMANDS = {
    Opcode.TENSOR: (
        {
            "slot": 3,
            "bits": 12,
            "signed": 1,
            "exponent": 0xFFFC,
            "split": 4,
            "word": 0x1234,
            "n": 2,
            "c": 5,
            "h": 7,
            "w": 9,
        },
        (
            "09030c01fcff0400"  # slot, bits, signed and layout, exponent, split
            "3412000002000500"  # word, n, c
            "0700090000000000"  # h, w
            "0000000000000000"
        ),
    ),
    Opcode.LOAD: (
        {
            "slot": 3,
            "target": Target.B,
            "n_fast": 1,
            "flip": 0x8001,
            "y_start": 0xFFFF,
            "x_start": 0xFFFE,
            "y_step": 2,
            "x_step": 0xFF,
            "y_count": 7,
            "x_count": 8,
            "n_first": 1,
            "y_first": 5,
            "x_first": 6,
            "positions": 0x0304,
            "line_first": 9,
            "place_first": 10,
            "run": 11,
            "taps": 12,
            "cell": 0x0D0E,
        },
        (
            "0a530180fffffeff"  # slot, target, n_fast; flip, y_start, x_start
            "02ff070008000100"  # y_step, x_step, y_count, x_count, n_first
            "0500060004030900"  # y_first, x_first, positions, line_first
            "0a000b000c000e0d"  # place_first, run, taps, cell
        ),
    ),
    Opcode.MATMUL: (
        {
            "accumulate": 1,
            "slices": 2,
            "planes": 3,
            "a_offset": 0x0102,
            "b_negative": 0x0304,
            "chunks": 4,
            "row_tiles": 5,
            "col_tiles": 6,
            "sum_tile": 7,
            "a_cell": 8,
            "b_cell": 9,
            "a_octets": 1,
            "b_octets": 2,
            "a_first": 10,
            "b_first": 11,
        },
        (
            "0301020302010403"  # accumulate, slices, planes, a_offset, b_negative
            "0400050006000700"  # chunks, row_tiles, col_tiles, sum_tile
            "08000900210a0b00"  # a_cell, b_cell, octets, a_first, b_first
            "0000000000000000"
        ),
    ),
}


@pytest.mark.parametrize("opcode", GOLDEN_COMMANDS)
def test_golden_commands(opcode) -> None:
    fields, golden = GOLDEN_COMMANDS[opcode]
    assert to_bytes(codec.encode(packets.COMMANDS[opcode], opcode=opcode, **fields)).hex() == golden


def test_golden_bytes() -> None:
    command = codec.encode(packets.Write, opcode=Opcode.WRITE, space=Space.STORE, rows=2, word=1, words=1, row=5)
    payload = [*command, 0x0123456789ABCDEF, 0xFEDCBA9876543210]
    fields = {"sync": packets.SYNC, "length": len(payload), "restart": 1, "sequence": 0x0102}
    check = zlib.crc32(to_bytes(codec.encode(packets.Header, **fields))[:6]) & 0xFFFF
    body = to_bytes([*codec.encode(packets.Header, **fields, check=check), *payload])
    assert body + to_bytes(codec.encode(packets.Trailer, crc=zlib.crc32(body))) == GOLDEN_WRITE


def test_the_driver_sends_the_golden_bytes() -> None:
    from bitfirst.command import Command
    from bitfirst.link import encode_frame

    data = np.array([0x0123456789ABCDEF, 0xFEDCBA9876543210], dtype=np.uint64)
    command = Command(Opcode.WRITE, {"space": Space.STORE, "rows": 2, "word": 1, "words": 1, "row": 5}, data)
    assert encode_frame(command.payload(), 0x0102, restart=True) == GOLDEN_WRITE


def to_bytes(words) -> bytes:
    return b"".join(int(word).to_bytes(packets.WORD_BYTES, "little") for word in words)


# numeric rules

sums = st.integers(-(2**47), 2**47 - 1) | st.sampled_from([-(2**47), 2**47 - 1, 0, 1, -1])
multipliers = st.integers(0, 2**16 - 1)
shifts = st.integers(0, numeric.MAX_SHIFT)
widths = st.integers(2, 32)
random_words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**32 - 1, 2**31])


@st.composite
def ties(draw) -> tuple[int, int]:
    """A value and a shift at which it is a tie."""
    shift = draw(st.integers(1, numeric.MAX_SHIFT))
    return (2 * draw(st.integers(-(2**15), 2**15)) + 1) << (shift - 1), shift


@given(st.integers(-(2**63), 2**63 - 1), shifts)
def test_nearest_even_is_that_of_fractions(value, shift) -> None:
    assert numeric.round_shift(value, shift, Rounding.NEAREST_EVEN) == round(Fraction(value, 2**shift))


@given(ties())
def test_ties_go_to_even(tie) -> None:
    value, shift = tie
    rounded = numeric.round_shift(value, shift, Rounding.NEAREST_EVEN)
    assert rounded % 2 == 0 and rounded == round(Fraction(value, 2**shift))


@given(st.integers(-(2**63), 2**63 - 1), shifts, random_words)
def test_stochastic_is_that_of_fractions(value, shift, random) -> None:
    """The addend is `random` / 2**32, cut to `shift` bits."""
    addend = Fraction(math.floor(Fraction(random, 2**32) * 2**shift), 2**shift)
    expected = math.floor(Fraction(value, 2**shift) + addend)
    assert numeric.round_shift(value, shift, Rounding.STOCHASTIC, random) == expected


@given(st.integers(-(2**40), 2**40), st.integers(1, 10))
def test_stochastic_is_unbiased_over_all_random_words(value, shift) -> None:
    """Over each value of the top `shift` bits once, the mean is exact."""
    randoms = [top << (32 - shift) for top in range(2**shift)]
    rounded = [numeric.round_shift(value, shift, Rounding.STOCHASTIC, random) for random in randoms]
    assert sum(rounded) == value


@given(sums, multipliers, shifts, st.sampled_from(Rounding), widths, st.booleans(), random_words)
@settings(max_examples=300)
def test_requantise(total, multiplier, shift, rounding, bits, signed, random) -> None:
    low, high = numeric.limits(bits, signed)
    number, clipped = numeric.requantise(total, multiplier, shift, rounding, bits, signed, random)
    exact = numeric.round_shift(total * multiplier, shift, rounding, random)
    assert low <= number <= high
    assert clipped == (not low <= exact <= high)
    assert number == (exact if not clipped else high if exact > high else low)
    assert abs(Fraction(exact) - Fraction(total * multiplier, 2**shift)) < 1


@given(sums, multipliers, shifts, widths)
def test_signed_nearest_even_is_symmetric(total, multiplier, shift, bits) -> None:
    plus, clipped = numeric.requantise(total, multiplier, shift, Rounding.NEAREST_EVEN, bits, True)
    assert numeric.requantise(-total, multiplier, shift, Rounding.NEAREST_EVEN, bits, True) == (-plus, clipped)


@given(multipliers, shifts, st.sampled_from(Rounding), widths, st.booleans(), random_words)
def test_zero_is_exact(multiplier, shift, rounding, bits, signed, random) -> None:
    assert numeric.requantise(0, multiplier, shift, rounding, bits, signed, random) == (0, False)


def test_limits() -> None:
    assert numeric.limits(8, True) == (-127, 127)
    assert numeric.limits(8, False) == (0, 255)
    assert [numeric.container_bits(bits) for bits in (2, 4, 5, 8, 9, 17, 31, 32, 64)] == [
        4,
        4,
        8,
        8,
        12,
        20,
        32,
        32,
        64,
    ]


# hash

words32 = st.integers(0, 2**32 - 1)


@given(words32, words32, words32, st.sampled_from("abc"))
def test_neighbours_seldom_collide(a, b, c, which) -> None:
    words = {"a": a, "b": b, "c": c}
    found = {numeric.mix(**(words | {which: (words[which] + step) % 2**32})) for step in range(64)}
    assert all(0 <= value < 2**32 for value in found)
    assert len(found) >= 63


def test_mix_is_that_of_lookup3() -> None:
    """`hashlittle` built on it gives the values published with lookup3.c."""
    phrase = b"Four score and seven years ago"
    assert hashlittle(phrase, 0) == 0x17770551
    assert hashlittle(phrase, 1) == 0xCD628161


def hashlittle(data: bytes, initial: int) -> int:
    """Bob Jenkins' string hash, with `numeric.mix` as its last step."""
    words = [(0xDEADBEEF + len(data) + initial) % 2**32] * 3
    while True:
        block = data[:12].ljust(12, b"\0")
        words = [(words[i] + int.from_bytes(block[4 * i : 4 * i + 4], "little")) % 2**32 for i in range(3)]
        if len(data) <= 12:
            return numeric.mix(*words)
        a, b, c = words
        for rotations in (4, 6, 8), (16, 19, 4):
            a, c = ((a - c) % 2**32) ^ rotate(c, rotations[0]), (c + b) % 2**32
            b, a = ((b - a) % 2**32) ^ rotate(a, rotations[1]), (a + c) % 2**32
            c, b = ((c - b) % 2**32) ^ rotate(b, rotations[2]), (b + a) % 2**32
        words, data = [a, b, c], data[12:]


def rotate(value: int, count: int) -> int:
    return ((value << count) | (value >> (32 - count))) % 2**32


def test_hash_avalanche() -> None:
    """Each bit of key or index changes each bit of the result about half of the time."""
    rng = np.random.default_rng(1)
    inputs = rng.integers(0, 2**32, (500, 2)).tolist()
    for word in range(2):
        for bit in range(32):
            changed = np.zeros(32)
            for pair in inputs:
                other = list(pair)
                other[word] ^= 1 << bit
                difference = numeric.random_bits(*pair) ^ numeric.random_bits(*other)
                changed += (difference >> np.arange(32)) & 1
            share = changed / 500
            assert share.min() > 0.3 and share.max() < 0.7, (word, bit)


@pytest.mark.parametrize("key", [0, 1, numeric.hash_key(0, 0, 0), numeric.hash_key(7, 1000, 3)])
def test_hash_is_uniform(key) -> None:
    """Neighbouring indices fall evenly into 256 boxes, by top byte and by low byte: chi-squared within 5 deviations."""
    count, boxes = 2**15, 256
    values = [numeric.random_bits(key, index) for index in range(count)]
    for byte in (0, 24):
        seen = Counter((value >> byte) & 0xFF for value in values)
        chi = sum((seen[box] - count / boxes) ** 2 for box in range(boxes)) / (count / boxes)
        assert abs(chi - (boxes - 1)) < 5 * math.sqrt(2 * (boxes - 1)), byte


def test_hash_keys_differ() -> None:
    keys = {numeric.hash_key(seed, step, tensor) for seed in range(8) for step in range(32) for tensor in range(32)}
    assert len(keys) >= 8 * 32 * 32 - 2


# rendered documents


@pytest.mark.parametrize("name", render.FILES)
def test_rendered_files_are_current(name) -> None:
    assert (DOCS / name).read_text() == render.FILES[name](), "run `python -m bitfirst_hdl.contract.render`"


def test_render_writes_the_files(tmp_path) -> None:
    render.main([str(tmp_path)])
    assert {file.name for file in tmp_path.iterdir()} == set(render.FILES)


def test_document_names_everything() -> None:
    text = render.document()
    for counter in registers.COUNTERS:
        assert f"`{counter.name}` | {counter.kind} | {counter.unit}" in text
    for enum in render.ENUMS:
        assert all(f"| {member.value} | `{member.name}` |" in text for member in enum)
    for struct in STRUCTS:
        for name in codec.fields(struct):
            assert name.startswith("reserved") or f"`{name}`" in text
    assert "payload words, 1 .. MAX_PAYLOAD_WORDS" in text


def test_header_compiles_and_agrees(tmp_path) -> None:
    """A C program encodes one command of each kind with the header; its words are the packer's."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "a C compiler is missing: install one, such as gcc"
    lines, expected = [], []
    for struct in STRUCTS:
        values = {
            name: (0x9E3779B97F4A7C15 * (place + 1)) & ((1 << width) - 1)
            for place, (name, (_, width)) in enumerate(codec.fields(struct).items())
            if not name.startswith("reserved")
        }
        stem = render._c_name(struct)
        lines.append(f"{{ uint64_t w[BITFIRST_{stem}_SIZE_WORDS] = {{0}};")
        for name, value in values.items():
            field = f"{stem}_{name.upper()}"
            lines.append(f"w[BITFIRST_{field}_WORD] |= BITFIRST_PUT({field}, UINT64_C({value}));")
            lines.append(f"if (BITFIRST_GET(w, {field}) != UINT64_C({value})) return 1;")
        lines.append(f"show(w, BITFIRST_{stem}_SIZE_WORDS); }}")
        expected += codec.encode(struct, **values)
    for name, value in enumerated_values().items():
        lines.append(f"if (BITFIRST_{name} != UINT64_C({value})) return 2;")
    body = "\n".join(lines)
    source = tmp_path / "check.c"
    source.write_text(
        '#include "bitfirst.h"\n#include <inttypes.h>\n#include <stdio.h>\n'
        "static void show(const uint64_t *w, int n) {\n"
        '    for (int i = 0; i < n; i++) printf("%" PRIu64 "\\n", w[i]);\n}\n'
        f"int main(void) {{\n{body}\nreturn 0; }}\n"
    )
    program = tmp_path / "check"
    command = [compiler, "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{DOCS}", str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == expected
    assert len(expected) > 20


def enumerated_values() -> dict[str, int]:
    members = {f"{render._c_name(enum)}_{member.name}": member.value for enum in render.ENUMS for member in enum}
    counters = {f"COUNTER_{name.upper()}": index for name, index in registers.COUNTER_INDEX.items()}
    return members | counters | render.CONSTANTS | {"COUNTERS_COUNT": len(registers.COUNTERS)}


def test_header_defines_nothing_twice() -> None:
    names = re.findall(r"^#define (\w+)", render.header(), re.MULTILINE)
    assert len(names) == len(set(names)) > 100
