"""Boards as data: pins, clock, link, default array."""
