"""The compiled RTL as a board, and cocotb benches."""
