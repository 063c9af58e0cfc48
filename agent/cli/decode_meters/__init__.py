"""``meterhouse decode`` for the meter protocols: DL/T 645, CJ/T 188, M-Bus, SunSpec, and counter series.

Bytes go in, one JSON object or a table comes out; no hardware, no store, no network.
"""

import click

from agent.cli.decode_meters import cjt188, counter, dlt645, mbus, sunspec

COMMANDS: list[click.Command] = [dlt645.command, cjt188.command, mbus.command, sunspec.command, counter.command]
