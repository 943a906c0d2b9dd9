"""The command line.

Every command prints for people, or with `--json` one JSON object; progress always goes to standard error.
Exit codes: 0 done, 1 a check failed, 2 bad input (one line on standard error), 130 interrupted.
What takes long to import is imported inside the commands.
"""

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.box import SIMPLE
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Column, Table

from . import interrupts
from .errors import BitfirstError, UsageError

Result = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
Device = Annotated[
    str, typer.Option(help="model, rtl, rtl:CONFIG, serial:///PATH?baud=.., tcp://HOST:PORT, udp://HOST.")
]
NoDsp = Annotated[bool, typer.Option("--no-dsp", help="Multipliers of LUTs; the chip's own are left alone.")]
Config = Annotated[str, typer.Argument(help="A named configuration, or a .toml file.")]

EnergyModel = Annotated[
    str | None,
    typer.Option(
        help="Coefficients by which energy is modelled: horowitz-45nm, or a file that bitfirst.energy_fit saved."
    ),
]

EXPLORED = Path("build", "explore")  #: folders of what `explore` has built: of boards, and of boards with --no-dsp
_PHASES = {"forward": "fwd", "input_gradient": "dX", "weight_gradient": "dW"}

app = typer.Typer(
    help="Generates FPGA hardware that trains neural networks most significant bits first, simulates it, drives it.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measure and check, and print the figures.")
study_app = typer.Typer(help="Train many times, and compare.")
app.add_typer(bench_app, name="bench")
app.add_typer(study_app, name="study")


# results


@contextmanager
def _standard_output_kept() -> Iterator[None]:
    """What anything here writes to standard output, child processes too, goes to standard error meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _plain(value: Any) -> Any:
    """`value` for JSON: paths as text, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _report(as_json: bool, work: Callable[[], Result], show: Callable[[Result], Any]) -> Result:
    """Do the work, then print its result: as one JSON object, or as `show` renders it."""
    with _standard_output_kept(), interrupts.noted():
        result = work()
    shown = show(result)
    Console(stderr=as_json).print(shown, soft_wrap=isinstance(shown, str))  # a line of text is one, to be copied
    if as_json:
        print(json.dumps(_plain(result), allow_nan=False), flush=True)
    return result


def _pairs(result: Result) -> Table:
    """One row for each key of the result."""
    table = Table(show_header=False, box=None)
    for key, value in result.items():
        table.add_row(key.replace("_", " "), escape(_text(value)))
    return table


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _flat(result: Result) -> Result:
    """Without the keys that hold further objects."""
    return {key: value for key, value in result.items() if not isinstance(value, dict)}


def _rows(rows: list[Result]) -> Table:
    """One column for each key of the first row."""
    table = Table(*(key.replace("_", " ") for key in rows[0])) if rows else Table()
    for row in rows:
        table.add_row(*(escape(_text(value)) for value in row.values()))
    return table


def _utilisation(result: Result) -> Table:
    """One row for each layer, phase and precision, in per cent; then the means."""
    waste = tuple(result["layers"][0]["waste"])
    names = "", "bits", "used", "nominal", *waste[:-1], "starved", "+link"
    layer = Column("layer", min_width=10)  # the others leave so much of 80 characters
    table = Table(layer, *(Column(name, no_wrap=True) for name in names), title="per cent of the array", box=SIMPLE)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    for row in result["layers"]:
        shares = [row["utilisation"], row["nominal"], *row["waste"].values(), row["utilisation_with_transport"]]
        phase = _PHASES[row["phase"]]
        table.add_row(row["name"], phase, row["precision"], *(f"{100 * share:.1f}" for share in shares))
    table.add_section()
    for name, stage in result["stages"].items():
        table.add_row(name, "all", "", f"{100 * stage['utilisation']:.1f}", f"{100 * stage['nominal']:.1f}")
    means = (result[key] for key in ("weighted_utilisation", "weighted_nominal", "weighted_with_transport"))
    used, nominal, transported = (f"{100 * mean:.1f}" for mean in means)
    table.add_row("all", "all", "", used, nominal, *("" for _ in waste), transported)
    return table


def _clock(clock: Result) -> str:
    return f"{clock['clock_mhz']:g} MHz, {clock['fmax_mhz']:.1f} MHz reached"


def _built(result: Result) -> Group:
    """What a build takes of the chip, its clock, and the rest; or where a project is, and that Vivado must make it."""
    head = {
        "board": result["board"] + (", built before" if result["reused"] else ""),
        "link": result["link"] if result["network"] is None else f"udp://{result['network']['address']}",
        "configuration": f"{result['config']}, {result['bit_macs_per_cycle']:,} bit-MACs a cycle"
        + ", multipliers of LUTs" * result["no_dsp"],
        "fingerprint": result["fingerprint"],
    }
    if result["bitstream"] is None:
        return Group(
            _pairs(head | {"project": result["directory"]}), "for Vivado, where it has not been run; see README.txt"
        )
    usage = Table("", "used", "of", "%", box=SIMPLE)
    for kind, name in ("lut", "LUT"), ("ff", "flip-flop"), ("bram", "block RAM"), ("dsp", "multiplier"):
        used, total = result[kind], result[f"{kind}_total"]
        usage.add_row(name, f"{used:,}", f"{total:,}", f"{100 * used / total:.0f}")
    rest = {
        "clock": _clock(result),
        **{f"clock {net}": _clock(clock) for net, clock in result["link_clocks"].items()},
        "worst path": f"{result['path_ns']:.1f} ns, {result['path_from']} to {result['path_to']}",
        "time": f"{result['synthesis_s']:.0f} s synthesis, {result['placement_s']:.0f} s placement and routing",
        "bitstream": result["bitstream"],
    }
    return Group(usage, _pairs(head | rest))


def _all_built(result: Result) -> Table:
    """One row for each board: cells and their share of the chip, clock reached and wanted."""
    table = _close("per cent of the chip", "board", "LUT", "%", "FF", "block RAM", "MHz", "of", "s", "")
    for row in result["boards"]:
        if row["error"]:
            table.add_row(row["board"], *7 * [""], "[red]failed[/]")
        elif row["bitstream"] is None:
            table.add_row(row["board"], *5 * [""], f"{row['clock_mhz']:g}", "", "project")
        else:
            share = f"{100 * row['lut'] / row['lut_total']:.0f}"
            counts = (f"{row[kind]:,}" for kind in ("ff", "bram"))
            clock = f"{row['fmax_mhz']:.1f}", f"{row['clock_mhz']:g}", f"{row['synthesis_s'] + row['placement_s']:.0f}"
            done = "built before" if row["reused"] else "built"
            table.add_row(row["board"], f"{row['lut']:,}", share, *counts, *clock, done)
    return table


def _explored(result: Result) -> Group:
    """One row for each array, as far as it was looked at; then how to build the best."""
    from bitfirst_boards.document import reached

    table = _close(
        "arrays, largest first; LUT and block RAM in per cent of the chip",
        *("R x C", "L", "S", "bit-MACs", "LUT", "RAM", "DSP", "reached", "MHz", "10^9/s", "used", ""),
    )
    for row in result["arrays"]:
        share = {
            kind: f"{'>' if row[kind] is None else ''}{100 * count / row[f'{kind}_total']:.0f}"
            for kind in ("lut", "bram")
            for count in [row[f"{kind}_at_least"] if row[kind] is None else row[kind]]
        }
        size = f"{row['rows']} x {row['columns']}", str(row["lanes"]), str(row["slice_bits"])
        usage = f"{row['bit_macs_per_cycle']:,}", share["lut"], share["bram"], "" if row["dsp"] is None else row["dsp"]
        clock = ["", "", "", ""]
        if row["clock_mhz"] is not None:
            clock = [reached(row), f"{row['clock_mhz']:g}", f"{row['peak_bit_macs_per_s'] / 1e9:,.1f}"]
            clock += [f"{100 * row['sustained']:.0f} %"]
        table.add_row(*size, *map(str, usage), *clock, row["verdict"])
    if result["chosen"] is None:
        return Group(table, "[red]no array meets its clock[/]; try lower --clock-khz, or more with --most")
    return Group(table, escape(_how_to_build(result)))


