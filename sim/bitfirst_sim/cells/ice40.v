// iCE40's table and pins in short: yosys has models of all its cells that are used.

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
