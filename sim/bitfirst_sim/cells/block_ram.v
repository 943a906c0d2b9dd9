// What block RAMs of ECP5 and Gowin have in common: 512 rows of four bytes; one port writes, the other one reads. A port's words, of 1, 2, 4 bits or of 1, 2, 4 bytes, lie side
// by side in a row. Address bits 13 to 5: the row, 4 and 3: the byte, 2 to 0: the bit; those below a word of more than
// one byte are its bytes' write enables.
// What is read while it is written is undefined: here its complement, which is what nobody wants.
module block_ram #(
	parameter BYTE = 9,
	parameter WRITE_WIDTH = 36,
	parameter READ_WIDTH = 36,
	parameter RESET_MODE = "SYNC"
) (
	input write_clk, write,
	input [13:0] write_address,
	input [4*BYTE-1:0] write_data,
	input read_clk, read, reset,
	input [13:0] read_address,
	output reg [4*BYTE-1:0] read_data
);
	localparam ROW = 4 * BYTE;
	localparam [ROW-1:0] WRITTEN = {ROW{1'b1}} >> (ROW - WRITE_WIDTH);
	localparam [ROW-1:0] GIVEN = {ROW{1'b1}} >> (ROW - READ_WIDTH);

	function [5:0] place(input integer width, input [4:0] address);
		if (width == 4 * BYTE) place = 0;
		else if (width == 2 * BYTE) place = address[4] ? 2 * BYTE : 0;
		else if (width == BYTE) place = address[4:3] * BYTE;
		else place = address[4:3] * BYTE + (address[2:0] & ~(width - 1));
	endfunction

	reg [ROW-1:0] memory [0:511];

	wire [8:0] write_row = write_address[13:5];
	wire [8:0] read_row = read_address[13:5];
	wire [5:0] write_place = place(WRITE_WIDTH, write_address[4:0]);
	wire [5:0] read_place = place(READ_WIDTH, read_address[4:0]);
	wire [3:0] enables = WRITE_WIDTH > BYTE ? write_address[3:0] : 4'b1111;
	wire [ROW-1:0] enabled = {{BYTE{enables[3]}}, {BYTE{enables[2]}}, {BYTE{enables[1]}}, {BYTE{enables[0]}}};
	wire [ROW-1:0] written = write ? (enabled & WRITTEN) << write_place : {ROW{1'b0}};
	wire [ROW-1:0] clash = write_row == read_row ? written : {ROW{1'b0}};

	always @(posedge write_clk)
		memory[write_row] <= memory[write_row] & ~written | (write_data << write_place) & written;

	wire [ROW-1:0] given = ((memory[read_row] ^ clash) >> read_place) & GIVEN;

	generate
		if (RESET_MODE == "ASYNC") begin
			always @(posedge read_clk, posedge reset)
				if (reset) read_data <= 0;
				else if (read) read_data <= given;
		end else begin
			always @(posedge read_clk)
				if (reset) read_data <= 0;
				else if (read) read_data <= given;
		end
	endgenerate
endmodule
