"""Options that several commands of `meterhouse platform` have."""

from __future__ import annotations

import click

DSN_HELP = (
    "PostgreSQL, such as postgresql://user@host:5432/name; several times for several shards, always in one order."
)
db_option = click.option(
    "--db", "dsns", multiple=True, required=True, envvar="METERHOUSE_DB", metavar="DSN", help=DSN_HELP
)
