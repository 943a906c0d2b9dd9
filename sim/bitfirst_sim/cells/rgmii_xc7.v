// The cells of Xilinx' 7 series in LiteEth's core on RGMII. Delays of pins and phases of clocks are none here, and the
// other end needs none.
//
// Source: 7 Series FPGAs SelectIO Resources (UG471), IDDR and ODDR; 7 Series FPGAs Clocking Resources (UG472), PLL.

module IBUF(input I, output O);
	assign O = I;
endmodule

module OBUF(input I, output O);
	assign O = I;
endmodule

module BUFG(input I, output O);
	assign O = I;
endmodule

module IDELAYCTRL(input REFCLK, RST);
endmodule

module IDELAYE2 #(
	parameter IDELAY_TYPE = "FIXED",
	parameter IDELAY_VALUE = 0,
	parameter REFCLK_FREQUENCY = 200.0
) (input C, CE, IDATAIN, INC, LD, LDPIPEEN, output DATAOUT);
	assign DATAOUT = IDATAIN;
endmodule

// In the mode SAME_EDGE: both inputs from the rising edge, D1 while the clock is high, D2 while it is low.
module ODDR #(
	parameter DDR_CLK_EDGE = "SAME_EDGE"
) (input C, CE, D1, D2, R, S, output Q);
	reg first, second;
	always @(posedge C) begin
		first <= D1;
		second <= D2;
	end
	assign Q = C ? first : second;
endmodule

// In the mode SAME_EDGE_PIPELINED: Q1 from the rising edge before, Q2 from the falling edge after that.
module IDDR #(
	parameter DDR_CLK_EDGE = "SAME_EDGE_PIPELINED"
) (input C, CE, D, R, S, output reg Q1, Q2);
	reg risen, fallen;
	always @(posedge C) risen <= D;
	always @(negedge C) fallen <= D;
	always @(posedge C) begin
		Q1 <= risen;
		Q2 <= fallen;
	end
endmodule

module FDCE #(parameter INIT = 1'b0) (input C, CE, CLR, D, output reg Q);
	initial Q = INIT;
	always @(posedge C or posedge CLR)
		if (CLR) Q <= 1'b0;
		else if (CE) Q <= D;
endmodule

module FDPE #(parameter INIT = 1'b1) (input C, CE, D, PRE, output reg Q);
	initial Q = INIT;
	always @(posedge C or posedge PRE)
		if (PRE) Q <= 1'b1;
		else if (CE) Q <= D;
endmodule

// It has lost its lock, and has none before it was reset.
module PLLE2_ADV #(
	parameter CLKFBOUT_MULT = 1,
	parameter CLKIN1_PERIOD = 8.0,
	parameter CLKOUT0_DIVIDE = 1,
	parameter CLKOUT0_PHASE = 0,
	parameter CLKOUT1_DIVIDE = 1,
	parameter CLKOUT1_PHASE = 0.0,
	parameter DIVCLK_DIVIDE = 1,
	parameter REF_JITTER1 = 0.01,
	parameter STARTUP_WAIT = "FALSE"
) (input CLKFBIN, CLKIN1, PWRDWN, RST, output CLKFBOUT, CLKOUT0, CLKOUT1, output reg LOCKED);
	reg reset;
	initial {reset, LOCKED} = 2'b00;
	always @(posedge CLKIN1) begin
		reset <= reset | RST;
		LOCKED <= reset & !RST;
	end
	assign CLKFBOUT = CLKIN1;
	assign CLKOUT0 = CLKIN1 & LOCKED;
	assign CLKOUT1 = CLKIN1 & LOCKED;
endmodule
