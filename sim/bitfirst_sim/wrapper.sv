// The device as the harness sees it: what a clock edge moved, noted at that edge, so that one evaluation makes a cycle.
//
// taken, given, word  in the last cycle a word of rx went in, one of tx (`word`) came out
// resting             nothing to do before the next word comes

module simulated (
    input clk,
    input rst,
    input rx_valid,
    input [`LINK_BITS-1:0] rx_payload,
    input tx_ready,
    output reg taken,
    output reg given,
    output reg [`LINK_BITS-1:0] word,
    output resting
);
    wire rx_ready, tx_valid, idle;
    wire [`LINK_BITS-1:0] tx_payload;

    `CORE core (
        .clk(clk),
        .rst(rst),
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
        taken <= rx_valid & rx_ready;
        given <= tx_valid & tx_ready;
        word <= tx_payload;
    end
endmodule
