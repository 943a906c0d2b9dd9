"""The device behind USB: LUNA's gateware with a host on its pins."""

import pytest
from amaranth.hdl import DomainRenamer
from bitfirst_boards import usb
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from luna.gateware.usb.usb2.endpoints import stream
from test_frames_rtl import BEHIND_A_LINK

BENCH = "bitfirst_sim.benches.bench_usb"
FINGERPRINT = 0x0123_4567_89AB_CDEF


def run(array_period: int, **rest) -> tuple[str, ...]:
    top = DomainRenamer({"sync": "array", "usb_io": "sync"})(usb.UsbTop(BEHIND_A_LINK, FINGERPRINT))
    parameters = {"config": BEHIND_A_LINK.as_dict(), "fingerprint": FINGERPRINT, "array_period": array_period}
    return run_bench(top, "usb", BENCH, parameters=parameters, **rest).tests


def test_usb() -> None:
    assert len(run(array_period=2)) == 3


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
