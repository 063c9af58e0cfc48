"""Turns readings into energy: the amounts of counters by interval, with flags."""
