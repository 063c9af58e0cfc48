"""The keeper runs the tasks that involve several packs, and publishes to gateways. A database may have several keepers.

A keeper checks chains, settles late packs, applies revocations, creates the partition of the next month and drops old
packs. If it has a broker, it also acknowledges packs and requests missing packs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final

import psycopg

from drivers.backoff import Backoff
from receiver.acks import Acknowledger
from receiver.births import BirthFetcher
from receiver.bodies import Bodies
from receiver.chains import apply_revocations, check_lots
from receiver.database import Connection, DatabaseError, open_database, show_dsn
from receiver.latest import LatestPublisher
from receiver.publisher import Publisher
from receiver.replays import ask_again
from receiver.settle import settle_late

log = logging.getLogger("meterhouse.platform")
PAUSE_S: Final = 0.5  # pause if there is nothing to check
ACKS_S: Final = 2.0
LATEST_S: Final = 1.0
SETTLE_S: Final = 5.0
REPLAY_S: Final = 60.0
DAILY_S: Final = 3600.0
MONTHS_S: Final = 60.0
UNKNOWN_DAYS: Final = 30
REFUSALS_DAYS: Final = 400
ACKS_DUE_DAYS: Final = 30
_NOT_SENT: Final = """
SELECT count(*) FROM (
  SELECT ctid FROM {0} WHERE lot IN (
    SELECT lot FROM lots WHERE batch IS NULL UNION ALL
    SELECT l.lot FROM lots l JOIN batches b ON b.batch = l.batch WHERE b.sent IS NULL)
  UNION SELECT p.ctid FROM {0} p JOIN changed_boots c ON c.stream = p.stream AND c.boot = p.boot
  UNION SELECT p.ctid FROM {0} p JOIN changed_packs c USING (stream, seq, boot, from_ms)) waiting
WHERE EXISTS (SELECT FROM clickhouse)"""
_UNCHECKED: Final = """
SELECT FROM lots l WHERE l.checked IS NULL AND EXISTS (SELECT FROM {} p WHERE p.lot = l.lot) LIMIT 1"""
# packs that arrived since the search for those that ClickHouse lacks, and that another keeper has checked already
_JUST_ARRIVED: Final = """
SELECT FROM (
  SELECT lot, stored FROM lots WHERE batch IS NULL UNION ALL
  SELECT l.lot, l.stored FROM lots l JOIN batches b ON b.batch = l.batch WHERE b.sent IS NULL) l
