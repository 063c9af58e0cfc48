"""Options shared by commands of `meterhouse platform`."""

from __future__ import annotations

import logging
import os
import sys

import click

DSN_HELP = "Database, such as postgresql://user@host:5432/name; repeat --db for each shard, always in the same order."
db_option = click.option(
    "--db", "dsns", multiple=True, required=True, envvar="METERHOUSE_DB", metavar="DSN", help=DSN_HELP
)


def start_log() -> None:
    """Send log lines to stderr, from where they go to the journal."""
    logging.basicConfig(level=os.environ.get("MH_LOG", "INFO"), format="%(levelname)s %(message)s", stream=sys.stderr)
