// ECP5's cells between RGMII's pins and LiteEth's core. Delays of pins are none here, and the other end needs none.
//
// Source: ECP5 and ECP5-5G High-Speed I/O Interface (Lattice FPGA-TN-02035), generic DDR with one register stage.

module DELAYG #(
	parameter DEL_MODE = "USER_DEFINED",
	parameter DEL_VALUE = 0
) (input A, output Z);
	assign Z = A;
endmodule

// D0 while the clock is high, D1 while it is low.
module ODDRX1F(input SCLK, RST, D0, D1, output Q);
	reg first, second;
	always @(posedge SCLK) begin
		first <= D0;
		second <= D1;
	end
	assign Q = SCLK ? first : second;
endmodule

// Q0 from the rising edge before, Q1 from the falling edge after that; both change with the rising edge.
module IDDRX1F(input SCLK, RST, D, output reg Q0, Q1);
	reg risen, fallen;
	always @(posedge SCLK) risen <= D;
	always @(negedge SCLK) fallen <= D;
	always @(posedge SCLK) begin
		Q0 <= risen;
		Q1 <= fallen;
	end
endmodule

// A register that an asynchronous input sets; it is set at configuration.
module FD1S3BX(input D, CK, PD, output reg Q);
	initial Q = 1'b1;
	always @(posedge CK or posedge PD)
		if (PD) Q <= 1'b1;
		else Q <= D;
endmodule