WHERE EXISTS (SELECT FROM clickhouse) AND l.stored > now() - interval '1 hour'
AND (SELECT p.lot FROM {} p WHERE p.lot = l.lot LIMIT 1) IS NOT NULL LIMIT 1"""
# an earlier time is not inserted: a month is dropped again whenever late packs of it have arrived
_NOTE_DROPPED: Final = "INSERT INTO dropped SELECT %s WHERE NOT EXISTS (SELECT FROM dropped WHERE before_ms >= %s)"
# Births of a partition that are still needed: packs of other partitions refer to them, or the next packs will, because
# no newer birth of the stream is stored.
_STILL_VALID: Final = """
SELECT p.hash, p.stream, p.body FROM {} p WHERE p.is_birth AND (
  NOT EXISTS (SELECT FROM packs n WHERE n.stream = p.stream AND n.is_birth AND n.seq > p.seq)
  OR EXISTS (SELECT FROM packs k WHERE k.stream = p.stream AND k.birth = p.hash AND k.tableoid <> p.tableoid))"""
_FORGET_COPIES: Final = """
DELETE FROM birth_copies c WHERE EXISTS (SELECT FROM packs p WHERE p.stream = c.stream)
AND NOT EXISTS (SELECT FROM packs p WHERE p.stream = c.stream AND p.birth = c.hash)"""

# A lot is needed as long as it has packs, or ClickHouse lacks something of it. It never gets packs later. Only lots
# that were stored before the end of the newest dropped month are examined, so that the hourly search takes no time.
# The search for packs is a scalar query, because PostgreSQL may read all packs for NOT EXISTS.
_OLD_LOTS: Final = """
SELECT max(lot) FROM (SELECT lot, stored FROM lots WHERE lot > %s ORDER BY lot LIMIT %s) l
HAVING min(stored) < (SELECT to_timestamp(max(before_ms) / 1000.0) FROM dropped)"""
_FORGET_LOTS: Final = """
DELETE FROM lots l WHERE l.lot > %s AND l.lot <= %s AND l.checked IS NOT NULL
AND (SELECT p.lot FROM packs p WHERE p.lot = l.lot LIMIT 1) IS NULL
AND NOT EXISTS (SELECT FROM changed_packs c WHERE c.lot = l.lot)
AND (NOT EXISTS (SELECT FROM clickhouse)
  OR EXISTS (SELECT FROM batches b WHERE b.batch = l.batch AND b.sent IS NOT NULL))"""
_FORGET_BATCHES: Final = """
DELETE FROM batches b WHERE b.sent < (SELECT to_timestamp(max(before_ms) / 1000.0) FROM dropped)
AND NOT EXISTS (SELECT FROM lots l WHERE l.batch = b.batch)
AND NOT EXISTS (SELECT FROM changed_packs c WHERE c.batch = b.batch)"""
# Packs with implausible times that arrived long ago, and their readings. Only packs from before the end of the newest
# dropped month, so that workers know them if they are sent again. Packs that are ahead of the time move to their month
# when it comes. A DELETE on the table packs would note each pack as a change for ClickHouse.
_DROP_OTHERS: Final = """
WITH old AS (
  SELECT p.stream, p.seq, p.boot, p.from_ms FROM packs_other p JOIN lots l ON l.lot = p.lot
  WHERE l.stored < now() - make_interval(days => %s) AND p.from_ms < (SELECT max(before_ms) FROM dropped)
    AND l.checked IS NOT NULL AND NOT EXISTS (SELECT FROM changed_packs c WHERE c.lot = l.lot)
    AND NOT EXISTS (SELECT FROM changed_boots c WHERE c.stream = p.stream AND c.boot = p.boot)
    AND (NOT EXISTS (SELECT FROM clickhouse)
      OR EXISTS (SELECT FROM batches b WHERE b.batch = l.batch AND b.sent IS NOT NULL)) LIMIT %s
), gone AS (
  DELETE FROM packs_other p USING old o
  WHERE p.stream = o.stream AND p.seq = o.seq AND p.boot = o.boot AND p.from_ms = o.from_ms RETURNING p.*
), blocks AS (
  DELETE FROM reading_blocks_other b USING old o
  WHERE b.stream = o.stream AND b.seq = o.seq AND b.boot = o.boot AND b.from_ms = o.from_ms
)
INSERT INTO gone SELECT * FROM gone"""
# a month is not made or dropped now if a query uses the table of packs for longer than this
LOCK_MS: Final = 5_000
LOTS_AT_ONCE: Final = 10_000  # one transaction looks at this many lots
OTHERS_AT_ONCE: Final = 10_000  # one transaction drops at most this many packs with implausible times
ROUNDS: Final = 20  # at most this many transactions follow each other, so that new lots are checked in time


@dataclass(slots=True)
class _Job:
    every_s: float
    run: Callable[[Connection], object]
    due_s: float = 0.0


class Keeper:
    """Maintains one database. ``step`` runs the jobs that are due.

    Args:
        publisher: sends acks and requests to gateways; None: nothing is sent.
        keep_days: drop a month when all its packs are older than this number of days; None: never.
        place: (index of this database, number of databases); None: unknown.
        latest: also publish the newest values of each device.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        dsn: str,
        publisher: Publisher | None = None,
        *,
        keep_days: int | None = None,
        place: tuple[int, int] | None = None,
        latest: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dsn, self._place, self._clock = dsn, place, clock
        self._connection: Connection | None = None
        self._retry = Backoff(0.5, 15.0)
        self._away_until, self._is_away = 0.0, False
        self.checked = self.failures = 0
        self._jobs = [
            _Job(SETTLE_S, settle_late), _Job(SETTLE_S, apply_revocations), _Job(DAILY_S, prepare_months),
            _Job(MONTHS_S, make_waiting_months), _Job(DAILY_S, forget_strangers),
        ]  # fmt: skip
        if keep_days is not None:
            self._jobs.append(_Job(DAILY_S, lambda connection: drop_months(connection, keep_days)))
            self._jobs.append(_Job(DAILY_S, lambda connection: drop_others(connection, keep_days)))
            self._jobs.append(_Job(DAILY_S, LotForgetter().step))
        if publisher is not None:
            acknowledger = Acknowledger(publisher)
            self._jobs.insert(0, _Job(SETTLE_S, BirthFetcher(publisher, clock).step))
            self._jobs.append(_Job(ACKS_S, acknowledger.step))
            if latest:
                self._jobs.append(_Job(LATEST_S, LatestPublisher(publisher).step))
            self._jobs.append(_Job(REPLAY_S, lambda connection: ask_again(connection, publisher), clock() + REPLAY_S))

    def step(self) -> int:
        """Check new lots, then run the jobs that are due. Returns the number of packs checked."""
        if self._clock() < self._away_until:
            return 0
        try:
            connection = self._connect()
            checked = check_lots(connection)
            for job in self._jobs:
                if self._clock() >= job.due_s:
                    self._run(job, connection)
                    job.due_s = self._clock() + job.every_s
        except (psycopg.Error, DatabaseError) as error:
            self._failed(error)
            return 0
        if self._is_away:
            self._is_away = False
            log.warning("%s: reachable again", show_dsn(self.dsn))
        self._retry.reset()
        self.checked += checked
        return checked

    def _run(self, job: _Job, connection: Connection) -> None:
        """Run a job. An internal error is logged, and the other jobs still run.

        The data of one gateway may cause the error, and the other gateways must still get their acks.
        """
        try:
            job.run(connection)
        except (psycopg.Error, DatabaseError):
            raise
        except Exception:
            log.exception("internal error in a job of the keeper; the other jobs continue")

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed or self._connection.broken:
            self._connection = open_database(self.dsn, self._place)
        return self._connection

    def _failed(self, error: Exception) -> None:
        delay_s = self._retry.next_s()
        self._away_until, self.failures = self._clock() + delay_s, self.failures + 1
        self._is_away = True
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not isinstance(error, DatabaseError):  # the text of a DatabaseError already names the database
            text = f"{show_dsn(self.dsn)}: {text}"
        log.warning("%s. Retrying in %.1f s", text, delay_s)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def prepare_months(connection: Connection) -> None:
    """Create the partition of this month. Shortly before the end of the month, also create that of the next month."""
    today = datetime.now(UTC).date()
    for day in (today, today + timedelta(days=10)):
        _make_month(connection, day.replace(day=1))


