"""Serves exports: signed objects as pieces of an archive, and intervals as rows.

For signed objects, each part begins with a line of JSON, ``{"file", "packs"}``. The client appends the other lines of
the part to this file.

For intervals, each line of a part is a row, as a JSON list in the order of ``COLUMNS``. The rows are sorted by stream
and day.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby, islice
from typing import Any, Final

from agent.intervals.calendar import Calendar
from agent.intervals.query import query
from agent.intervals.rows import EndReading, Flag, IntervalRow
from agent.keys import current_records, is_sound, load_key
from agent.service.control.protocol import Access, Export, Intervals, Reply
from agent.service.store_check import checkpoint_checker
from agent.store import Store
from drivers.encoding import exact_text
from drivers.model import GatewayError, UsageError, clean_text

# the largest number of packs and of bytes in a piece, which limits memory and time in the database thread
CHUNK, CHUNK_BYTES = 256, 256 << 10
AT_ONCE = 400  # number of rows that are made in one slice of the database thread, which takes about 20 ms
Cell = str | int | None

# Users rely on these columns. Never rename or move a column, and never change its unit. Add new columns at the end.
# docs/intervals.md describes the types.
COLUMNS: Final = (
    "start_utc", "end_utc", "start_local", "end_local", "length_s", "site", "gateway", "device", "part", "point",
    "role", "flow", "parent", "amount", "unit", "completeness", "covered_s", "spread_s", "readings", "flags",
    "flag_names", "first_utc", "first_value", "first_pack", "last_utc", "last_value", "last_pack", "from_pack",
    "to_pack", "revision", "low", "high", "mean", "demand", "demand_fixed", "gauge_unit", "missing_ms",
)  # fmt: skip


async def answer(access: Access, request: Export | Intervals, reply: Reply) -> dict[str, Any]:
    """Serve an export of packs or of intervals."""
    if isinstance(request, Export):
        return await export_packs(access, request, reply)
    return await export_intervals(access, request, reply)


async def export_packs(access: Access, request: Export, reply: Reply) -> dict[str, Any]:
    """Send the signed objects. Returns the number of packs, the full names of the streams, and warnings."""
    streams = request.streams
    archive = await access.call(lambda store: Archive(store, request.from_ms, request.to_ms, streams))
    check_archive(archive, streams)
    await access.call(lambda store: _look_at_key_file(store, access, archive))
    pieces, done = archive.pieces(), 0
    while (piece := await access.call(lambda store: next(pieces, None))) is not None:
        await reply.part(as_part(piece))
        done += piece.packs
        reply.progress(done, archive.total)
    return {"packs": done, "streams": archive.streams, "warnings": archive.warnings}


def check_archive(archive: Archive, streams: list[str]) -> None:
    """Raise UsageError for an unknown stream, and GatewayError if the archive is empty."""
    for name in streams:
        if name not in archive.known:
            hint = f"Known: {', '.join(archive.known)}" if archive.known else "The database is empty"
            raise UsageError(f"the database has no stream {clean_text(name, 80)!r}", where="--stream", hint=hint)
    if not archive.streams:
        hint = "The agent deletes delivered packs after the time set by keep_delivered"
        raise GatewayError("the database has no packs in this time range", where="export", hint=hint)


def as_part(piece: ArchivePiece) -> bytes:
    """Encode a piece as the payload of a PART frame."""
    head = json.dumps({"file": piece.file, "packs": piece.packs}).encode()
    return b"\n".join((head, *piece.lines))


def _look_at_key_file(store: Store, access: Access, archive: Archive) -> None:
    """Add key records from the key file if the store does not have them yet, so that no revocation is missing.

    The store lacks records that were made while no agent ran. A running agent stores new records within seconds.
    """
    kept = store.keys.newest()
    known = kept[1] if kept and is_sound(kept[1]) else None  # the disk may have changed the record
    if known and access.service is not None:
        return
    try:
        data = current_records(load_key(access.config.key.path(os.environ)), access.config.base, known)
    except GatewayError as error:
        if kept is None:
            raise
        what = f"the export may lack the newest key records, because the key file cannot be used: {error.what}"
        archive.warnings.append(what)
        return
    if kept is None or data != kept[1]:
        archive.newest_keys = data


@dataclass(frozen=True, slots=True)
class ArchivePiece:
    """Lines to append to one file of the archive. A line is a signed object as published, without line breaks."""

    file: str  # name of the file: births.jsonl, packs/inv1.packs.jsonl, ...
    lines: tuple[bytes, ...]
    packs: int  # the number of packs in the lines, for the progress


class Archive:
    """The signed objects of the store in ``[from_ms, to_ms)``, piece by piece. Used only in the database thread.

    The archive contains:
    - all packs in the store that overlap the range
    - for each stream, in a separate file, the birth in effect before these packs. If it were in the file of packs, the
      packs between the birth and the range would look lost.
    - the checkpoints made in the range, except checkpoints that name later packs, and damaged ones

    Packs that are sealed after this object was created are not in the archive. If retention deletes packs meanwhile,
    they are missing at the beginning. No database cursor is open between pieces.

    Args:
        streams: last parts of names, such as ``inv1``; empty: all streams.
    """

    def __init__(self, store: Store, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> None:
        self._store, self._from, self._to, self._wanted = store, from_ms, to_ms, sorted(streams)
        store.mark_sent()
        self.known = sorted(name.rpartition("/")[2] for name in store.packs.heads())
        self._spans = {
            stream: span
            for stream, span in store.packs.spans(from_ms, to_ms).items()
            if not streams or stream.rpartition("/")[2] in streams
        }
        self.newest_keys = b""  # a ``keys`` object that is not in the store yet
        self.warnings: list[str] = []
        if store.quarantine:
            self.warnings.append(f"the database was damaged; it is set aside as {store.quarantine.path}")

    @property
    def streams(self) -> list[str]:
        """The full names of the streams that have packs in the range."""
        return list(self._spans)

    @property
    def total(self) -> int:
        """The number of packs, for the progress. It is too high if the store has dropped packs of the range."""
        return sum(last - first + 1 for first, last in self._spans.values())

    def pieces(self) -> Iterator[ArchivePiece]:
        """Yield keys, births, checkpoints, and then the packs by stream.

        If only some streams were requested, the first piece is a list of their names.
        """
        if self._wanted:
            yield ArchivePiece("streams.txt", tuple(name.encode() for name in self._wanted), 0)
        for n, chain in enumerate(self._key_chains()):
            yield ArchivePiece(f"keys{n + 1 if n else ''}.json", (chain,), 0)
        for stream, (first, last) in self._spans.items():
            if first <= last and (birth := self._store.packs.birth_before(stream, first)):
                yield ArchivePiece("births.jsonl", (birth,), 0)
        is_intact, damaged = checkpoint_checker(self._store), 0
        for _, keys in groupby(self._store.documents.checkpoint_keys(self._from, self._to), lambda key: key[1]):
            rows = [(*key, body) for key in keys if (body := self._store.documents.checkpoint(*key)) is not None]
            if not rows:
                continue  # retention has deleted the checkpoint meanwhile
            # add all pages of a checkpoint or none of them, because a missing page would make a verifier believe that
            # it was withheld
            pages = [body for *_, body in rows]
            if not all(is_intact(*row) for row in rows) or json.loads(pages[0])["pages"] != len(pages):
                damaged += 1
            elif all(map(self._is_within, pages)):
                yield ArchivePiece("checkpoints.jsonl", tuple(pages), 0)
        if damaged:
            self.warnings.append(f"checkpoints that are damaged in the database, and are left out: {damaged}")
        missing = self.total
        for stream, (first, last) in self._spans.items():
            file = f"packs/{stream.rpartition('/')[2]}.packs.jsonl"
            after = first - 1
            while packs := self._store.packs.after(stream, after, last, CHUNK, CHUNK_BYTES):
                missing -= len(packs)
                yield ArchivePiece(file, tuple(pack.data for pack in packs), len(packs))
                after = packs[-1].seq
        if missing:
            self.warnings.append(
                "packs of this time range that the database no longer has, because the disk has changed them, or they"
                f" were deleted after delivery or at the size limit: {missing}"
            )

    def _key_chains(self) -> list[bytes]:
        chains = {json.loads(body)["records"][0]["kid"]: body for body in self._store.keys.chains()}
        if self.newest_keys:
            chains[json.loads(self.newest_keys)["records"][0]["kid"]] = self.newest_keys
        return list(chains.values())

    def _is_within(self, checkpoint: bytes) -> bool:
        heads = json.loads(checkpoint)["heads"]
        return all(h["seq"] <= self._spans[h["stream"]][1] for h in heads if h["stream"] in self._spans)


# --- intervals


async def export_intervals(access: Access, request: Intervals, reply: Reply) -> dict[str, Any]:
    """Send the rows of intervals. Returns the columns, the number of rows, and the streams."""
    config = access.config
    calendar = Calendar(config.timezone, config.interval.length_ms)
    first_ms, last_ms = await access.call(lambda store: store.intervals.span())
    known = await access.call(lambda store: sorted(name for name in store.packs.heads() if not is_ours(name)))
    streams = chosen(known, request.streams)
    from_ms, to_ms = max(request.from_ms, first_ms), min(request.to_ms, last_ms)
    if from_ms >= to_ms:
        hint = "The agent deletes intervals that are older than keep_intervals"
        raise GatewayError("the database has no intervals in this time range", where="export", hint=hint)
    days = list(calendar.stretches("day", from_ms, to_ms))
    done = rows = 0
    for stream in streams:
        for start, end in days:
            found = _rows(access, calendar, stream, max(start, from_ms), min(end, to_ms))
            while lines := await access.call(lambda store, source=found: list(islice(source.of(store), AT_ONCE))):  # type: ignore[misc]
                rows += len(lines)
                await reply.part(b"\n".join(lines))
            done += 1
            reply.progress(done, len(streams) * len(days))
    return {"columns": list(COLUMNS), "rows": rows, "streams": streams}


def is_ours(stream: str) -> bool:
    """True for a stream of the gateway itself."""
    return stream.rpartition("/")[2].startswith("_")


def chosen(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return the streams of the devices ``names``; all streams in ``known`` if ``names`` is empty.

    Raises UsageError for unknown devices.
    """
    ends = {stream.rpartition("/")[2]: stream for stream in known}
    for name in names:
        if name not in ends:
            hint = f"Known: {', '.join(ends)}" if ends else "The database is empty"
            raise UsageError(f"the database has no device {clean_text(name, 80)!r}", where="--stream", hint=hint)
    return [ends[name] for name in names] or list(known)


