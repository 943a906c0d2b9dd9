// The device and its host's end of the link. The host's side is in C++ and is asked once in each cycle, at the clock
// edge; so the device has no inputs but the clock, and one evaluation makes a cycle, with nothing computed twice.
//
// resting  nothing to do before the next word comes
// clocks   of the core's units, see units.py: each is to be turned with `clk` where its bit of `moves` was high after the
//          evaluation before
//
// phase    of the core, where toggles are counted by phase
//
// Power-up leaves every register as a reset does, so the reset stays low: it costs nothing in each register then.

// What the last cycle moved: whether a word of rx was taken, whether one of tx (`word`) was given. Returned is what
// stands at the ports in the next one: a word of rx, if `offered`, and whether a word of tx would be taken.
import "DPI-C" function void exchange(
    input bit taken,
    input bit given,
    input bit [`LINK_BITS-1:0] word,
    output bit offered,
    output bit [`LINK_BITS-1:0] next_word,
    output bit takes
);

// Ends the simulation: a unit that rests would change a register. Only in checked text, see units.py.
import "DPI-C" function void resting_unit_changes(input string unit_name, input string register_name);

// moves    a unit may change in this cycle: it does so while `wanted`, and `SETTLES` cycles longer, also from power-up on
module unit_clock #(
    parameter bit [7:0] SETTLES = 0
) (
    input clk,
    input wanted,
    output moves
);
    bit [7:0] left = SETTLES;

    always @(`EDGE clk) left <= wanted ? SETTLES : left - 8'(left != 0);
    assign moves = wanted | (left != 0);
endmodule

`ifdef SENSORS
// The feature "power": the device's pins on the sensors' bus, and what it did in this cycle, for the watts that it takes:
// an array step, a cycle of a LOAD, of an UPDATE, words of the link. Returned are the levels of its inputs in the next.
// I2C: out {sda_low, scl_low}, in {sda, scl}. SPI: out {cs_n, mosi, sclk}, in miso.
// Converter: out {written, address, write, enable}, in {ended, ready, read}.
import "DPI-C" function void sense(
    input bit [24:0] pins,
    input bit [4:0] work,
    input bit [2:0] phase,
    output bit [17:0] levels
);
`endif

module simulated (
    input clk,
    input [`UNITS-1:0] clocks,
    output [`UNITS-1:0] moves,
`ifdef PHASE
    output [7:0] phase,
`endif
    output resting
);
    wire rx_ready, tx_valid, idle;
`ifdef SENSORS
    wire [24:0] pins;
`ifdef XADC
    bit [17:0] levels = 0, next_levels;
`else
    bit [17:0] levels = 3, next_levels;
    assign pins[24:6] = 0;
`ifndef SPI
    assign pins[5:2] = 0;
`endif
`endif
`endif
    wire [`LINK_BITS-1:0] tx_payload;
    bit rx_valid = 0, tx_ready = 0, offered, takes;
    bit [`LINK_BITS-1:0] rx_payload = 0, next_word;

    `CORE core (
        .clk(clk),
        .rst(1'b0),
        .rx__valid(rx_valid),
        .rx__payload(rx_payload),
        .rx__ready(rx_ready),
        .tx__valid(tx_valid),
        .tx__payload(tx_payload),
        .tx__ready(tx_ready),
`ifdef SENSORS
`ifdef XADC
        .drp_read(levels[15:0]),
        .drp_ready(levels[16]),
        .sequence_ended(levels[17]),
        .drp_enable(pins[0]),
        .drp_write(pins[1]),
        .drp_address(pins[8:2]),
        .drp_written(pins[24:9]),
`elsif SPI
        .miso(levels[0]),
        .sclk(pins[0]),
        .mosi(pins[1]),
        .cs_n(pins[5:2]),
`else
        .scl_i(levels[0]),
        .sda_i(levels[1]),
        .scl_low(pins[0]),
        .sda_low(pins[1]),
`endif
`endif
        .idle(idle)
    );

    assign resting = idle & ~tx_valid;
`ifdef PHASE
    assign phase = `PHASE;
`endif
    `include "clocks.svh"

    always @(`EDGE clk) begin
        exchange(rx_valid & rx_ready, tx_valid & tx_ready, tx_payload, offered, next_word, takes);
        rx_valid <= offered;
        rx_payload <= next_word;
        tx_ready <= takes;
`ifdef SENSORS
        sense(
            pins,
            {
                core.counters.tx_words,
                core.counters.rx_words,
                core.counters.update_cycles,
                core.counters.load_cycles,
                core.counters.array_steps
            },
            core.power.phase[2:0],
            next_levels
        );
        levels <= next_levels;
`endif
    end
endmodule
