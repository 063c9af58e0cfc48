"""`meterhouse export`: a stretch of time as files, for the verifier and for people."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from agent.cli.common import as_line, config_options, json_option, read_config, tidy
from agent.cli.exporting import Folder, Table
from agent.cli.requests import ask
from drivers.model import GatewayError, UsageError

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
@config_options
@json_option
def export(
    folder: Path | None,
    from_text: str | None,
    to_text: str | None,
    streams: tuple[str, ...],
    zstd: bool,
    csv_file: Path | None,
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

    \b
    Exit codes: 0 written, 1 nothing is in the range or no answer, 2 wrong usage, 3 bad configuration.
    """
    if folder is None and csv_file is None:
        raise UsageError("a FOLDER, --csv FILE or both are wanted", where="export", hint="`meterhouse export --help`")
    config = read_config(config_file, state_dir, runtime_dir)
    from_ms = read_time(from_text, "--from", config.timezone) if from_text else 0
    to_ms = read_time(to_text, "--to", config.timezone) if to_text else END_MS
    if from_ms >= to_ms:
        raise UsageError("--from is not before --to", where="export")
    from agent.service.exporting import from_part

    bar = Bar()
    with ExitStack() as stack:
        out = stack.enter_context(Folder(folder, zstd)) if folder else None
        table = stack.enter_context(Table(csv_file)) if csv_file else None

        def take(data: bytes) -> None:
            piece = from_part(data)
            if out:
                out.add(piece.file, piece.lines)
            if table and piece.packs:
                table.add(piece.lines, from_ms, to_ms)

        try:
            body = {"from_ms": from_ms, "to_ms": to_ms, "streams": list(streams)}
            found = ask(config, "export", body, take, bar.show)
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
        click.echo(f"warning: {tidy(text, 200)}", err=True)
    said: dict[str, object] = {"packs": found["packs"], "streams": found["streams"]}
    if out:
        said |= {"folder": str(out.path), "bytes": out.size_bytes}
    if table:
        said |= {"csv": str(table.path), "readings": table.rows}
    _say(said, as_json)


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

    def __init__(self) -> None:
        self._wanted, self._shown = sys.stderr.isatty(), 0.0

    def show(self, done: int, total: int) -> None:
        """Ten times a second at most."""
        now = time.monotonic()
        if self._wanted and now - self._shown > 0.1:
            self._shown = now
            share = min(1.0, done / max(total, 1))
            full = round(share * BAR)
            click.echo(f"\r[{'#' * full}{'.' * (BAR - full)}] {share:4.0%}  {done} packs ", err=True, nl=False)

    def end(self) -> None:
        """Clear the line."""
        if self._shown:
            click.echo("\r" + " " * (BAR + 40) + "\r", err=True, nl=False)


def _say(said: dict[str, object], as_json: bool) -> None:
    if as_json:
        click.echo(as_line(said))
        return
    streams = said["streams"]
    assert isinstance(streams, list)
    if "folder" in said:
        click.echo(f"{said['folder']}: {said['packs']} packs of {len(streams)} streams, {said['bytes']} bytes")
    if "csv" in said:
        click.echo(f"{said['csv']}: {said['readings']} readings")
