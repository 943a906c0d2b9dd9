"""The feature "power" in a whole device: its space, refused as the contract says, and work that goes on beside it."""

from dataclasses import replace

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import opening
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.errors import DeviceError, UsageError
from bitfirst.golden.commands import GoldenDevice
from bitfirst.measuring.board_port import BoardPort
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from bitfirst.quantiser import quantise
from bitfirst.transports import RtlTransport
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.errors import FlowError
from bitfirst_boards.tops import check_sensors
from bitfirst_hdl import axi
from bitfirst_hdl.config import CONFIGS, INSIDE, ConfigError
from bitfirst_hdl.contract import codec, power
from bitfirst_hdl.contract.packets import Opcode, Space, Status
from bitfirst_sim.supply import Supply

TINY = CONFIGS["tiny"]
WITH = replace(TINY, features=(*INSIDE, "power"), clock_khz=2_000)
ADDRESS = 0x40
REFUSED = (
    ({"first": 0, "count": 0}, Status.BAD_RANGE),
    ({"first": power.READ_WORDS, "count": 1}, Status.BAD_RANGE),
    ({"first": 0, "count": 513}, Status.BAD_RANGE),
)


def write(row: int, struct: type, **fields: int) -> Command:
    place = {"space": Space.POWER, "rows": 1, "words": 1, "row": row, "word": 0}
    return Command(Opcode.WRITE, place, np.array(codec.encode(struct, **fields), np.uint64))


def read(first: int, count: int = 1) -> Command:
    return Command(Opcode.READ, {"space": Space.POWER, "first": first, "count": count})


@pytest.fixture(scope="module")
def board():
    with BoardDevice("rtl", RtlTransport(WITH), WITH) as board:
        yield board


def test_a_device_without_a_sensor_works_on_and_has_no_figure(board):
    port = BoardPort(board)
    before = board.counters()["cycles"]
    port.wait(12_345)
    assert 12_345 <= board.counters()["cycles"] - before < 13_000
    monitor = Monitor(port, [Rail("5V", "ina226", ADDRESS, shunt_ohm=0.1)])
    assert "no sensor answers on the bus" in monitor.unavailable
    with monitor.window("forward") as window:
        runs = [1 for _ in window.replays()]
    assert runs == [1] and window.reading.total.provenance == "unavailable" and window.reading.total.total_j is None


def test_a_device_without_the_feature_is_refused():
    with bitfirst.open("model:tiny") as model, pytest.raises(UsageError, match="model:tiny has no power monitor"):
        BoardPort(model)


def state(board: BoardDevice) -> dict[str, int]:
    return codec.decode(power.State, board.execute(read(power.STATE_WORD)).tolist())


def test_a_bus_without_chips_answers_nobody(board):
    board.execute(write(power.TRANSFER_ROW, power.Transfer, address=ADDRESS, written=1, read=2))
    result = codec.decode(power.Result, board.execute(read(power.RESULT_WORD)).tolist())
    assert result["done"] and not result["acknowledged"]
    assert state(board)["scl"] and state(board)["sda"] and not state(board)["running"]


def test_work_goes_on_beside_rounds_that_nobody_answers(board):
    rail = {"address": ADDRESS, "enabled": 1, "ready": 3}
    words = np.array(codec.encode(power.Rail, **rail), np.uint64) | np.uint64((6 | 2 << 8 | 1 << 10) << 16)
    place = {"space": Space.POWER, "rows": 1, "words": 1, "row": power.FIRST_RAIL_ROW, "word": 0}
    board.execute(Command(Opcode.WRITE, place, words))
    board.execute(write(power.CONTROL_ROW, power.Control, clear=1, run=1))
    x, w = (quantise(torch.rand(shape), 8) for shape in ((2, 3, 6, 6), (4, 3, 3, 3)))
    with bitfirst.open("model:tiny") as model:
        wanted = model.conv2d(x, w)
    assert torch.equal(board.conv2d(x, w).double(), wanted.double())
    for _ in range(20):
        seen = state(board)
        if seen["silent"]:
            break
    assert seen["running"] and seen["silent"] == 1 and not seen["rounds"]
    board.execute(write(power.CONTROL_ROW, power.Control, snapshot=1))
    sums = board.execute(read(power.FIRST_SUM_WORD, power.RAILS * power.PHASES * power.SUM_WORDS))
    assert not sums.any() and not state(board)["running"]


@pytest.mark.parametrize(("fields", "status"), REFUSED)
def test_what_lies_outside_is_refused_as_by_the_golden_model(board, fields, status):
    command = Command(Opcode.READ, {"space": Space.POWER, **fields})
    with pytest.raises(DeviceError, match=status.name):
        board.execute(command)
    assert GoldenDevice(WITH).execute(command)[0] == status


