"""The feature "power": sensors on an I2C or SPI bus, read in turn, and sums of what they say."""
