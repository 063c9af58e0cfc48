"""Reads verified readings and figures from the database, and combines them by interval, for converters."""

from __future__ import annotations

import json
import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.verify import Gap, PointTable
from drivers.model import ConfigError, UsageError, clean_text
from drivers.toml import suggestion
from receiver.bodies import Bodies
from receiver.converters import Amount, Conversion, Interval, Series
from receiver.database import Connection, boot_text, statement

log = logging.getLogger("meterhouse.platform")
MOST: Final = 100_000  # largest number of intervals in one conversion
LISTED: Final = 20  # an error lists at most this many points

_SOUND: Final = statement("sound_packs")
_DECLARED: Final = """
WITH here AS MATERIALIZED (SELECT DISTINCT birth FROM packs
  WHERE stream = %(stream)s AND from_ms < %(to)s AND to_ms >= %(from)s AND birth IN (SELECT hash FROM births))
SELECT DISTINCT point ->> 'n' FROM births b JOIN point_tables t ON t.hash = b.points
CROSS JOIN LATERAL jsonb_array_elements(t.value -> 'points') AS point
WHERE b.stream = %(stream)s AND (b.hash IN (SELECT birth FROM here) OR NOT EXISTS (SELECT FROM here)) ORDER BY 1"""
_BIRTHS: Final = """
WITH here AS MATERIALIZED (SELECT birth, min(from_ms) AS begun FROM packs
  WHERE stream = %(stream)s AND from_ms < %(to)s AND to_ms > %(from)s AND faults IS NULL GROUP BY birth)
SELECT b.hash, h.begun, t.value FROM here h JOIN births b ON b.hash = h.birth JOIN point_tables t ON t.hash = b.points
ORDER BY h.begun, b.hash"""
_NEWEST: Final = statement("newest_pack")
_FIGURES: Final = """
SELECT extract(epoch FROM "from") * 1000, extract(epoch FROM "to") * 1000, v::float8, u, completeness::float8, seq
FROM latest_figures WHERE gateway = %s AND id = %s AND kind <> 'trace'
AND "from" >= to_timestamp(%s / 1000.0) AND "to" <= to_timestamp(%s / 1000.0)"""


def edges(from_ms: int, to_ms: int, length_s: int, zone: ZoneInfo) -> list[int]:
    """The beginnings of the whole intervals in a range, and the end of the last interval, in UTC ms.

    The intervals follow the local time of ``zone``. If the list has fewer than two times, the range contains no whole
    interval.

    Raises:
        ConfigError: the length does not divide a day.
        UsageError: the range has too many intervals.
    """
    if not 1 <= length_s <= 86_400 or 86_400 % length_s:
        hint = "Expected a number of seconds that divides a day, such as 900 or 3600"
        raise ConfigError(f"an interval of {length_s} s", where="conversion", hint=hint)
    if (to_ms - from_ms) / length_s > MOST * 1000:
        hint = f"At most {MOST} intervals can be converted at once: give a shorter range"
        raise UsageError(f"more than {MOST} intervals", where="--from, --to", hint=hint)
    made: list[int] = []
    day = datetime.fromtimestamp(from_ms / 1000, zone).replace(hour=0, minute=0, second=0, microsecond=0)
    while (midnight := round(day.timestamp() * 1000)) < to_ms:
        day = (day + timedelta(days=1)).replace(tzinfo=zone)
        following = round(day.timestamp() * 1000)
        step = following - midnight if length_s == 86_400 else length_s * 1000
        made += range(midnight, following, step)
    made.append(round(day.timestamp() * 1000))
    return [edge for edge in made if from_ms <= edge <= to_ms]


def read_intervals(
    connection: Connection, conversion: Conversion, from_ms: int, to_ms: int, mapping: Path
) -> Iterator[Interval]:
    """Yield all whole intervals of the range, including those without data.

    Args:
        mapping: path of the mapping file, which errors name.

    Raises:
        UsageError: a stream is unknown, the range has no whole interval, or its packs are no longer stored.
        ConfigError: a point is declared by no birth of its stream in the range.
    """
    cuts = edges(from_ms, to_ms, conversion.length_s, conversion.zone)
    if len(cuts) < 2:
        hint = (
            f"Only whole intervals of {conversion.length_s} s are converted; "
            f"they are aligned to the local time of {conversion.zone}"
        )
        raise UsageError("no whole interval in this range", where="--from, --to", hint=hint)
    dropped = connection.execute("SELECT max(before_ms) FROM dropped").fetchall()[0][0]
    if dropped is not None and cuts[0] < dropped:
        day = datetime.fromtimestamp(dropped / 1000, conversion.zone).isoformat()
        hint = f"The oldest packs that are still kept begin at {day}"
        raise UsageError("packs of that time are no longer kept", where="--from", hint=hint)
    series = list(conversion.series)
    table = [[Amount() for _ in series] for _ in cuts[1:]]
    for stream in sorted({one.stream for one in series}):
        row = connection.execute("SELECT id FROM streams WHERE name = %s", [stream]).fetchone()
        if row is None:
            hint = "`meterhouse platform status` lists the gateways; the page of a gateway lists its streams"
            raise UsageError(f'there is no stream "{clean_text(stream, 200)}"', where=str(mapping), hint=hint)
        points = {one.point: place for place, one in enumerate(series) if one.stream == stream and one.point}
        if points:
            _check_declared(connection, row[0], stream, points, cuts, mapping)
            _add_readings(connection, row[0], stream, points, cuts, table)
    for place, one in enumerate(series):
        if one.figure:
            _add_figures(connection, one, place, cuts, table)
    for number, amounts in enumerate(table):
        start, end = (datetime.fromtimestamp(cuts[number + k] / 1000, conversion.zone) for k in (0, 1))
        yield Interval(start, end, tuple(amounts))


