"""`meterhouse export`: a stretch of time as files, for the verifier and for people."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import click

from agent.cli.answers import check_exported, check_rows
from agent.cli.common import as_line, config_options, json_option, read_config, tidy, unwound
from agent.cli.control import ask
from agent.cli.exporting import Folder, Table, from_part
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.service.control.protocol import Export, Intervals

END_MS = 1 << 52
BAR = 24


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option(
    "--from", "from_text", metavar="TIME", help="From this time on: 2026-11-25, 2026-11-25T08:00, with Z: UTC."
)
@click.option("--to", "to_text", metavar="TIME", help="Up to this time, not including it.")
@click.option("--stream", "streams", multiple=True, metavar="NAME", help="Only this device; may be given again.")
@click.option("--zstd", is_flag=True, help="Compress the packs.")
@click.option("--csv", "csv_file", type=click.Path(dir_okay=False, path_type=Path), help="Readings for people, as CSV.")
@click.option(
    "--intervals",
    "interval_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Energy by interval for people, as CSV.",
)
@click.option(
    "--intervals-flat",
    "flat_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The same for programs: all columns, UTC and local time.",
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
    config_file: Path,
    state_dir: Path | None,
    runtime_dir: Path | None,
    as_json: bool,
) -> None:
    """Write packs, keys and checkpoints of a time range into FOLDER, which must not exist yet.

    `meterhouse verify FOLDER --trust THUMBPRINT` checks it as it would check a broker. Of each device all packs that
    touch the range are written. Times without Z or an offset are the site's. A running agent is asked for the packs and
    goes on meanwhile; of an agent that is stopped the database is opened.

    \b
    Examples:
      meterhouse export november/ --from 2026-11-01 --to 2026-12-01 --zstd
      meterhouse export --csv inv1.csv --stream inv1 --from 2026-11-25T08:00
      meterhouse export --intervals november.csv --from 2026-11-01 --to 2026-12-01

    \b
    Exit codes: 0 written, 1 nothing is in the range or no answer, 2 wrong usage, 3 bad configuration.
    """
    from agent.service.control.protocol import Export, Intervals

    if not any((folder, csv_file, interval_file, flat_file)):
        what = "a FOLDER, --csv, --intervals or --intervals-flat FILE is wanted"
        raise UsageError(what, where="export", hint="`meterhouse export --help`")
    config = read_config(config_file, state_dir, runtime_dir)
    from_ms = read_time(from_text, "--from", config.timezone) if from_text else 0
    to_ms = read_time(to_text, "--to", config.timezone) if to_text else END_MS
    if from_ms >= to_ms:
        raise UsageError("--from is not before --to", where="export")
    stretch: dict[str, Any] = {"from_ms": from_ms, "to_ms": to_ms, "streams": list(streams)}
    said: dict[str, object] = {}
    with unwound():
        if folder or csv_file:
            said = _packs(config, Export(**stretch), folder, zstd, csv_file)
        if interval_file or flat_file:
            said |= _intervals(config, Intervals(**stretch), interval_file, flat_file)
    _say(said, as_json)


def _packs(
    config: Config, request: Export, folder: Path | None, zstd: bool, csv_file: Path | None
) -> dict[str, object]:
    bar, brought = Bar(), 0
    with ExitStack() as stack:
        out = stack.enter_context(Folder(folder, zstd)) if folder else None
        table = stack.enter_context(Table(csv_file)) if csv_file else None

        def take(data: bytes) -> None:
            nonlocal brought
            piece = from_part(data)
            brought += piece.packs
            if out:
                out.add(piece.file, piece.lines)
            if table and piece.packs:
                table.add(piece.lines, request.from_ms, request.to_ms)

        try:
            found = check_exported(ask(config, request, take, bar.show))
            if found["packs"] != brought:
                raise GatewayError(f"the answer says {found['packs']} packs and brought {brought}", where="export")
            if out:
                out.keep()
            if table:
                table.keep()
        except OSError as error:
            where = str(out.path if out else table and table.path)
            raise GatewayError(f"cannot be written ({error.strerror})", where=where) from error
        finally:
            bar.end()
    for text in found["warnings"]:
        click.echo(f"warning: {tidy(str(text), 200)}", err=True)
    said: dict[str, object] = {"packs": found["packs"], "streams": [tidy(str(name), 200) for name in found["streams"]]}
    if out:
        said |= {"folder": str(out.path), "bytes": out.size_bytes}
    if table:
        said |= {"csv": str(table.path), "readings": table.rows}
    return said


def _intervals(
    config: Config, request: Intervals, interval_file: Path | None, flat_file: Path | None
) -> dict[str, object]:
    from agent.cli.export_intervals import IntervalTable

    bar, said = Bar("days"), dict[str, object]()
    with ExitStack() as stack:
        people = stack.enter_context(IntervalTable(interval_file, flat=False)) if interval_file else None
        flat = stack.enter_context(IntervalTable(flat_file, flat=True)) if flat_file else None
        tables = [table for table in (people, flat) if table]

        def take(data: bytes) -> None:
            for table in tables:
                table.add(data)

        try:
            rows = check_rows(ask(config, request, take, bar.show))
            for table in tables:
                table.keep()
        except OSError as error:
            where = str(tables[0].path)
            raise GatewayError(f"cannot be written ({error.strerror})", where=where) from error
        finally:
            bar.end()
    said |= {"intervals": rows}
    if people:
        said["intervals_csv"] = str(people.path)
    if flat:
        said["intervals_flat"] = str(flat.path)
    return said


def read_time(text: str, where: str, timezone: str) -> int:
    """A point in time in UTC ms. Raises UsageError."""
    try:
        found = datetime.fromisoformat(text)
        return round((found if found.tzinfo else found.replace(tzinfo=ZoneInfo(timezone))).timestamp() * 1000)
    except (ValueError, OverflowError):
        hint = "Write 2026-11-25, 2026-11-25T08:00 or 2026-11-25T00:00Z"
        raise UsageError(f"{tidy(text)!r} is no time", where=where, hint=hint) from None


class Bar:
    """A bar on stderr, if a person is there to see it."""

    def __init__(self, what: str = "packs") -> None:
        self._what, self._wanted, self._shown = what, sys.stderr.isatty(), 0.0

    def show(self, done: int, total: int) -> None:
        """Ten times a second at most."""
        now = time.monotonic()
        if self._wanted and now - self._shown > 0.1:
            self._shown = now
            share = min(1.0, done / max(total, 1))
            full = round(share * BAR)
            click.echo(f"\r[{'#' * full}{'.' * (BAR - full)}] {share:4.0%}  {done} {self._what} ", err=True, nl=False)

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r" + " " * (BAR + 40) + "\r", err=True, nl=False)


def _say(said: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(as_line(said))
        return
    if "folder" in said:
        streams = said["streams"]
        assert isinstance(streams, list)
        click.echo(f"{said['folder']}: {said['packs']} packs of {len(streams)} streams, {said['bytes']} bytes")
    if "csv" in said:
        click.echo(f"{said['csv']}: {said['readings']} readings")
    for name in ("intervals_csv", "intervals_flat"):
        if name in said:
            click.echo(f"{said[name]}: {said['intervals']} rows")