class _rows:
    """Makes the rows of one day of a stream on demand."""

    def __init__(self, access: Access, calendar: Calendar, stream: str, start_ms: int, end_ms: int) -> None:
        self._config, self._calendar, self._stream, self._range = access.config, calendar, stream, (start_ms, end_ms)
        self._source: Iterator[IntervalRow] | None = None
        self._gaps: dict[int, list[str]] = {}  # by start of the interval

    def of(self, store: Store) -> Iterator[bytes]:
        """Yield rows as JSON lists. Continues where the last call stopped."""
        if self._source is None:
            self._source = query(store.intervals, *self._range, streams=[self._stream])
            for _, gap in store.intervals.gaps.rows(*self._range, [self._stream]):
                self._gaps.setdefault(gap.start_ms, []).append(f"{gap.reason}:{gap.ms}")
        for row in self._source:
            cells = cells_of(row, self._calendar, self._config.site, self._config.gateway)
            cells.append(" ".join(self._gaps.get(row.start_ms, ())))
            yield json.dumps(cells, ensure_ascii=False, separators=(",", ":")).encode()


def cells_of(row: IntervalRow, calendar: Calendar, site: str, gateway: str) -> list[Cell]:
    """Return the cells of a row in the order of ``COLUMNS``, except the last column.

    The last column has the gaps, and the caller adds it.

    Decimals are texts, so that no digit is lost. None is an empty cell.
    """
    first, last = row.first, row.last
    unit = "" if row.gauge_unit and row.amount is None else row.unit
    return [
        utc(row.start_ms), utc(row.end_ms), local(calendar, row.start_ms), local(calendar, row.end_ms),
        _number(Decimal(row.end_ms - row.start_ms) / 1000), site, gateway, row.stream.rpartition("/")[2], row.part,
        row.point, row.role, row.flow, row.parent, _number(row.amount), unit,
        _number(row.completeness), _number(Decimal(row.covered_ms) / 1000), _number(Decimal(row.spread_ms) / 1000),
        row.readings, int(row.flags), flag_names(row.flags), *_mark(first), *_mark(last), row.first_seq or None,
        row.last_seq or None, row.revision, *(_number(n) for n in (row.low, row.high, row.mean, row.demand,
        row.demand_fixed)), row.gauge_unit,
    ]  # fmt: skip


def flag_names(flags: Flag) -> str:
    """Return the names of the flags as one text, such as ``spread late``."""
    return " ".join((flag.name or "").lower() for flag in Flag if flag in flags)


def utc(at_ms: int) -> str:
    """Format a time in UTC: ``2026-11-24T00:15:00Z``. It has milliseconds if they are not zero."""
    found = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{found}.{at_ms % 1000:03d}Z" if at_ms % 1000 else f"{found}Z"


def local(calendar: Calendar, at_ms: int) -> str:
    """Format a local time with its UTC offset, so that the hour that comes twice in autumn is not ambiguous."""
    return calendar.local(at_ms).isoformat(timespec="seconds")


def _mark(mark: EndReading | None) -> tuple[Cell, Cell, Cell]:
    return (utc(mark.time_ms), _number(mark.value), mark.seq or None) if mark is not None else (None, None, None)


def _number(value: Decimal | None) -> str | None:
    return None if value is None else exact_text(value)
