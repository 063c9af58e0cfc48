"""`meterhouse platform enrol`: manages the list of trusted gateways and shows unknown ones that publish."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from agent.cli.common import as_complaint, say
from agent.cli.options import EXISTING_FILE, json_option, lang_option
from agent.cli.output_files import writing
from drivers.model import UsageError, clean_text
from receiver.database import connect, open_shards, rights_of, shard_of
from receiver.options import db_option
from receiver.trust import Enrolment, enrol, exported, forget, read_csv, remove, shared_thumbprints


@dataclass(slots=True)
class _Done:
    """The combined result over all databases."""

    enrolled: int = 0
    known_now: list[str] = field(default_factory=list)
    removed: int = 0
    forgotten: int = 0
    unknown: list[list[str]] = field(default_factory=list)
    # thumbprint -> gateways that use it, if there are several
    one_key: dict[str, list[str]] = field(default_factory=dict)
    trusted: list[tuple[str, str, str]] = field(default_factory=list)

    def as_json(self) -> str:
        names = ("enrolled", "known_now", "removed", "forgotten", "unknown", "one_key")
        return json.dumps({name: getattr(self, name) for name in names}, sort_keys=True)


@click.command("enrol")
@click.argument("file", type=EXISTING_FILE, required=False)
@click.option(
    "--export",
    "export_to",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the trusted gateways to this CSV file.",
)
@click.option("--remove", "removed", multiple=True, metavar="SITE/GATEWAY", help="Stop trusting this gateway.")
@click.option("--unknown", is_flag=True, help="List gateways that publish but are not enrolled.")
@click.option(
    "--forget",
    "forgotten",
    multiple=True,
    metavar="SITE/GATEWAY",
    help="Remove this gateway from the list of gateways that are not enrolled; "
    '"all" removes every gateway from the list.',
)
@db_option
@lang_option
@json_option
def enrol_command(
    file: Path | None,
    export_to: Path | None,
    removed: tuple[str, ...],
    unknown: bool,
    forgotten: tuple[str, ...],
    dsns: tuple[str, ...],
    lang: str,
    as_json: bool,
) -> None:
    """Enrol trusted gateways from a CSV file: each line is gateway,thumbprint[,streams].

    The thumbprint comes from the gateway by a separate channel (`meterhouse keys show`), never from the broker.

    \b
    Exit codes: 0 done, 1 the file cannot be written, 2 wrong usage, 3 a faulty file or database.
    """
    rows = read_csv(file) if file else []
    done = _enrol(open_shards(dsns), rows, removed, forgotten)
    for thumbprint, names in done.one_key.items():
        what = (
            f"{', '.join(names[:5])} have the same key {thumbprint}. Was a disk copied? Each gateway needs its own key"
        )
        click.echo(as_complaint("warning", what), err=True)
    if removed and not done.removed:
        raise UsageError(
            f'"{clean_text(removed[0])}" is not enrolled', where="--remove", hint="--export lists all enrolled gateways"
        )
    if export_to:
        lines = ["gateway,thumbprint,streams", *(",".join(row) for row in sorted(done.trusted))]
        with writing(export_to):
            export_to.write_text("\n".join(lines) + "\n")
    if as_json:
        click.echo(done.as_json())
        return
    results = [
        (rows, f"{len(rows)} gateways are trusted; {len(done.known_now)} of them published before they were trusted"),
        (removed, f"{done.removed} gateways are no longer trusted; their stored packs are kept"),
        (forgotten, f"{done.forgotten} gateways were removed from the list of gateways that are not enrolled"),
        (export_to, f"{export_to}: {len(done.trusted)} thumbprints were written to this file"),
    ]
    for wanted, text in results:
        if wanted:
            click.echo(say(text))
    if unknown or not (rows or removed or export_to or forgotten):
        click.echo(say(f"{len(done.unknown)} gateways publish but are not enrolled"))
        for gateway, thumbprint, seen in done.unknown:
            click.echo(f"  {clean_text(gateway)}  {thumbprint}  {seen[:19]}")


def _enrol(shards: Sequence[str], rows: Sequence[Enrolment], removed: Sequence[str], forgotten: Sequence[str]) -> _Done:
    done = _Done(enrolled=len(rows))
    for number, dsn in enumerate(shards):
        with connect(dsn) as connection, rights_of(connection, dsn):
            if mine := [row for row in rows if shard_of(row.gateway, len(shards)) == number]:
                done.known_now += enrol(connection, mine)
            if removed:
                done.removed += remove(connection, removed)
            if forgotten:
                done.forgotten += forget(connection, None if "all" in forgotten else forgotten)
            done.trusted += exported(connection)
            waiting = connection.execute("SELECT gateway, thumbprint, seen FROM unknown_gateways ORDER BY gateway")
            done.unknown += [[gateway, thumb, seen.isoformat()] for gateway, thumb, seen in waiting]
    ours = {row.gateway for row in rows}
    copied = shared_thumbprints((gateway, thumbprint) for gateway, thumbprint, _ in done.trusted)
    done.one_key = {thumbprint: names for thumbprint, names in copied.items() if ours & set(names)}
    return done