def make_waiting_months(connection: Connection) -> None:
    """Create the partitions of months whose packs are in ``packs_other``, because a long query used the packs when the
    first of them arrived. The packs move to the partition.

    The database limits the tries of all keepers and workers together, because all workers wait during a try.
    """
    for (month,) in connection.execute("SELECT month FROM waiting_months ORDER BY month").fetchall():
        _make_month(connection, month)


def _make_month(connection: Connection, month: date) -> None:
    # one statement for each table, so that no query that uses both can deadlock with us; the packs come last, because
    # `drop_months` drops both tables of a month that has a table of packs
    for parent in ("reading_blocks", "packs"):
        row = connection.execute("SELECT make_partitions(%s, %s, %s)", [month, [parent], LOCK_MS]).fetchone()
        if row == (False,):
            log.warning(
                "table packs_%s is not made yet: a long query, such as an export, uses the packs. Packs of this month "
                "are stored in packs_other meanwhile",
                f"{month:%Y_%m}",
            )
        if row != (True,):
            return


def forget_strangers(connection: Connection) -> None:
    """Delete old entries: unknown gateways that no longer publish, and the counters and messages of refusals.

    Also acks that could not be sent, because no keeper has a broker. A gateway that waits for one sends its pack again.
    """
    days = {"unknown": UNKNOWN_DAYS, "refusals": REFUSALS_DAYS, "acks": ACKS_DUE_DAYS}
    connection.execute("DELETE FROM unknown_gateways WHERE seen < now() - make_interval(days => %(unknown)s)", days)
    connection.execute("DELETE FROM refusals WHERE at < now() - make_interval(days => %(refusals)s)", days)
    connection.execute("DELETE FROM refused WHERE at < now() - make_interval(days => %(refusals)s)", days)
    connection.execute("DELETE FROM acks_due WHERE at < now() - make_interval(days => %(acks)s)", days)


