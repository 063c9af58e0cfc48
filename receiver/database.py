"""Connections to PostgreSQL 15 to 17, and the tables."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import psycopg
from psycopg.conninfo import conninfo_to_dict

from drivers.model import ConfigError

SCHEMA: Final = "meterhouse"
OLDEST: Final = 150_000  # PostgreSQL 15 is the oldest version that is accepted
SCHEMA_VERSION: Final = 1  # of schema.sql; docs/contributing.md says how a change of the tables will be released
CREATION_LOCK: Final = 7_235_700  # advisory lock, so that only one process creates the tables at a time
Connection = psycopg.Connection[tuple[Any, ...]]


class DatabaseError(ConfigError):
    """The database cannot be used. Reasons are a wrong address, a missing right, or another version of the schema."""


class DatabaseAway(DatabaseError):
    """The database does not answer at the moment. Work with the platform's other databases continues."""


def connect(dsn: str, *, timeout_s: int = 10) -> Connection:
    """Connect in autocommit mode, with our schema in the search path.

    Raises:
        DatabaseError: the database refuses the connection or is too old.
        DatabaseAway: it does not answer.
    """
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=timeout_s, application_name="meterhouse")
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        hint = "Check that PostgreSQL is running there and that this user may log in. Expected a URL such as postgresql://user@host:5432/name"
        kind = DatabaseAway if isinstance(error, psycopg.OperationalError) else DatabaseError
        raise kind(first, where=show_dsn(dsn), hint=hint) from None
    if connection.info.server_version < OLDEST:
        version = connection.info.server_version // 10_000
        connection.close()
        raise DatabaseError(f"PostgreSQL {version}", where=show_dsn(dsn), hint="Version 15 or later is needed")
    # JIT is off, because compiling our queries would take seconds, while running them takes milliseconds
    connection.execute(f"SET search_path TO {SCHEMA}; SET jit = off".encode())
    return connection


def show_dsn(dsn: str) -> str:
    """Host, port and name of a database. The password is left out."""
    try:
        facts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "--db"
    return f"database {facts.get('dbname', '')} at {facts.get('host', 'the local socket')}:{facts.get('port', 5432)}"


def create_tables(dsn: str) -> bool:
    """Create the tables. Returns False if the database has them already.

    Raises:
        DatabaseError: the database cannot be used, or its tables are of another version.
    """
    with connect(dsn) as connection, rights_of(connection, dsn):
        connection.execute("SELECT pg_advisory_lock(%s)", [CREATION_LOCK])
        if (found := _version(connection)) is not None:
            _check_version(found, dsn)
            return False
        with connection.transaction():
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute("CREATE TABLE schema_version (number int NOT NULL)")
            connection.execute((files(__package__) / "schema.sql").read_bytes())
            connection.execute("INSERT INTO schema_version VALUES (%s)", [SCHEMA_VERSION])
    return True


