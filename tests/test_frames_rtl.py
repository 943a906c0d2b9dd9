"""The frame layer and the device behind a UART, in Verilog, held to their transaction models."""

from dataclasses import replace

import pytest
from amaranth.hdl import DomainRenamer
from bitfirst_hdl import counters
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig
from bitfirst_hdl.contract.packets import MAX_PAYLOAD_WORDS
from bitfirst_hdl.frames import FrameLink
from bitfirst_hdl.top import UartTop, uart_divisor
from bitfirst_sim.bench import BenchError, run_bench

#: For benches of what is around the device: less to compile.
BEHIND_A_LINK = replace(CONFIGS["tiny"], rows=1, features=STANDARD)
SHORT = replace(CONFIGS["micro"], link_bits=64)
FINGERPRINT = 0xFEDC_BA98_7654_3210


@pytest.mark.parametrize("link_bits", [8, 16, 32, 64])
def test_frame_link(link_bits: int) -> None:
    config = replace(CONFIGS["tiny"], link_bits=link_bits)
    component = FrameLink(config, sources=1)
    parameters = {"config": config.as_dict()}
    result = run_bench(component, "frame_link", "bitfirst_sim.benches.bench_frames", parameters=parameters)
    assert len(result.tests) == 7


def test_words_that_come_too_soon_for_their_counter_are_found() -> None:
    config = replace(CONFIGS["tiny"], link_bits=32)
    apart = {name: 2 * cycles - 1 for name, cycles in counters.apart(config).items()}
    parameters = {"config": config.as_dict(), "apart": apart}
    with pytest.raises(BenchError, match="received 2 cycles after the last one, not 3"):
        run_bench(
            FrameLink(config, sources=1), "frame_link", "bitfirst_sim.benches.bench_frames", parameters=parameters
        )


def run_short(component: FrameLink) -> tuple[str, ...]:
    parameters = {"config": SHORT.as_dict()}
    return run_bench(component, "frame_link", "bitfirst_sim.benches.bench_frames", parameters=parameters).tests


def test_a_frame_that_the_receive_buffer_does_not_hold_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the shortest buffer; a device that takes such a header for one must fail."""
    assert len(run_short(FrameLink(SHORT, sources=1))) == 7
    monkeypatch.setattr(ArrayConfig, "max_payload_words", MAX_PAYLOAD_WORDS)
    with pytest.raises(BenchError, match="damaged_frames"):
        run_short(FrameLink(SHORT, sources=1))


def test_uart() -> None:
    divisor = 5
    component = UartTop(BEHIND_A_LINK, FINGERPRINT, divisor=divisor)
    parameters = {"config": BEHIND_A_LINK.as_dict(), "fingerprint": FINGERPRINT, "divisor": divisor}
    result = run_bench(component, "uart", "bitfirst_sim.benches.bench_uart", parameters=parameters)
    assert len(result.tests) == 4


@pytest.mark.soak
def test_uart_with_clock_of_its_own() -> None:
    """The UART at three times the core's clock."""
    divisor = 5
    component = UartTop(CONFIGS["tiny"], FINGERPRINT, divisor=divisor, link_domain="link")
    renamed = DomainRenamer({"sync": "array", "link": "sync"})(component)
    parameters = {"config": CONFIGS["tiny"].as_dict(), "fingerprint": FINGERPRINT, "divisor": divisor}
    parameters |= {"array_period": 3}
    result = run_bench(renamed, "uart", "bitfirst_sim.benches.bench_uart", parameters=parameters)
    assert len(result.tests) == 4


def test_uart_speed() -> None:
    assert uart_divisor(replace(CONFIGS["tiny"], clock_khz=25_000)) == 25
    with pytest.raises(ValueError, match="divisor = 3 must be at least 4; lower the baud rate"):
        uart_divisor(replace(CONFIGS["tiny"], clock_khz=3_000))
