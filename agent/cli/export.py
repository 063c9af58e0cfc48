"""`meterhouse export`: writes packs, readings and intervals of a time range into files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from agent.cli.answers import Exported, Rows, check_row, checked
from agent.cli.common import as_complaint, as_line, progress, say, unwound
from agent.cli.control import ask
from agent.cli.options import FILE, ConfigOptions, config_options, json_option, parse_time
from agent.cli.output_files import CsvDraft, FolderDraft, safe_cell, writing
from drivers.model import GatewayError, ProgressCallback, UsageError, clean_text

if TYPE_CHECKING:
    from agent.config import Config
    from agent.service.control.protocol import Export, Intervals

END_MS = 1 << 52
# A pack contains the readings of its ticks. The CSV file contains the readings taken in a time range. A reading may be
# taken long after its tick, so packs that end up to this time before the range are needed too.
LATE_MS = 3_600_000
CSV_HEAD = ("time", "device", "point", "value", "unit", "quality")
MOST_DIGITS = 40  # a number with more digits is written with an exponent
# names of all files of an export; an answer with any other name is refused
_FILE = re.compile(
    r"keys[0-9]{0,4}\.json|births\.jsonl|checkpoints\.jsonl|streams\.txt|packs/[a-z0-9_][a-z0-9_-]{0,99}\.packs\.jsonl"
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--from", "from_text", metavar="TIME", help="Start of the range: 2026-11-25 or 2026-11-25T08:00; with Z: UTC."
)
@click.option("--to", "to_text", metavar="TIME", help="End of the range, not included.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Export only this device; may be repeated.")
@click.option("--zstd", is_flag=True, help="Compress the packs.")
@click.option("--csv", "csv_file", type=FILE, help="Write the readings to this CSV file, in a form for people to read.")
@click.option(
    "--intervals",
    "interval_file",
    type=FILE,
    help="Write the energy of each interval to this CSV file, in a form for people to read.",
)
@click.option(
    "--intervals-flat",
    "flat_file",
    type=FILE,
    help="Write the energy of each interval to this CSV file, with all columns, and with times both in UTC and "
    "in local time.",
)
@config_options
@json_option
def export(
    folder: Path | None,
    from_text: str | None,
    to_text: str | None,
    streams: tuple[str, ...],
    zstd: bool,
    csv_file: Path | None,
    interval_file: Path | None,
    flat_file: Path | None,
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Write packs, keys and checkpoints of a time range into FOLDER, which must not exist yet.

    This command writes all packs that overlap the range. `meterhouse verify FOLDER --trust THUMBPRINT` checks the files
    in the same way as messages from a broker. Times without Z or an offset are local times of the site. The packs come
    from the running agent, which continues to work, or from the database of a stopped agent.

    \b
    Examples:
      meterhouse export november/ --from 2026-11-01 --to 2026-12-01 --zstd
      meterhouse export --csv inv1.csv --stream inv1 --from 2026-11-25T08:00
      meterhouse export --intervals november.csv --from 2026-11-01 --to 2026-12-01

    \b
    Exit codes: 0 written, 1 nothing in the range or no answer, 2 wrong usage, 3 bad configuration.
    """
    from agent.service.control.protocol import Export, Intervals

    if not any((folder, csv_file, interval_file, flat_file)):
        what = "give a FOLDER, --csv, --intervals or --intervals-flat"
        raise UsageError(what, where="export", hint="See `meterhouse export --help`")
    config = options.load()
    from_ms = parse_time(from_text, "--from", config.timezone) if from_text else 0
    to_ms = parse_time(to_text, "--to", config.timezone) if to_text else END_MS
    if from_ms >= to_ms:
        what = f"--from {clean_text(from_text or '')} is not before --to {clean_text(to_text or '')}"
        raise UsageError(what, where="export", hint="Swap the two times")
    stretch: dict[str, Any] = {"from_ms": from_ms, "to_ms": to_ms, "streams": list(streams)}
    result: dict[str, object] = {}
    with unwound():
        if folder or csv_file:
            result = _packs(config, Export(**stretch), folder, zstd, csv_file)
        if interval_file or flat_file:
            result |= _intervals(config, Intervals(**stretch), interval_file, flat_file)
    _say(result, as_json)


