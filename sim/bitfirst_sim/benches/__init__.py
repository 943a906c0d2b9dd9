"""cocotb benches: one module for each core, run by `bitfirst_sim.bench.run_bench`."""
