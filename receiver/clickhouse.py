"""A client for the HTTP interface of ClickHouse. It creates the tables, inserts rows and deletes rows.

An insert may be repeated without harm.
"""

from __future__ import annotations

import http.client
import logging
import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from drivers.model import GatewayError, UsageError, clean_text

log = logging.getLogger("meterhouse.platform")
TIMEOUT_S: Final = 120.0
DATABASE: Final = "meterhouse"
# The insert is synchronous and atomic. A repeated block is dropped. The number of partitions (months) is not limited,
# because a faulty clock can produce many.
_INSERT: Final = (
    "async_insert = 0, insert_deduplicate = 1, deduplicate_blocks_in_dependent_materialized_views = 1, "
    "max_partitions_per_insert_block = 0, max_insert_threads = 1, insert_deduplication_token = "
)
_VIEW: Final = re.compile(r"CREATE VIEW IF NOT EXISTS \w+\.(\w+) ")
_MARK: Final = "meterhouse"  # the first word of the comments of our views
_COMMENT: Final = re.compile(rf"{_MARK} ([0-9a-f]{{16}})(?: ([0-9a-f]{{16}}))?")
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
        self._kept: dict[str, str] = {}  # the views that stay as they are, and why
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
        """Create the tables and views that are missing. Existing tables are not changed.

        A view of an earlier version is replaced, unless somebody has changed it.
        """
        text = (files(__package__) / "sql" / "clickhouse_tables.sql").read_text()
        for statement in re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).split(";\n"):
            made = statement.strip().replace("{db}", self.database)
            if (view := _VIEW.match(made)) is not None:
                self._make_view(view[1], made)
            elif made:
                self.execute(made)

    def _make_view(self, name: str, statement: str) -> None:
        """Create or replace a view. Its comment has the hash of its statement, and that of the text that ClickHouse has
        made of it. Without such a comment, or with another text, it is a view of somebody else.
        """
        mark = _short_hash(statement)
        self.execute(f"{statement} COMMENT '{_MARK} {mark}'")
        try:
            comment, text = self._view(name)
            if not text:
                return  # this role may not see the view
            known = _COMMENT.fullmatch(comment)
            if known is None:
                self._stays(name, "it was made by somebody else, or by a version that wrote no comment")
                return
            if known[2] not in (None, text):
                if known[1] != mark:
                    self._stays(name, "its text was changed")
                return
            if known[1] != mark:
                replaced = statement.replace("CREATE VIEW IF NOT EXISTS", "CREATE OR REPLACE VIEW", 1)
                self.execute(f"{replaced} COMMENT '{_MARK} {mark}'")
                text = self._view(name)[1]
                log.info("%s: replaced the view %s by that of this version", self.where, name)
            elif known[2] is not None:
                return
            self.execute(f"ALTER TABLE {self.database}.{name} MODIFY COMMENT '{_MARK} {mark} {text}'")
        except ClickHouseError as error:  # such as a missing right: the export works with the old view, too
            self._stays(name, str(error))

    def _stays(self, name: str, why: str) -> None:
        """Log once that a view stays as it is. The tables are made anew at each retry of the export."""
        if self._kept.get(name) != why:
            text = "%s: the view %s.%s is not replaced by that of this version: %s. DROP VIEW lets it be made anew"
            log.warning(text, self.where, self.database, name, why)
        self._kept[name] = why

    def _view(self, name: str) -> tuple[str, str]:
        """The comment of a view, and the hash of its text. ("", "") if it is not visible."""
        query = "SELECT comment, as_select FROM system.tables WHERE "
        found = self.execute(f"{query}database = '{self.database}' AND name = '{name}'")
        comment, _, text = found.rstrip("\n").partition("\t")
        return comment, _short_hash(text) if text else ""

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


def _short_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]


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
