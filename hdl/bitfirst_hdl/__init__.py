"""Bitfirst's gateware: the contract, validated configurations, and the cores."""
