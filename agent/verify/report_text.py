"""Writes the report as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime

from .report import HOUR_MS, HOURLY_MS, Day, Report, StreamReport, Verdict
from .strict import clean

COLUMNS = ("stream", "packs", "readings", "gaps", "redelivered", "missing", "failed", "complete")
MAX_NOTES = 20
MAX_HANDOVERS = 5  # only the last 5 handovers of a gateway are shown
MAX_NAMES = 10  # at most 10 names of streams that were not requested are shown
MAX_LINE = 2000


def as_text(report: Report) -> str:
    """Return the whole report as text. The last line is the verdict.

    Control characters and line breaks are removed from each line, so that a quoted text cannot add lines.
    """
    return "\n".join([*aligned(table_rows(report)), *remarks(report), verdict_line(report)])


def verdict_line(report: Report) -> str:
    """Return the verdict in one line, with numbers."""
    return clean(
        f"{report.verdict.value}: packs: {report.packs}, readings: {report.readings}, readings in gaps: {report.gaps}, "
        f"redelivered packs: {report.redelivered}, missing packs: {report.missing}, faulty objects: {report.failed}",
        MAX_LINE,
    )


def remarks(report: Report) -> list[str]:
    """Return remarks about keys and streams, then the reasons if the verdict is not "verified"."""
    lines = []
    for gateway, first in report.trust.items():
        newest = report.checkpointed.get(gateway)
        until = (
            f"the newest checkpoint is from {_time(newest)}"
            if newest is not None
            else "there is no checkpoint, so the last packs may be missing"
        )
        if (beyond := report.beyond.get(gateway, 0)) > HOURLY_MS:
            until = f"{until}, and the last pack ends {beyond / HOUR_MS:.1f} h after it"
        lines.append(f"{gateway}: the first key is {first}; {until}")
    for stream in report.streams.values():
        gateway = stream.stream.rpartition("/")[0]
        lines += [
            f"{gateway}: handover of devices at {_time(record.time_ms)} by {record.who}; {record.counts}; "
            f"recorded in the pack with sequence {record.seq} and hash {record.hash}"
            for record in stream.handovers[-MAX_HANDOVERS:]
        ]
    if report.only:
        lines.append(f"the files contain only {', '.join(report.only)}, as requested")
    if report.agreed:
        lines.append(f"streams that were agreed with the operator: {', '.join(report.agreed)} (and always _gateway)")
        lines += _unasked(report)
    lines += [
        f"{count} messages came with the content type {kind!r}, not with application/json or application/json+zstd; "
        "their format was detected from their bytes"
        for kind, count in report.content_types.items()
    ]
    streams = report.streams.values()
    notes = [note for stream in streams for note in _notes(stream)] + list(_doubts(streams))
    lines += notes[:MAX_NOTES]
    if len(notes) > MAX_NOTES:
        lines.append(f"further remarks: {len(notes) - MAX_NOTES}; see --json")
    if report.first_bad:
        lines.append(f"first fault: {report.first_bad}")
    if report.failures:
        lines.append("refused: " + ", ".join(f"{count} {code}" for code, count in sorted(report.failures.items())))
    if report.verdict is not Verdict.VERIFIED:
        lines += [f"not verified: {reason}" for reason in report.reasons[:MAX_NOTES]]
    return [clean(line, MAX_LINE) for line in lines]


def _unasked(report: Report) -> Iterator[str]:
    """Yield a remark on each unrequested stream that arrived, then a list of the other unrequested streams."""
    silent: dict[str, list[str]] = {}
    for name, stream in report.streams.items():
        gateway, _, last = name.rpartition("/")
        if not stream.asked and stream.packs:
            yield f"{name}: {stream.packs} packs arrived, although this stream was not asked for"
        elif not stream.asked:
            silent.setdefault(gateway, []).append(last)
    for gateway, names in silent.items():
        listed = ", ".join(names[:MAX_NAMES])
        if len(names) > MAX_NAMES:
            listed = f"{listed}, and {len(names) - MAX_NAMES} more"
        yield f"{gateway}: streams that were not asked for: {listed}"


def _time(time_ms: int) -> str:
    try:
        return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms // 1000} s"


def table_rows(report: Report) -> list[Sequence[str]]:
    """Return the column titles, then one row for each stream."""
    rows: list[Sequence[str]] = [COLUMNS]
    for name, s in report.streams.items():
        if not s.asked and not s.packs:
            continue
        rows.append(
            (
                name,
                str(s.packs),
                str(s.readings),
                str(s.gaps),
                str(s.redelivered),
                str(s.missing_packs),
                str(s.faults.count),
                completeness(s),
            )
        )
    return rows


def aligned(rows: Sequence[Sequence[str]], width_of: Callable[[str], int] = len) -> Iterator[str]:
    """Yield rows as lines with aligned columns. ``width_of`` returns the width of a text in terminal columns."""
    widths = [max(width_of(row[n]) for row in rows) for n in range(len(COLUMNS))]
    for row in rows:
        room = [" " * (width - width_of(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [row[0] + room[0], *(space + cell for space, cell in zip(room[1:], row[1:], strict=True))]
        yield clean("  ".join(cells).rstrip(), MAX_LINE)


def completeness(stream: StreamReport) -> str:
    """Return the share of due readings that were received, without readings that were due while the device slept.

    The text is never rounded up to 100 %.
    """
    return _share(stream.days.values())


def _share(days: Iterable[Day]) -> str:
    due, got = 0, 0
    for day in days:
        due, got = due + day.due - day.asleep, got + day.got
    if due <= 0:
        return "-"
    return "100 %" if got >= due else f"{min(got * 100 / due, 99.99):.2f} %"


def _notes(s: StreamReport) -> Iterator[str]:
    if s.retired:
        yield f"{s.stream}: retired, the gateway no longer reads this device"
    elif s.head_seq and not s.packs and s.asked:
        name, seq, end = s.stream, s.head_seq, _time(s.head_ms)
        yield (
            f"{name}: no pack is present, but a checkpoint says that packs up to sequence {seq} exist, "
            f"and that the last one ends at {end}"
        )
    for hole in s.missing:
        if hole.readings is None:
            yield f"{s.stream}: packs {hole.first} to {hole.last} are missing ({hole.packs} packs)"
        else:
            yield (
                f"{s.stream}: packs {hole.first} to {hole.last} are missing "
                f"({hole.packs} packs, in which {hole.readings} readings were due)"
            )
    for hole in s.lost:
        yield f"{s.stream}: the gateway reported packs {hole.first} to {hole.last} as lost, reason {hole.reason}"
    if s.gap_reasons:
        reasons = ", ".join(f"{reason} {count}" for reason, count in s.gap_reasons.items() if count)
        yield f"{s.stream}: readings that the gateway reported as missing (gaps), by reason: {reasons}"
    for name, day in s.days.items() if len(s.days) > 1 else ():
        if day.got < day.due - day.asleep:
            yield f"{s.stream}: {name} {_share([day])}, {day.got} of {day.due - day.asleep} readings"
    yield from (f"{s.stream}: {text}" for text in (*s.conflicts, *s.restarts))
    if s.is_cut:
        yield f"{s.stream}: {s.cut_remark}"


# Remarks about doubtful packs, which are not faults: (member of ``StreamReport`` with the number, text of the remark).
_DOUBTS = (
    ("clock_unsynced", "the clock was not synchronised in {} packs"),
    ("clock_unknown", "the state of the clock is unknown in {} packs"),
    ("clock_backward", "the monotonic clock went backward {} times"),
    ("early", "{} readings have a time before the start of their pack"),
    ("reordered", "{} packs arrived out of order"),
    (
        "uncompared",
        "{} packs arrived again and could not be compared with the first copy, because its hash is no longer kept",
    ),
    ("rewritten", "{} packs were re-serialised in transit"),
    (
        "unchecked",
        "the completeness of {} packs is unknown, because the birth pack or the rest of a split pack is missing",
    ),
)


def _doubts(streams: Collection[StreamReport]) -> Iterator[str]:
    """Yield remarks that are not faults, one line for each kind, because a remark often applies to all streams."""
    begun = {s.stream: s.first_seq for s in streams if s.first_seq > 1 and not s.is_cut}
    if begun:
        where = next(iter(begun)) if len(begun) == 1 else f"{len(begun)} streams"
        low, high = min(begun.values()), max(begun.values())
        yield (
            f"{where}: packs begin with sequence {low}"
            if low == high
            else f"{where}: the sequence of each stream's first pack is between {low} and {high}"
        )
    for member, text in _DOUBTS:
        found = {s.stream: getattr(s, member) for s in streams if getattr(s, member)}
        if found:
            where = next(iter(found)) if len(found) == 1 else f"{len(found)} streams"
            yield f"{where}: {text.format(sum(found.values()))}"
