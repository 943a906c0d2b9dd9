"""The device behind USB: LUNA's gateware with a host on its pins."""

from dataclasses import replace

import pytest
from amaranth.hdl import DomainRenamer
from bitfirst_boards import ulpi, usb
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from luna.gateware.usb.usb2.endpoints import stream
from test_frames_rtl import BEHIND_A_LINK

BENCH = "bitfirst_sim.benches.bench_usb"
ULPI_BENCH = "bitfirst_sim.benches.bench_ulpi"
FINGERPRINT = 0x0123_4567_89AB_CDEF


def run(array_period: int, **rest) -> tuple[str, ...]:
    top = DomainRenamer({"sync": "array", "usb_io": "sync"})(usb.UsbTop(BEHIND_A_LINK, FINGERPRINT))
    parameters = {"config": BEHIND_A_LINK.as_dict(), "fingerprint": FINGERPRINT, "array_period": array_period}
    return run_bench(top, "usb", BENCH, parameters=parameters, **rest).tests


def run_ulpi() -> tuple[str, ...]:
    """With a clock said to be slow: what the device waits for takes few cycles."""
    config = replace(BEHIND_A_LINK, clock_khz=300)
    top = DomainRenamer({"sync": "array", "ulpi": "sync"})(ulpi.UlpiTop(config, FINGERPRINT))
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT, "array_period": 2}
    return run_bench(top, "ulpi", ULPI_BENCH, parameters=parameters).tests


def test_usb() -> None:
    assert len(run(array_period=2)) == 3


def test_ulpi() -> None:
    """The same behind a PHY, and one that still has the registers of a device before."""
    assert len(run_ulpi()) == 4


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_toggles_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a device that takes packets whatever their toggle doubles those whose handshake was lost."""
    careless = altered(stream, ("(interface.rx_pid_toggle == expected_data_toggle)", "1"))

    class DataOut(usb._Restarted, careless.USBStreamOutEndpoint):
        pass

    monkeypatch.setattr(usb, "_DataOut", DataOut)
    with pytest.raises(BenchError, match=r"cocotb tests failed: faulty_bus\n"):
        run(array_period=2)


@pytest.mark.soak
def test_a_configuration_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: endpoints that go on as they were, as LUNA's own do, lose the next host's first packet."""
    change = 'ResetInserter({"usb": self.restart})(super().elaborate(platform))', "super().elaborate(platform)"
    monkeypatch.setattr(usb, "UsbTop", altered(usb, change).UsbTop)
    with pytest.raises(BenchError, match=r"cocotb tests failed: enumerated_again\n"):
        run(array_period=2)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("change", "fails"),
    [
        pytest.param(("~self.dir & ~turned", "1"), "dir 1, before False: the device drives 1", id="over the PHY"),
        pytest.param(("~self.dir & ~turned", "~self.dir"), "before True: the device drives 1", id="no turn-around"),
        pytest.param(("o=self.data_out", "o=self.data_out[::-1]"), "AssertionError: TX CMD 0x51", id="bits swapped"),
        pytest.param(("connect.eq(attached)", "connect.eq(1)"), "failed: left_attached\\n", id="never away"),
    ],
)
def test_the_bus_has_rules(change: tuple[str, str], fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: what breaks those of ULPI, or leaves the host with the device before, is found."""
    monkeypatch.setattr(ulpi, "UlpiTop", altered(ulpi, change).UlpiTop)
    with pytest.raises(BenchError, match=fails):
        run_ulpi()
