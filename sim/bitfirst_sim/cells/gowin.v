// Gowin's cells of which yosys has no model, as far as `netlist.py` lets them be used, and its tables in short.
//
// Sources: Gowin BSRAM & SSRAM User Guide (UG285); yosys' gowin/brams_map.v, which maps memories to them.

// As yosys' models, which choose in steps: a simulator is compiled and runs faster so.
module LUT1(input I0, output F);
	parameter [1:0] INIT = 2'h0;
	assign F = INIT[{I0}];
endmodule

module LUT2(input I0, I1, output F);
	parameter [3:0] INIT = 4'h0;
	assign F = INIT[{I1, I0}];
endmodule

module LUT3(input I0, I1, I2, output F);
	parameter [7:0] INIT = 8'h0;
	assign F = INIT[{I2, I1, I0}];
endmodule

module LUT4(input I0, I1, I2, I3, output F);
	parameter [15:0] INIT = 16'h0;
	assign F = INIT[{I3, I2, I1, I0}];
endmodule

// Port A writes, port B reads.
module SDPB #(
	parameter BIT_WIDTH_0 = 32,
	parameter BIT_WIDTH_1 = 32,
	parameter RESET_MODE = "SYNC"
) (
	input CLKA, CEA, RESETA, CLKB, CEB, OCE, RESETB,
	input [2:0] BLKSELA, BLKSELB,
	input [13:0] ADA, ADB,
	input [31:0] DI,
	output [31:0] DO
);
	block_ram #(.BYTE(8), .WRITE_WIDTH(BIT_WIDTH_0), .READ_WIDTH(BIT_WIDTH_1), .RESET_MODE(RESET_MODE)) ram (
		.write_clk(CLKA), .write(CEA), .write_address(ADA), .write_data(DI),
		.read_clk(CLKB), .read(CEB), .reset(RESETB), .read_address(ADB), .read_data(DO)
	);
endmodule

module SDPX9B #(
	parameter BIT_WIDTH_0 = 36,
	parameter BIT_WIDTH_1 = 36,
	parameter RESET_MODE = "SYNC"
) (
	input CLKA, CEA, RESETA, CLKB, CEB, OCE, RESETB,
	input [2:0] BLKSELA, BLKSELB,
	input [13:0] ADA, ADB,
	input [35:0] DI,
	output [35:0] DO
);
	block_ram #(.BYTE(9), .WRITE_WIDTH(BIT_WIDTH_0), .READ_WIDTH(BIT_WIDTH_1), .RESET_MODE(RESET_MODE)) ram (
		.write_clk(CLKA), .write(CEA), .write_address(ADA), .write_data(DI),
		.read_clk(CLKB), .read(CEB), .reset(RESETB), .read_address(ADB), .read_data(DO)
	);
endmodule

module DPX9B #(
	parameter BIT_WIDTH_0 = 18,
	parameter BIT_WIDTH_1 = 18,
	parameter RESET_MODE = "SYNC"
) (
	input CLKA, CEA, OCEA, WREA, RESETA, CLKB, CEB, OCEB, WREB, RESETB,
	input [2:0] BLKSELA, BLKSELB,
	input [13:0] ADA, ADB,
	input [17:0] DIA, DIB,
	output [17:0] DOA, DOB
);
	wire [35:0] read_data;
	assign DOB = read_data[17:0];
	assign DOA = 18'b0;

	block_ram #(.BYTE(9), .WRITE_WIDTH(BIT_WIDTH_0), .READ_WIDTH(BIT_WIDTH_1), .RESET_MODE(RESET_MODE)) ram (
		.write_clk(CLKA), .write(CEA & WREA), .write_address(ADA), .write_data({18'b0, DIA}),
		.read_clk(CLKB), .read(CEB), .reset(RESETB), .read_address(ADB), .read_data(read_data)
	);
endmodule

// A pin that is always driven.
module TBUF(input I, OEN, output O);
	assign O = I;
endmodule
