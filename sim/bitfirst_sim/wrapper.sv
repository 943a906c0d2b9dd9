// The device and its host's end of the link. The host's side is in C++ and is asked once in each cycle, at the clock
// edge; so the device has no inputs but the clock, and one evaluation makes a cycle, with nothing computed twice.
//
// resting  nothing to do before the next word comes
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

module simulated (
    input clk,
    output resting
);
    wire rx_ready, tx_valid, idle;
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
        .idle(idle)
    );

    assign resting = idle & ~tx_valid;

    always @(`EDGE clk) begin
        exchange(rx_valid & rx_ready, tx_valid & tx_ready, tx_payload, offered, next_word, takes);
        rx_valid <= offered;
        rx_payload <= next_word;
        tx_ready <= takes;
    end
endmodule