@contextlib.contextmanager
def rights_of(connection: Connection, dsn: str) -> Iterator[None]:
    """A context that converts a missing privilege to a DatabaseError. The error names the role."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        seen = f'the role "{connection.info.user}" may not use this database: {str(error).strip().splitlines()[0]}'
        hint = "Grant the role this right, or give another role in --db"
        raise DatabaseError(seen, where=show_dsn(dsn), hint=hint) from None


def check_schema(connection: Connection, dsn: str) -> None:
    """Raise DatabaseError if the database has no tables, or tables of another version."""
    found = _version(connection)
    if found is None:
        query = "SELECT has_schema_privilege(oid, 'USAGE') FROM pg_namespace WHERE nspname = %s"
        if connection.execute(query, [SCHEMA]).fetchone() == (False,):
            raise psycopg.errors.InsufficientPrivilege(f"permission denied for schema {SCHEMA}") from None
        hint = "Run meterhouse platform init --db ..."
        raise DatabaseError("the database has no meterhouse tables", where=show_dsn(dsn), hint=hint)
    _check_version(found, dsn)


def _version(connection: Connection) -> int | None:
    """The version of the tables; None if there are none."""
    try:
        row = connection.execute("SELECT number FROM schema_version").fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    return None if row is None else row[0]


def _check_version(found: int, dsn: str) -> None:
    if found != SCHEMA_VERSION:
        seen = f"the database's tables have version {found}, but this program needs version {SCHEMA_VERSION}"
        hint = "Use the version of meterhouse that made the database, or create a new database"
        raise DatabaseError(seen, where=show_dsn(dsn), hint=hint)


def statement(name: str) -> bytes:
    """The text of ``sql/<name>.sql``."""
    return (files(__package__) / "sql" / f"{name}.sql").read_bytes()


def check_place(connection: Connection, dsn: str, place: int, shards: int, *, note: bool = True) -> None:
    """Check that the database is the shard that its position in ``--db`` implies. A new database records its place.

    Args:
        place: index of the database, from 0.
        shards: number of databases.
        note: False: do not record the place in a new database.

    Raises:
        DatabaseError: the database was created with another place or another number of databases.
    """
    row = connection.execute("SELECT place, shards FROM shard").fetchone()
    if row is None:
        if not note:
            return
        connection.execute("INSERT INTO shard (place, shards) VALUES (%s, %s)", [place, shards])
    elif row != (place, shards):
        made = f"it was created as database number {row[0] + 1} of {row[1]}"
        seen = f"according to --db, this is database number {place + 1} of {shards}, but {made}"
        hint = "Give all --db options, always in the same order: the name of a gateway decides which database it is in"
        raise DatabaseError(seen, where=show_dsn(dsn), hint=hint)


def open_database(
    dsn: str, place: tuple[int, int] | None = None, *, timeout_s: int = 10, note: bool = True
) -> Connection:
    """Connect to a database that already has the platform's tables.

    Args:
        place: (index of this database, number of databases); None: do not check.
        note: record the place in a new database.

    Raises:
        DatabaseError: the database does not answer, has no tables or those of another version, or is another shard. Or
        our role lacks a right.
    """
    connection = connect(dsn, timeout_s=timeout_s)
    try:
        with rights_of(connection, dsn):
            check_schema(connection, dsn)
            if place is not None:
                check_place(connection, dsn, *place, note=note)
    except BaseException:
        connection.close()
        raise
    return connection


def open_shards(dsns: Sequence[str]) -> list[str]:
    """Check the databases of ``--db``. Returns their DSNs. Raises DatabaseError if a database cannot be used."""
    made = parse_shards(dsns)
    for place, dsn in enumerate(made):
        open_database(dsn, (place, len(made))).close()
    return made


def shard_of(gateway: str, shards: int) -> int:
    """Index of the database that holds all data of a gateway.

    Args:
        gateway: ``<site>/<gateway>``.
        shards: number of databases.
    """
    return crc32(gateway.encode()) % shards


def stream_id(name: str) -> int:
    """The id of a stream. It is a hash of the name, so workers need no query to get it."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big", signed=True)


def boot_number(boot: str) -> int:
    """Convert a boot of 16 hex digits to the signed 64-bit number in the tables."""
    return int.from_bytes(bytes.fromhex(boot), "big", signed=True)


def boot_text(number: int) -> str:
    """The 16 hex digits of a boot. Inverse of ``boot_number``."""
    return number.to_bytes(8, "big", signed=True).hex()


def short_hash(digest: bytes) -> UUID:
    """The first 16 bytes of a SHA-256, which identify a pack in the tables."""
    return UUID(bytes=digest[:16])


def json_text(value: object) -> str:
    """JSON for a column of the type jsonb. NUL characters are removed, because jsonb cannot store them."""
    text = json.dumps(value)
    return json.dumps(_without_nul(value)) if "\\u0000" in text else text


def _without_nul(value: object) -> object:
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    return value.replace("\0", "") if isinstance(value, str) else value


def month_of(ms: int) -> date | None:
    """The first day of the month of a time in UTC ms. None if the time is before 2020, or more than ten days ahead."""
    now = datetime.now(UTC).timestamp() * 1000
    if not 1_577_836_800_000 <= ms < now + 10 * 86_400_000:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).date().replace(day=1)


def parse_shards(dsns: Sequence[str]) -> list[str]:
    """The DSNs of ``--db``. Raises DatabaseError if there is none, or if one is repeated.

    Their order matters, because it determines which database holds a gateway.
    """
    made = [dsn.strip() for dsn in dsns if dsn.strip()]
    if not made:
        raise DatabaseError(
            "no database given", where="--db", hint="Expected --db with a URL such as postgresql://user@host:5432/name"
        )
    if len({re.sub(r"\s+", " ", dsn) for dsn in made}) < len(made):
        raise DatabaseError("the same database is given twice", where="--db", hint="Each shard needs its own database")
    return made
