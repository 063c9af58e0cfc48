"""Frames decoded, from bytes to values."""
