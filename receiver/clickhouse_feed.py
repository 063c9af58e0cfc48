"""Copies checked packs from PostgreSQL to ClickHouse, each pack once, in batches. A batch is fixed before it is sent.

A batch consists of some lots, and of packs that changed after their lot had been sent. The number of the batch is the
token of its insert. If the feed is killed after the insert, but before it has recorded that the batch was sent, it
sends the batch again. ClickHouse then drops the repeated insert.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import psycopg

from drivers.backoff import Backoff
from receiver.bodies import Bodies
from receiver.clickhouse import Cell, ClickHouse, ClickHouseError
from receiver.database import Connection, DatabaseError, boot_text, open_database, shard_of, statement

log = logging.getLogger("meterhouse.platform")
PACKS: Final = 2000  # a batch with at least this many packs takes no further lot; lots are never split
CHANGES: Final = 1000  # one batch has at most this many changed packs
BOOT_CHANGES: Final = 50_000  # but this many packs of a boot with a finding, because they are sent without their bodies
RUNS: Final = 1000  # one DELETE names at most this many runs of sequences
PAUSE_S: Final = 2.0  # pause if there is nothing to send
STREAMS_S: Final = 60.0  # interval at which the states of streams are compared
FAULT_S: Final = 30.0  # pause after an internal error
LOCK: Final = 7_235_703  # advisory lock of the session, so that a database has only one feed

_CLAIM_LOTS: Final = """
UPDATE lots SET batch = %s WHERE lot IN (
  SELECT lot FROM (SELECT lot, sum(packs) OVER (ORDER BY lot) - packs AS before FROM (
    SELECT lot, packs FROM lots WHERE batch IS NULL AND checked IS NOT NULL ORDER BY lot LIMIT 2000) l) s
  WHERE before < %s)"""
_CLAIM_CHANGES: Final = """
UPDATE changed_packs SET batch = %s WHERE number IN (
  SELECT number FROM changed_packs WHERE batch IS NULL ORDER BY number LIMIT %s) RETURNING number"""
_CLAIM_BOOT: Final = """
INSERT INTO changed_packs (stream, seq, boot, from_ms, lot, back, batch)
SELECT p.stream, p.seq, p.boot, p.from_ms, p.lot, %(back)s, %(batch)s FROM boots b CROSS JOIN LATERAL (
  SELECT stream, seq, boot, from_ms, lot FROM packs
  WHERE stream = b.stream AND boot = b.boot AND seq > %(after)s AND seq BETWEEN lower(b.seqs) AND upper(b.seqs) - 1
  ORDER BY seq FETCH FIRST %(most)s ROWS WITH TIES) p
