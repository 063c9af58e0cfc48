"""`meterhouse export`: a stretch of time as files, for the verifier and for people."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from agent.cli.common import as_line, config_options, is_alive, json_option, read_config, read_snapshot, tidy
from agent.cli.exporting import Folder, Table
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.config import Config
    from agent.store import Archive, Store

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
    touch the range are written. Times without Z or an offset are the site's. The agent must be stopped meanwhile.

    \b
    Examples:
      meterhouse export november/ --from 2026-11-01 --to 2026-12-01 --zstd
      meterhouse export --csv inv1.csv --stream inv1 --from 2026-11-25T08:00

    \b
    Exit codes: 0 written, 1 the agent runs or nothing is in the range, 2 wrong usage, 3 bad configuration.
    """
    if folder is None and csv_file is None:
        raise UsageError("a FOLDER, --csv FILE or both are wanted", where="export", hint="`meterhouse export --help`")
    config = read_config(config_file, state_dir, runtime_dir)
    from_ms = read_time(from_text, "--from", config.timezone) if from_text else 0
    to_ms = read_time(to_text, "--to", config.timezone) if to_text else END_MS
    if from_ms >= to_ms:
        raise UsageError("--from is not before --to", where="export")
    from agent.store import Archive

    with ExitStack() as stack:
        store = stack.enter_context(stopped_store(config))
        archive = Archive(store, from_ms, to_ms, streams)
        _complain(archive, streams, store)
        out = stack.enter_context(Folder(folder, zstd)) if folder else None
        table = stack.enter_context(Table(csv_file)) if csv_file else None
        packs = _write(archive, out, table, from_ms, to_ms, keys_of(store, config))
        if out:
            out.keep()
        if table:
            table.keep()
    said = {"packs": packs, "streams": archive.streams}
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


@contextmanager
def stopped_store(config: Config) -> Iterator[Store]:
    """The database of an agent that does not run.

    Raises:
        GatewayError: there is none, the agent runs, or it cannot be opened.
    """
    from agent.store import Store, StoreBusy

    path, busy = config.store_path, GatewayError(
        "the agent runs and owns the database",
        where=str(config.store_path),
        hint="Stop it for the time of the export: `systemctl stop meterhouse`; readings in between become a stated gap",
    )  # fmt: skip
    if not path.exists():
        raise GatewayError("there is no database", where=str(path), hint="Did the agent ever run with this state_dir?")
    if _runs(config.runtime_dir):
        raise busy
    try:
        store = Store.open(path, config.store.max_size_bytes, config.store.keep_delivered_s)
    except StoreBusy as error:
        raise busy from error
    try:
        yield store
    finally:
        store.close()


def _runs(runtime_dir: Path) -> bool:
    try:
        return is_alive(read_snapshot(runtime_dir).get("pid"))
    except GatewayError:
        return False


def keys_of(store: Store, config: Config) -> bytes | None:
    """The key records where the database has none: an agent of an early version without destinations wrote it."""
    if store.key_record():
        return None
    from agent.keys import key_records, load_key

    return key_records(load_key(config.key.path(os.environ)), config.base)


def _complain(archive: Archive, streams: tuple[str, ...], store: Store) -> None:
    if store.quarantine:
        click.echo(f"warning: the database was damaged; it is set aside as {store.quarantine.path}", err=True)
    for name in streams:
        if name not in archive.known:
            hint = f"Known: {', '.join(archive.known)}" if archive.known else "It holds none at all"
            raise UsageError(f"the database has no stream {tidy(name)!r}", where="--stream", hint=hint)
    if not archive.streams:
        raise GatewayError("nothing is in this range", where="export", hint="Older packs leave after keep_delivered")


def _write(
    archive: Archive, out: Folder | None, table: Table | None, from_ms: int, to_ms: int, keys: bytes | None
) -> int:
    bar, done = Bar(archive.total), 0
    try:
        if out and keys:
            out.add("keys.json", (keys,))
        for piece in archive.pieces():
            if out:
                out.add(piece.file, piece.lines)
            if table and piece.packs:
                table.add(piece.lines, from_ms, to_ms)
            done += piece.packs
            bar.show(done)
    except OSError as error:
        raise GatewayError(
            f"cannot be written ({error.strerror})", where=str(out.path if out else table and table.path)
        ) from error
    finally:
        bar.end()
    return done


class Bar:
    """A bar on stderr, if a person is there to see it."""

    def __init__(self, total: int) -> None:
        self._total, self._wanted = max(total, 1), sys.stderr.isatty()
        self._shown = 0.0

    def show(self, done: int) -> None:
        """Ten times a second at most."""
        now = time.monotonic()
        if self._wanted and now - self._shown > 0.1:
            self._shown = now
            share = min(1.0, done / self._total)
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
