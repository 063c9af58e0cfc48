"""Stores a batch of checked messages in one database, in one transaction. Storing a batch again changes nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
import zstandard
from psycopg.types.json import Jsonb

from agent.verify import Balance, CheckedPack, Refused
from agent.verify.jws import unbase64url
from agent.verify.strict import MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS, MAX_OBJECT_BYTES, inflate, parse_object
from receiver.blocks import ReadingBlock
from receiver.checker import AnyMessage, KeysMessage, PackMessage, PageMessage, StatusMessage, points_hash, points_of
from receiver.database import (
    Connection,
    boot_number,
    json_text,
    month_of,
    open_database,
    short_hash,
    stream_id,
)
from receiver.key_chains import TrustChanged, put_keys, stored_keys

COLUMNS: Final = (
    "stream", "seq", "boot", "prev_boot", "from_ms", "to_ms", "hash", "prev", "birth", "signer", "lot", "readings",
    "due",    "gaps", "asleep", "reasons", "part", "parts", "is_birth", "first", "steps", "faults", "body",
)  # fmt: skip
TYPES: Final = (
    "int8", "int8", "int8", "int8", "int8", "int8", "uuid", "uuid", "uuid", "int8", "int8", "int8", "int8",
    "int8", "int8", "jsonb", "int2", "int2", "bool", "bool", "int8[]", "text[]", "bytea",
)  # fmt: skip
LEVEL: Final = 3  # compression level of zstd
DICTIONARY_BYTES: Final = 64 << 10
# number of packs from which the compression dictionary is trained; a database has only one dictionary
TRAIN_PACKS: Final = 1000
# number of refused messages that are kept, over all gateways; further ones are only counted
MAX_REFUSED: Final = 10_000
MAX_REFUSED_OF_ONE: Final = 100  # number of refused messages of one gateway that are kept
MAX_TWINS: Final = 20  # number of contradicting checkpoint pages of one gateway that are kept
MAX_UNKNOWN: Final = 10_000  # number of unknown gateways that are kept
# largest keys object of an unknown gateway that is kept, in bytes; it holds about 80 keys
UNKNOWN_BYTES: Final = 32 << 10
MAX_COUNT: Final = 1 << 60  # a larger number in an invalid pack is reduced to this, so that it fits into a bigint
MAX_NAME: Final = 129  # longest name <site>/<gateway>, in characters
# a pack that arrives again within this time gets no second ack, because the first ack may still be on its way
ACK_ON_ITS_WAY_S: Final = 5.0
# Places of the packs that the keeper has counted and that are not stored any more. An old pack may still be stored: in
# packs_other, or in a month that waits for ClickHouse or was made again. The time is not compared: a pack of another
# time is a fork. The search for packs is a scalar query, because PostgreSQL may read all packs for NOT EXISTS.
_DROPPED: Final = """
SELECT o.place FROM unnest(%s::int8[], %s::int8[], %s::int8[]) WITH ORDINALITY AS o (stream, boot, seq, place)
WHERE EXISTS (SELECT FROM boots b WHERE b.stream = o.stream AND b.boot = o.boot AND b.seqs @> o.seq)
AND (SELECT p.seq FROM packs p WHERE p.stream = o.stream AND p.seq = o.seq AND p.boot = o.boot LIMIT 1) IS NULL"""
# The keeper looks for new acks only at boots that have changed lately, and at those that are marked here. A locked boot
# is being changed by the keeper.
_LOOK_AGAIN: Final = """
UPDATE boots SET again = now() WHERE (stream, boot) IN (
  SELECT b.stream, b.boot FROM boots b WHERE greatest(b.changed, b.again) < now() - interval '1 day'
  AND (b.stream, b.boot) IN (SELECT a.stream, a.boot FROM batch a JOIN packs p USING (stream, seq, boot, from_ms))
  ORDER BY 1, 2 FOR UPDATE SKIP LOCKED)"""
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_DECIMAL: Final = re.compile(r"-?[0-9]{1,60}(?:\.[0-9]{1,60})?")
REFUSED_BYTES: Final = 64 << 10  # a longer refused message is cut to this length


class RefusedMessage(NamedTuple):
    """A message that cannot be trusted. It is kept so that people can analyse it."""

    topic: str
    code: str
    why: str
    body: bytes


class Store:
    """Access of a worker to one database. Implements ``checker.Directory``. It connects at the first use.

    Every method raises psycopg.Error while the database cannot be reached. The next call tries to connect again.

    Args:
        readings: also store the readings of each pack as a ``ReadingBlock``, for the view ``readings``.
        place: (index of this database, number of databases); None: unknown.
    """

    def __init__(self, dsn: str, *, readings: bool = False, place: tuple[int, int] | None = None) -> None:
        self.dsn, self._with_readings, self._place = dsn, readings, place
        self._layouts: set[UUID] = set()
        self._trust = -1  # the value of ``trust_changes`` when the check of the current batch began
        # packs that begin before this time have been dropped; None: none have been dropped
        self._dropped_ms: int | None = None
        self._connection: Connection | None = None
        self._streams: set[str] = set()  # streams that are known to be in the database
        self._months: set[date] = set()
        self._births: set[UUID] = set()
        self._forks: set[UUID] = set()  # packs of the current batch that have the same identity as another stored pack
        self._compressor = zstandard.ZstdCompressor(level=LEVEL)
        # packs for training the dictionary; None: the database has a dictionary
        self._samples: list[bytes | bytearray | memoryview] | None = []

    def connection(self) -> Connection:
        """The connection to the database. It is opened again if it was lost."""
        if self._connection is not None and not self._connection.closed and not self._connection.broken:
            return self._connection
        self._connection = None
        made = open_database(self.dsn, self._place)
        made.execute("CREATE TEMP TABLE batch (LIKE packs)")
        row = made.execute("SELECT id, bytes FROM dictionaries ORDER BY made DESC LIMIT 1").fetchone()
        if row is not None:
            self._use_dictionary(row[1])
        self._connection = made
        return made

    def drop_connection(self) -> None:
        """Close the connection after a failure, and forget which rows are known to be in the database."""
        try:
            self.close()
        except psycopg.Error:
            self._connection = None
        self._streams.clear()
        self._months.clear()
        self._layouts.clear()
        self._births.clear()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def pins(self, gateway: str) -> list[str]:
        """Trusted thumbprints of a gateway."""
        rows = self.connection().execute("SELECT thumbprint FROM pins WHERE gateway = %s", [gateway])
        return [thumbprint for (thumbprint,) in rows]

    def trust_changes(self) -> int:
        """A number that grows whenever a gateway is enrolled or removed."""
        query = "SELECT number, (SELECT max(before_ms) FROM dropped) FROM trust_changes"
        row = self.connection().execute(query).fetchone()
        self._dropped_ms = row[1] if row and row[1] is not None else None
        self._trust = int(row[0]) if row else 0
        return self._trust

    def keys(self, gateway: str) -> list[bytes]:
        """The newest keys object of each chain of a gateway."""
        return stored_keys(self.connection(), gateway)

    def points(self, birth: str) -> dict[str, Any] | None:
        """The point table of a birth. None if the birth is not stored."""
        query = "SELECT t.value FROM births b JOIN point_tables t ON t.hash = b.points WHERE b.hash = %s"
        row = self.connection().execute(query, [_hash(birth)]).fetchone()
        return row[0] if row else None

    def put(
        self, messages: Sequence[AnyMessage], refused: Sequence[RefusedMessage], unknown: Iterable[tuple[str, bytes]]
    ) -> int:
        """Commit a batch. Returns the number of new packs.

        Args:
            unknown: gateways that are not enrolled, each with its keys object or b"".

        Raises:
            TrustChanged: the list of trusted gateways has changed, so an unknown gateway may be enrolled now, or the
            keys of a gateway may not be trusted any more.
        """
        packs = [one for one in messages if isinstance(one, PackMessage)]
        connection = self.connection()
        gone = self._dropped(connection, packs)
        if gone:
            places = {id(one) for one in gone}
            packs = [one for one in packs if id(one) not in places]
        self._prepare_months(connection, packs)
        self._train(connection, packs)
        strangers = list(unknown)
        # the keys of a replacement box keep waiting as long as packs that it signed arrive
        boxes = [("/".join(one.topic.split("/")[2:4]), b"") for one in refused if one.code == "kid"]
        with connection.transaction(), connection.cursor() as cursor:
            # `enrol` locks the keys that wait before the stored ones, so without this lock there could be a deadlock
            if boxes or any(keys for _, keys in strangers):
                row = cursor.execute("SELECT number FROM trust_changes FOR SHARE").fetchone()
                if row is not None and row[0] != self._trust:
                    raise TrustChanged
            # sorted by name, so that two workers with the same objects cannot deadlock
            for keys in sorted((one for one in messages if isinstance(one, KeysMessage)), key=lambda one: one.gateway):
                put_keys(cursor, keys)
            pages = [one for one in messages if isinstance(one, PageMessage)]
            for page in sorted(pages, key=lambda one: (one.page.gateway, one.page.page)):
                _put_page(cursor, page)
            # the last status message of a gateway counts
            statuses = {one.gateway: one for one in messages if isinstance(one, StatusMessage)}
            for _, status in sorted(statuses.items()):
                _put_status(cursor, status)
            self._put_streams(cursor, packs)
            self._put_births(cursor, packs)
            new = self._put_packs(cursor, packs) if packs else 0
            _put_extras(cursor, packs)
            _put_acks_due(cursor, gone)
            if self._with_readings:
                kept = [one for one in packs if _hash(one.checked.link.hash) not in self._forks]
                self._put_readings(cursor, [one for one in kept if one.checked.value.get("e") and not one.codes])
            _put_refused(cursor, refused)
            _put_unknown(cursor, [*boxes, *strangers])
        self._streams |= {one.checked.stream for one in packs}
        self._births |= {short_hash(one.checked.digest) for one in packs if one.checked.link.is_birth}
        return new

    def _prepare_months(self, connection: Connection, packs: Sequence[PackMessage]) -> None:
        # the keeper drops the partition of an old month again, so the partition may be missing although we made it
        limit = None if self._dropped_ms is None else month_of(self._dropped_ms)
        self._months = {month for month in self._months if limit is None or month >= limit}
        months = {month for one in packs if (month := month_of(one.checked.link.from_ms))} - self._months
        for month in sorted(months):
            # if a long query uses the packs, the partition is not made: the keeper makes it later, and moves the packs
            connection.execute("SELECT make_partition(%s)", [month])
        self._months |= months

    def _dropped(self, connection: Connection, packs: Sequence[PackMessage]) -> list[PackMessage]:
        """The packs that were counted and then dropped. They must not be counted again.

        Not all packs of dropped months are such packs: a gateway may have been offline, or its clock may be wrong.
        """
        if self._dropped_ms is None:
            return []
        old = [one for one in packs if one.checked.link.from_ms < self._dropped_ms]
        if not old:
            return []
        links = [(stream_id(one.checked.stream), one.checked.link) for one in old]
        rows = connection.execute(
            _DROPPED,
            [
                [stream for stream, _ in links],
                [boot_number(link.boot) for _, link in links],
                [link.seq for _, link in links],
            ],
        )
        return [old[place - 1] for (place,) in rows]

    def _train(self, connection: Connection, packs: Sequence[PackMessage]) -> None:
        """Collect sample packs. The first worker with enough samples trains the dictionary, which all workers then
        use.
        """
        if self._samples is None:
            return
        self._samples += [one.body for one in packs if not one.checked.link.is_birth]
        if len(self._samples) < TRAIN_PACKS:
            return
        made = zstandard.train_dictionary(DICTIONARY_BYTES, self._samples[-TRAIN_PACKS:], level=LEVEL)
        with connection.transaction():
            connection.execute("LOCK TABLE dictionaries IN SHARE ROW EXCLUSIVE MODE")
            row = connection.execute("SELECT id, bytes FROM dictionaries ORDER BY made DESC LIMIT 1").fetchone()
            if row is None:
                connection.execute(
                    "INSERT INTO dictionaries (id, bytes) VALUES (%s, %s)", [made.dict_id(), made.as_bytes()]
                )
        self._use_dictionary(made.as_bytes() if row is None else row[1])

    def _use_dictionary(self, raw: bytes) -> None:
        dictionary = zstandard.ZstdCompressionDict(bytes(raw))
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, dict_data=dictionary)
        self._samples = None

    def _put_streams(self, cursor: psycopg.Cursor[Any], packs: Sequence[PackMessage]) -> None:
        new = sorted({one.checked.stream for one in packs} - self._streams)
        if new:
            rows = [(stream_id(name), name, name.rpartition("/")[0]) for name in new]
            cursor.executemany("INSERT INTO streams VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", rows)

    def _put_births(self, cursor: psycopg.Cursor[Any], packs: Sequence[PackMessage]) -> None:
        for one in packs:
            if one.checked.link.is_birth and short_hash(one.checked.digest) not in self._births:
                put_birth(cursor, one.checked)

    def _put_packs(self, cursor: psycopg.Cursor[Any], packs: Sequence[PackMessage]) -> int:
        lot = cursor.execute("INSERT INTO lots (packs) VALUES (%s) RETURNING lot", [len(packs)]).fetchall()[0][0]
        with cursor.copy(f"COPY batch ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)") as copy:
            copy.set_types(TYPES)
            for one in packs:
                copy.write_row(self._row(one, lot))
        # sorted by the primary key, so that two workers with the same packs cannot deadlock
        cursor.execute(
            f"INSERT INTO packs ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM batch "
            "ORDER BY stream, seq, boot "
            "ON CONFLICT DO NOTHING"
        )
        new, self._forks = cursor.rowcount, set()
        if new < len(packs):
            others = (
                "SELECT b.stream, b.seq, b.boot, b.hash, b.from_ms, b.body FROM batch b "
                "JOIN packs p USING (stream, seq, boot, from_ms) WHERE p.hash <> b.hash"
            )
            self._forks = {row[3] for row in cursor.execute(others)}
            if self._forks:
                cursor.execute(f"INSERT INTO forks {others} ON CONFLICT DO NOTHING")
            # if an acknowledged pack is sent again, its ack was lost: let the keeper send another ack
            cursor.execute(
                "DELETE FROM acked a USING batch b JOIN packs p USING (stream, seq, boot, from_ms) "
                "WHERE p.hash = b.hash AND a.stream = b.stream AND a.boot = b.boot "
                "AND b.seq BETWEEN a.first AND a.last AND a.at < now() - make_interval(secs => %s)",
                [ACK_ON_ITS_WAY_S],
            )
            cursor.execute(_LOOK_AGAIN)
        cursor.execute("TRUNCATE batch")
        return new

    def _put_readings(self, cursor: psycopg.Cursor[Any], packs: Sequence[PackMessage]) -> None:
        rows = []
        for one in packs:
            block = ReadingBlock(one.checked.value["e"], one.checked.link.from_ms)
            if block.layout not in self._layouts:
                cursor.execute(
                    "INSERT INTO layouts VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                    [block.layout, block.points, block.units],
                )
            link = one.checked.link
            rows.append((
                stream_id(one.checked.stream), link.seq, boot_number(link.boot), link.from_ms, block.layout,
                block.after_ms, block.values, json_text(block.other) if block.other else None,
            ))  # fmt: skip
        cursor.executemany(
            "INSERT INTO reading_blocks VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", rows
        )
        self._layouts |= {row[4] for row in rows}

    def _row(self, one: PackMessage, lot: int) -> tuple[object, ...]:
        link, balance = one.checked.link, one.balance
        due = gaps = asleep = reasons = None
        if balance is not None or one.codes:
            sound = balance or Balance()
            due, gaps = min(sound.due, MAX_COUNT), min(sum(sound.gaps.values()), MAX_COUNT)
            asleep = min(sound.gaps.get("asleep", 0), MAX_COUNT)
            reasons = Jsonb(dict(sound.gaps)) if sound.gaps else None
        part, parts = link.part or (None, None)
        return (
            stream_id(one.checked.stream), link.seq, boot_number(link.boot), _boot(link.prev_boot), link.from_ms,
            link.to_ms,
            _hash(link.hash), _hash(link.prev), _hash(link.birth), link.signer, lot, one.checked.counts.readings, due,
            gaps, asleep, reasons, part, parts, link.is_birth, link.first,
            [ms for step in link.steps for ms in step] or None,
            one.codes or None, self._compressor.compress(one.body),
        )  # fmt: skip


def put_birth(cursor: psycopg.Cursor[Any], birth: CheckedPack) -> None:
    """Store the point table of a birth, which is needed to check the completeness of later packs.

    ``birth`` may be the retained copy.
    """
    table = points_of(birth)
    points = short_hash(points_hash(table))
    cursor.execute("INSERT INTO point_tables VALUES (%s, %s) ON CONFLICT DO NOTHING", [points, json_text(table)])
    cursor.execute(
        "INSERT INTO births VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
        [short_hash(birth.digest), stream_id(birth.stream), points],
    )


def _put_acks_due(cursor: psycopg.Cursor[Any], gone: Sequence[PackMessage]) -> None:
    """Let the keeper acknowledge packs that were dropped and were sent again because their ack was lost."""
    rows = [
        (stream_id(one.checked.stream), boot_number(one.checked.link.boot), one.checked.link.seq, one.checked.digest)
        for one in gone
    ]
    cursor.executemany("INSERT INTO acks_due VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", sorted(rows))


def _put_status(cursor: psycopg.Cursor[Any], one: StatusMessage) -> None:
    cursor.execute(
        "INSERT INTO statuses (gateway, version, online, ack_lists) SELECT %s, %s, %s, %s "
        "WHERE EXISTS (SELECT FROM pins WHERE gateway = %s) ON CONFLICT (gateway) DO UPDATE SET "
        "version = CASE WHEN excluded.online THEN excluded.version ELSE statuses.version END, "
        "online = excluded.online, "
        "ack_lists = CASE WHEN excluded.online THEN excluded.ack_lists ELSE statuses.ack_lists END, changed = now()",
        [one.gateway, one.version, one.online, one.ack_lists, one.gateway],
    )


def _put_page(cursor: psycopg.Cursor[Any], one: PageMessage) -> None:
    page = one.page
    _compare_page(cursor, one)
    _keep_rewound(cursor, one)
    cursor.execute(
        "INSERT INTO checkpoints VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (gateway, page) DO UPDATE SET "
        "counter = excluded.counter, pages = excluded.pages, hash = excluded.hash, time_ms = excluded.time_ms, "
        "signer = excluded.signer, body = excluded.body "
        "WHERE (excluded.signer, excluded.counter) > (checkpoints.signer, checkpoints.counter)",
        [page.gateway, page.page, page.counter, page.pages, _hash(page.hash), page.time_ms, one.signer, one.body],
    )
    names = [(stream_id(head.stream), head.stream, page.gateway) for head in page.heads]
    cursor.executemany("INSERT INTO streams VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", names)
    cursor.executemany(
        # keep the highest signed head of a stream: a later checkpoint with a lower head must not replace it
        "INSERT INTO checkpoint_heads AS h VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (stream) DO UPDATE SET "
        "(boot, seq, hash, to_ms) = (SELECT * FROM (VALUES (excluded.boot, excluded.seq, excluded.hash, "
        "excluded.to_ms), (h.boot, h.seq, h.hash, h.to_ms)) v (boot, seq, hash, to_ms) ORDER BY seq DESC LIMIT 1), "
        "retired = CASE WHEN excluded.counter > h.counter THEN excluded.retired ELSE h.retired END, "
        "counter = greatest(excluded.counter, h.counter) WHERE excluded.counter > h.counter OR excluded.seq > h.seq",
        [
            (stream_id(head.stream), boot_number(head.head[0]), head.head[1], _hash(head.head[2]), head.head[3],
             page.counter, head.retired)
            for head in page.heads
        ],
    )  # fmt: skip


def _compare_page(cursor: psycopg.Cursor[Any], one: PageMessage) -> None:
    """Add a finding if a page contradicts the stored page.

    Two pages contradict each other if they have the same number but differ, or if the later page does not continue the
    earlier one. The order of their arrival does not matter.
    """
    page = one.page
    for number, counter, pages, short, signer, body in cursor.execute(
        "SELECT page, counter, pages, hash, signer, body FROM checkpoints WHERE gateway = %s "
        "AND (page = %s OR counter = %s) FOR UPDATE",
        [page.gateway, page.page, page.counter],
    ).fetchall():
        if signer != one.signer:
            continue
        same = number == page.page
        if counter == page.counter:
            differs = (same and short != _hash(page.hash)) or pages != page.pages
        elif same and abs(counter - page.counter) == 1:
            later, before = (page.prev, short) if page.counter > counter else (prev_of(bytes(body)), _hash(page.hash))
            differs = later is None or _hash(later) != before
        else:
            differs = False
        if differs:
            _keep_twin(cursor, page.gateway, short, bytes(body))
            _keep_twin(cursor, page.gateway, _hash(page.hash), one.body)
            stream = f"{page.gateway}/_gateway"
            row = (stream_id(stream), stream, page.gateway)
            cursor.execute("INSERT INTO streams VALUES (%s, %s, %s) ON CONFLICT DO NOTHING", row)
            cursor.execute(
                "INSERT INTO findings (stream, seq, boot, code) VALUES (%s, 0, 0, 'checkpoint') ON CONFLICT DO NOTHING",
                row[:1],
            )


def _keep_rewound(cursor: psycopg.Cursor[Any], one: PageMessage) -> None:
    """If a page has a lower head of a stream than an earlier page, keep the earlier page.

    The earlier page is the evidence that packs exist which were not received.
    """
    page = one.page
    heads = {stream_id(head.stream): head.head[1] for head in page.heads}
    known = cursor.execute("SELECT stream, seq, counter FROM checkpoint_heads WHERE stream = ANY(%s)", [list(heads)])
    earlier = later = False
    for stream, seq, counter in known.fetchall():
        earlier |= counter < page.counter and seq > heads[stream]
        later |= counter > page.counter and seq < heads[stream]
    if earlier:
        kept = "SELECT hash, body FROM checkpoints WHERE gateway = %s AND page = %s"
        for short, body in cursor.execute(kept, [page.gateway, page.page]).fetchall():
            _keep_twin(cursor, page.gateway, short, bytes(body))
    if later:
        _keep_twin(cursor, page.gateway, _hash(page.hash), one.body)


def _keep_twin(cursor: psycopg.Cursor[Any], gateway: str, short: UUID | None, body: bytes) -> None:
    """Keep a page as evidence. Only ``MAX_TWINS`` pages are kept per gateway, because a gateway can sign any number of
    pages.
    """
    cursor.execute(
        "INSERT INTO checkpoint_twins SELECT %s, %s, %s "
        "WHERE (SELECT count(*) FROM checkpoint_twins WHERE gateway = %s) < %s ON CONFLICT DO NOTHING",
        [gateway, short, body, gateway, MAX_TWINS],
    )


def prev_of(body: bytes) -> str | None:
    """The member ``prev`` of a stored page, which is the hash of the page before it. None if the page has no such
    member.
    """
    prev = parse_object(body, MAX_OBJECT_BYTES).get("prev")
    return prev if isinstance(prev, str) else None


def _put_extras(cursor: psycopg.Cursor[Any], packs: Sequence[PackMessage]) -> None:
    """Store the losses that packs declare, and the results of figures in packs."""
    losses = [
        (stream_id(one.checked.stream), boot_number(loss.boot), loss.first, loss.last, _hash(loss.hash), loss.from_ms,
         loss.to_ms, loss.reason)
        for one in packs for loss in one.checked.losses
    ]  # fmt: skip
    if losses:
        cursor.executemany("INSERT INTO losses VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING", losses)
    figures = [row for one in packs for row in _figures(one)]
    if figures:
        places = ", ".join(["%s"] * len(figures[0]))
        cursor.executemany(f"INSERT INTO figures VALUES ({places}) ON CONFLICT DO NOTHING", figures)


def _figures(one: PackMessage) -> Iterable[tuple[object, ...]]:
    link = one.checked.link
    results = one.checked.value.get("results")
    if one.codes or not one.checked.stream.endswith("/_indicators") or not isinstance(results, list):
        return
    for result in (each for each in results if isinstance(each, dict)):
        period, kind = result.get("period"), result.get("kind")
        name = result.get("id", kind)
        if not isinstance(period, dict) or not isinstance(kind, str) or not isinstance(name, str):
            # this is a declaration or a list of packs instead of a figure, and it stays only in the body of the pack
            continue
        low, high = period.get("from"), period.get("to")
        if not isinstance(low, (int, float)) or not isinstance(high, (int, float)) or max(abs(low), abs(high)) > 1e12:
            continue
        official = result.get("official")
        yield (
            stream_id(one.checked.stream), link.seq, boot_number(link.boot), _text(kind) or "",
            name[:200].replace("\0", ""),
            _text(period.get("kind")) or "", _text(period.get("label")) or "", round(low * 1000), round(high * 1000),
            _decimal(result.get("v")), _text(result.get("u")), _decimal(result.get("completeness")),
            _text(result.get("verdict")), official if isinstance(official, bool) else None,
            json_text(result),
        )  # fmt: skip


def _decimal(value: object) -> Decimal | None:
    return Decimal(value) if isinstance(value, str) and _DECIMAL.fullmatch(value) else None


def _text(value: object) -> str | None:
    return value[:40].replace("\0", "") if isinstance(value, str) else None


def _put_refused(cursor: psycopg.Cursor[Any], refused: Sequence[RefusedMessage]) -> None:
    """Count all refused messages, and keep the newest ones of each gateway.

    The number per gateway is limited. So messages on the topics of one gateway cannot displace those of other gateways.
    """
    if not refused:
        return
    counts: dict[tuple[str, str], tuple[int, str]] = {}
    newest: dict[tuple[str, UUID], RefusedMessage] = {}
    for one in refused:
        gateway = "/".join(one.topic.split("/")[2:4])[:MAX_NAME].replace("\0", "?")
        times, _ = counts.get((gateway, one.code), (0, ""))
        counts[gateway, one.code] = times + 1, one.why[:400].replace("\0", "?")
        newest[gateway, short_hash(sha256(one.body).digest())] = one
    cursor.executemany(
        "INSERT INTO refusals VALUES (%s, (now() AT TIME ZONE 'UTC')::date, %s, %s, %s, now()) "
        "ON CONFLICT (gateway, day, code) DO UPDATE SET times = refusals.times + excluded.times, why = excluded.why, "
        "at = excluded.at",
        [(gateway, code, times, why) for (gateway, code), (times, why) in sorted(counts.items())],
    )
    kept: Counter[str] = Counter()
    rows = []
    for (gateway, digest), one in reversed(newest.items()):
        kept[gateway] += 1
        if kept[gateway] <= MAX_REFUSED_OF_ONE:
            topic, why = one.topic[:300].replace("\0", "?"), one.why[:400].replace("\0", "?")
            rows.append((topic, one.code, why, digest, one.body[:REFUSED_BYTES]))
    cursor.executemany(
        "INSERT INTO refused (topic, code, why, hash, body) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (topic, hash) DO UPDATE SET times = refused.times + 1, at = now()",
        sorted(rows),
    )
    cursor.execute(
        "DELETE FROM refused WHERE ctid IN (SELECT r.ctid FROM unnest(%s::text[]) AS g (gateway) CROSS JOIN LATERAL "
        "(SELECT ctid FROM refused WHERE gateway = g.gateway ORDER BY at DESC OFFSET %s FOR UPDATE SKIP LOCKED) r)",
        [sorted(kept), MAX_REFUSED_OF_ONE],
    )
    count = cursor.execute("SELECT count(*) FROM refused").fetchall()[0][0]
    if count > MAX_REFUSED:  # delete messages of the gateways that have the most messages
        cursor.execute(
            "DELETE FROM refused WHERE ctid IN (SELECT ctid FROM (SELECT ctid, at, row_number() OVER "
            "(PARTITION BY gateway ORDER BY at DESC) AS place FROM refused) r ORDER BY place DESC, at LIMIT %s)",
            [count - MAX_REFUSED],
        )


def _put_unknown(cursor: psycopg.Cursor[Any], unknown: Iterable[tuple[str, bytes]]) -> None:
    """Store gateways that are not enrolled. If there are too many, those that have been silent longest are deleted."""
    found = dict(unknown)
    rows = sorted(
        (gateway, _newest_thumbprint(keys), keys) for gateway, keys in found.items() if 0 < len(keys) <= UNKNOWN_BYTES
    )
    cursor.execute(
        "UPDATE unknown_gateways SET seen = now() WHERE gateway IN "
        "(SELECT gateway FROM unknown_gateways WHERE gateway = ANY(%s) ORDER BY gateway FOR UPDATE)",
        [list(found)],
    )
    if not rows:
        return
    cursor.executemany(
        "INSERT INTO unknown_gateways (gateway, thumbprint, keys) VALUES (%s, %s, %s) ON CONFLICT (gateway) "
        "DO UPDATE SET thumbprint = excluded.thumbprint, keys = excluded.keys, seen = now()",
        rows,
    )
    count = cursor.execute("SELECT count(*) FROM unknown_gateways").fetchall()[0][0]
    if count > MAX_UNKNOWN:
        cursor.execute(
            "DELETE FROM unknown_gateways WHERE gateway IN "
            "(SELECT gateway FROM unknown_gateways ORDER BY seen, gateway LIMIT %s FOR UPDATE SKIP LOCKED)",
            [count - MAX_UNKNOWN],
        )


def _newest_thumbprint(keys: bytes) -> str:
    """The thumbprint of the newest key in an untrusted keys object. Nothing proves that the key is genuine. "" if the
    object is malformed.
    """
    try:
        kid = parse_object(inflate(keys, MAX_OBJECT_BYTES), MAX_LOOSE_BYTES, MAX_LOOSE_ITEMS)["records"][-1]["kid"]
    except (Refused, LookupError, TypeError):
        return ""
    return kid if isinstance(kid, str) and _THUMBPRINT.fullmatch(kid) else ""


def _hash(text: str | None) -> UUID | None:
    return None if text is None else short_hash(unbase64url(text, "a hash"))


def _boot(text: str | None) -> int | None:
    return None if text is None else boot_number(text)
