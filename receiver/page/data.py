"""The queries of the page. Every connection to a database is read-only, and every query has a time limit."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

import psycopg

from drivers.model import GatewayError
from receiver.bodies import Bodies, digest_of
from receiver.database import Connection, connect, parse_shards, shard_of, statement, stream_id
from receiver.fleet_state import FleetState, GatewayState, fleet_state, joined
from receiver.page.figures import MOST_PACKS, QUARTER_MS, Figures, figures_of
from receiver.shards import each_shard

T = TypeVar("T")
DAYS: Final = 14  # number of days whose completeness the page shows, including today
FRESH_S: Final = 5.0  # for this time, the last state of the fleet is shown again without a new query
# the pause before the next query is this many times the duration of the last query, to limit the load on the databases
SHARE: Final = 5
PATIENCE_S: Final = 0.2  # a viewer waits this long for a newer state; then the previous state is shown
OLDEST_S: Final = 180.0  # if the previous state is older than this, the viewer waits for the new state
IDLE_S: Final = 60.0  # interval between queries while there are no viewers, so that the next viewer need not wait
STATEMENT_MS: Final = 20_000
CONNECT_S: Final = 3
MOST_ROWS: Final = 500  # a page shows at most this many findings, and this many holes
# all packs are shorter than this, except those that state a gap without any reading, such as a downtime
USUAL_PACK_MS: Final = 3_600_000
KEPT_FIGURES: Final = 64
_DAYS: Final = statement("fleet_days")
_STREAMS: Final = statement("streams")
_NEWEST: Final = statement("newest_pack")
# In each boot, the last pack that begins before a time. The table boots limits the search to the boots of that time.
# The sequences make it a search in an index.
_LONG: Final = """
SELECT min(p.from_ms) FROM boots b CROSS JOIN LATERAL (
  SELECT p.from_ms, p.to_ms FROM packs p WHERE p.stream = b.stream AND p.boot = b.boot
  AND p.seq BETWEEN lower(b.seqs) AND upper(b.seqs) - 1 AND p.from_ms < %(before)s ORDER BY p.seq DESC LIMIT 1) p
WHERE b.stream = %(stream)s AND b.from_ms < %(before)s AND b.to_ms > %(at)s AND p.to_ms > %(at)s"""

Shares = dict[date, float | None]  # UTC day -> share of the due readings that were received; None: no reading was due


@dataclass(frozen=True, slots=True)
class FleetView:
    """The state of all gateways at one moment, and the completeness of each gateway by day."""

    state: FleetState
    shares: dict[str, Shares]
    days: list[date]
    time_s: float


class StreamState(NamedTuple):
    """The state of one stream. ``name`` is the last part of the stream's name. Packs and readings are counted from the
    first day that the page shows.
    """

    name: str
    state: GatewayState


class PackRow(NamedTuple):
    """A row of a table of packs. ``hash``: the full SHA-256 (32 bytes).

    If the row is damaged, ``body`` is empty, and ``hash`` has only the stored first 16 bytes.
    """

    stream: str
    seq: int
    boot: int
    from_ms: int
    to_ms: int
    readings: int
    due: int | None
    gaps: int | None
    received: datetime | None
    checked: bool
    codes: tuple[str, ...]
    body: bytes
    hash: bytes
    is_fork: bool = False


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """All facts about one gateway that the gateway's page shows."""

    state: GatewayState
    shares: Shares
    days: list[date]
    streams: list[StreamState]
    findings: list[tuple[str, int, int, str, datetime | None]]  # (stream, seq, boot, code, time)
    # (stream, first seq, last seq, whether the gateway declares the packs lost)
    holes: list[tuple[str, int, int, bool]]
    refusals: list[tuple[str, int, str, datetime]]  # (code, number of messages, last reason, last time)
    thumbprints: list[tuple[str, datetime]]
    # (counter of the keys object, time of its last change); None: no keys object has come yet
    keys: tuple[int, datetime] | None
    asked: list[str] = field(default_factory=list)  # streams that are requested from the gateway; empty: all streams


