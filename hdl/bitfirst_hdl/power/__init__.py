"""The feature "power": sensors on an I2C bus, read in turn, and sums of what they say."""