def _how_to_build(result: Result) -> str:
    """The command that builds the best of `explore`."""
    line = f"bitfirst build {result['board']} --config {result['toml']} --clock-khz {result['chosen']['clock_khz']}"
    return line + " --no-dsp" * result["no_dsp"]


def _close(title: str, *names: str) -> Table:
    """An empty table that leaves little between its columns, so that many fit in 80 characters."""
    table = Table(*(Column(name, no_wrap=True) for name in names), title=title, box=SIMPLE)
    table.padding, table.pad_edge, table.show_edge = (0, 1, 0, 0), False, False
    return table


def _signs(result: Result) -> Group:
    """Means of all predictors, layers on a board, goals."""
    from .benches.psg import means

    names = "predictor", "beta", "tau", "resolved", "wrong", "worst", "dW", "step"
    predictors = _close("per cent of signs; wrong of the resolved, worst of a layer; work over all of it", *names)
    for row in means(result["rows"]):
        name = row["predictor"] + (" + repair" if row["repair"] else "")
        percents = (f"{100 * row[key]:.1f}" for key in ("resolved", "wrong_resolved", "worst_wrong"))
        work = (f"{row[key]:.3f}" for key in ("bit_work", "step_work"))
        predictors.add_row(name, f"{row['beta']:g}", row["tau"], *percents, *work)
    names = "layer", "tau", "sums", "differ", "resolved", "cycles", "over"
    layers = _close("on the board; cycles over the whole product's", *names)
    for row in result["checked"]:
        counts = str(row["elements"]), str(row["failures"]), f"{100 * row['resolved']:.1f}", f"{row['cycles']:,}"
        layers.add_row(row["layer"], row["tau"], *counts, f"{row['cycle_work']:.3f}")
    wanted = _close("goals", "", "tau", "measured", "goal", "met")
    for goal in result["goals"]:
        met = "yes" if goal["met"] else "[red]no[/]"
        wanted.add_row(goal["name"].replace("_", " "), goal["tau"], f"{goal['value']:.3f}", f"{goal['goal']:g}", met)
    return Group(predictors, layers, wanted)


def _arith(result: Result) -> Group:
    """One row for each unit in each form, two columns for each part; then the goals."""
    parts = list(dict.fromkeys(row["family"] for row in result["rows"]))
    names = [name for part in parts for name in (part, "/bit")]
    table = _close("LUT, and for each bit-MAC; ECP5: TRELLIS_COMB", "", "form", *names)
    table.columns[0].no_wrap, table.columns[0].min_width = False, len("element (4, 32)")
    found = {(row["unit"], row["form"], row["family"]): row for row in result["rows"]}
    for unit, form in dict.fromkeys(key[:2] for key in found):
        shown = []
        for part in parts:
            row = found.get((unit, form, part))
            shown += [f"{row['luts']:,}", f"{row['lut4_per_bit_mac']:.2f}"] if row else ["", ""]
        table.add_row(unit, form, *shown)
    wanted = _close("goals: most for each bit-MAC", "", "measured", "goal", "met")
    for goal in result["goals"]:
        met = "yes" if goal["met"] else "[red]no[/]"
        wanted.add_row(goal["name"], f"{goal['value']:.3f}", f"{goal['goal']:g}", met)
    for seed, reached in result["routed"].items():
        met = "yes" if reached >= result["wanted_mhz"] else "[red]no[/]"
        wanted.add_row(f"array 8 x 8, MHz, seed {seed}", f"{reached:.1f}", f"{result['wanted_mhz']}", met)
    return Group(table, wanted) if wanted.rows else Group(table)


def _differences(result: Result) -> Table:
    """One row for each variant of a study: accuracy, difference to the reference with its interval, work.

    "met": whether it is as expected, where something is.
    """
    names = "variant", "n", "test %", "diff.", "95 %", "met", "resolved", "dW", "step"
    table = _close(f"{result['task']}: against exact signs, in points; work over all of it", *names)
    for row in result["table"]:
        difference, ends, verdict = "", "", {None: "", True: "yes", False: "[red]no[/]"}[row["as_expected"]]
        if row["difference"] is not None:
            low, high = (100 * end for end in row["difference_interval"])
            difference, ends = f"{100 * row['difference']:+.2f}", f"{low:+.2f} .. {high:+.2f}"
        shares = ["" if row[key] is None else f"{row[key]:.3f}" for key in ("resolved", "dw_work", "step_work")]
        accuracy = f"{100 * row['test_accuracy']:.2f}"
        table.add_row(row["variant"], str(row["seeds"]), accuracy, difference, ends, verdict, *shares)
    return table


def _switching(result: Result) -> Group:
    """A row for each phase, and for each of its parts that takes something."""
    from .energy import Energy

    names = "phase", "part", "toggles", "counted µJ", "%", "toggled µJ", "%", "ratio"
    labels = Energy(**result["phases"][0]["counted"]).labels
    table = _close(f"{labels}, {result['model']}", *names)
    totals = [sum(row[key]["total_j"] for row in result["phases"]) for key in ("counted", "switching")]
    for row in result["phases"]:
        joules = {f"{key}_j": row[key]["total_j"] for key in ("counted", "switching")}
        for part, one in {"all": {"toggles": row["toggles"], **joules}, **row["parts"]}.items():
            counted, switching = one["counted_j"], one["switching_j"]
            if counted or switching:
                columns = [
                    cell for j in (counted, switching) for cell in (f"{1e6 * j:.3f}", f"{100 * j / totals[0]:.1f}")
                ]
                ratio = f"{switching / counted:.2f}" if counted else ""
                table.add_row(row["name"] if part == "all" else "", part, f"{one['toggles']:.3g}", *columns, ratio)
        table.add_section()
    line = f"a toggle's joules by the kind of its net, times {result['scale']:.4g}; "
    line += f"in all {1e6 * totals[0]:.2f} µJ by counters, {1e6 * totals[1]:.2f} µJ by toggles"
    return Group(table, line)


def _check_directory(path: Path, option: str) -> None:
    """Before the work, not after it."""
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: there is no such directory; create it, or choose another {option}")
    if path.is_dir():
        raise UsageError(f"{path} is a directory; name a file with {option}")


# commands


