"""Properties of the device's control, and the proofs of them by yosys-smtbmc."""
