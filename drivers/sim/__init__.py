"""Simulates devices and lines, with faults, for tests, demos and users without hardware."""
