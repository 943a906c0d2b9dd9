"""Requantiser and readout: the cocotb benches, the reference that they compare with, and the bench runner."""

import concurrent.futures
import contextlib
import shutil
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import Rounding
from bitfirst_hdl.readout import Readout
from bitfirst_hdl.requantise import Hash, Requantiser
from bitfirst_hdl.verilog import convert
from bitfirst_sim import bench
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.build import BuildError, find_compiler

BENCH = "bitfirst_sim.benches.bench_requantise"


def test_requantiser() -> None:
    result = run_bench(Requantiser(), "requantiser", BENCH)
    assert set(result.tests) == {"every_width", "every_shift", "back_pressure"}


@pytest.mark.parametrize("config", ["tiny", "default"])
def test_readout(config: str) -> None:
    component = Readout(CONFIGS[config])
    result = run_bench(component, "readout", "bitfirst_sim.benches.bench_readout", parameters={"config": config})
    assert set(result.tests) == {"every_width", "latency", "throughput", "signs", "one_column", "back_pressure"}


def test_stochastic_rounding_is_unbiased() -> None:
    """Over 2**20 elements the mean of the rounded numbers is the exact one, within 5 standard errors."""
    count = 2**20
    key = numeric.hash_key(seed=3, step=1, tensor=4)
    random = mix_many(key, np.arange(count, dtype=np.uint32))
    assert [int(value) for value in random[:200]] == [numeric.random_bits(key, index) for index in range(200)]
    for shift in 1, 3, 9, 20, 32:
        total = 12345678901 % 2 ** (shift + 7)
        addend = (random >> np.uint32(32 - shift)).astype(np.int64)
        rounded = (total + addend) >> shift
        picked = [numeric.round_shift(total, shift, Rounding.STOCHASTIC, int(value)) for value in random[:100]]
        assert picked == rounded[:100].tolist()
        exact = total / 2**shift
        fraction = exact % 1
        tolerance = 5 * np.sqrt(fraction * (1 - fraction) / count) + 2.0**-32
        assert set(np.unique(rounded)) <= {int(exact), int(exact) + 1}
        assert abs(rounded.mean() - exact) < tolerance, shift


def mix_many(key: int, index: np.ndarray) -> np.ndarray:
    """`numeric.random_bits` for uint32 [n]."""
    words = [np.full_like(index, key), index.copy(), np.full_like(index, numeric.HASH_INITIAL)]
    for target, source, rotation in Hash.ROUNDS:
        rotated = (words[source] << np.uint32(rotation)) | (words[source] >> np.uint32(32 - rotation))
        words[target] = (words[target] ^ words[source]) - rotated
    return words[2]


# the bench runner


@pytest.fixture(scope="module")
def verilog() -> str:
    return convert(Requantiser(), "requantiser")


def test_a_bench_without_tests_fails(verilog) -> None:
    with pytest.raises(BenchError, match="stopped before it wrote results"):
        run_bench(verilog, "requantiser", "bitfirst_sim.benches.common")


def test_a_bench_is_compiled_by_the_compiler_asked_for(verilog, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="CXX=no-such-compiler is not on PATH"):
        run_bench(verilog, "requantiser", BENCH)
    compiler = tmp_path / "compiler"
    compiler.write_text(
        '#!/bin/sh\n[ "$*" = "-flag --version" ] && echo 1 || { echo "error: asked for $*"; exit 1; }\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -flag")
    with pytest.raises(BuildError, match="error: asked for -flag"):
        run_bench(verilog, "requantiser", BENCH)


def test_a_failing_bench_fails(verilog) -> None:
    """The readout's bench finds none of its ports here."""
    with pytest.raises(BenchError, match="cocotb tests failed: every_width"):
        run_bench(verilog, "requantiser", "bitfirst_sim.benches.bench_readout", parameters={"config": "tiny"})


def test_a_wrong_component_fails(monkeypatch) -> None:
    """The bench sees one rotation of the hash that is off by one."""
    monkeypatch.setattr(Hash, "ROUNDS", ((2, 1, 13), *Hash.ROUNDS[1:]))
    with pytest.raises(BenchError, match="results: item"):
        run_bench(Requantiser(), "requantiser", BENCH)


def test_a_build_error_is_told(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    with pytest.raises(BuildError, match="syntax error"):
        bench.build("module broken(a); input a; wire = ;\nendmodule\n", "broken")
    left = [path for path in (tmp_path / "benches").iterdir() if path.suffix != ".lock"]
    assert not left, "a failed build leaves nothing"


@pytest.fixture
def wire(verilog) -> str:
    """Of a module that no cache knows."""
    bench.build(verilog, "requantiser")  # leaves Verilator's runtime in the cache, which saves a minute here
    return f"// {uuid.uuid4()}\nmodule wire_(a, b);\n  input a;\n  output b;\n  assign b = a;\nendmodule\n"


def test_a_build_needs_a_compiler_and_nothing_else(wire, monkeypatch, tmp_path) -> None:
    """No make and no perl: a PATH with what compiles and links alone."""
    for name in (find_compiler()[0], "as", "ld"):
        (tmp_path / Path(name).name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    made = bench.build(wire, "wire_")
    shutil.rmtree(made.parent)


@pytest.mark.parametrize("locks", [True, False])
def test_builds_at_the_same_time_share_the_cache(wire, monkeypatch, locks) -> None:
    """One of them compiles; both do where nothing is locked."""
    compiled, compile_model = [], bench.compile_model
    both = threading.Barrier(1 if locks else 2)

    def counted(*given):
        compiled.append(given)
        both.wait(timeout=60)
        return compile_model(*given)

    monkeypatch.setattr(bench, "compile_model", counted)
    if not locks:
        monkeypatch.setattr(bench, "locked", contextlib.nullcontext)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        building = [pool.submit(bench.build, wire, "wire_") for _ in range(2)]
    made = [one.result() for one in building if not one.exception()]
    assert made, [one.exception() for one in building]
    path = made[0]
    try:
        assert len(compiled) == (1 if locks else 2)
        assert bench.build(wire, "wire_") == path and len(compiled) == (1 if locks else 2), "taken from the cache"
        assert not locks or made == [path, path]
    finally:
        shutil.rmtree(path.parent)
