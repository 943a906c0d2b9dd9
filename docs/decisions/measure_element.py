"""Measures the alternatives of decisions 0001 (loop order) and 0002 (signs), on the element and on the bare array.

    python docs/decisions/measure_element.py check|area|speed [CONFIG ...]

`check`: every variant computes exact dot products (Amaranth's simulator). `area`: ECP5 cells after
`nextpnr-ecp5 --pack-only`. `speed`: cycles per second of the array in Verilator, C++ harness, -O1, processor time, best
of nine.
"""

import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import bitfirst_hdl.array
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from bitfirst_boards.synthesis import cells
from bitfirst_hdl.config import CONFIGS, MAX_BITS, ArrayConfig
from bitfirst_hdl.element import Accumulator, DotTree, Element, add_fields, dot_model, segment_bits, segment_count
from bitfirst_hdl.verilog import convert
from bitfirst_sim.benches.bench_element import spread
from bitfirst_sim.build import RUNTIME_SOURCES, compile_model, compiler_version, find_compiler, runtime, verilator

CYCLES = 150_000
PLANES, CHUNKS = 8, 9


class Built(Element):
    """As generated: plane outside, K chunk inside, planes negated in the element."""

    chunk_outside = False


class ChunkOutside(Built):
    """K chunk outside, plane inside: a Horner sum for each chunk, added to the total by a second adder.

    `control.double` is low in a chunk's first step. A sum is in the total one cycle after its chunk's last step.
    """

    chunk_outside = True

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, step = self.config, self.control
        m.submodules.tree = tree = DotTree(config)
        for index in range(segment_count(config)):
            m.d.comb += [tree.a[index].eq(self.a[index]), tree.mask[index].eq(self.mask[index])]
        m.d.comb += tree.negative.eq(step.next_negative)
        bits = (tree.largest * (2**MAX_BITS - 1)).bit_length() + 1
        chunk, total = Signal(bits), Signal(config.accumulator_bits)
        base, first, empty, ended, whole = Signal(bits), Signal(), Signal(), Signal(), Signal()
        m.d.comb += base.eq(Mux(step.double, chunk << 1, 0))
        m.d.sync += [first.eq(step.next_first), ended.eq(step.load), whole.eq(ended)]
        with m.If(step.valid):
            term = Cat(step.negative, tree.total, step.negative.replicate(bits - len(tree.total)))
            m.d.sync += chunk.eq((Cat(step.negative, base) + term)[1:])
            m.d.sync += empty.eq((empty & step.double) | first)
        with m.If((step.valid & ~step.double & ~first) | ended):
            m.d.sync += total.eq(Mux(empty, 0, total) + chunk.as_signed())
        with m.If(whole):
            m.d.sync += self.shadow.eq(total)
        return m


