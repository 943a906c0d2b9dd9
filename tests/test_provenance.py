"""Where a device's joules come from is said by its fingerprint, not by what it is reached by."""

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bitfirst
import pytest
from bitfirst import cli, training
from bitfirst.board import BoardDevice
from bitfirst.errors import UsageError
from bitfirst.measuring.board_port import BoardPort
from bitfirst.transports import RtlTransport, TcpTransport, Transport
from bitfirst_boards import flow, toolchains
from bitfirst_boards.catalogue import BOARDS
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS, INSIDE
from bitfirst_hdl.contract.registers import SIMULATED, is_built
from datagram_device import DatagramDevice
from emulated_device import EmulatedDevice, EmulatedTransport
from test_link import serial_port, serve

WITH = replace(CONFIGS["tiny"], features=(*INSIDE, "power"), clock_khz=2_000)  # as in test_power_device
BUILT = 0x0123_4567_89AB_CDEF
STALE = "not made of these sources with these tools: `bitfirst build` and `bitfirst program` make it match"
SENSOR = "--sensor", "ina226", "--shunt-ohm", "0.1"


def emulated(fingerprint: int) -> EmulatedTransport:
    return EmulatedTransport(EmulatedDevice(WITH, fingerprint=fingerprint))


@contextlib.contextmanager
def tcp(transport: Transport) -> Iterator[str]:
    """Of a device behind a TCP server."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def read() -> bytes:
            connections[:] = connections or [server.accept()[0]]
            return connections[0].recv(4096)

        connections: list[socket.socket] = []
        thread = serve(transport, read, lambda data: connections[0].sendall(data))
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        thread.join(timeout=5)
        for one in connections:
            one.close()


@contextlib.contextmanager
def udp(transport: Transport) -> Iterator[str]:
    with DatagramDevice(transport) as device:
        yield f"udp://127.0.0.1:{device.port}"


@contextlib.contextmanager
def serial(transport: Transport) -> Iterator[str]:
    with serial_port(transport) as path:
        yield f"serial://{path}"


LINKS = {"tcp": tcp, "udp": udp, "serial": serial}


def told(url: str, **options: object) -> tuple[str, str | None]:
    with bitfirst.open(url, **options) as board:
        port = BoardPort(board)
        return port.provenance, port.simulated


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("fingerprint", "provenance", "why"),
    [
        (BUILT, "measured", None),
        (BUILT | SIMULATED, "simulated", "says that it is a simulation; its figures are simulated"),
        (0, "simulated", "says that no build made it: it is 0; its figures are simulated"),
    ],
)
def test_a_link_makes_no_board(link: str, fingerprint: int, provenance: str, why: str | None) -> None:
    with LINKS[link](emulated(fingerprint)) as url:
        found, said = told(url)
    assert found == provenance
    assert said is None if why is None else said.startswith("the fingerprint of " + url) and said.endswith(why)


def test_the_simulated_device_is_simulated_behind_a_server_too() -> None:
    with tcp(RtlTransport(WITH)) as url:
        assert told(url)[0] == "simulated"
    with BoardDevice("rtl", RtlTransport(WITH)) as board:
        port = BoardPort(board)
        assert board.fingerprint == verilog.fingerprint(WITH) | SIMULATED
    assert (port.provenance, port.simulated) == ("simulated", None)


def test_what_runs_in_this_process_is_simulated_whatever_its_fingerprint() -> None:
    with BoardDevice("rtl", emulated(BUILT)) as board:
        assert BoardPort(board).provenance == "simulated"


def test_recordings(tmp_path: Path) -> None:
    """While one of a board is made, that is measured; what is replayed is not."""
    path = tmp_path / "recorded"
    with tcp(emulated(BUILT)) as url:
        assert told(url, record=path) == ("measured", None)
    assert told(f"replay:{path}") == ("simulated", None)


def test_fingerprints_of_builds() -> None:
    """Of boards, and of Verilog that somebody else builds with."""
    board = BOARDS["ulx3s-85f"]
    tools = toolchains.versions(toolchains.toolchain(board.platform), board.link)
    for config in CONFIGS.values():
        assert is_built(verilog.fingerprint(config)) and is_built(flow.fingerprint(board, config, tools))
    assert f"fingerprint {verilog.fingerprint(WITH):016x}" in verilog.generate(WITH).partition("\n")[0]


def test_the_host_says_so(capsys: pytest.CaptureFixture) -> None:
    """Before anything is measured, and in what `info` tells."""
    with tcp(emulated(verilog.fingerprint(WITH) | SIMULATED)) as url:
        assert cli.run(["info", url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["simulated"] and found["fingerprint_matches"] and found["built_for"] == "any"
    with tcp(emulated(BUILT | SIMULATED)) as url:
        assert cli.run(["measure", "--device", url, "--sensor", "ina226", "--shunt-ohm", "0.1", "--fit", "x.json"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "says that it is a simulation; its figures are simulated" in said
    with tcp(emulated(BUILT | SIMULATED)) as url, TcpDevice(url) as board, pytest.raises(UsageError, match="not known"):
        cli.rails_on_board(board)


def test_a_device_of_other_sources_is_told(capsys: pytest.CaptureFixture) -> None:
    """By `info`; one of these sources is not."""
    for fingerprint, is_stale in ((BUILT, True), (0, True), (verilog.fingerprint(WITH), False)):
        with tcp(emulated(fingerprint)) as url:
            assert cli.run(["info", url, "--json"]) == 0
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert found["fingerprint"] == f"{fingerprint:016x}" and found["fingerprint_matches"] is not is_stale
        assert found["built_for"] == (None if is_stale else "any")
        assert found["missing_features"] == [] and found["parameters"]["features"] == [*INSIDE, "power"]
        assert (STALE in " ".join(said.err.split())) is is_stale


@pytest.mark.parametrize("words", [["train"], ["measure"], ["measure", "--fit", "x.json"]], ids=" ".join)
def test_a_device_of_other_sources_is_told_before_it_is_used(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """In one line; none of a device of these sources, and none of a simulated one."""

    def ended(*_: object, **__: object) -> None:
        raise UsageError("as far as this test goes")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "compare", ended)
    options, end = ((), "as far") if words == ["train"] else (SENSOR, "SCL of the sensors' bus stays low")

    def warned(url: str) -> list[str]:
        assert cli.run([*words, "--device", url, *options]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith(f"bitfirst: {end}")
        return [line for line in said if line.startswith("warning: ")]

    with tcp(emulated(BUILT)) as url:
        assert warned(url) == [f"warning: {url}, fingerprint {BUILT:016x}, is {STALE}"]
    with tcp(emulated(verilog.fingerprint(WITH))) as url:
        assert warned(url) == []
    if words == ["train"]:
        assert warned("model:tiny") == []


def test_simulated_devices_are_of_these_sources(capsys: pytest.CaptureFixture) -> None:
    with BoardDevice("rtl:tiny", emulated(BUILT | SIMULATED)) as board:
        cli.warn_if_stale(board)
    assert not capsys.readouterr().err


class TcpDevice(BoardDevice):
    def __init__(self, url: str) -> None:
        host, port = url.removeprefix("tcp://").split(":")
        super().__init__(url, TcpTransport(host, int(port)))
