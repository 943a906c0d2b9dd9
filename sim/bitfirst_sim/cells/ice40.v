// iCE40's table in short. Of all its cells that are used, yosys has models.

// As yosys' model, which chooses in four steps: a simulator is compiled and runs faster so.
module SB_LUT4(input I0, I1, I2, I3, output O);
	parameter [15:0] LUT_INIT = 16'h0000;
	assign O = LUT_INIT[{I3, I2, I1, I0}];
endmodule
