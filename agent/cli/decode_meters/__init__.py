"""``meterhouse decode`` for the meter protocols: DL/T 645, CJ/T 188, M-Bus, SunSpec, and counter series.

Bytes go in, one JSON object or a table comes out; no hardware, no store, no network.
"""