class Unsigned(Built):
    """Offset binary on both sides: no negation in the element."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.tree = tree = DotTree(self.config)
        for index in range(segment_count(self.config)):
            m.d.comb += [tree.a[index].eq(self.a[index]), tree.mask[index].eq(self.mask[index])]
        m.submodules.accumulator = accumulator = Accumulator(len(tree.total), self.config.accumulator_bits)
        wiring.connect(m, wiring.flipped(self.control), accumulator.control)
        m.d.comb += [
            accumulator.control.negative.eq(0),
            accumulator.term.eq(tree.total),
            self.shadow.eq(accumulator.shadow),
        ]
        return m


class RowSum(wiring.Component):
    """The edge of `Unsigned`: sum of one array row's digits over a pass, with its shadow register."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        segments = In(segment_bits(config)).array(segment_count(config))
        bits = (config.lanes * (2**config.slice_bits - 1) * config.a_cells).bit_length()
        super().__init__({"a": segments, "valid": In(1), "first": In(1), "load": In(1), "shadow": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = self.config.slice_bits
        term, _ = add_fields(m, list(self.a), size, 2**size - 1, "digits")
        total = Signal.like(self.shadow)
        with m.If(self.valid):
            m.d.sync += total.eq(Mux(self.first, 0, total) + term)
        with m.If(self.load):
            m.d.sync += self.shadow.eq(total)
        return m


class RowCorrection(wiring.Component):
    """The edge of `Unsigned`, once for each column: the drained sum less the row sum times 2**(planes - 1)."""

    def __init__(self, config: ArrayConfig) -> None:
        bits = config.accumulator_bits
        row_bits = (config.lanes * (2**config.slice_bits - 1) * config.a_cells).bit_length()
        super().__init__({"total": In(bits), "row": In(row_bits), "planes": In(4), "out": Out(bits)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shifted = Signal.like(self.total)  # one barrel shifter would serve all columns: counted apart
        m.d.sync += [shifted.eq(self.row << self.planes), self.out.eq(self.total - shifted)]
        return m


class UnsignedArray(bitfirst_hdl.array.Array):
    """The array of `Unsigned` elements with its row sums."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        config, size = self.config, segment_bits(self.config)
        row_bits = config.lanes * config.slice_bits
        for row in range(config.rows):
            m.submodules[f"row_sum_{row}"] = unit = RowSum(config)
            for index in range(segment_count(config)):
                m.d.comb += unit.a[index].eq(self._cut(self.a, row * row_bits + index * size, size))
            m.d.comb += [unit.valid.eq(self.control.valid), unit.first.eq(self.control.first)]
            m.d.comb += unit.load.eq(self.control.last)
        return m


class Step(NamedTuple):
    """Digits of A and bits of B by lane, and what their term means."""

    digits: Sequence[int]
    bits: Sequence[int]
    first: bool
    double: bool
    negative: bool
    last: bool


def check_one(variant: type[Built], config: ArrayConfig, rng: random.Random, signed: bool) -> None:
    """A few passes of one element against integers."""
    element = variant(config)
    script, expected = [], []
    for _ in range(6):
        planes, chunks = rng.randrange(1, 9), rng.randrange(1, 5)
        negative = [signed and rng.random() < 0.5 for _ in range(planes)]
        order = [(p, k) for p in range(planes) for k in range(chunks)]
        if variant.chunk_outside:
            order.sort(key=lambda place: place[1])
        digits = [[rng.randrange(2**config.slice_bits) for _ in range(config.lanes)] for _ in range(chunks)]
        total = 0
        for n, (p, k) in enumerate(order):
            bits = [rng.randrange(2) for _ in range(config.lanes)]
            total += (-1 if negative[p] else 1) * 2 ** (planes - 1 - p) * dot_model(config, digits[k], bits)
            double = p > 0 if variant.chunk_outside else k == 0
            script.append(Step(digits[k], bits, n == 0, double, negative[p], n == len(order) - 1))
        expected.append(total)
    latency = element.latency
    steps = defaultdict(lambda: Step((), (), False, False, False, False), enumerate(script))  # none: nothing arrives

    async def bench(ctx) -> None:
        got, loads = [], []
        for cycle in range(len(script) + latency + 5):
            if cycle < len(script):
                digits, bits = script[cycle].digits, script[cycle].bits
                whole = sum(digit << (config.slice_bits * lane) for lane, digit in enumerate(digits))
                size = segment_bits(config)
                for index, mask in enumerate(spread(config, bits)):
                    ctx.set(element.a[index], (whole >> (size * index)) & (2**size - 1))
                    ctx.set(element.mask[index], mask)
            arrived, coming = (steps[cycle - latency + ahead] for ahead in (0, 1))
            ctx.set(element.control.valid, 0 <= cycle - latency < len(script))
            flags = {"double": arrived.double, "negative": arrived.negative, "load": arrived.last}
            flags |= {"next_first": coming.first, "next_negative": coming.negative}
            for name, flag in flags.items():
                ctx.set(getattr(element.control, name), flag)
            if arrived.last:
                loads.append(cycle + 1 + 2 * variant.chunk_outside)
            if cycle in loads:
                value = ctx.get(element.shadow)
                got.append(value - (value >> (config.accumulator_bits - 1) << config.accumulator_bits))
            await ctx.tick()
        assert got == expected, (variant.__name__, got, expected)

    simulator = Simulator(element)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


def check(config: ArrayConfig) -> None:
    rng = random.Random(1)
    for variant, signed in (Built, True), (ChunkOutside, True), (Unsigned, False):
        check_one(variant, config, rng, signed)
        print(f"{variant.__name__:14} exact")


def area(config: ArrayConfig) -> None:
    for kind in Built, ChunkOutside, Unsigned, RowSum, RowCorrection:
        comb, ff = cells(kind(config))
        print(f"{kind.__name__:14} TRELLIS_COMB {comb:5} TRELLIS_FF {ff:5}", flush=True)


HARNESS = r"""
#include "Varray.h"
#include <cstdio>
#include <ctime>
#include <random>
static unsigned long a[1024][A_WORDS], b[1024][B_WORDS];
int main() {
  Varray top;
  TAKE_ALL
  std::mt19937_64 rng(1);
  for (auto& row : a) for (auto& word : row) word = rng();
  for (auto& row : b) for (auto& word : row) word = rng();
  unsigned long seen = 0, best = 0;
  for (int turn = 0; turn < 9; turn++) {
    std::clock_t start = std::clock();
    for (long i = 0; i < CYCLES; i++) {
      long step = i % (PLANES * CHUNKS), plane, chunk;
      if (CHUNK_OUTSIDE) { plane = step % PLANES; chunk = step / PLANES; }
      else { plane = step / CHUNKS; chunk = step % CHUNKS; }
      long pass = i / (PLANES * CHUNKS) % 100;
      const unsigned long *row_a = a[pass * CHUNKS + chunk], *row_b = b[step];
      SET_A SET_B
      int first = step == 0, twice = CHUNK_OUTSIDE ? plane > 0 : chunk == 0, last = step == PLANES * CHUNKS - 1;
      top.control = 1 | first << 1 | twice << 2 | (plane == 0) << 3 | last << 4;
      top.clk = 1; top.eval();
      top.clk = 0; top.eval();
      seen += top.sums___05F0;
    }
    double seconds = double(std::clock() - start) / CLOCKS_PER_SEC;
    if (CYCLES / seconds > best) best = CYCLES / seconds;
  }
  printf("%lu %lu\n", best, seen);
}
"""


def speed_of(variant: type[Built], array: type[bitfirst_hdl.array.Array], config: ArrayConfig) -> int:
    bitfirst_hdl.array.Element = variant
    with tempfile.TemporaryDirectory(prefix="measure-") as folder:
        work = Path(folder)
        (work / "array.v").write_text(convert(array(config), "array"))
        source = HARNESS.replace("CHUNK_OUTSIDE", str(int(variant.chunk_outside)))
        source = source.replace("SET_A", " ".join(f"top.a___05F{i} = row_a[{i}];" for i in range(config.a_row_words)))
        source = source.replace("SET_B", " ".join(f"top.b___05F{i} = row_b[{i}];" for i in range(config.b_row_words)))
        take = (f"top.take___05F{row} = {2**config.columns - 1};" for row in range(config.rows))
        source = source.replace("TAKE_ALL", " ".join(["top.move = 1;", *take]))  # every word of A, by every element
        for name, value in ("CYCLES", CYCLES), ("PLANES", PLANES), ("CHUNKS", CHUNKS):
            source = source.replace(name, str(value))
        source = source.replace("A_WORDS", str(config.a_row_words)).replace("B_WORDS", str(config.b_row_words))
        flags = ["--cc", "-O3", "--x-assign", "fast", "-Wno-fatal", "--top-module", "array"]
        verilator(*flags, "-Mdir", "model", "array.v", cwd=work)
        compiler = [*find_compiler(), "-std=c++17"]
        versions = verilator("--version"), compiler_version(compiler)
        linked = runtime([*compiler, "-O1"], RUNTIME_SOURCES, versions)
        made = compile_model(work, source, compiler, ["-O1"], versions, linked)
        best, seen = subprocess.run([made], capture_output=True, text=True, check=True).stdout.split()
    assert int(seen) > 0, "nothing came out"
    return int(best)


def speed(config: ArrayConfig) -> None:
    plain = bitfirst_hdl.array.Array
    for variant, array in (Built, plain), (ChunkOutside, plain), (Unsigned, UnsignedArray):
        print(f"{variant.__name__:14} {speed_of(variant, array, config):9,} cycles/s", flush=True)


if __name__ == "__main__":
    action = {"check": check, "area": area, "speed": speed}[sys.argv[1]]
    for name in sys.argv[2:] or ["default"]:
        print(name)
        action(CONFIGS[name])
