"""`bitfirst.open`: a device from its URL."""

import difflib
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import torch
from bitfirst_hdl.config import CONFIGS, ArrayConfig, ConfigError, load
from bitfirst_hdl.contract import datagrams

from .device import Device
from .errors import UsageError
from .transports import (
    RecordingTransport,
    ReplayTransport,
    RtlTransport,
    SerialTransport,
    TcpTransport,
    Transport,
    UdpTransport,
)

KINDS = {
    "model": "model or model:CONFIG, the golden model",
    "rtl": "rtl or rtl:CONFIG, the simulated hardware",
    "serial": "serial:///dev/ttyUSB0?baud=1000000, a board",
    "tcp": "tcp://HOST:PORT, a board behind a TCP server",
    "udp": "udp://HOST or udp://HOST:PORT, a board on Ethernet",
    "replay": "replay:FILE, a recording",
}
_OPTIONS = {
    "model": ("counting", "device"),
    "rtl": ("record", "seed", "input_idle", "output_stall", "sensor"),
    "serial": ("record", "baud", "config"),
    "tcp": ("record", "config"),
    "udp": ("record", "config"),
    "replay": ("config",),
}
DEFAULT_CONFIG = "default"
DEFAULT_BAUD = 1_000_000


def open(url: str, trace: str | Path | None = None, record: str | Path | None = None) -> Device:
    """Open a device.

    url     `model`, `model:CONFIG`, `rtl`, `rtl:CONFIG`, `serial:///PATH?baud=..`, `tcp://HOST:PORT`,
            `udp://HOST:PORT` or `replay:FILE`; CONFIG is the name of a configuration or a .toml file. Boards take
            `config=CONFIG` too and are refused when they were built with another one; all but `model` take
            `record=FILE`. `model?counting=0` computes the same numbers but counts no cycles, which is faster;
            `model?device=cuda` (or cpu, cuda:1) computes on this device of PyTorch's; `rtl:power?sensor=ina226` (or
            ina228, ina219) has a simulated supply with that sensor at address 0x40, on 0.1 ohm; ina229 is on line
            0 of an SPI bus, ucd9248 at address 52 of a PMBus, without a shunt; xadc is the converter of an Arty A7, its
            5 V rail. A configuration without the feature power gets it, and a clock of 2 MHz at most
    trace   file for waveforms (`rtl` only)
    record  file that gets all bytes of the link, for `replay:`

    Raises `UsageError` for a URL that makes no sense, `LinkError` when nothing answers, `DeviceError` when what
    answers does not fit.
    """
    kind, rest, options = _split(url)
    if trace is not None and kind != "rtl":
        raise UsageError(f"waveforms come from the simulator alone, not from {url}; open rtl with them")
    record = record if record is not None else options.get("record")
    if kind == "model":
        if record is not None:
            raise UsageError("model has no link to record; record rtl instead")
        from .golden.model import ModelDevice

        counting = options.get("counting", "1")
        if counting not in ("0", "1"):
            raise UsageError(f"counting = {counting!r} in {url}: give 0 or 1")
        return ModelDevice(_config(rest or DEFAULT_CONFIG), url, counting == "1", _place(url, options.get("device")))
    from .board import BoardDevice

    config = _wanted(kind, rest, options)
    if record is not None:
        _check_recording(Path(record))
    transport = _transport(kind, url, rest, options, config, trace)
    if record is not None:
        transport = RecordingTransport(transport, record)
    return BoardDevice(url, transport, config)


def _place(url: str, name: str | None) -> torch.device | None:
    """PyTorch's device of this name, None for none. Raises `UsageError` for one that is unknown or not there."""
    if name is None:
        return None
    if name == "cpu":
        return torch.device(name)
    kind, colon, number = name.partition(":")
    if kind != "cuda" or bool(colon) != number.isdecimal():
        raise UsageError(f"device = {name!r} in {url}: give cpu, cuda or such as cuda:1")
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise UsageError(
            f"{url}: PyTorch finds {count or 'no'} CUDA devices here: leave device={name} out, or install a driver and "
            "PyTorch for CUDA"
        )
    return torch.device("cuda", int(number or 0))