def _packs(
    config: Config, request: Export, folder: Path | None, zstd: bool, csv_file: Path | None
) -> dict[str, object]:
    found: Exported = {"packs": 0, "streams": [], "warnings": []}
    with ExitStack() as stack:
        update = stack.enter_context(progress("packs"))
        out = stack.enter_context(FolderDraft(folder, zstd)) if folder else None
        table = stack.enter_context(ReadingsCsv(csv_file, request)) if csv_file else None
        stack.enter_context(writing(folder or csv_file or Path()))
        if out:
            found = _fetch(config, request, out.add, update)
        if table:
            # a separate request, because FOLDER must not contain the earlier packs
            earlier = msgspec.structs.replace(request, from_ms=max(0, request.from_ms - LATE_MS))
            answer = _fetch(config, earlier, table.add, update)
            if not table.packs:
                hint = "The agent deletes delivered packs after the time set by keep_delivered"
                raise GatewayError("the database has no packs in this time range", where="export", hint=hint)
            if not out:
                found = {**answer, "packs": table.packs, "streams": list(table.streams)}
        if out:
            out.keep()
        if table:
            table.keep()
    for text in found["warnings"]:
        click.echo(as_complaint("warning", clean_text(str(text), 200)), err=True)
    result: dict[str, object] = {
        "packs": found["packs"],
        "streams": [clean_text(str(name), 200) for name in found["streams"]],
    }
    if out:
        result |= {"folder": str(out.path), "bytes": out.size_bytes}
    if table:
        result |= {"csv": str(table.path), "readings": table.rows}
    return result


def _fetch(
    config: Config, request: Export, add: Callable[[str, list[bytes]], None], update: ProgressCallback
) -> Exported:
    """Request packs, and pass the file and the lines of each part to ``add``. Checks that no pack is missing."""
    brought = 0

    def take(data: bytes) -> None:
        nonlocal brought
        part = from_part(data)
        brought += part.packs
        add(part.file, part.lines)

    found: Exported = checked(ask(config, request, take, update), Exported, "end of an export")
    if found["packs"] != brought:
        raise GatewayError(
            f"the agent's answer announces {found['packs']} packs but contains {brought}", where="export"
        )
    return found


def _intervals(
    config: Config, request: Intervals, interval_file: Path | None, flat_file: Path | None
) -> dict[str, object]:
    with ExitStack() as stack:
        update = stack.enter_context(progress("days"))
        people = stack.enter_context(IntervalsCsv(interval_file, flat=False)) if interval_file else None
        flat = stack.enter_context(IntervalsCsv(flat_file, flat=True)) if flat_file else None
        tables = [table for table in (people, flat) if table]
        stack.enter_context(writing(tables[0].path))

        def take(data: bytes) -> None:
            for table in tables:
                table.add(data)

        result = {"intervals": checked(ask(config, request, take, update), Rows, "end of an export")["rows"]}
        for table in tables:
            table.keep()
    if people:
        result["intervals_csv"] = str(people.path)
    if flat:
        result["intervals_flat"] = str(flat.path)
    return result


