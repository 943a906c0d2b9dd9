"""The only definition of what host and device say to each other, and of the numeric rules. Plain data."""
