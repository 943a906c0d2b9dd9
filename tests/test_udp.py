"""The link in datagrams: losses, doubles and late ones cost time, never a result."""

import socket
from contextlib import closing

import bitfirst
import pytest
from bitfirst import cli, training
from bitfirst.errors import DeviceError, LinkError, UsageError
from bitfirst.link import Link
from bitfirst.training import TrainOptions, weights_sha256
from bitfirst.transports import UdpTransport
from bitfirst_hdl import datagrams
from bitfirst_hdl.contract import datagrams as contract
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from datagram_device import MODULUS, DatagramDevice, Network
from emulated_device import EmulatedDevice, EmulatedTransport
from test_board import check_as_on_the_model
from test_frames_rtl import BEHIND_A_LINK
from test_link import TINY, write_and_read

ALL = {"lose": 0.01, "double": 0.02, "late": 0.02}


@pytest.fixture(autouse=True)
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is so near need not be waited for as long as one on a network."""
    monkeypatch.setattr(UdpTransport, "timeout_s", 0.05)


def emulated(**options) -> DatagramDevice:
    return DatagramDevice(EmulatedTransport(EmulatedDevice(TINY)), **options)


def check_exact(device: DatagramDevice, rounds: int) -> Link:
    with closing(Link(UdpTransport("127.0.0.1", device.port))) as link:
        link.restart()
        link.reset_counters()
        assert write_and_read(link, rounds) == rounds * TINY.rows * TINY.columns
    return link


@pytest.mark.parametrize("taken", [0, MODULUS - contract.AHEAD - 20, MODULUS // 2 - 1])
def test_a_good_network(taken: int) -> None:
    """Numbers wrap around as well."""
    with emulated(taken=taken) as device:
        statistics = check_exact(device, rounds=100).statistics
    assert statistics.retransmitted_frames == statistics.late_responses == statistics.skipped_bytes == 0
    assert device.dropped == 0


@pytest.mark.parametrize("kind", [*ALL, "all"])
def test_faults_to_the_device(kind: str) -> None:
    network = Network(**{name: 0.06 for name in (ALL if kind == "all" else [kind])})
    with emulated(to_device=network) as device:
        statistics = check_exact(device, rounds=150).statistics
    assert network.count[kind] > 0 if kind in ALL else all(network.count.values())
    assert (device.dropped > 0) == (kind != "lose")
    assert (statistics.retransmitted_frames > 0) == (kind != "double")


@pytest.mark.parametrize("kind", [*ALL, "all"])
def test_faults_to_the_host(kind: str) -> None:
    network = Network(**{name: 0.06 for name in (ALL if kind == "all" else [kind])})
    with emulated(to_host=network) as device:
        statistics = check_exact(device, rounds=150).statistics
    assert network.count[kind] > 0 if kind in ALL else all(network.count.values())
    assert (statistics.lost_responses > 0) == (kind != "double")


def test_late_answers_would_do_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a host that takes datagrams as they come."""
    monkeypatch.setattr(contract, "is_ahead", lambda number, last: True)
    with emulated(to_host=Network(late=0.05), checks=False) as device, pytest.raises(DeviceError):
        check_exact(device, rounds=150)


def test_what_an_earlier_host_left_on_its_way_is_dropped() -> None:
    with emulated() as device:
        earlier = UdpTransport("127.0.0.1", device.port)
        later = Link(UdpTransport("127.0.0.1", device.port))
        later.restart()
        for _ in range(20):
            earlier.write(bytes(64))
        assert write_and_read(later, 20) == 20 * TINY.rows * TINY.columns
        assert device.dropped == 20
        later.close()
        earlier.close()


@pytest.mark.soak
def test_training_over_a_bad_network_is_training_on_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of the digits, weights of the end included."""
    whole = training.data.digits()
    few = {
        name: training.data.Split(*(part[:count] for part in vars(getattr(whole, name)).values()))
        for name, count in (("train", 64), ("validation", 10), ("test", 10))
    }
    splits = training.data.Splits(**few)
    monkeypatch.setattr(training.data, "digits", lambda: splits)
    hashes = []
    with emulated(to_device=Network(**ALL, seed=1), to_host=Network(**ALL, seed=2)) as server:
        for url in f"udp://127.0.0.1:{server.port}?config=tiny", "model:tiny":
            device = bitfirst.open(url)
            with training.host_settings(1):
                run = training.new_run(TrainOptions(epochs=1), device)
                training.fit(run, splits, TrainOptions(epochs=1))
            hashes.append(weights_sha256(run.net))
            device.close()
    assert hashes[0] == hashes[1]
    assert all(server.to_device.count.values()) and all(server.to_host.count.values())


def test_layers_and_counters() -> None:
    with emulated() as server:
        device = bitfirst.open(f"udp://127.0.0.1:{server.port}?config=tiny")
        check_as_on_the_model(device, rounds=1, seed=4)
        device.close()


def test_nobody_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(LinkError, match=r"cannot be reached: no answer in 0.4 s; check address, cable and power"):
            bitfirst.open(f"udp://127.0.0.1:{silent.getsockname()[1]}")
    with pytest.raises(UsageError, match="must name a host"):
        bitfirst.open("udp://")


@pytest.mark.parametrize("kind", ["tcp", "udp"])
@pytest.mark.parametrize("place", ["nowhere.invalid:1", f"{'a' * 64}:1", "127.0.0.1:1", "127.0.0.1:70000"])
def test_one_line_for_what_cannot_be_opened(kind: str, place: str, capsys: pytest.CaptureFixture) -> None:
    """An unknown name, one that none can be, a port where nobody is, and one that there is not."""
    assert cli.run(["info", f"{kind}://{place}"]) == 2
    said = capsys.readouterr()
    line = " ".join(said.err.split())
    assert place.rpartition(":")[0] in line and ("cannot be reached" in line or "must name a host and a port" in line)
    assert "Traceback" not in said.err and not said.out


# gateware

BENCH = "bitfirst_sim.benches.bench_datagrams"
FINGERPRINT = 0x0123_4567_89AB_CDEF


def run(module) -> tuple[str, ...]:
    parameters = {"config": BEHIND_A_LINK.as_dict(), "fingerprint": FINGERPRINT}
    top = module.DatagramTop(BEHIND_A_LINK, FINGERPRINT)
    return run_bench(top, "datagrams", BENCH, parameters=parameters).tests


def test_gateware() -> None:
    assert len(run(datagrams)) == 4


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ((" & (ahead != 0) & ~ahead[-1]", ""), "late_and_doubled"),
        ((" & good & ~piece.error", " & good"), "damaged"),
    ],
    ids=["numbers", "errors"],
)
def test_gateware_that_takes_what_it_must_not_fails(change: tuple[str, str], failing: str) -> None:
    with pytest.raises(BenchError, match=rf"cocotb tests failed: {failing}\n"):
        run(altered(datagrams, change))
