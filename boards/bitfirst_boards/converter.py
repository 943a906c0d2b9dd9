"""The converter in a Xilinx 7-series chip (XADC, UG480), and its inputs, in Verilog: Amaranth has no vector of which
some are pins and others are not.
"""

from collections.abc import Sequence

NAME = "bitfirst_converter"
INPUTS = 16
FASTEST_KHZ = 26_000  # of the converter's clock, by DS181

_VERILOG = """\
// The converter: its port for registers, and pairs of pins as inputs. It begins with the sequence by default.
module {name} (
    input clk,
    input enable,
    input write,
    input [6:0] address,
    input [15:0] written,
    output [15:0] read,
    output ready,
    output ended,
{ports}
);
    XADC #(
        .INIT_40(16'h0000),
        .INIT_41(16'h0ffe),  // corrected by what it calibrates, no alarms
        .INIT_42(16'h{divider:02x}00)  // its clock, {clock:g} MHz
    ) converter (
        .DCLK(clk),
        .DEN(enable),
        .DWE(write),
        .DADDR(address),
        .DI(written),
        .DO(read),
        .DRDY(ready),
        .EOS(ended),
        .VAUXP({positive}),
        .VAUXN({negative}),
        .VP(1'b0),
        .VN(1'b0),
        .CONVST(1'b0),
        .CONVSTCLK(1'b0),
        .RESET(1'b0)
    );
endmodule
"""


def verilog(inputs: Sequence[int], clock_khz: int) -> str:
    """Module `NAME` with ports `ad1_p`, `ad1_n` and so on for the auxiliary inputs."""
    divider = max(2, -(-clock_khz // FASTEST_KHZ))

    def vector(pin: str) -> str:
        bits = (f"ad{i}_{pin}" if i in inputs else "1'b0" for i in reversed(range(INPUTS)))
        return f"{{{', '.join(bits)}}}"

    return _VERILOG.format(
        name=NAME,
        ports=",\n".join(f"    input ad{i}_{pin}" for i in inputs for pin in "pn"),
        divider=divider,
        clock=clock_khz / divider / 1000,
        positive=vector("p"),
        negative=vector("n"),
    )
