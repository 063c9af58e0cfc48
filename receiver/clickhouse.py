"""A client for the HTTP interface of ClickHouse. It creates the tables, inserts rows and deletes rows.

An insert may be repeated without harm.
"""

from __future__ import annotations

import http.client
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from drivers.model import GatewayError, UsageError, clean_text

TIMEOUT_S: Final = 120.0
DATABASE: Final = "meterhouse"
# The insert is synchronous and atomic. A repeated block is dropped. The number of partitions (months) is not limited,
# because a faulty clock can produce many.
_INSERT: Final = (
    "async_insert = 0, insert_deduplicate = 1, deduplicate_blocks_in_dependent_materialized_views = 1, "
    "max_partitions_per_insert_block = 0, max_insert_threads = 1, insert_deduplication_token = "
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"})
Cell = str | int | float | bool | Sequence[str] | dict[str, int] | None


class ClickHouseError(GatewayError):
    """ClickHouse is unreachable, or rejects a statement. A batch that was not confirmed is sent again later."""

    exit_code = 3


class ClickHouse:
    """One ClickHouse server. Each statement is a separate request with its own connection.

    Args:
        url: ``http://user@host:8123/database?password_file=FILE``, or ``https://`` with ``ca=FILE``.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        hint = "Expected a URL such as http://user@host:8123/meterhouse?password_file=FILE"
        try:
            parts = urlsplit(url)
            port, is_right = parts.port, parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            is_right = False
        if not is_right:
            raise UsageError(f'"{clean_text(url, 80)}" is not a ClickHouse URL', where="--clickhouse", hint=hint)
        options = dict(parse_qsl(parts.query))
        if unknown := options.keys() - {"password_file", "ca"}:
            raise UsageError(f'unknown option "{clean_text(min(unknown), 40)}"', where="--clickhouse", hint=hint)
        self.database = unquote(parts.path.strip("/")) or DATABASE
        if not _NAME.fullmatch(self.database):
            raise UsageError(f'database "{clean_text(self.database, 80)}"', where="--clickhouse", hint=hint)
        self._host, self._port = parts.hostname or "", port or (8443 if parts.scheme == "https" else 8123)
        self._headers: dict[str, str] = {}
        self._tls: ssl.SSLContext | None = None
        try:
            if parts.username:
                named = Path(options["password_file"]).read_text().strip() if "password_file" in options else ""
                self._headers["X-ClickHouse-User"] = unquote(parts.username)
                self._headers["X-ClickHouse-Key"] = named or unquote(parts.password or "")
            if parts.scheme == "https":
                self._tls = ssl.create_default_context(cafile=options.get("ca"))
        except (OSError, ValueError) as error:
            hint = "Does the file exist, and may this user read it?"
            raise UsageError(str(error), where="--clickhouse", hint=hint) from None

    @property
    def where(self) -> str:
        """The server's host and port, for messages."""
        return f"ClickHouse at {self._host}:{self._port}"

    def make_tables(self) -> None:
        """Create the tables and views that are missing. Existing ones are not changed."""
        text = (files(__package__) / "sql" / "clickhouse_tables.sql").read_text()
        for statement in re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).split(";\n"):
            made = statement.strip().replace("{db}", self.database)
            if made:
                self.execute(made)

    def execute(self, statement: str) -> str:
        """Run a statement and return the answer as text. Raises ClickHouseError."""
        return self._post(statement, b"")

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], token: str) -> int:
        """Insert all rows or none. Returns the number of rows. Raises ClickHouseError if the insert was not confirmed.

        A second insert with the same token does nothing. So an insert whose answer was lost may be repeated.
        """
        left = iter(rows)
        if (first := next(left, None)) is None:
            return 0  # an insert without rows would be an error in ClickHouse
        count = 0

        def lines() -> Iterator[bytes]:
            nonlocal count
            for row in chain([first], left):
                count += 1
                yield ("\t".join(map(_cell, row)) + "\n").encode()

        names = ", ".join(f'"{name}"' for name in columns)
        statement = f"INSERT INTO {self.database}.{table} ({names}) SETTINGS {_INSERT}'{token}' FORMAT TabSeparated\n"
        self._post(statement, lines())
        return count

    def _post(self, statement: str, body: bytes | Iterable[bytes]) -> str:
        path = "/?" + urlencode({"query": statement, "wait_end_of_query": "1"}, quote_via=quote)
        if self._tls is not None:
            link = http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._tls)
        else:
            link = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)  # type: ignore[assignment]
        try:
            link.request("POST", path, body=body, headers=self._headers, encode_chunked=not isinstance(body, bytes))
            answer = link.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            seen = str(error) or type(error).__name__
            raise ClickHouseError(
                seen, where=self.where, hint="Check that ClickHouse is running there; pending batches are retried"
            ) from None
        finally:
            link.close()
        if answer.status != 200:
            seen = clean_text(text.strip().splitlines()[0] if text.strip() else f"status {answer.status}", 300)
            raise ClickHouseError(
                seen, where=self.where, hint="ClickHouse rejected the request; pending batches are retried"
            )
        return text


def _cell(value: Cell) -> str:
    """A value as text in the format TabSeparated."""
    if value is None:
        return "\\N"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    if isinstance(value, dict):
        return "{" + ",".join(f"{_quoted(name)}:{number}" for name, number in value.items()) + "}"
    if isinstance(value, int | float):
        return repr(value)
    return "[" + ",".join(map(_quoted, value)) + "]"


def _quoted(text: str) -> str:
    return "'" + text.translate(_ESCAPES).replace("'", "\\'") + "'"