@app.command()
def train(
    device: Device = "rtl",
    data: Annotated[
        str, typer.Option(help="digits, cifar10:FOLDER, cifar100:FOLDER, folders:FOLDER (ImageNet's way), text:FILE.")
    ] = "digits",
    network: Annotated[
        str | None, typer.Option(help="resnet20, resnet74, vgg11, ...; by default one that goes with the data.")
    ] = None,
    train_images: Annotated[
        int | None, typer.Option(help="Train with so many images (or sequences) alone, always the same.")
    ] = None,
    eval_images: Annotated[int | None, typer.Option(help="Validate and test with at most so many.")] = None,
    augment: Annotated[bool, typer.Option("--augment", help="Move and mirror images by chance, as for CIFAR.")] = False,
    fp32: Annotated[bool, typer.Option(help="Train the same in fp32, too, to compare.")] = True,
    seed: Annotated[int, typer.Option(help="Initial weights and order of the images.")] = 0,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 6,
    batch: Annotated[int, typer.Option(help="Images in one step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak of the learning rate.")] = 0.1,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: cycle, or FracTrain's steps.")] = "cycle",
    momentum: Annotated[float, typer.Option(help="Of stochastic gradient descent.")] = 0.9,
    bits_x: Annotated[int, typer.Option(help="Width of activations.")] = 8,
    bits_w: Annotated[int, typer.Option(help="Width of weights.")] = 8,
    bits_g: Annotated[int, typer.Option(help="Width of the output's gradient.")] = 16,
    method: Annotated[
        list[str],
        typer.Option(help="sgd, signsgd, psg, smd, slu, ..., with settings such as smd:p=0.3; again for more."),
    ] = ["sgd"],  # noqa: B006 - Typer's way
    beta: Annotated[float, typer.Option(help="Of psg: the threshold over the largest prediction, 0 to 1.")] = 0.05,
    tau: Annotated[str, typer.Option(help="Of psg: exact, lagged, or a constant threshold in real units.")] = "exact",
    predictor: Annotated[str, typer.Option(help="Of psg: e2train, or such as '4x10 floor'.")] = "e2train",
    lr_signs: Annotated[float, typer.Option(help="Peak of the rate for weights that learn by signs.")] = 0.001,
    update: Annotated[str, typer.Option(help="Of signsgd and psg: host or device moves the weights.")] = "host",
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint of another training, to begin with its weights: fine-tuning.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory for checkpoint, result and report; runs/digits, runs/cifar10, ...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    trace: Annotated[Path | None, typer.Option(help="File for waveforms (VCD); rtl only.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch; a part of what makes runs identical.")] = 1,
    energy_model: EnergyModel = None,
    as_json: Json = False,
) -> None:
    """Train a network, its matrix products on a device, and compare with fp32: digits of themselves, or your data."""

    def work() -> Result:
        from . import training
        from .nn import Bits

        options = training.TrainOptions(
            device=device,
            data=data,
            network=network,
            train_images=train_images,
            eval_images=eval_images,
            augment=augment,
            fp32=fp32,
            seed=seed,
            epochs=epochs,
            batch=batch,
            lr=lr,
            schedule=schedule,
            momentum=momentum,
            bits=Bits(activation=bits_x, weight=bits_w, gradient=bits_g),
            method="+".join(method),
            beta=beta,
            tau=tau,
            predictor=predictor,
            lr_signs=lr_signs,
            update=update,
            init=init,
            out=out,
            resume=resume,
            trace=trace,
            threads=threads,
            energy_model=energy_model,
        )
        if trace is not None:
            _check_directory(trace, "--trace")
        console = Console(stderr=True)
        if device.startswith("rtl") and console.is_terminal:
            console.print(f"opening {device}: the first time it is generated and compiled, which takes some minutes")
        kept, started_ns = options.out / training.CHECKPOINT, time.time_ns()
        try:
            return training.train_and_compare(options, console=console, opened=warn_if_stale)
        except KeyboardInterrupt:
            if kept.exists() and (resume or kept.stat().st_mtime_ns >= started_ns):
                raise Interrupted(f"{kept} is kept; go on with the same command and --resume") from None
            raise

    _report(as_json, work, lambda result: f"report: {escape(str(result['report']))}")


