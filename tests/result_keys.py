"""Keys that scripts rely on in what `bitfirst train --json` prints."""

TRAIN_KEYS = {
    "test_accuracy",
    "fp32_test_accuracy",
    "weights_sha256",
    "device",
    "cycles",
    "bit_macs",
    "bytes_moved",
    "utilisation",
    "energy",
    "wall_s",
    "report",
}
ENERGY_KEYS = {"total_j", "uncertainty_j", "provenance", "scope", "extrapolated"}
