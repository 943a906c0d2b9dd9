// ECP5's cells of which yosys has no model, as far as `netlist.py` lets them be used, and its tables in short.
//
// Sources: ECP5 and ECP5-5G Memory Usage Guide (Lattice FPGA-TN-02204), ECP5 and ECP5-5G sysDSP Usage Guide (Lattice
// FPGA-TN-02205); yosys' lattice/brams_map_16kd.v, which maps memories to DP16KD.

// As yosys' models, which choose in four steps: a simulator is compiled and runs faster so.
module LUT4(input A, B, C, D, output Z);
	parameter [15:0] INIT = 16'h0000;
	assign Z = INIT[{D, C, B, A}];
endmodule

module LUT2(input A, B, output Z);
	parameter [3:0] INIT = 4'h0;
	assign Z = INIT[{B, A}];
endmodule

// Port A writes, port B reads. Words of 36 bits take the data pins of both ports.
module DP16KD #(
	parameter DATA_WIDTH_A = 18,
	parameter DATA_WIDTH_B = 18,
	parameter RESETMODE = "SYNC"
) (
	input CLKA, CEA, OCEA, WEA, RSTA, CSA2, CSA1, CSA0, CLKB, CEB, OCEB, WEB, RSTB, CSB2, CSB1, CSB0,
	input ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0,
	input ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0,
	input DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
	input DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
	input DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
	input DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
	output DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
	output DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
	output DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
	output DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
);
	wire [13:0] write_address = {ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5, ADA4, ADA3, ADA2, ADA1, ADA0};
	wire [13:0] read_address = {ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5, ADB4, ADB3, ADB2, ADB1, ADB0};
	wire [17:0] dia = {
		DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9, DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0
	};
	wire [17:0] dib = {
		DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9, DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0
	};
	wire [35:0] read_data;
	wire [17:0] doa = read_data[17:0];
	wire [17:0] dob = DATA_WIDTH_B == 36 ? read_data[35:18] : read_data[17:0];

	assign {
		DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9, DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0
	} = DATA_WIDTH_B == 36 ? doa : 18'b0;
	assign {
		DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9, DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0
	} = dob;

	block_ram #(.BYTE(9), .WRITE_WIDTH(DATA_WIDTH_A), .READ_WIDTH(DATA_WIDTH_B), .RESET_MODE(RESETMODE)) ram (
		.write_clk(CLKA), .write(CEA & WEA), .write_address(write_address), .write_data({dib, dia}),
		.read_clk(CLKB), .read(CEB), .reset(RSTB), .read_address(read_address), .read_data(read_data)
	);
endmodule

// Product of 18 bits each, signed or not, without registers.
module MULT18X18D(
	input A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0,
	input B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0,
	input C17, C16, C15, C14, C13, C12, C11, C10, C9, C8, C7, C6, C5, C4, C3, C2, C1, C0,
	input SIGNEDA, SIGNEDB, SOURCEA, SOURCEB,
	output P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
	output P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
);
	wire [17:0] a = {A17, A16, A15, A14, A13, A12, A11, A10, A9, A8, A7, A6, A5, A4, A3, A2, A1, A0};
	wire [17:0] b = {B17, B16, B15, B14, B13, B12, B11, B10, B9, B8, B7, B6, B5, B4, B3, B2, B1, B0};
	wire [35:0] wide_a = {{18{SIGNEDA & A17}}, a};
	wire [35:0] wide_b = {{18{SIGNEDB & B17}}, b};
	assign {
		P35, P34, P33, P32, P31, P30, P29, P28, P27, P26, P25, P24, P23, P22, P21, P20, P19, P18,
		P17, P16, P15, P14, P13, P12, P11, P10, P9, P8, P7, P6, P5, P4, P3, P2, P1, P0
	} = wide_a * wide_b;
endmodule

// A pin of one direction.
module TRELLIS_IO(inout B, input I, T, output O);
	parameter DIR = "INPUT";
	generate
		if (DIR == "INPUT") assign O = B;
		else if (DIR == "OUTPUT") assign B = I;
		else two_directions_are_not_in_the_model refused();
	endgenerate
endmodule

// Releases the reset that the configuration of the chip is, which left every register as it begins here.
module SGSR(input CLK, GSR);
endmodule