class FleetData:
    """Queries the platform's databases. It may be used from several threads."""

    def __init__(self, dsns: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._dsns, self._clock = parse_shards(dsns), clock
        self._lock = threading.Lock()
        self._fleet: FleetView | None = None
        self._asked_s = self._cost_s = 0.0  # start and duration of the last query for the state of the fleet
        self._asking: Future[FleetView] | None = None
        self._asker = ThreadPoolExecutor(1, "fleet")
        self._figures: OrderedDict[tuple[str, str, date, str], Figures] = OrderedDict()

    def fleet(self) -> FleetView:
        """The state of the whole fleet. One query serves all viewers.

        If the query fails or takes longer than ``PATIENCE_S``, the previous state is returned.

        Raises:
            DatabaseError: no database answers, and there is no state from the last three minutes.
        """
        with self._lock:
            age_s, before = self._clock() - self._asked_s, self._fleet
            if before is not None and age_s < max(FRESH_S, SHARE * self._cost_s):
                return before
            if self._asking is None or self._asking.done():
                self._asking = self._asker.submit(self._renew)
            asking = self._asking
        if before is None or age_s > OLDEST_S:
            return asking.result()
        try:
            return asking.result(PATIENCE_S)
        except (TimeoutError, GatewayError, psycopg.Error):
            return before

    def _renew(self) -> FleetView:
        begin = self._clock()
        made = self._ask_fleet()
        with self._lock:
            self._fleet, self._asked_s, self._cost_s = made, begin, self._clock() - begin
        return made

    def close(self) -> None:
        """Stop: no more queries are started."""
        self._asker.shutdown(wait=False, cancel_futures=True)

    def _ask_fleet(self) -> FleetView:
        days = last_days()

        def look(connection: Connection) -> tuple[FleetState, list[tuple[Any, ...]]]:
            connection.execute(f"SET statement_timeout = {STATEMENT_MS}".encode())
            shares = connection.execute(_DAYS, {"since": days[0], "streams": None}).fetchall()
            return fleet_state(connection, None, str(days[0])), shares

        found, away = each_shard(self._dsns, look, timeout_s=CONNECT_S, read_only=True)
        state = joined([made for made, _ in found], away)
        shares: dict[str, Shares] = {}
        for _, rows in found:
            for gateway, day, readings, due, _ in rows:
                shares.setdefault(gateway, {})[day] = readings / due if due > 0 else None
        return FleetView(state, shares, days, time.time())

    def _ask(self, gateway: str, look: Callable[[Connection], T]) -> T:
        """Run ``look`` in the database that holds a gateway. All queries of ``look`` see the same snapshot."""
        dsn = self._dsns[shard_of(gateway, len(self._dsns))]
        with connect(dsn, timeout_s=CONNECT_S) as connection:
            connection.execute(f"SET statement_timeout = {STATEMENT_MS}".encode())
            connection.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            return look(connection)

    def gateway(self, name: str) -> GatewayFacts | None:
        """The facts about a gateway. None if it is not enrolled."""
        return self._ask(name, lambda connection: _gateway(connection, name))

    def stream_days(self, stream: str) -> tuple[list[date], list[str], int | None] | None:
        """Return (UTC days with settled packs, points, end of the newest pack in UTC ms). None if the stream is
        unknown.

        The newest day comes last. The points are those of the newest pack's birth. The end is None if no pack is stored
        any more.
        """

        def look(connection: Connection) -> tuple[list[date], list[str], int | None] | None:
            number = stream_id(stream)
            if connection.execute("SELECT FROM streams WHERE id = %s", [number]).fetchone() is None:
                return None
            days = connection.execute("SELECT day FROM days WHERE stream = %s ORDER BY day", [number]).fetchall()
            row = connection.execute(_NEWEST, {"stream": number}).fetchone()
            points = row[2].get("points", []) if row else []
            names = [one["n"] for one in points if isinstance(one, dict) and isinstance(one.get("n"), str)]
            return [day for (day,) in days], names, row[3] if row else None

        return self._ask(stream.rpartition("/")[0], look)

    def figures(self, stream: str, point: str, day: date, from_ms: int, to_ms: int) -> Figures:
        """The 15-minute figures of a point for a day. They are calculated from the bodies of the day's packs.

        Args:
            from_ms: beginning of the day in UTC ms.
            to_ms: end of the day in UTC ms.
        """

        def look(connection: Connection) -> Figures:
            number = stream_id(stream)
            first_ms = from_ms - QUARTER_MS
            begin_ms = _begin_ms(connection, number, first_ms)
            found = frozenset(
                connection.execute("SELECT seq, boot FROM all_findings WHERE stream = %s", [number]).fetchall()
            )
            # settling and revocation change stored packs, and a pack may get a finding later, so the number of packs
            # alone does not show every change
            newest = connection.execute(
                "SELECT max(lot), count(*), count(faults), count(due) FROM packs "
                "WHERE stream = %s AND from_ms >= %s AND from_ms < %s",
                [number, begin_ms, to_ms],
            ).fetchone()
            key, stamp = (stream, point, day, f"{from_ms}"), f"{newest} {len(found)} {hash(found)}"
            with self._lock:
                kept = self._figures.get(key)
            if kept is not None and kept.stamp == stamp:
                return kept
            birth = connection.execute(
                "SELECT b.hash, t.value FROM packs p JOIN births b ON b.hash = p.birth "
                "JOIN point_tables t ON t.hash = b.points "
                "WHERE p.stream = %s AND p.from_ms >= %s AND p.from_ms < %s "
                "ORDER BY p.from_ms DESC, p.seq DESC LIMIT 1",
                [number, begin_ms, to_ms],
            ).fetchone()
            declared = (
                birth
                and connection.execute(
                    "SELECT seq FROM packs WHERE stream = %s AND hash = %s AND is_birth LIMIT 1", [number, birth[0]]
                ).fetchone()
            )
            rows = connection.execute(
                "SELECT from_ms, to_ms, faults IS NULL, seq, boot, body FROM packs "
                "WHERE stream = %s AND from_ms >= %s AND from_ms < %s AND to_ms > %s ORDER BY from_ms, seq LIMIT %s",
                [number, begin_ms, to_ms, first_ms, MOST_PACKS],
            ).fetchall()
            bodies = Bodies(connection)
            packs = (
                # a finding with sequence 0 concerns all packs of its boot
                (low, high, sound and raw is not None and found.isdisjoint([(seq, boot), (0, boot)]), raw or b"")
                for low, high, sound, seq, boot, body in rows
                for raw in (_readable(bodies, body),)
            )
            made = figures_of(
                packs, point, birth[1] if birth else {}, (from_ms, to_ms), stamp, declared[0] if declared else None
            )
            with self._lock:
                self._figures[key] = made
                while len(self._figures) > KEPT_FIGURES:
                    self._figures.popitem(last=False)
            return made

        return self._ask(stream.rpartition("/")[0], look)

    def packs_between(self, stream: str, from_ms: int, to_ms: int, most: int) -> list[PackRow]:
        """The packs that overlap a time range, the oldest first. Their twins follow: other packs with the same
        identity.
        """
        where = (
            "p.stream = %s AND p.from_ms >= %s AND p.from_ms < %s AND p.to_ms > %s ORDER BY p.from_ms, p.seq LIMIT %s"
        )

        def look(connection: Connection) -> list[PackRow]:
            number = stream_id(stream)
            values = [number, _begin_ms(connection, number, from_ms), to_ms, from_ms, most]
            return _packs(connection, stream, where, values)

        return self._ask(stream.rpartition("/")[0], look)

    def packs_at(self, stream: str, seq: int) -> list[PackRow]:
        """The packs with a given sequence. There is usually one, but each boot may have one, and twins may exist."""
        where, values = "p.stream = %s AND p.seq = %s ORDER BY p.from_ms LIMIT 20", [stream_id(stream), seq]
        return self._ask(stream.rpartition("/")[0], lambda connection: _packs(connection, stream, where, values))


def _begin_ms(connection: Connection, stream: int, at_ms: int) -> int:
    """A time at or before the beginnings of all packs that cover ``at_ms`` or begin later."""
    before_ms = at_ms - USUAL_PACK_MS
    row = connection.execute(_LONG, {"stream": stream, "before": before_ms, "at": at_ms}).fetchone()
    return before_ms if row is None or row[0] is None else int(row[0])


def last_days(count: int = DAYS) -> list[date]:
    """The last ``count`` UTC days, up to today."""
    today = datetime.now(UTC).date()
    return [today - timedelta(days=count - 1 - number) for number in range(count)]


def _gateway(connection: Connection, name: str) -> GatewayFacts | None:
    days = last_days()
    pins = connection.execute("SELECT thumbprint, enrolled FROM pins WHERE gateway = %s ORDER BY 2", [name]).fetchall()
    if not pins:
        return None
    rows = connection.execute(_STREAMS, {"gateway": name, "since": days[0]}).fetchall()
    streams, names = [], {}
    unasked = []
    for full, number, newest, *counts, codes, reasons, is_asked in rows:
        packs, readings, due, gaps, asleep, missing, lost, withheld, unsettled, restarts = map(int, counts)
        one = GatewayState(
            full, newest, packs, readings, due, gaps, asleep, missing, lost, withheld, codes or {}, reasons or {},
            unsettled=unsettled, restarts=restarts,
        )  # fmt: skip
        streams.append(StreamState(full.rpartition("/")[2], one))
        names[number] = full
        if not is_asked and newest is not None:
            unasked.append(full.rpartition("/")[2])
    ids = list(names)
    shares = connection.execute(_DAYS, {"since": days[0], "streams": ids}).fetchall()
    state = _sum(name, [one for _, one in streams])
    unnamed = connection.execute("SELECT stream FROM unnamed_streams WHERE gateway = %s ORDER BY 1", [name])
    state.unasked, state.unnamed = unasked, [stream for (stream,) in unnamed]
    torn = connection.execute("SELECT greatest(0, torn) FROM torn_checkpoints WHERE gateway = %s", [name]).fetchone()
    state.torn = int(torn[0]) if torn else 0
    state.due_missing = round(sum(due - here for _, _, _, due, here in shares))
    findings = connection.execute(
        "SELECT stream, seq, boot, code, found FROM all_findings WHERE stream = ANY(%s) "
        "ORDER BY found DESC NULLS FIRST, seq DESC LIMIT %s",
        [ids, MOST_ROWS],
    )
    holes = connection.execute(
        "SELECT stream, lower(r), upper(r) - 1, is_lost FROM "
        "(SELECT stream, unnest(missing) AS r, false AS is_lost FROM holes "
        "WHERE stream = ANY(%s) UNION ALL SELECT stream, unnest(lost), true FROM holes WHERE stream = ANY(%s)) h "
        "ORDER BY 1, 2 LIMIT %s",
        [ids, ids, MOST_ROWS],
    )
    refusals = connection.execute(
        "SELECT code, sum(times), (array_agg(why ORDER BY at DESC))[1], max(at) FROM refusals "
        "WHERE gateway = %s AND day >= %s GROUP BY 1 ORDER BY 4 DESC",
        [name, days[0]],
    ).fetchall()
    state.refused = sum(int(times) for _, times, _, _ in refusals)
    state.refused_why = refusals[0][2] if refusals else ""
    row = connection.execute("SELECT online, version FROM statuses WHERE gateway = %s", [name]).fetchone()
    state.online, state.version = row or (None, None)
    keys = connection.execute("SELECT counter, changed FROM gateways WHERE name = %s", [name]).fetchone()
    asked = connection.execute("SELECT stream FROM agreed WHERE gateway = %s ORDER BY 1", [name])
    return GatewayFacts(
        state,
        {day: readings / due if due > 0 else None for _, day, readings, due, _ in shares},
        days,
        streams,
        [(names[stream], seq, boot, code, at) for stream, seq, boot, code, at in findings],
        [(names[stream], int(low), int(high), lost) for stream, low, high, lost in holes],
        [(code, int(times), why, at) for code, times, why, at in refusals],
        pins,
        (keys[0], keys[1]) if keys else None,
        [stream for (stream,) in asked],
    )


def _sum(name: str, streams: Sequence[GatewayState]) -> GatewayState:
    """The state of a gateway, made by adding the numbers of its streams."""
    findings, reasons = Counter[str](), Counter[str]()
    for one in streams:
        findings.update(one.findings)
        reasons.update(one.reasons)
    parts = ("packs", "readings", "due", "gaps", "asleep", "missing", "lost", "withheld", "unsettled", "restarts")
    counts = {part: sum(getattr(one, part) for one in streams) for part in parts}
    newest = max((one.newest_ms for one in streams if one.newest_ms is not None), default=None)
    return GatewayState(name, newest, **counts, findings=dict(findings), reasons=dict(reasons))


def _packs(connection: Connection, stream: str, where: str, values: list[Any]) -> list[PackRow]:
    """The packs that match ``where``, each with its findings. Their twins follow."""
    rows = connection.execute(
        f"SELECT p.seq, p.boot, p.from_ms, p.to_ms, p.readings, p.due, p.gaps, l.stored, l.checked IS NOT NULL, "
        f"p.faults, p.body, p.hash FROM packs p LEFT JOIN lots l ON l.lot = p.lot WHERE {where}".encode(),
        values,
    ).fetchall()
    if not rows:
        return []
    low, high, number = min(row[0] for row in rows), max(row[0] for row in rows), stream_id(stream)
    codes: dict[tuple[int, int], list[str]] = {}
    found = connection.execute(
        "SELECT seq, boot, code FROM all_findings WHERE stream = %s AND (seq = 0 OR seq BETWEEN %s AND %s)",
        [number, low, high],
    )
    for seq, boot, code in found:
        codes.setdefault((seq, boot), []).append(code)
    bodies = Bodies(connection)
    made = []
    for seq, boot, from_ms, to_ms, readings, due, gaps, stored, checked, faults, body, short in rows:
        # a finding with sequence 0 concerns all packs of its boot
        own = tuple(sorted({*(faults or ()), *codes.get((seq, boot), ()), *codes.get((0, boot), ())}))
        raw, digest = _body(bodies, body, short)
        if not raw:
            own = tuple(sorted({*own, "damaged"}))
        made.append(PackRow(stream, seq, boot, from_ms, to_ms, readings, due, gaps, stored, checked, own, raw, digest))
    twins = connection.execute(
        "SELECT seq, boot, from_ms, body, hash FROM forks WHERE stream = %s AND seq BETWEEN %s AND %s "
        "ORDER BY seq LIMIT %s",
        [number, low, high, MOST_ROWS],
    )
    for seq, boot, from_ms, body, short in twins:
        raw, digest = _body(bodies, body, short)
        own = ("fork",) if raw else ("damaged", "fork")
        made.append(PackRow(stream, seq, boot, from_ms, from_ms, 0, None, None, None, True, own, raw, digest, True))
    return made


def _readable(bodies: Bodies, body: bytes) -> bytes | None:
    """The published bytes of a pack. None if the row is damaged: the other packs of the day must still be shown."""
    try:
        return bodies.read(bytes(body))
    except ValueError:
        return None


def _body(bodies: Bodies, body: bytes, short: UUID) -> tuple[bytes, bytes]:
    """The published bytes of a pack and its hash. No bytes, and the stored part of the hash, if the row is damaged."""
    try:
        raw = bodies.read(bytes(body))
        return raw, digest_of(raw, short)
    except ValueError:
        return b"", short.bytes