def drop_months(connection: Connection, keep_days: int) -> list[str]:
    """Drop the partitions in which all packs are too old. The sums by day, the findings and the figures are kept.

    A partition is not dropped as long as ClickHouse lacks some of its packs. Births that are still valid are kept as
    copies, because without them a verifier cannot judge the kept packs. Returns the names of the dropped partitions.
    """
    oldest = datetime.now(UTC).date() - timedelta(days=keep_days)
    tables = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'packs'::regclass"
    )
    dropped = []
    for (name,) in tables.fetchall():
        month = name.removeprefix("packs_")
        if month[:4].isdigit():
            first = date(int(month[:4]), int(month[5:7]), 1)
            if (first + timedelta(days=31)).replace(day=1) <= oldest:
                if waiting := connection.execute(_NOT_SENT.format(name).encode()).fetchall()[0][0]:
                    log.warning(
                        "table %s is old but is not dropped yet: ClickHouse still lacks %d of its packs", name, waiting
                    )
                    continue
                next_month = (first + timedelta(days=31)).replace(day=1)
                before_ms = round(datetime(next_month.year, next_month.month, 1, tzinfo=UTC).timestamp() * 1000)
                # not in the transaction below: if two keepers read the partition and then drop it in one transaction,
                # each waits for the lock of the other
                _copy_births(connection, name)
                try:
                    is_dropped = _drop_month(connection, name, before_ms)
                except psycopg.errors.LockNotAvailable:
                    log.warning(
                        "table %s is old but is not dropped yet: a long query, such as an export, uses it", name
                    )
                    continue
                if not is_dropped:
                    continue
                log.info("dropped table %s: all its packs are older than %d days", name, keep_days)
                dropped.append(name)
    if dropped:
        connection.execute(_FORGET_COPIES)
    return dropped


def _drop_month(connection: Connection, name: str, before_ms: int) -> bool:
    """Drop the partition of a month. Returns False if some of its packs have just arrived, and are not counted or sent
    to ClickHouse yet.

    Raises psycopg.errors.LockNotAvailable if another session uses the table for longer than ``LOCK_MS``. All workers
    wait meanwhile.
    """
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_MS}")
        # Workers and DROP TABLE lock the tables in this order. No worker may store a pack after the search.
        connection.execute(f"LOCK TABLE ONLY packs; LOCK TABLE {name}".encode())
        for query in (_UNCHECKED, _JUST_ARRIVED):
            if connection.execute(query.format(name).encode()).fetchone() is not None:
                return False
        connection.execute(_NOTE_DROPPED, [before_ms, before_ms])
        connection.execute(f"DROP TABLE {name}, reading_blocks_{name.removeprefix('packs_')}".encode())
    return True


def drop_others(connection: Connection, keep_days: int) -> int:
    """Drop packs with implausible times that arrived more than ``keep_days`` ago, for example if a clock says 1970.

    The same is kept as by ``drop_months``. Returns the number of dropped packs.
    """
    dropped = 0
    for _ in range(ROUNDS):
        with connection.transaction():
            # another keeper that makes the partition of a month locks the tables in this order
            connection.execute("LOCK TABLE ONLY packs IN ACCESS SHARE MODE")
            connection.execute("CREATE TEMP TABLE gone (LIKE packs) ON COMMIT DROP")
            count = connection.execute(_DROP_OTHERS, [keep_days, OTHERS_AT_ONCE]).rowcount
            _copy_births(connection, "gone")
        dropped += count
        if count < OTHERS_AT_ONCE:
            break
    if dropped:
        connection.execute(_FORGET_COPIES)
        log.info("dropped %d packs with implausible times: they arrived more than %d days ago", dropped, keep_days)
    return dropped


class LotForgetter:
    """Deletes lots, and batches for ClickHouse, whose packs were dropped.

    A step begins where the last one stopped. Otherwise lots that stay, because the clock of a gateway is years ahead,
    could keep it from the lots after them.
    """

    def __init__(self) -> None:
        self._after = 0

    def step(self, connection: Connection) -> int:
        """Examine some lots. Returns the number of deleted lots."""
        deleted = 0
        for _ in range(ROUNDS):
            row = connection.execute(_OLD_LOTS, [self._after, LOTS_AT_ONCE]).fetchone()
            if row is None:
                self._after = 0
                break
            deleted += connection.execute(_FORGET_LOTS, [self._after, row[0]]).rowcount
            self._after = row[0]
        connection.execute(_FORGET_BATCHES)
        return deleted


def _copy_births(connection: Connection, partition: str) -> None:
    """Copy the births of a partition that are still valid to ``birth_copies``, as they were published."""
    bodies = Bodies(connection)
    for short, stream, body in connection.execute(_STILL_VALID.format(partition).encode()).fetchall():
        try:
            raw = bodies.read(bytes(body))
        except ValueError as error:  # the row is damaged: this must not keep all other old packs in the database
            log.warning("table %s: the birth %s cannot be kept: %s", partition, short, error)
            continue
        connection.execute("INSERT INTO birth_copies VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", [short, stream, raw])