WHERE b.stream = %(stream)s AND b.boot = %(boot)s RETURNING seq"""
PACK_COLUMNS: Final = (
    "stream", "seq", "boot", "from_ms", "to_ms", "due", "readings", "gaps", "asleep", "reasons", "faults", "lot",
    "stored", "batch", "body",
)  # fmt: skip
FIGURE_COLUMNS: Final = (
    "gateway", "kind", "id", "period", "label", "from", "to", "value", "exact", "unit", "completeness", "verdict",
    "official", "seq", "boot", "stored", "result",
)  # fmt: skip


class ClickHouseFeed:
    """Feeds ClickHouse from one database. ``step`` sends one batch.

    Args:
        clock: monotonic seconds.
        place: (index of this database, number of databases); None: unknown.
    """

    def __init__(
        self,
        dsn: str,
        target: ClickHouse,
        clock: Callable[[], float] = time.monotonic,
        place: tuple[int, int] | None = None,
    ) -> None:
        self._dsn, self._target, self._clock, self._place = dsn, target, clock, place
        self._connection: Connection | None = None
        self._retry, self._away_until = Backoff(1.0, 30.0), 0.0
        self._token = ""
        self._streams: dict[str, tuple[bool, bool]] = {}  # the streams in ClickHouse: (asked, awaited)
        self._losses: dict[tuple[str, int, int], bool] = {}  # the losses in ClickHouse, and whether they count
        self._streams_at = 0.0
        self._problem = ""
        self.packs = self.failures = 0

    def step(self) -> int:
        """Send at most one batch. Returns the number of packs in it, which ClickHouse has then confirmed."""
        if self._clock() < self._away_until:
            return 0
        try:
            connection = self._connect()
            sent = 0
            if connection is not None:
                self._send_streams(connection)
                sent = self._send(connection)
        except (psycopg.Error, DatabaseError, ClickHouseError) as error:
            self._failed(error)
            return 0
        if self._problem:
            log.info("%s: connected; sending pending batches", self._target.where)
        self._problem = ""
        self._retry.reset()
        self.packs += sent
        return sent

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> Connection | None:
        """The connection to the database. None if another keeper already feeds ClickHouse from this database."""
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = open_database(self._dsn, self._place)
            self._token = ""
        if not self._token:
            if self._connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchall() != [(True,)]:
                self._away_until = self._clock() + 5.0
                return None
            self._target.make_tables()
            self._connection.execute("INSERT INTO clickhouse SELECT WHERE NOT EXISTS (SELECT FROM clickhouse)")
            self._streams, self._losses, self._streams_at = self._read_streams(), self._read_losses(), 0.0
            self._token = str(self._connection.execute("SELECT id FROM clickhouse").fetchall()[0][0])
        return self._connection

    def _read_streams(self) -> dict[str, tuple[bool, bool]]:
        """The streams of this database that ClickHouse has, with (asked, awaited)."""
        rows = self._read("streams", "stream, asked, awaited")
        return {name: (asked == "true", awaited == "true") for name, asked, awaited in rows}

    def _read_losses(self) -> dict[tuple[str, int, int], bool]:
        """The losses of this database that ClickHouse has, and whether they count."""
        rows = self._read("losses", "stream, first, last, counts")
        return {(name, int(first), int(last)): counts == "true" for name, first, last, counts in rows}

    def _read(self, table: str, columns: str) -> list[list[str]]:
        """The rows of a table in ClickHouse that are about streams of this database."""
        query = f"SELECT {columns} FROM {self._target.database}.{table} FINAL"
        place, shards = self._place or (0, 1)
        rows = [line.split("\t") for line in self._target.execute(query).splitlines()]
        return [row for row in rows if shard_of(row[0].rpartition("/")[0], shards) == place]

    def _send_streams(self, connection: Connection) -> None:
        """Send the states of streams, and the losses, that have changed. They say which missing packs count."""
        if (now := self._clock()) < self._streams_at:
            return
        found = connection.execute(statement("clickhouse_streams")).fetchall()
        states = dict.fromkeys(self._streams, (True, True)) | {name: (asked, awaited) for name, asked, awaited in found}
        rows = [(name, *state) for name, state in sorted(states.items()) if self._streams.get(name) != state]
        if rows:
            self._target.insert("streams", ("stream", "asked", "awaited"), rows, f"{self._token}-streams-{time.time()}")
        found = connection.execute(statement("clickhouse_losses")).fetchall()
        losses = dict.fromkeys(self._losses, False) | dict.fromkeys(found, True)
        lost = [(*key, counts) for key, counts in sorted(losses.items()) if self._losses.get(key) != counts]
        if lost:
            token = f"{self._token}-losses-{time.time()}"
            self._target.insert("losses", ("stream", "first", "last", "counts"), lost, token)
        self._streams, self._losses, self._streams_at = states, losses, now + STREAMS_S

    def _send(self, connection: Connection) -> int:
        batch = _open_batch(connection)
        if batch is None:
            return 0
        token = f"{self._token}-{batch}"
        lots = [lot for (lot,) in connection.execute("SELECT lot FROM lots WHERE batch = %s", [batch])]
        with connection.transaction():  # one transaction, so that packs and figures come from the same snapshot
            packs = self._target.insert("incoming", PACK_COLUMNS, _pack_rows(connection, batch, lots), token)
            changed, lost = _changed_rows(connection, batch, self._target)
            if changed:
                self._target.insert("incoming", PACK_COLUMNS, changed, f"{token}-changed")
            # delete readings and figures that are no longer trusted, but keep the rows of their packs
            for stream, seqs in lost.items():
                for statement_ in _deletes(self._target.database, stream, seqs):
                    self._target.execute(statement_)
            figures = _figure_rows(connection, batch, lots, self._target)
            if figures:
                self._target.insert("figures", FIGURE_COLUMNS, figures, token)
        with connection.transaction():
            connection.execute("UPDATE batches SET sent = now() WHERE batch = %s", [batch])
            connection.execute("DELETE FROM changed_packs WHERE batch = %s", [batch])
        return packs

    def _failed(self, error: Exception) -> None:
        delay_s = self._retry.next_s()
        self._away_until, self.failures = self._clock() + delay_s, self.failures + 1
        self.close()
        self._token = ""
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if text != self._problem:  # log each problem once, not at every retry
            log.warning("%s", text)
        self._problem = text


class FeedThread:
    """Runs the feeds of all shards in a separate thread, so that a slow ClickHouse does not delay the acks of the
    keeper.
    """

    def __init__(self, dsns: Sequence[str], url: str) -> None:
        self._feeds = [ClickHouseFeed(dsn, ClickHouse(url), place=(place, len(dsns))) for place, dsn in enumerate(dsns)]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clickhouse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the current batch. Waits at most 10 s. A batch without confirmation is sent again after the next
        start.
        """
        self._stop.set()
        self._thread.join(10.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                sent = sum([feed.step() for feed in self._feeds])
            except Exception:
                log.exception("internal error in the ClickHouse feed; retrying in %.0f s", FAULT_S)
                self._stop.wait(FAULT_S)
                continue
            if not sent:
                self._stop.wait(PAUSE_S)
        for feed in self._feeds:
            feed.close()


def _open_batch(connection: Connection) -> int | None:
    """The number of the batch that is not confirmed yet. If there is none, the number of a new batch.

    None if there is nothing to send.
    """
    row = connection.execute("SELECT min(batch) FROM batches WHERE sent IS NULL").fetchone()
    if row is not None and row[0] is not None:
        return int(row[0])
    with connection.transaction(), connection.cursor() as cursor:
        waits = (
            "SELECT EXISTS (SELECT FROM lots WHERE batch IS NULL AND checked IS NOT NULL) "
            "OR EXISTS (SELECT FROM changed_packs WHERE batch IS NULL) OR EXISTS (SELECT FROM changed_boots)"
        )
        if cursor.execute(waits).fetchall() == [(False,)]:
            return None
        batch = int(cursor.execute("INSERT INTO batches DEFAULT VALUES RETURNING batch").fetchall()[0][0])
        cursor.execute(_CLAIM_LOTS, [batch, PACKS])
        cursor.execute(_CLAIM_CHANGES, [batch, CHANGES])
        if cursor.rowcount < CHANGES:
            _claim_boot(cursor, batch, CHANGES - cursor.rowcount)
    return batch


def _claim_boot(cursor: psycopg.Cursor[Any], batch: int, most: int) -> None:
    """Add packs of a changed boot to a batch.

    Args:
        most: number of packs whose bodies may be sent.
    """
    query = "SELECT stream, boot, after, back FROM changed_boots ORDER BY stream, boot LIMIT 1 FOR UPDATE"
    if (row := cursor.execute(query).fetchone()) is None:
        return
    key = row[:2]
    # this is a statement of its own, so it sees what was committed while the one above waited for the row
    query = "SELECT EXISTS (SELECT FROM findings WHERE stream = %s AND boot = %s AND seq = 0)"
    is_found = cursor.execute(query, key).fetchall() == [(True,)]
    if is_found:  # if the finding goes before the batch is sent, the boot is in changed_boots again
        most = BOOT_CHANGES
    limits = {"stream": key[0], "boot": key[1], "after": row[2], "back": row[3] and not is_found, "batch": batch}
    seqs = [seq for (seq,) in cursor.execute(_CLAIM_BOOT, limits | {"most": most})]
    if len(seqs) < most:
        cursor.execute("DELETE FROM changed_boots WHERE stream = %s AND boot = %s", key)
    else:
        cursor.execute("UPDATE changed_boots SET after = %s WHERE stream = %s AND boot = %s", [max(seqs), *key])


def _pack_rows(connection: Connection, batch: int, lots: list[int]) -> Iterator[tuple[Cell, ...]]:
    bodies = Bodies(connection)
    with connection.cursor(name="clickhouse") as cursor:
        cursor.itersize = 500
        cursor.execute(statement("clickhouse_packs"), [lots])
        for row in cursor:
            yield _pack_row(row, batch, bodies)


def _pack_row(row: tuple[Any, ...], batch: int, bodies: Bodies | None) -> tuple[Cell, ...]:
    stream, seq, boot, from_ms, to_ms, due, readings, gaps, asleep, reasons, faults, lot, stored, body = row
    text, codes = "", list(faults or ())
    if bodies is not None and body is not None:
        try:
            text = bodies.read(bytes(body)).decode()
        except ValueError as error:
            log.error("sequence %d of %s: %s. ClickHouse gets the pack without its readings", seq, stream, error)
            codes.append("damaged")
    return (stream, seq, boot_text(boot), from_ms, to_ms, due, readings, gaps or 0, asleep or 0, reasons or {}, codes,
            lot, stored, batch, text)  # fmt: skip


def _changed_rows(
    connection: Connection, batch: int, target: ClickHouse
) -> tuple[list[tuple[Cell, ...]], dict[str, list[Any]]]:
    """Return (rows of the changed packs in the batch, packs whose readings are no longer trusted).

    If a pack has no finding any more, its row has its readings again, unless ClickHouse still has them. The second part
    is a dictionary: stream -> list of (seq, boot, lot).
    """
    lost, back = dict[str, list[Any]](), dict[str, list[Any]]()
    found = connection.execute(statement("clickhouse_changes"), {"batch": batch}).fetchall()
    for row in found:
        for packs, is_one in ((lost, row[10]), (back, row[13] is not None)):
            if is_one:
                packs.setdefault(row[0], []).append((row[1], boot_text(row[2]), row[11]))
    here = {(stream, *pack) for stream, packs in back.items() for pack in _present(target, stream, packs)}
    rows, bodies = [], Bodies(connection)
    for row in found:
        is_here = (row[0], row[1], boot_text(row[2]), row[11]) in here
        rows.append(_pack_row(row, batch, None if is_here else bodies))
    return rows, lost


def _present(target: ClickHouse, stream: str, packs: list[Any]) -> list[tuple[int, str, int]]:
    """Those of the packs of a stream whose readings are in ClickHouse."""
    keys = ", ".join(f"({seq}, '{boot}', {lot})" for seq, boot, lot in packs)
    query = f"SELECT DISTINCT seq, boot, lot FROM {target.database}.readings WHERE stream = '{stream}' "
    rows = (line.split("\t") for line in target.execute(query + f"AND (seq, boot, lot) IN ({keys})").splitlines())
    return [(int(seq), boot, int(lot)) for seq, boot, lot in rows]


def _deletes(database: str, stream: str, packs: list[Any]) -> Iterator[str]:
    """The statements that delete the readings and figures of some packs of a stream.

    They name no lot: of two packs with the same identity, neither is trusted.
    """
    gateway, _, name = stream.rpartition("/")
    runs = _runs((boot, seq) for seq, boot, _ in packs)
    for start in range(0, len(runs), RUNS):
        some = runs[start : start + RUNS]
        found = " OR ".join(f"boot = '{boot}' AND seq BETWEEN {first} AND {last}" for boot, first, last in some)
        yield f"DELETE FROM {database}.readings WHERE stream = '{stream}' AND ({found})"
        if name == "_indicators":
            yield f"DELETE FROM {database}.figures WHERE gateway = '{gateway}' AND ({found})"


def _runs(packs: Iterable[tuple[str, int]]) -> list[tuple[str, int, int]]:
    """Runs of consecutive sequences of a boot: (boot, first, last). A whole boot is a single run."""
    runs: list[tuple[str, int, int]] = []
    for boot, seq in sorted(packs):
        if runs and runs[-1][0] == boot and seq <= runs[-1][2] + 1:
            runs[-1] = (boot, runs[-1][1], seq)
        else:
            runs.append((boot, seq, seq))
    return runs


def _figure_rows(connection: Connection, batch: int, lots: list[int], target: ClickHouse) -> list[tuple[Cell, ...]]:
    """The figures of the packs in some lots, and the figures that ClickHouse lacks because their pack had a finding."""
    found = connection.execute(statement("clickhouse_figures"), {"batch": batch, "lots": lots}).fetchall()
    made = [((*row[:14], boot_text(row[14]), *row[15:17]), row[17]) for row in found]
    here = set[tuple[str, ...]]()
    if back := {(row[0], row[13], row[14]) for row, is_back in made if is_back}:
        keys = ", ".join(f"('{gateway}', {seq}, '{boot}')" for gateway, seq, boot in sorted(back))
        query = (
            f"SELECT DISTINCT gateway, seq, boot FROM {target.database}.figures WHERE (gateway, seq, boot) IN ({keys})"
        )
        here = {tuple(line.split("\t")) for line in target.execute(query).splitlines()}
    return [row for row, is_back in made if not is_back or (row[0], str(row[13]), row[14]) not in here]
