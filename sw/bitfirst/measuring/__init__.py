"""Joules of a device, from its sensors: windows, their uncertainty, calibration."""
