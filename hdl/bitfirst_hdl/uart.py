"""Asynchronous serial line, 8 data bits, no parity, 1 stop bit."""

from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

_DATA_BITS = 8
MIN_DIVISOR = 4


def check_divisor(divisor: int) -> int:
    """`divisor`; raises `ValueError` when bits would be too short to be sampled in their middle."""
    if divisor < MIN_DIVISOR:
        raise ValueError(f"divisor = {divisor} must be at least {MIN_DIVISOR}; lower the baud rate")
    return divisor


class UART(wiring.Component):
    """Bytes to and from two pins, `divisor` clock cycles a bit (at least 4).

    rx          in, stream of bytes to send
    tx          out, stream of bytes received
    rx_pin      in(1)   asynchronous
    tx_pin      out(1)
    lost        out(1)  high for one cycle: a byte came before the one before it was taken, and is dropped
    sending     out(1)  a byte is under way to `tx_pin`

    Bits are sampled in their middle; a byte whose stop bit is 0 is dropped. A received byte is valid in the middle of
    its stop bit and waits until it is taken or the next one is complete. Bytes are sent without gaps. Reset: lines
    idle (1), bytes under way are dropped. Raises `ValueError` for a smaller divisor.
    """

    def __init__(self, divisor: int) -> None:
        self.divisor = check_divisor(divisor)
        super().__init__(
            {
                "rx": In(stream.Signature(_DATA_BITS)),
                "tx": Out(stream.Signature(_DATA_BITS)),
                "rx_pin": In(1, init=1),
                "tx_pin": Out(1, init=1),
                "lost": Out(1),
                "sending": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        self._send(m)
        self._receive(m)
        return m

    def _send(self, m: Module) -> None:
        bits, left, timer = Signal(_DATA_BITS + 1), Signal(range(_DATA_BITS + 3)), Signal(range(self.divisor))
        ready = Signal(init=1)  # from the stop bit's last cycle on
        m.d.comb += [self.sending.eq(left != 0), self.rx.ready.eq(ready)]
        with m.If((left == 1) & (timer == 1)):
            m.d.sync += ready.eq(1)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.Elif(self.sending):
            m.d.sync += [
                self.tx_pin.eq(bits[0]),
                bits.eq(Cat(bits[1:], Const(1, 1))),
                left.eq(left - 1),
                timer.eq(self.divisor - 1),
            ]
        with m.If(self.rx.valid & self.rx.ready):
            start_and_stop_bit = 2
            m.d.sync += [
                self.tx_pin.eq(0),
                bits.eq(Cat(self.rx.payload, Const(1, 1))),
                left.eq(_DATA_BITS + start_and_stop_bit),
                ready.eq(0),
                timer.eq(self.divisor - 1),
            ]

    def _receive(self, m: Module) -> None:
        line, bits, count = Signal(init=1), Signal(_DATA_BITS), Signal(range(_DATA_BITS))
        timer = Signal(range(self.divisor))
        m.submodules += FFSynchronizer(self.rx_pin, line, init=1)
        with m.If(self.tx.ready):
            m.d.sync += self.tx.valid.eq(0)
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.FSM():
            with m.State("IDLE"), m.If(~line):
                m.d.sync += timer.eq(self.divisor // 2 - 1)
                m.next = "START"
            with m.State("START"), m.If(timer == 0):
                m.d.sync += timer.eq(self.divisor - 1)
                m.next = "DATA"
                with m.If(line):
                    m.next = "IDLE"
            with m.State("DATA"), m.If(timer == 0):
                m.d.sync += [timer.eq(self.divisor - 1), bits.eq(Cat(bits[1:], line)), count.eq(count + 1)]
                with m.If(count == _DATA_BITS - 1):
                    m.next = "STOP"
            with m.State("STOP"), m.If(timer == 0):
                m.next = "BREAK"
                with m.If(line):
                    m.d.comb += self.lost.eq(self.tx.valid & ~self.tx.ready)
                    with m.If(~self.lost):
                        m.d.sync += [self.tx.valid.eq(1), self.tx.payload.eq(bits)]
                    m.next = "IDLE"
            with m.State("BREAK"), m.If(line):
                m.next = "IDLE"