@app.command()
def info(
    url: Annotated[str, typer.Argument(help="As for --device.")] = "rtl",
    trace: Annotated[
        bool, typer.Option("--trace", help="Its last commands and faults instead, also of a device that hangs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Who answers at a device URL, how it is built, and whether it was built from these sources."""
    if trace:
        _report(as_json, lambda: _read_trace(url), _trace_table)
        return

    def work() -> Result:
        from bitfirst_hdl.config import BUSES, FEATURES
        from bitfirst_hdl.contract.packets import CONTRACT_VERSION
        from bitfirst_hdl.contract.registers import is_built

        from .opening import open as open_device

        with Console(stderr=True).status(f"opening {url}"), open_device(url) as device:
            config = device.config
            found = getattr(device, "fingerprint", None)  # the golden model has no gateware
            counters = device.counters()
        built_for = None if found is None else _built_for(config, found, url)
        return {
            "url": url,
            "contract_version": CONTRACT_VERSION,
            "fingerprint": None if found is None else f"{found:016x}",
            "fingerprint_matches": None if found is None else built_for is not None,
            "built_for": built_for,
            "simulated": None if found is None else not is_built(found),
            "operand_a_bits": [count * config.slice_bits for count in config.slice_counts],
            "operand_b_bits": list(config.plane_counts),
            "bit_macs_per_cycle": config.bit_macs_per_cycle,
            "missing_features": [name for name in FEATURES if name not in (*config.features, *BUSES)],
            "parameters": config.as_dict(),
            "counters": counters,
        }

    def show(result: Result) -> Group:
        table = _pairs(_flat(result) | result["parameters"])
        return Group(table, _STALE) if result["fingerprint_matches"] is False else Group(table)

    _report(as_json, work, show)


_STALE = "[red]not made of these sources with these tools[/]: `bitfirst build` and `bitfirst program` make it match"


def _built_for(config: Any, fingerprint: int, url: str) -> str | None:
    """A board, or "any" of plain Verilog, for which these sources make a device with this fingerprint; else None."""
    from bitfirst_hdl import verilog
    from bitfirst_hdl.contract.registers import SIMULATED

    # the identity block does not tell the width of the link
    plain = [verilog.fingerprint(replace(config, link_bits=bits)) for bits in (8, 16, 32, 64)]
    if fingerprint % SIMULATED in plain:
        return "any"
    from bitfirst_boards import flow

    address = urlsplit(url).hostname if url.startswith("udp:") else None
    return flow.identify(config, fingerprint, address)


def warn_if_stale(device: Any) -> None:
    """One line where a device is not made of these sources, as one that is simulated here always is."""
    found = getattr(device, "fingerprint", None)  # the golden model has no gateware
    if found is None or device.url.startswith("rtl") or _built_for(device.config, found, device.url) is not None:
        return
    said = f"warning: {escape(device.url)}, fingerprint {found:016x}, is {_STALE}"
    Console(stderr=True).print(said, highlight=False, soft_wrap=True)


def rails_on_board(device: Any) -> tuple[Any, ...]:
    """The sensors of a known board, those that can be taken together. Raises `UsageError` where there are none."""
    from bitfirst_boards.catalogue import BOARDS

    from .measuring.rails import NONE_NAMED
    from .measuring.sensors import Rail

    name = _built_for(device.config, device.fingerprint, device.url)
    board = BOARDS.get(name)
    rails = board.sensors.rails if board and board.sensors else ()
    if not rails:
        what = f"{board.name} has none" if board else "it is not known which board this is"
        raise UsageError(f"{NONE_NAMED}; {what}")
    taken, others = rails[: board.sensors.taken], rails[board.sensors.taken :]
    if others:
        ours, more = (", ".join(rail.name for rail in part) for part in (taken, others))
        mend = f"--rails FILE, with scope rails, names others: {more}"
        Console(stderr=True).print(f"measured of {board.name}: {ours}; {mend}")
    return tuple(Rail(**asdict(rail)) for rail in taken)


def _trace_table(result: Result) -> Group:
    """What the device was doing, then its records."""
    return Group(_pairs({key: value for key, value in result.items() if key != "records"}), _rows(result["records"]))


def _read_trace(url: str) -> Result:
    from dataclasses import asdict

    from .opening import connect
    from .trace import read

    transport = connect(url)
    try:
        return {"url": url, **asdict(read(transport))}
    finally:
        transport.close()


@app.command()
def generate(
    config: Config = "default",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write, CONFIG.v; with --bus a directory, CONFIG-axi.")
    ] = None,
    bus: Annotated[str | None, typer.Option(help="axi: with AXI ports, an IP-XACT description and a C header.")] = None,
    as_json: Json = False,
) -> None:
    """Write the Verilog of a configuration, byte by byte the same everywhere."""

    def work() -> Result:
        from bitfirst_hdl.config import load

        if bus not in (None, "axi"):
            raise UsageError(f"--bus {bus!r} is unknown; choose axi, or leave it out for the bare link")
        parameters = load(config)
        return (_generate_file if bus is None else _generate_directory)(config, parameters, out)

    _report(as_json, work, lambda result: _pairs({key: value for key, value in result.items() if key != "files"}))


def _generate_file(config: str, parameters: Any, out: Path | None) -> Result:
    from bitfirst_hdl import verilog

    target = out or Path(f"{Path(config).stem}.v")
    _check_directory(target, "--out")
    text = verilog.generate(parameters)
    target.write_text(text)
    return {"config": config, "file": target, **_generated(parameters, text)}


def _generate_directory(config: str, parameters: Any, out: Path | None) -> Result:
    from bitfirst_hdl import axi, verilog

    axi.check(parameters)
    target = out or Path(f"{Path(config).stem}-axi")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"{target}: there is no directory above it; create it, or choose another --out")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a directory; name one with --out")
    target.mkdir(exist_ok=True)
    texts = verilog.generate_axi(parameters)
    for name, text in texts.items():
        (target / name).write_text(text)
    files = {name: target / name for name in texts}
    return {"config": config, "directory": target, "files": files, **_generated(parameters, texts["bitfirst.v"])}


def _generated(parameters: Any, text: str) -> Result:
    """What is told of generated Verilog."""
    import hashlib

    from bitfirst_hdl import verilog

    return {
        "lines": text.count("\n"),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "fingerprint": f"{verilog.fingerprint(parameters):016x}",
        "parameters": parameters.as_dict(),
        "bit_macs_per_cycle": parameters.bit_macs_per_cycle,
    }


@app.command()
def boards(as_json: Json = False) -> None:
    """List the boards that `build` knows."""

    def work() -> Result:
        from bitfirst_boards.catalogue import BOARDS
        from bitfirst_boards.toolchains import device

        rows = [
            {
                "name": board.name,
                "device": device(board.platform),
                "clock_mhz": board.clock_khz / 1000,
                "links": ", ".join(f"{name} ({place})" for name, place in board.links.items()),
                "bit_macs": board.config.bit_macs_per_cycle,
                "features": ", ".join(board.config.features) or None,
                "sensors": board.sensors.told if board.sensors else None,
            }
            for board in BOARDS.values()
        ]
        return {"boards": rows}

    _report(as_json, work, lambda result: _rows(result["boards"]))


def _board(name: str) -> Any:
    """The board of that name; near names are told where there is none."""
    from difflib import get_close_matches

    from bitfirst_boards.catalogue import BOARDS

    if name not in BOARDS:
        near = get_close_matches(name.lower(), BOARDS, n=3, cutoff=0.5)
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(f"board {name!r} is unknown; {meant}`bitfirst boards` lists all")
    return BOARDS[name]


def _linked(board: Any, link: str | None, address: str | None, mac: str | None) -> Any:
    """The board with that link of its links, or with its own; with those addresses, or its own."""
    if link is not None and link not in board.links:
        raise UsageError(f"{board.name} has no link {link!r}; choose from {', '.join(board.links)}")
    board = board if link is None else board.linked(link)
    if address is None and mac is None:
        return board
    if board.link != "udp":
        raise UsageError(f"--address and --mac are for --link udp, not for {board.link}; leave them out")
    from bitfirst_boards.network import network

    return replace(board, network=network(address or board.network.address, mac))


@app.command()
def build(
    board: Annotated[str | None, typer.Argument(help="As listed by `bitfirst boards`.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All boards, each into a folder of its own; see `--out`.")
    ] = False,
    config: Annotated[str | None, typer.Option(help="A named configuration, or a .toml file; the board's own.")] = None,
    feature: Annotated[
        list[str] | None, typer.Option(help="One that it has besides, say power: sensors on the board's pins for them.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder: build/BOARD by default; with --all, build.")] = None,
    clock_khz: Annotated[int | None, typer.Option(min=1, help="Of the array, by a PLL; the board's own.")] = None,
    link: Annotated[str | None, typer.Option(help="One of the board's, see `bitfirst boards`; its first.")] = None,
    address: Annotated[str | None, typer.Option(help="IPv4 address on --link udp, 192.168.1.50 by default.")] = None,
    mac: Annotated[str | None, typer.Option(help="MAC address on --link udp; by default made of --address.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the placement; the board's own by default.")] = None,
    no_dsp: NoDsp = False,
    as_json: Json = False,
) -> None:
    """Make a bitstream: synthesis, placement and routing. Fails when it does not fit, and when it misses a clock.

    A finished build of the same is not made again. For Xilinx chips it is a project for Vivado, which is not run.
    """

    def adapted(board: Any) -> Any:
        return replace(board, clock_khz=clock_khz or board.clock_khz, no_dsp=no_dsp)

    def work() -> Result:
        more = tuple(feature or ())
        if every == (board is not None):
            raise UsageError("name one board, or give --all; `bitfirst boards` lists them")
        if board is not None:
            linked = _linked(_board(board), link, address, mac)
            return _build(adapted(linked), out or Path("build", board), config, more, seed)
        if (link, address, mac) != (None, None, None):
            raise UsageError("--link, --address and --mac are for one board; with --all each gets its own link")
        return _build_all(out or Path("build"), config, more, seed, adapted)

    if _report(as_json, work, _all_built if every else _built).get("failed"):
        raise typer.Exit(1)


def _build_all(
    target: Path, config: str | None, more: tuple[str, ...], seed: int | None, adapted: Callable[[Any], Any]
) -> Result:
    """Every board, as `adapted` makes it; what fails is told, and the others are built all the same."""
    from bitfirst_boards import flow
    from bitfirst_boards.catalogue import BOARDS
    from bitfirst_boards.errors import FlowError

    rows, console = [], Console(stderr=True)
    for name, board in zip(BOARDS, map(adapted, BOARDS.values()), strict=True):
        try:
            rows.append(_build(board, target / name, config, more, seed) | {"error": None})
        except FlowError as error:
            console.print(escape(f"{name}: {error}"))
            fitted = flow.fitted(board, _parameters(board, config, more))
            asked = {"board": name, "link": board.link, "no_dsp": board.no_dsp, "parameters": fitted.as_dict()}
            rows.append(asked | {"error": str(error)})
        except KeyboardInterrupt:
            raise Interrupted(f"what is finished is kept in {target}; the same command goes on") from None
    return {"boards": rows, "failed": [row["board"] for row in rows if row["error"]]}


def _parameters(board: Any, config: str | None, more: tuple[str, ...]) -> Any:
    """The configuration of that name, or the board's own, with those features besides."""
    from bitfirst_hdl.config import load

    parameters = board.config if config is None else load(config)
    return replace(parameters, features=(*parameters.features, *more))


def _build(board: Any, target: Path, config: str | None, more: tuple[str, ...], seed: int | None) -> Result:
    from bitfirst_boards import flow

    parameters, console = _parameters(board, config, more), Console(stderr=True)
    with console.status(f"{board.name}: looking at {target}") as status:

        def say(step: str) -> None:
            console.log(step) if step.endswith("anew") else status.update(f"{board.name}: {step}; this takes minutes")

        built = flow.build(board, target, parameters, seed, say, _explored_in(board.name, board.no_dsp))
    return flow.told(board, built) | {"config": config or "the board's own"}


@app.command()
def explore(
    board: Annotated[str, typer.Argument(help="As listed by `bitfirst boards`.")],
    rows: Annotated[str | None, typer.Option(help="Numbers with commas between; powers of two by default.")] = None,
    columns: Annotated[str | None, typer.Option(help="As for rows.")] = None,
    lanes: Annotated[str | None, typer.Option(help="As for rows.")] = None,
    slice_bits: Annotated[str | None, typer.Option("--slice", help="Slice widths, 4,8 by default.")] = None,
    clock_khz: Annotated[str | None, typer.Option(help="Clocks; usual ones by default.")] = None,
    config: Annotated[
        str | None, typer.Option(help="What all have besides: features, depths of memories; the board's own.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Arrays kept after packing; at most thrice as many placements.")] = 4,
    jobs: Annotated[int, typer.Option(min=1, help="How many are synthesised and packed at a time.")] = 1,
    no_dsp: NoDsp = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the builds: build/explore/BOARD by default.")] = None,
    as_json: Json = False,
) -> None:
    """Find the array that sustains the most bit-MACs a second, fits a board and meets its clock.

    What was built is kept: the same command again goes on. Fails when no array meets its clock.
    """
    asked = {"rows": rows, "columns": columns, "lanes": lanes, "slices": slice_bits, "clocks_khz": clock_khz}

    def work() -> Result:
        space = {key: _numbers(key, text) for key, text in asked.items() if text is not None}
        target = out or _explored_in(board, no_dsp)
        try:
            return _explore(replace(_board(board), no_dsp=no_dsp), target, space, config, most, jobs)
        except KeyboardInterrupt:
            raise Interrupted(f"what is finished is kept in {target}; the same command goes on") from None

    if _report(as_json, work, _explored)["chosen"] is None:
        raise typer.Exit(1)


def _explored_in(board: str, no_dsp: bool) -> Path:
    return EXPLORED / (board + "-no-dsp" * no_dsp)


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError:
        raise UsageError(f"{text!r} for {name.replace('_', ' ')} must be whole numbers with commas between") from None


def _explore(
    board: Any, target: Path, space: dict[str, tuple[int, ...]], config: str | None, most: int, jobs: int
) -> Result:
    from bitfirst_boards import explore
    from bitfirst_hdl.config import load
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from .benches.utilisation import sustained

    base = board.config if config is None else load(config)
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    progress = Progress(*columns, console=Console(stderr=True))

    def say(what: str) -> None:
        for task in progress.task_ids[-1:]:
            progress.stop_task(task)
        progress.add_task(escape(f"{board.name}: {what}"))

    search = explore.Search(board, target, base, explore.Space(**space), most, jobs, sustained, say)
    with progress:
        rows = search.run()
    found = explore.told(search, rows) | {"directory": target, "no_dsp": board.no_dsp}
    if found["chosen"] is not None:
        target.mkdir(parents=True, exist_ok=True)
        found["toml"] = target / "best.toml"
        found["toml"].write_text(f"# {_how_to_build(found)}\n{explore.as_toml(found['chosen'])}")
    return found


@app.command()
def program(
    board: Annotated[str, typer.Argument(help="As listed by `bitfirst boards`.")],
    build: Annotated[Path | None, typer.Option(help="Directory of `bitfirst build`; build/BOARD by default.")] = None,
    flash: Annotated[bool, typer.Option(help="Into the flash memory, where it survives power-off.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the command, and do not run it.")] = False,
    as_json: Json = False,
) -> None:
    """Put a finished build on a connected board."""

    def work() -> Result:
        from bitfirst_boards import program

        words = program.command(_board(board), build or Path("build", board), flash)
        if not dry_run:
            program.run(words)
        return {"board": board, "command": shlex.join(words), "programmed": not dry_run}

    _report(as_json, work, lambda result: escape(result["command"]) if dry_run else _pairs(result))


@bench_app.command("sim")
def bench_sim(config: Config = "default", as_json: Json = False) -> None:
    """Cycles per second of the simulated board under the command mix of a training step, and its compile time."""

    def work() -> Result:
        from bitfirst_sim.bench_sim import run

        return run(config)

    _report(as_json, work, _pairs)


@bench_app.command("cycles")
def bench_cycles(
    device: Device = "rtl",
    commands: Annotated[int, typer.Option(min=1, help="Random commands.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the random choices.")] = 0,
    as_json: Json = False,
) -> None:
    """Random commands on a device and on the golden model: results and execution counters must be equal."""

    def work() -> Result:
        from .benches.cycles import bench_cycles

        return bench_cycles(device, commands, seed)

    result = _report(as_json, work, lambda result: _pairs(_flat(result) | result["coverage"]))
    if result["result_mismatches"] or result["counter_mismatches"]:
        raise typer.Exit(1)


@bench_app.command("utilisation")
def bench_utilisation(
    device: Device = "rtl",
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    as_json: Json = False,
) -> None:
    """How much of the array the layers of ResNet-20 use, with the operands in the store and with all transport."""

    def work() -> Result:
        from .benches.utilisation import bench_utilisation

        return bench_utilisation(device, batch)

    _report(as_json, work, _utilisation)


@bench_app.command("step")
def bench_step(
    batch: Annotated[int, typer.Option(min=2, help="Images in the step.")] = 32,
    repetitions: Annotated[int, typer.Option(min=1, help="Steps timed; the median counts.")] = 7,
    as_json: Json = False,
) -> None:
    """Time of one training step of ResNet-20 on `model`, over the same in fp32, qtorch and brevitas."""

    def work() -> Result:
        from .benches.step import bench_step

        return bench_step(batch, repetitions)

    _report(as_json, work, lambda result: _pairs(_flat(result)))


@bench_app.command("psg")
def bench_psg(
    images: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10's npz files; without, what is in --out is studied.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the captured gradients.")] = Path("runs/psg-gradients"),
    steps: Annotated[int, typer.Option(min=20, help="Of the training that is captured.")] = 500,
    device: Device = "rtl:psg",
    hardware: Annotated[bool, typer.Option(help="Logic and clock too, by yosys and nextpnr: half an hour.")] = False,
    as_json: Json = False,
) -> None:
    """PSG's predictors on gradients of a ResNet-20 in training, and three layers on a board against the golden model.

    An interrupted training goes on. Fails where the board differs; goals that are not met are shown.
    """

    def work() -> Result:
        from bitfirst_boards import psg_cost

        from .benches.psg import bench_psg, with_hardware

        report = Console(stderr=True).print
        result = bench_psg(out, images, steps, device, report)
        return with_hardware(result, psg_cost.run(report) if hardware else None)

    if _report(as_json, work, _signs)["failures"]:
        raise typer.Exit(1)


@bench_app.command("arith")
def bench_arith(
    part: Annotated[list[str], typer.Option(help="ecp5, ice40, gowin, xilinx; may be repeated.")] = (),
    seed: Annotated[list[int], typer.Option(help="Place and route ECP5's array of 8 x 8 too; may be repeated.")] = (),
    as_json: Json = False,
) -> None:
    """Logic of the array's elements against fixed multipliers, fused bricks and popcount, by synthesis: minutes.

    ECP5: TRELLIS_COMB after nextpnr's packing; the others: yosys' LUTs (Gowin's with ALUs). Goals that are not met are
    shown. Each --seed takes some ten minutes more.
    """

    def work() -> Result:
        from bitfirst_boards import arith_cost
        from bitfirst_boards.synthesis import PARTS

        return arith_cost.run(part or list(PARTS), Console(stderr=True).print, seed)

    _report(as_json, work, _arith)


@bench_app.command("gating")
def bench_gating(config: Config = "tiny", as_json: Json = False) -> None:
    """How much the array's elements toggle in packed MATMULs, with something to finish and without."""

    def work() -> Result:
        from bitfirst_sim.gating import run

        return run(config)

    _report(as_json, work, lambda result: _pairs(_flat(result)))


@bench_app.command("switching")
def bench_switching(
    config: Config = "tiny",
    images: Annotated[int, typer.Option(help="In the step.")] = 4,
    zeros: Annotated[
        bool, typer.Option("--zeros", help="Images and weights that are all 0: the same commands.")
    ] = False,
    saif: Annotated[Path | None, typer.Option(help="Directory for a SAIF file of each phase.")] = None,
    scale: Annotated[float | None, typer.Option(help="That of another run; by default the totals are equal.")] = None,
    energy_model: Annotated[str, typer.Option(help="Coefficients of scope array, to compare with.")] = "horowitz-45nm",
    as_json: Json = False,
) -> None:
    """Energy by what toggles in the compiled RTL, beside that by counters: a step of the digits network, by phase."""

    def work() -> Result:
        from bitfirst_sim.switching import run

        return run(config, images, saif, zeros, scale, energy_model)

    _report(as_json, work, _switching)


@study_app.command("digits")
def study_digits(
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0.")] = 5,
    device: Device = "model",
    control: Annotated[str | None, typer.Option(help="Negative control: labels or gradients; must fail.")] = None,
    as_json: Json = False,
) -> None:
    """Train with several seeds; mean accuracy, and the interval of the paired difference to fp32."""

    def work() -> Result:
        from . import training

        return training.train_many(list(range(seeds)), training.TrainOptions(device=device), control=control)

    def show(result: Result) -> Group:
        low, high = result["difference_interval"]
        line = f"mean test accuracy {result['test_accuracy']:.2%}, fp32 {result['fp32_test_accuracy']:.2%}; "
        line += f"difference {result['difference']:+.2%}, 95 % interval {low:+.2%} .. {high:+.2%}: "
        return Group(_rows(result["seeds"]), line + ("passed" if result["passed"] else "[red]not passed[/]"))

    if not _report(as_json, work, show)["passed"]:
        raise typer.Exit(1)


@study_app.command("psg")
def study_psg(
    data: Annotated[str, typer.Option(help="digits, or cifar with --images.")] = "digits",
    images: Annotated[Path | None, typer.Option(help="Folder of CIFAR-10's npz files, for --data cifar.")] = None,
    seeds: Annotated[int, typer.Option(min=2, help="How many seeds, from 0.")] = 10,
    only: Annotated[str | None, typer.Option(help="Variants, with commas between; all by default.")] = None,
    lr_signs: Annotated[
        float | None, typer.Option(help="Peak of the rate by signs; the task's own by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for the rows; runs/psg-DATA by default.")] = None,
    device: Device = "model?counting=0",
    as_json: Json = False,
) -> None:
    """Train by predicted signs (PSG) and by exact ones, paired, with controls that must fail.

    Rows are kept in --out as they come: the same command again goes on.
    """

    def work() -> Result:
        from . import studies

        if data not in ("digits", "cifar"):
            raise UsageError(f"data {data!r} is unknown; choose digits or cifar")
        if (data == "cifar") != (images is not None):
            raise UsageError("--data cifar needs --images FOLDER, and digits has its own")
        task = studies.digits_task() if images is None else studies.cifar_task(images)
        if lr_signs is not None:
            task = replace(task, options=replace(task.options, lr_signs=lr_signs))
        chosen = tuple(studies.VARIANTS) if only is None else tuple(name.strip() for name in only.split(","))
        target = out or Path(f"runs/psg-{data}")
        try:
            return studies.study_psg(task, seeds, target, device, chosen)
        except KeyboardInterrupt:
            raise Interrupted(f"what is finished is kept in {target}; the same command goes on") from None

    if not _report(as_json, work, _differences)["passed"]:
        raise typer.Exit(1)


@app.command()
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files of studies (study.sqlite) and trainings (result.json), or folders with them."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Directory for page, plots and CSV; that of the first path by default.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="Validation accuracy, such as 0.9: what each run took to reach it.")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Directory for TensorBoard's events.")] = None,
    energy_model: EnergyModel = None,
    grid_factor: Annotated[
        float | None, typer.Option(help="Grams of CO2 a kWh of your grid: CO2 by the modelled energy.")
    ] = None,
    meter: Annotated[
        Path | None,
        typer.Option(help="CSV of a power meter's log of a training of bitfirst measure, merged by time."),
    ] = None,
    meter_time: Annotated[str | None, typer.Option(help="Its column of time, if the heading does not say so.")] = None,
    meter_power: Annotated[str | None, typer.Option(help="Likewise of power.")] = None,
    meter_offset_s: Annotated[
        float | None, typer.Option(help="Seconds to add to its times; found by itself if not given.")
    ] = None,
    meter_error: Annotated[float | None, typer.Option(help="Limit of its error, relative; 0.01.")] = None,
    meter_scope: Annotated[
        str | None, typer.Option(help="What goes through it: board (if not given), board+host, rails.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare runs of studies, and single trainings: a page, plots, and a table of all runs."""

    def work() -> Result:
        from . import comparison
        from . import energy_model as models

        folder = paths[0] if paths[0].is_dir() else paths[0].parent
        model = None if energy_model is None else models.load(energy_model)
        about = {"time": meter_time, "power": meter_power, "offset_s": meter_offset_s}
        about |= {"error": meter_error, "scope": meter_scope}
        given = {name: value for name, value in about.items() if value is not None}
        if given and meter is None:
            raise UsageError("options of a meter, but no log of one: give --meter FILE")
        log = None if meter is None else comparison.Meter(meter, **given)
        return comparison.write(paths, out or folder, target, tensorboard, model, grid_factor, log)

    def show(result: Result) -> Group:
        tables = [_compared(one) for one in result["studies"]]
        parts = [_sensed(one) for one in result.get("sensed", ())]
        parts += [part for one in result.get("energy", {}).get("studies", ()) for part in _energies(one, result)]
        parts += [_targets(result["targets"])] if "targets" in result else []
        parts += [_metered(result["meter"])] if "meter" in result else []
        return Group(*tables, *parts, f"all runs: {escape(result['csv'])}", f"page: {escape(result['page'])}")

    _report(as_json, work, show)


@app.command()
def measure(
    device: Annotated[
        str, typer.Option(help="A device with the feature power, as for train; rtl: rtl:power?sensor=ina228.")
    ] = "rtl",
    method: Annotated[
        list[str],
        typer.Option(help="As for train: e2train, fractrain, sbm, ...; again for more."),
    ] = ["sgd"],  # noqa: B006 - Typer's way
    data: Annotated[str, typer.Option(help="As for train.")] = "digits",
    network: Annotated[str | None, typer.Option(help="As for train.")] = None,
    train_images: Annotated[int | None, typer.Option(help="Train with so many images alone.")] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 6,
    batch: Annotated[int, typer.Option(help="Images in one step.")] = 32,
    lr: Annotated[float, typer.Option(help="Peak of the learning rate.")] = 0.1,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: cycle, or FracTrain's steps.")] = "cycle",
    seed: Annotated[int, typer.Option(help="Initial weights and order of the images.")] = 0,
    target: Annotated[
        float | None, typer.Option(help="Validation accuracy, such as 0.95: the joules to reach it.")
    ] = None,
    sensor: Annotated[str | None, typer.Option(help="ina226, ina228, ina219, ina229, ucd9248 or xadc.")] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the sensor on I2C (0x40) or PMBus (52); of ina229 its line on SPI (0); of xadc 9 (5 V) or 10."
        ),
    ] = None,
    shunt_ohm: Annotated[
        float | None, typer.Option(help="Of its shunt, such as 0.1 (R100); xadc: as on the board.")
    ] = None,
    page: Annotated[int, typer.Option(help="Of ucd9248, which has no shunt: which of its outputs.")] = 0,
    scope: Annotated[
        str | None, typer.Option(help="board, where the whole board goes through it, or rails, where a part.")
    ] = None,
    power: Annotated[
        str, typer.Option(help="Of ucd9248: iv, its amperes times its volts, or pout, its own word of watts.")
    ] = "iv",
    shunt_error: Annotated[float, typer.Option(help="By which the shunt may be off, relative.")] = 0.01,
    most_amps: Annotated[float | None, typer.Option(help="The largest current, for a narrower range.")] = None,
    serial: Annotated[str, typer.Option(help="Of its breakout, as you name it: a calibration is for one alone.")] = "",
    rails: Annotated[
        Path | None, typer.Option(help="TOML file with a table [[rail]] for each sensor, instead.")
    ] = None,
    calibration: Annotated[Path | None, typer.Option(help="File of --calibrate, for these sensors.")] = None,
    relative: Annotated[float, typer.Option(help="Steps go on until one is known to this, k = 2.")] = 0.01,
    limit_s: Annotated[float, typer.Option(help="Seconds of the device after which no further ones begin.")] = 20.0,
    calibrate: Annotated[
        Path | None, typer.Option(help="Instead, calibrate the sensor against a meter, into this file; it asks you.")
    ] = None,
    meter_error: Annotated[float, typer.Option(help="Limit of the meter's error, relative.")] = 0.005,
    fit: Annotated[
        Path | None, typer.Option(help="File for coefficients of energy, fitted to this device instead of a training.")
    ] = None,
    coverage: Annotated[
        bool,
        typer.Option("--coverage", help="Whether intervals hold: windows of known joules on drawn sensors instead."),
    ] = False,
    windows: Annotated[
        int | None, typer.Option(min=1, help="So many: of --coverage for each sensor (200), of --fit (24).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory for result and report; runs/sensed.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Joules of a training by the sensors of a device: each epoch, steps phase by phase, to a target.

    Without a sensor the training goes on, and energy is "unavailable". With rtl all is simulated, and says so.
    """
    from .measuring import rails as named

    def chosen() -> tuple[str, Any]:
        from .measuring import calibration as calibrations
        from .measuring.measured import Measuring

        kept = () if calibration is None else tuple(calibrations.load(calibration))
        say = partial(Console(stderr=True).print, markup=False)
        if rails is not None:
            found = named.load(rails)
            url, _ = named.device_with_sensor(device, sensor or found[0].kind)
        else:
            url, kind = named.device_with_sensor(device, sensor)
            about = kind, address, shunt_ohm, most_amps, shunt_error, serial, page, scope, power
            if about == (None, None, None, None, 0.01, "", 0, None, "iv"):
                return url, Measuring(rails_on_board, None, kept, relative, limit_s, target, say)
            place = named.number(address, kind)
            found = named.one(url, kind, place, shunt_ohm, most_amps, shunt_error, serial, page, scope, power)
        return url, Measuring(found, None, kept, relative, limit_s, target, say)

    def train() -> Result:
        from . import training

        url, measuring = chosen()
        options = training.TrainOptions(
            device=url,
            data=data,
            network=network,
            train_images=train_images,
            fp32=False,
            seed=seed,
            epochs=epochs,
            batch=batch,
            lr=lr,
            schedule=schedule,
            method="+".join(method),
            out=out or Path("runs", "sensed"),
            resume=resume,
        )
        console = Console(stderr=True)
        return training.train_and_compare(options, console=console, measuring=measuring, opened=warn_if_stale)

    def fitted() -> Result:
        from .measuring import fitting
        from .opening import open as open_device

        _check_directory(fit, "--fit")
        url, measuring = chosen()
        with open_device(url) as opened, Console(stderr=True).status("measuring") as status:
            warn_if_stale(opened)
            options = {"relative": relative, "limit_s": limit_s}
            options |= {"on_window": lambda work: status.update(f"measuring {work}")}
            result = fitting.fitted(measuring.monitor(opened), url, windows or fitting.WINDOWS, **options)
        result.model.save(fit)
        return {"file": str(fit), **result.as_dict()}

    def calibrated() -> Result:
        from dataclasses import asdict

        from .measuring import calibrating
        from .measuring import calibration as calibrations
        from .opening import open as open_device

        _check_directory(calibrate, "--calibrate")
        if not 0 <= meter_error < 1:
            raise UsageError(f"meter_error = {meter_error} must be 0 or more, below 1: 0.005 for 0.5 %")
        url, measuring = chosen()

        def ask(text: str) -> float:
            return typer.prompt(text, type=float, err=True)

        with open_device(url) as opened:
            warn_if_stale(opened)
            monitor = measuring.monitor(opened)
            if len(monitor.rails) != 1:
                raise UsageError(f"{len(monitor.rails)} rails: a meter has one at a time, so give one")
            if monitor.unavailable is not None:
                raise UsageError(f"nothing to calibrate: {monitor.unavailable}")
            made = calibrating.rest_and_work(monitor, ask, limit_s, meter_error)
        calibrations.save(calibrate, [made])
        return {"file": str(calibrate), **asdict(made)}

    def covered() -> Result:
        from bitfirst_sim.power_simulator import bed

        from .measuring import coverage as checked
        from .measuring import recording

        kinds = checked.KINDS if sensor is None else (sensor,)
        checked.check(kinds)
        say = Console(stderr=True).print
        say("recording what the simulated device takes in steps of training")
        return checked.run(kinds, bed, recording.record(), windows or checked.WINDOWS, seed, say)

    from .measuring import shown

    if sum((coverage, fit is not None, calibrate is not None)) > 1:
        raise UsageError("--coverage, --fit and --calibrate are different things: give one of them")
    if coverage:
        if not _report(as_json, covered, shown.coverage_table)["passed"]:
            raise typer.Exit(1)
    elif fit is not None:
        _report(as_json, fitted, shown.fit_table)
    elif calibrate is not None:
        _report(as_json, calibrated, _pairs)
    else:
        _report(as_json, train, shown.measured_tables)


def _energies(found: Result, result: Result) -> list[Any]:
    """Counters to those of the baseline, energies with what they are, and whether their ranking holds."""
    from .comparison_energy import tables_of

    shown = tables_of(found, any(row["co2_g"] is not None for row in found["rows"]))
    parts = []
    titles = f"counted, to {shown['baseline']}", f"energy: {shown['label']}; by {result['energy']['name']}"
    for title, (head, rows) in zip(titles, (shown["ratios"], shown["energies"]), strict=True):
        table = _close(title, *head)
        for row in rows:
            table.add_row(*map(escape, row))
        parts += [table] if rows else []
    return [*parts, escape(shown["verdict"])]


def _sensed(found: Result) -> Table:
    """Joules that sensors told."""
    from .comparison_measured import BRIEF

    table = _close(f"energy of training steps: {found['title']}; ratio: to sbm's on fixed", *BRIEF)
    for row in found["rows"]:
        table.add_row(*(escape(row[place]) for place in BRIEF.values()))
    return table


def _metered(found: Result) -> Table:
    """Joules of epochs by sensors and by a meter."""
    from .measuring.merging import HEAD

    table = _close(f"windows of the epochs, rest inside them included; {found['labels']}", *HEAD)
    for row in found["table"]:
        table.add_row(*row)
    return table


def _targets(rows: list[Result]) -> Table:
    """What runs took to reach an accuracy."""
    names = {"bit-MACs": "bit_macs", "steps": "steps", "wall s": "wall_s", "cycles": "array_cycles"}
    names |= {"J, modelled": "energy_j"} if rows and "energy_j_to_target" in rows[0] else {}
    title = f"to a validation accuracy of {rows[0]['target']:g}; >=: never reached it" if rows else ""
    table = _close(title, "run", "seed", *names)
    for row in rows:
        least = ">= " if row["censored"] else ""
        counts = [row[f"{key}_to_target"] for key in names.values()]
        cells = [
            "-" if count is None else least + (f"{count:.3g}" if count >= 1e6 else _text(count)) for count in counts
        ]
        table.add_row(escape(row["label"]), str(row["seed"]), *cells)
    return table


#: Studies of methods and what they are about: as `grids.GRIDS` has it, which is slow to import.
GRIDS = {
    "smd": "SMD against SMB, over schedules of the learning rate and sizes of a batch.",
    "slu": "SLU, by how much it skips and how its gates learn, against stochastic depth and SkipNet.",
    "psg-grid": "PSG's threshold and how many first bits predict, against exact signs.",
    "components": "E2-Train's parts, alone and together.",
    "pfq": "PFQ against static widths, stages by hand and in other orders, cycles, SBM, and 8 then 12 bits.",
    "pfq-grid": "PFQ's epsilon, alpha and stages.",
    "dfq": "DFQ's options, their cap, what it aims at; FracTrain.",
    "finetune": "Fine-tuning on one half of the images what fp32 has trained on the other: all layers, or the last.",
    "energy": "E2-Train and FracTrain against SBM on an array of fixed multipliers, by what the device counts.",
    "methods": "All methods and baselines that train from the beginning.",
}
COUNTED = ("energy",)  #: of them, those that are about what a device counts


def _add_grid(name: str, about: str) -> None:
    def study(
        seeds: Annotated[int, typer.Option(help="How many seeds, from 0.")] = 3,
        epochs: Annotated[int, typer.Option(help="Passes over the training images.")] = 6,
        trials: Annotated[int, typer.Option(help="Learning rates that each row tries first, by validation.")] = 1,
        trial_epochs: Annotated[int | None, typer.Option(help="Of a trial; as --epochs without it.")] = None,
        device: Device = "model" if name in COUNTED else "model?counting=0",
        scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler; here without it.")] = None,
        workers: Annotated[int, typer.Option(help="Processes here, where no scheduler is given.")] = 1,
        images: Annotated[
            Path | None, typer.Option(help="Folder with JPEG copies of CIFAR-10 as npz: ResNet-8, not the digits.")
        ] = None,
        out: Annotated[Path, typer.Option(help="Directory for the study's file.")] = Path(f"runs/{name}"),
        as_json: Json = False,
    ) -> None:
        def work() -> Result:
            from . import grids

            tell = Console(stderr=True, highlight=False).print
            try:
                folder = None if images is None else str(images.absolute())
                return grids.study(
                    name, seeds, out, device, epochs, scheduler, workers, folder, trials, tell, trial_epochs
                )
            except KeyboardInterrupt:
                raise Interrupted(f"what is finished is kept in {out}; the same command goes on") from None

        _report(as_json, work, _compared)

    rest = "Each run is kept; the same command goes on. On the digits: mechanics, no claim of accuracy."
    study_app.command(name, help=f"{about} {rest}")(study)


for _name, _about in GRIDS.items():
    _add_grid(_name, _about)


MOST_SEEDS = 3  #: of which each has its accuracy in the table


def _compared(result: Result) -> Group:
    """The table of a study of methods; columns that would say nothing are left out."""
    rows = result["table"]
    about = {
        "method": lambda row: row["variant"],
        "batch": lambda row: row["batch"] if len({one["batch"] for one in rows}) > 1 else None,
        "n": lambda row: row["seeds"],
        "rate": lambda row: f"{row['rate']:g}" if row["trials"] > 1 else None,
        "test %": _accuracies,
        "work": lambda row: None if row["work"] is None else f"{row['work']:.3f}",
        "diff.": lambda row: None if row["difference"] is None else f"{100 * row['difference']:+.1f}",
        "95 %": _interval,
        "stages": lambda row: None if row["stages"] is None else "{stages_visited} of {stages}".format(**row),
    }
    cells = {name: ["" if (one := cell(row)) is None else str(one) for row in rows] for name, cell in about.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    table = _close(f"{result['study']}: {result['note']}", *cells)
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(escape, row))
    legend = "work: bit-MACs of training, sgd's being 1; diff.: points to sgd of the same seed, with its 95 % interval"
    legend += (
        f"; test: of more than {MOST_SEEDS} seeds the mean" if any(row["seeds"] > MOST_SEEDS for row in rows) else ""
    )
    parts = [f"all runs: {escape(str(result['file']))}"] if "file" in result else []
    return Group(table, legend, *parts)


def _accuracies(row: Result) -> str:
    """Each seed's, or of many their mean; and how many failed."""
    shown = row["accuracies"] if row["seeds"] <= MOST_SEEDS else [row["accuracy"]] if row["accuracies"] else []
    words = [f"{100 * one:.1f}" for one in shown] + ([f"{row['failed']} failed"] if row["failed"] else [])
    return " ".join(words)


def _interval(row: Result) -> str | None:
    ends = row["difference_interval"]
    return None if ends is None else f"{100 * ends[0]:+.1f} .. {100 * ends[1]:+.1f}"


@app.command()
def doctor(as_json: Json = False) -> None:
    """Try every part that Bitfirst needs on this machine; say what to do about those that are missing."""
    from bitfirst import doctor as checks

    def work() -> Result:
        from bitfirst_boards import program, toolchains
        from bitfirst_sim import build

        console, found = Console(stderr=True), []
        with console.status("checking; a tool's first call may take a minute"):
            libraries = [name for names in toolchains.LINK_PACKAGES.values() for name in names]
            parts = build.find_compiler, build.cache_path(), toolchains.OLDEST, libraries, program.TOOLS
            for check in checks.run(*parts):
                found.append(vars(check))
        failed = [check["name"] for check in found if not check["ok"] and check["needed_for"] == checks.RTL]
        return {"ok": not failed, "failed": failed, "checks": found}

    def show(result: Result) -> Table:
        long = (Column(name, overflow="fold") for name in ("found", "what to do"))
        table = Table(Column("part", no_wrap=True), Column("for", no_wrap=True), "", *long, box=SIMPLE)
        table.padding, table.pad_edge = (0, 1, 0, 0), False
        for check in result["checks"]:
            mark = "[green]ok[/]" if check["ok"] else "[red]missing[/]"
            table.add_row(check["name"], check["needed_for"], mark, escape(check["found"]), escape(check["mend"]))
        return table

    if not _report(as_json, work, show)["ok"]:
        raise typer.Exit(1)


# entry


#: errors that a user can mend, in modules that are loaded only when needed
_LAZY_ERRORS = (("bitfirst_hdl.config", "ConfigError"), ("bitfirst_boards.errors", "FlowError"))


class Interrupted(Exception):
    """Ctrl-C, with a word on how to go on."""


def _mend(error: Exception) -> str | None:
    """The one line for an error that the user can mend; None for any other."""
    loaded = [getattr(sys.modules[module], name) for module, name in _LAZY_ERRORS if module in sys.modules]
    if isinstance(error, (BitfirstError, *loaded)):
        return str(error)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        return f"{error.format_message().rstrip('.')}; see {context.command_path if context else 'bitfirst'} --help"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename} cannot be used ({error.strerror}); check the path and its permissions"
    return None


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments or ["--help"], prog_name="bitfirst", standalone_mode=False) or 0
        line = "interrupted" if code == 130 else None
    except Interrupted as error:
        code, line = 130, f"interrupted; {error}"
    except Exception as error:
        code, line = 2, _mend(error)
        if line is None:
            raise
    if line is not None:
        print(f"bitfirst: {' '.join(line.split())}", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the `bitfirst` script."""
    sys.exit(run(sys.argv[1:]))
