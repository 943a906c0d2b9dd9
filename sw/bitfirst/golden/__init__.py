"""The golden model: what every device computes and counts, bit by bit, in PyTorch and numpy."""
