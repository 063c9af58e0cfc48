"""Lets the tests of this folder share ``meter_cases``."""
