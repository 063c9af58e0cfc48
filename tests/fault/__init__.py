"""Faults by the hundred; scenarios are `play_*.py`, and `soak.py` plays them for hours."""