def connect(url: str) -> Transport:
    """The link to a device, with nothing said yet: for one that may hang. `url` as for `open`.

    Raises `UsageError` for a URL that makes no sense, or that has no link.
    """
    kind, rest, options = _split(url)
    if kind in ("model", "replay"):
        raise UsageError(f"{url} has no trace; give rtl or a board")
    return _transport(kind, url, rest, options, _wanted(kind, rest, options), None)


def _wanted(kind: str, rest: str, options: dict[str, str]) -> ArrayConfig | None:
    """The configuration that the URL says, if any. A simulated device has what its sensor needs."""
    from .measuring.sensors import CHIPS

    wanted = rest or DEFAULT_CONFIG if kind == "rtl" else options.get("config")
    if wanted is None:
        return None
    config, chip = _config(wanted), CHIPS.get(options.get("sensor", ""))
    return _with_bus(config, chip.bus) if kind == "rtl" and chip else config


def _with_bus(config: ArrayConfig, bus: str) -> ArrayConfig:
    """With the feature power, if it is without at a clock at which a sample does not take too long to simulate, and the
    sensor's bus."""
    if not config.measures:
        clock_khz = min(config.clock_khz, CONFIGS["power"].clock_khz)
        config = replace(config, features=(*config.features, "power"), clock_khz=clock_khz)
    if bus == "i2c" or config.sensor_bus != "i2c":  # one of another bus is refused where the pins are
        return config
    return replace(config, features=(*config.features, bus))


def _split(url: str) -> tuple[str, str, dict[str, str]]:
    """Kind, what stands behind the colon, options."""
    address, _, query = str(url).partition("?")
    kind, _, rest = address.partition(":")
    if kind not in KINDS:
        nearest = difflib.get_close_matches(kind.lower(), KINDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise UsageError(f"device {url!r} is unknown{hint or '.'} Kinds: {'; '.join(KINDS.values())}")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind]) or "none"
            raise UsageError(f"option {name!r} in {url} is unknown; options of {kind}: {known}")
    return kind, rest, options


def _transport(
    kind: str, url: str, rest: str, options: dict[str, str], config: ArrayConfig | None, trace: str | Path | None
) -> Transport:
    if kind == "rtl":
        return RtlTransport(config, trace, _link_cycles(url, options), options.get("sensor"))
    if kind == "replay":
        return ReplayTransport(_required(rest, url, kind))
    if kind == "serial":
        baud = options.get("baud", str(DEFAULT_BAUD))
        if not baud.isdecimal() or int(baud) == 0:
            raise UsageError(f"baud = {baud!r} in {url} must be a positive integer, such as {DEFAULT_BAUD}")
        return SerialTransport(_required(rest.removeprefix("//"), url, kind), int(baud))
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError:
        host = port = None
    if kind == "udp" and host:
        return UdpTransport(host, datagrams.PORT if port is None else port)
    if not host or port is None:
        raise UsageError(f"{url} must name a host and a port, such as {kind}://localhost:5000")
    return TcpTransport(host, port)


def _link_cycles(url: str, options: dict[str, str]) -> dict[str, float]:
    """The fields of the simulator's `Schedule` that the URL gives."""
    values = {}
    for name, kind in (("seed", int), ("input_idle", float), ("output_stall", float)):
        if name in options:
            try:
                values[name] = kind(options[name])
            except ValueError:
                raise UsageError(f"{name} = {options[name]!r} in {url} is no number: give it as {kind(0)!r}") from None
    return values


def _required(path: str, url: str, kind: str) -> str:
    if not path:
        raise UsageError(f"{url} names no path; write {KINDS[kind]}")
    return path


def _check_recording(path: Path) -> None:
    """Before the simulator is compiled or the board is touched."""
    if path.is_dir() or not path.absolute().parent.is_dir():  # an empty path is the directory itself
        raise UsageError(f"recording {str(path)!r} cannot be written; give record= a file in an existing directory")


def _config(name: str) -> ArrayConfig:
    try:
        return load(name)
    except ConfigError as error:
        raise UsageError(str(error)) from None