@pytest.mark.parametrize("command", [read(0), write(power.CONTROL_ROW, power.Control, run=1)])
def test_a_device_without_sensors_has_no_such_space(command):
    assert GoldenDevice(TINY).execute(command)[0] == Status.BAD_SPACE
    with bitfirst.open("rtl:tiny") as board, pytest.raises(DeviceError, match="BAD_SPACE"):
        board.execute(command)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("power") / "with.toml"
    path.write_text('base = "tiny"\nclock_khz = 2000\nfeatures = ["gather", "requantise", "power"]\n')
    with bitfirst.open(f"rtl:{path}?sensor=ina226") as board:
        yield board


def test_spi_is_refused_where_it_cannot_be():
    config = replace(WITH, features=(*WITH.features, "spi"), link_bits=32)
    with pytest.raises(ConfigError, match="feature spi needs power; add to features"):
        replace(TINY, features=("spi",))
    with pytest.raises(ConfigError, match="feature spi: AXI devices have sensors on an I2C bus or a PMBus alone"):
        axi.check(config)
    with pytest.raises(FlowError, match="feature spi: ulx3s-85f has two pins for sensors, of I2C or PMBus"):
        check_sensors(BOARDS["ulx3s-85f"], config)


def test_a_sensor_on_spi(tmp_path):
    """The device has the bus of its sensor."""
    path = tmp_path / "with.toml"
    path.write_text('base = "tiny"\nclock_khz = 2000\nfeatures = ["gather", "requantise", "power"]\n')
    with bitfirst.open(f"rtl:{path}?sensor=ina229") as board:
        assert board.config.sensor_bus == "spi"
        port = BoardPort(board)
        monitor, at_rest = Monitor(port, [Rail("5V", "ina229", 0, 0.1, shunt_error=0.0)]), Supply(()).idle_watts
        assert monitor.unavailable is None
        before = monitor.snapshot()
        monitor.wait(50 * monitor.sample_s)
        (watts,) = monitor.watts(monitor.snapshot() - before)
        assert watts == pytest.approx(at_rest, rel=0.02)  # READs of the link take some, too
        with pytest.raises(UsageError, match="bus of I2C: leave out the feature spi"):
            RtlTransport(board.config, sensor="ina228")


def test_a_window_on_the_simulated_sensor_holds_the_joules_taken(measured):
    transport, monitor = measured.transport, Monitor(BoardPort(measured), [Rail("5V", "ina226", ADDRESS, 0.1)])
    x, w = (quantise(torch.rand(shape), 8) for shape in ((8, 8, 8, 8), (8, 8, 3, 3)))
    before = transport.joules()
    with monitor.window("forward", relative=0.03) as window:
        runs = [measured.conv2d(x, w) for _ in window.replays()]
    taken = (transport.joules()[1] - before[1]) / len(runs)
    reading = window.reading
    assert sum(block.returns for block in window._blocks)[1] == len(runs)
    at_rest = reading.seconds * Supply(()).idle_watts
    assert reading.total.provenance == reading.dynamic.provenance == "simulated" and not reading.total.extrapolated
    assert abs(reading.total.total_j - taken) < reading.total.uncertainty_j < 0.02 * taken
    assert abs(reading.dynamic.total_j - (taken - at_rest)) < reading.dynamic.uncertainty_j < 0.03 * taken
    for wrong in 1.05 * taken, 0.95 * taken:  # as by a shunt of another value
        assert abs(reading.total.total_j - wrong) > reading.total.uncertainty_j


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("rtl:power?sensor=ina999", "sensor 'ina999' is unknown; choose from ina226, ina228, ina219"),
    ],
)
def test_senseless_sensors_are_one_line(url, message):
    with pytest.raises(UsageError, match=message):
        bitfirst.open(url)


def test_a_device_gets_what_its_sensor_needs():
    for kind, more in ("ina226", ()), ("ina229", ("spi",)), ("ucd9248", ("pmbus",)), ("xadc", ("xadc",)):
        expected = replace(TINY, features=(*TINY.features, "power", *more), clock_khz=2_000)
        assert opening._wanted("rtl", "tiny", {"sensor": kind}) == expected
    assert opening._wanted("rtl", "power", {"sensor": "ina226"}) == CONFIGS["power"]
    with pytest.raises(UsageError, match="no pins for sensor ina226: take a configuration with the feature power"):
        RtlTransport(TINY, sensor="ina226")
