"""Queries all databases of a platform. A database that cannot be reached is reported, and the others are still
queried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg

from receiver.database import (
    Connection,
    DatabaseAway,
    DatabaseError,
    open_database,
    parse_shards,
    rights_of,
    show_dsn,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Away:
    """A database that cannot be reached. ``place``: its number among the ``--db`` options, counted from 1."""

    place: int
    name: str
    why: str


def each_shard(
    dsns: Sequence[str], look: Callable[[Connection], T], *, timeout_s: int = 10, read_only: bool = False
) -> tuple[list[T], list[Away]]:
    """Call ``look`` for each database. Returns (results in the order of the databases, databases that cannot be
    reached).

    Args:
        read_only: let the server refuse changes in this session.

    Raises:
        DatabaseError: no database answers, or one of them cannot be used (no tables, another version, another place, a
        missing right).
    """
    found: list[T] = []
    away: list[Away] = []
    last: DatabaseError | None = None
    for place, dsn in enumerate(dsns):
        try:
            with open_database(dsn, (place, len(dsns)), timeout_s=timeout_s, note=not read_only) as connection:
                if read_only:
                    connection.execute("SET default_transaction_read_only = on")
                with rights_of(connection, dsn):
                    found.append(look(connection))
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            last = DatabaseAway(first, where=show_dsn(dsn), hint="Check that it is running")
            away.append(Away(place + 1, show_dsn(dsn), first))
        except DatabaseAway as error:
            last = error
            away.append(Away(place + 1, show_dsn(dsn), error.what))
    if last is not None and len(away) == len(dsns):
        raise last
    return found, away


def open_some(dsns: Sequence[str]) -> tuple[list[str], list[Away]]:
    """Check the databases of ``--db``. Returns (all DSNs, databases that cannot be reached).

    Raises the DatabaseErrors of ``each_shard``.
    """
    made = parse_shards(dsns)
    return made, each_shard(made, lambda connection: None)[1]