def _check_declared(
    connection: Connection, number: int, stream: str, points: Iterable[str], cuts: Sequence[int], mapping: Path
) -> None:
    """Raise ConfigError for a point that no birth declares.

    Only the births of packs in the range count. If the range has no packs, all births of the stream count.
    """
    wanted = {"stream": number, "from": cuts[0], "to": cuts[-1]}
    declared = [name for (name,) in connection.execute(_DECLARED, wanted)]
    if declared and (wrong := sorted(set(points) - set(declared))):
        hint = suggestion(wrong[0], declared) or f"Points of this stream: {', '.join(declared[:LISTED])}"
        raise ConfigError(f'{stream} has no point "{clean_text(wrong[0], 200)}"', where=str(mapping), hint=hint)


def _add_readings(
    connection: Connection,
    stream: int,
    name: str,
    points: dict[str, int],
    cuts: Sequence[int],
    table: list[list[Amount]],
) -> None:
    bodies, sums = Bodies(connection), dict[tuple[int, int], float]()
    wanted = {"stream": stream, "from": cuts[0], "to": cuts[-1]}
    # without packs in the range, the newest birth tells how many readings are missing
    births = connection.execute(_BIRTHS, wanted).fetchall() or connection.execute(_NEWEST, wanted).fetchall()
    births = [row[:3] for row in births]
    tables = {birth: PointTable(value) for birth, _, value in births}
    for point, place in points.items():
        changes = _periods([(begun, value) for _, begun, value in births], point)
        for number, amounts in enumerate(table):
            amounts[place].expected = _expected(changes, cuts[number], cuts[number + 1])
    with connection.transaction(), connection.cursor(name="convert") as cursor:
        cursor.itersize = 500
        cursor.execute(_SOUND, wanted)
        for seq, boot, birth, body in cursor:
            try:
                pack, base = json.loads(bodies.read(bytes(body))), 0.0
            except ValueError:
                log.warning("%s: pack %d is damaged in the database, its values are left out", name, seq)
                continue
            for gap in pack.get("gaps", []):
                _add_gap(gap, tables.get(birth), points, cuts, table)
            for record in pack.get("e", []):
                base = record.get("bt", base)
                if (place_ := points.get(record["n"])) is None or "v" not in record:
                    continue
                number = bisect_right(cuts, round((base + record.get("t", 0)) * 1000)) - 1
                if 0 <= number < len(table):
                    _add(table[number][place_], record)
                    key = (number, place_)
                    sums[key] = sums.get(key, 0.0) + record["v"]
                    table[number][place_].packs.add((boot_text(boot), seq))
    for (number, place), total in sums.items():
        amount = table[number][place]
        amount.mean = total / amount.readings


def _add_gap(
    gap: dict[str, Any], due: PointTable | None, points: dict[str, int], cuts: Sequence[int], table: list[list[Amount]]
) -> None:
    """Count the missing readings of a gap, for each point that the gap concerns, in the intervals where they were
    due.
    """
    names = [name for name in points if gap["points"] == "*" or name in gap["points"]]
    if due is None or not names:
        return
    low, high = round(gap["from"] * 1000), round(gap["to"] * 1000)
    for number in range(max(0, bisect_right(cuts, low) - 1), min(len(table), bisect_left(cuts, high))):
        for name in names:
            own = Gap(low, high, (name,), gap["reason"])
            if missing := due.gap_readings(own, cuts[number], cuts[number + 1]):
                table[number][points[name]].reasons[own.reason] += missing


def _add(amount: Amount, record: dict[str, Any]) -> None:
    value = float(record["v"])
    amount.readings += 1
    amount.low = value if amount.low is None else min(amount.low, value)
    amount.high = value if amount.high is None else max(amount.high, value)
    amount.last, amount.unit = value, record.get("u", record.get("du", ""))
    if "q" in record:
        amount.qualities[record["q"]] += 1


def _periods(births: Iterable[tuple[int, dict[str, Any]]], name: str) -> list[tuple[int, float]]:
    """The changes of a point's period, as (time in UTC ms, new period in seconds). Empty if no birth states a period.

    Args:
        births: (beginning of the first pack that refers to the birth, point table), in order of time.
    """
    changes: list[tuple[int, float]] = []
    for begun, value in births:
        period = next((point.get("period") for point in value["points"] if point["n"] == name), None)
        if period and (not changes or changes[-1][1] != period):
            changes.append((begun, period))
    return changes


def _expected(changes: Sequence[tuple[int, float]], from_ms: int, to_ms: int) -> float | None:
    """The number of readings in an interval according to the periods. The first period also applies before its time."""
    if not changes:
        return None
    ends = [begun for begun, _ in changes[1:]]
    total, low = 0.0, from_ms
    for (_, period), end in zip(changes, [*ends, to_ms], strict=True):
        high = min(end, to_ms)
        if high > low:
            total, low = total + (high - low) / 1000 / period, high
    return total


def _add_figures(
    connection: Connection, one: Series, place: int, cuts: Sequence[int], table: list[list[Amount]]
) -> None:
    gateway = one.stream.rpartition("/")[0]
    by_time = {(cuts[number], cuts[number + 1]): amounts[place] for number, amounts in enumerate(table)}
    for low, high, value, unit, known, seq in connection.execute(_FIGURES, [gateway, one.figure, cuts[0], cuts[-1]]):
        amount = by_time.get((round(low), round(high)))
        if amount is None or value is None:
            continue
        amount.readings, amount.expected = 1, None if known is None else (1 / known if known else None)
        amount.mean = amount.low = amount.high = amount.last = value
        amount.unit = unit or ""
        amount.packs.add(("", seq))
