// iCE40's table, memory and pins: yosys has models of all its cells that are used, which are longer to simulate.

// As yosys' model, which chooses in four steps: a simulator is compiled and runs faster so.
module SB_LUT4(input I0, I1, I2, I3, output O);
	parameter [15:0] LUT_INIT = 16'h0000;
	assign O = LUT_INIT[{I3, I2, I1, I0}];
endmodule

// A pin of one direction, without registers.
module SB_IO(inout PACKAGE_PIN, input CLOCK_ENABLE, OUTPUT_ENABLE, D_OUT_0, output D_IN_0);
	parameter [5:0] PIN_TYPE = 6'b000000;
	generate
		if (PIN_TYPE == 6'b000001) assign D_IN_0 = PACKAGE_PIN;
		else if (PIN_TYPE == 6'b101001) assign PACKAGE_PIN = D_OUT_0;
		else this_pin_type_is_not_in_the_model refused();
	endgenerate
endmodule

module SB_GB_IO(inout PACKAGE_PIN, input CLOCK_ENABLE, output GLOBAL_BUFFER_OUTPUT);
	assign GLOBAL_BUFFER_OUTPUT = PACKAGE_PIN;
endmodule

// 256 rows of 16 bits, as words of 16, 8, 4 or 2 (modes 0 to 3), which are spread over a row: bit i of word w is bit
// i * 2**mode + w of the row. A word's bits come and go at every 2**mode-th bit of a port, the first at bit 0, 0, 1, 3.
// What is read while it is written is undefined: here its complement, which is what nobody wants.
module SB_RAM40_4K(
	input WCLK, WCLKE, WE, RCLK, RCLKE, RE,
	input [10:0] WADDR, RADDR,
	input [15:0] MASK, WDATA,
	output [15:0] RDATA
);
	parameter [1:0] WRITE_MODE = 0;
	parameter [1:0] READ_MODE = 0;
	localparam [63:0] FIRST = 64'h0101_1111_5555_FFFF;  // of each word, bits in a row
	localparam [15:0] WRITTEN = FIRST[WRITE_MODE * 16 +: 16];
	localparam [15:0] GIVEN = FIRST[READ_MODE * 16 +: 16];
	localparam [2:0] WRITE_WORDS = (1 << WRITE_MODE) - 1;
	localparam [2:0] READ_WORDS = (1 << READ_MODE) - 1;
	localparam WRITE_AT = ((1 << WRITE_MODE) + 1) / 2 - 1;
	localparam READ_AT = ((1 << READ_MODE) + 1) / 2 - 1;

	reg [15:0] memory [0:255];
	reg [15:0] read_data;

	wire [2:0] write_word = WADDR[10:8] & WRITE_WORDS;
	wire [2:0] read_word = RADDR[10:8] & READ_WORDS;
	wire [15:0] data = ((WDATA >> WRITE_AT) & WRITTEN) << write_word;
	wire [15:0] enabled = WRITE_MODE == 0 ? ~MASK : WRITTEN << write_word;
	wire [15:0] written = WE && WCLKE ? enabled : 16'h0000;
	wire [15:0] clash = WADDR[7:0] == RADDR[7:0] ? written : 16'h0000;

	always @(posedge WCLK)
		memory[WADDR[7:0]] <= memory[WADDR[7:0]] & ~written | data & written;

	always @(posedge RCLK)
		if (RE && RCLKE) read_data <= ((memory[RADDR[7:0]] ^ clash) >> read_word) & GIVEN;

	assign RDATA = read_data << READ_AT;
endmodule