def _say(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(as_line(result))
        return
    if "folder" in result:
        streams = result["streams"]
        assert isinstance(streams, list)
        text = f"{result['folder']}: {result['packs']} packs from {len(streams)} streams, {result['bytes']} bytes"
        click.echo(say(text))
    if "csv" in result:
        click.echo(say(f"{result['csv']}: {result['readings']} readings"))
    for name in ("intervals_csv", "intervals_flat"):
        if name in result:
            click.echo(say(f"{result[name]}: {result['intervals']} rows"))


class _Head(msgspec.Struct):
    file: str
    packs: int


_head = msgspec.json.Decoder(_Head)


class ExportPart(NamedTuple):
    """Lines to append to one file of the folder."""

    file: str
    lines: list[bytes]
    packs: int  # number of packs among the lines


def from_part(data: bytes) -> ExportPart:
    """Parse a part of the answer to an export request. Raises GatewayError if the part is malformed."""
    head, *lines = data.split(b"\n")
    try:
        facts = _head.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError("the agent's answer is not an export", where="export", hint=clean_text(str(error))) from None
    if not _FILE.fullmatch(facts.file):
        hint = "Nothing was written. Check which program listens on the agent's socket"
        raise GatewayError(
            f"unexpected file {clean_text(facts.file)!r} in the agent's answer", where="export", hint=hint
        )
    return ExportPart(facts.file, lines, facts.packs)


class ReadingsCsv(CsvDraft):
    """A CSV file with those readings whose read time is in the range of ``request``.

    ``packs`` and ``streams`` count the packs that overlap the range, or have a reading in it.
    """

    def __init__(self, path: Path, request: Export) -> None:
        # the byte order mark tells spreadsheets that the file is UTF-8, because texts may be Chinese
        super().__init__(path, CSV_HEAD, "utf-8-sig")
        self._from_ms, self._to_ms = request.from_ms, request.to_ms
        self.packs = 0
        self.streams: dict[str, None] = {}

    def add(self, file: str, lines: Iterable[bytes]) -> None:
        """Append the readings of packs. ``file``: a file of an export; only those of packs have readings."""
        if not file.startswith("packs/"):
            return
        self.check_room()
        for line in lines:
            try:
                body: dict[str, Any] = json.loads(line, parse_float=Decimal)
                rows = [row for time_ms, row in rows_of(body) if self._from_ms <= time_ms < self._to_ms]
                start_ms, end_ms = (round(body[name] * 1000) for name in ("from", "to"))
                stream = str(body["stream"])
            except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise GatewayError(
                    "a pack in the agent's answer is malformed", where="export", hint=clean_text(repr(error))
                ) from None
            for row in rows:
                self.add_row(row)
            if rows or end_ms > self._from_ms or start_ms >= self._from_ms:
                self.packs += 1
                self.streams[stream] = None


def rows_of(body: Mapping[str, Any]) -> Iterable[tuple[int, tuple[str, ...]]]:
    """Yield (read time in UTC ms, cells in the order of ``CSV_HEAD``) for each reading. Numbers keep all digits."""
    device = body["stream"].rpartition("/")[2]
    base = Decimal(0)
    for record in body.get("e", ()):
        base = Decimal(record.get("bt", base))
        time_ms = round((base + Decimal(record.get("t", 0))) * 1000)
        stamp = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        unit = record.get("u") or record.get("du") or ""
        row = (f"{stamp}.{time_ms % 1000:03d}Z", device, record["n"], _value(record), unit, record.get("q", "good"))
        yield time_ms, row


def _value(record: dict[str, Any]) -> str:
    if "x" in record:
        return str(record["x"])
    if "vs" in record:
        return clean_text(str(record["vs"]), 500)
    if "vb" in record:
        return "true" if record["vb"] else "false"
    value = record["v"]
    return f"{value:f}" if isinstance(value, Decimal) and abs(value.adjusted()) < MOST_DIGITS else str(value)


# the columns of the CSV for people: (heading, column in the answer of the agent)
PEOPLE = (
    ("from", "start_local"), ("to", "end_local"), ("device", "device"), ("point", "point"), ("role", "role"),
    ("flow", "flow"), ("amount", "amount"), ("unit", "unit"), ("known", "completeness"), ("remarks", "flag_names"),
    ("reading before", "first_value"), ("reading after", "last_value"), ("lowest", "low"), ("highest", "high"),
    ("mean", "mean"), ("demand", "demand"), ("of", "gauge_unit"), ("missing ms", "missing_ms"),
)  # fmt: skip


class IntervalsCsv(CsvDraft):
    """A CSV file with intervals.

    If ``flat``, it has all columns, for programs. If not, it has local times and words, for people.
    """

    def __init__(self, path: Path, flat: bool) -> None:
        from agent.service.control.export import COLUMNS

        self._columns = len(COLUMNS)
        self._places = None if flat else [COLUMNS.index(column) for _, column in PEOPLE]
        head = COLUMNS if flat else [heading for heading, _ in PEOPLE]
        # the file for people has a byte order mark, which spreadsheets need to recognise UTF-8; programs may not expect
        # it
        super().__init__(path, head, "utf-8" if flat else "utf-8-sig", "\n")

    def add(self, part: bytes) -> None:
        """Append rows in the form in which ``agent.service.control.export`` sends them."""
        self.check_room()
        for line in part.split(b"\n"):
            cells = check_row(line, self._columns)
            self._writer.writerow(cells if self._places is None else _for_people(cells, self._places))
            self.rows += 1


def _for_people(cells: Sequence[Any], places: Sequence[int]) -> list[Any]:
    out = []
    for (heading, _), place in zip(PEOPLE, places, strict=True):
        cell = cells[place]
        if heading in ("from", "to"):
            # the UTC offset is removed, so that spreadsheets recognise a time
            cell = f"{str(cell)[:10]} {str(cell)[11:19]}"
        out.append(safe_cell(cell))
    return out
