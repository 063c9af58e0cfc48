"""`meterhouse platform`: the platform's side, from one command to a cluster."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from agent.cli.common import say
from agent.cli.options import EXISTING_FILE, json_option, lang_option
from drivers.model import UsageError, clean_text
from receiver.database import check_place, connect, migrate, open_shards, parse_shards, shard_of, show_dsn
from receiver.trust import enrol, exported, read_csv, remove

DSN_HELP = (
    "PostgreSQL, such as postgresql://user@host:5432/name; several times for several shards, always in one order."
)
db_option = click.option(
    "--db", "dsns", multiple=True, required=True, envvar="METERHOUSE_DB", metavar="DSN", help=DSN_HELP
)


@click.group()
def platform() -> None:
    """Receive, verify and keep the packs of many gateways: PostgreSQL behind a broker.

    \b
    Examples:
      meterhouse platform demo
      meterhouse platform init --db DSN                 the tables
      meterhouse platform enrol fleet.csv --db DSN      which gateways are trusted
      meterhouse platform work --from mqtt://HOST --db DSN    as many as you like
      meterhouse platform keep --broker mqtt://HOST --db DSN
    """


@platform.command("init")
@db_option
def init_command(dsns: tuple[str, ...]) -> None:
    """Make the tables, or bring them to this version.

    \b
    Exit codes: 0 done, 3 a database cannot be used.
    """
    shards = parse_shards(dsns)
    for place, dsn in enumerate(shards):
        made = migrate(dsn)
        with connect(dsn) as connection:
            check_place(connection, dsn, place, len(shards))
        done = f"migrations {', '.join(map(str, made))} made" if made else "nothing to do"
        click.echo(f"{show_dsn(dsn)}: {done}")


@platform.command("enrol")
@click.argument("file", type=EXISTING_FILE, required=False)
@click.option(
    "--export", "export_to", type=click.Path(dir_okay=False, path_type=Path), help="Write what is trusted to this CSV."
)
@click.option("--remove", "removed", multiple=True, metavar="SITE/GATEWAY", help="Trust this gateway no longer.")
@click.option("--unknown", is_flag=True, help="List gateways that publish and are not enrolled.")
@db_option
@json_option
def enrol_command(
    file: Path | None,
    export_to: Path | None,
    removed: tuple[str, ...],
    unknown: bool,
    dsns: tuple[str, ...],
    as_json: bool,
) -> None:
    """Enrol the gateways that are trusted: lines of gateway,thumbprint[,streams].

    The thumbprint comes from the gateway by a channel of its own (`meterhouse keys show`), never from the broker.

    \b
    Exit codes: 0 done, 2 wrong usage, 3 a faulty file or database.
    """
    shards = open_shards(dsns)
    rows = read_csv(file) if file else []
    done: dict[str, Any] = {"enrolled": len(rows), "known_now": [], "removed": 0, "unknown": []}
    trusted: list[tuple[str, str, str]] = []
    for number, dsn in enumerate(shards):
        with connect(dsn) as connection:
            mine = [row for row in rows if shard_of(row.gateway, len(shards)) == number]
            if mine:
                done["known_now"] += enrol(connection, mine)
            if removed:
                done["removed"] += remove(connection, removed)
            trusted += exported(connection) if export_to else []
            waiting = connection.execute("SELECT gateway, thumbprint, seen FROM unknown_gateways ORDER BY gateway")
            done["unknown"] += [[gateway, thumb, seen.isoformat()] for gateway, thumb, seen in waiting]
    if export_to:
        lines = ["gateway,thumbprint,streams", *(",".join(row) for row in sorted(trusted))]
        export_to.write_text("\n".join(lines) + "\n")
        done["exported"] = len(trusted)
    if as_json:
        click.echo(json.dumps(done, sort_keys=True))
        return
    if rows:
        click.echo(f"{len(rows)} gateways are trusted; {len(done['known_now'])} of them had published before")
    if removed and not done["removed"]:
        raise UsageError(
            f'"{clean_text(removed[0])}" is not enrolled', where="--remove", hint="--export lists all that are"
        )
    if removed:
        click.echo(f"{done['removed']} gateways are trusted no longer; what they sent stays")
    if export_to:
        click.echo(f"{export_to}: {len(trusted)} thumbprints")
    if unknown or not (rows or removed or export_to):
        click.echo(f"{len(done['unknown'])} gateways publish and are not enrolled")
        for gateway, thumb, seen in done["unknown"]:
            click.echo(f"  {clean_text(gateway)}  {thumb}  {seen[:19]}")


@platform.command("work")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="URL",
    help="mqtt://HOST:1883, mqtts://, amqp://HOST:5672,HOST2:5672/%2F?queue=NAME, amqps://.",
)
@click.option("--name", default=None, help="Of this worker, the same after a restart; default: the host's name.")
@click.option("--readings", is_flag=True, help="Keep readings for queries as well (the view `readings`).")
@db_option
@json_option
def work_command(source: str, name: str | None, readings: bool, dsns: tuple[str, ...], as_json: bool) -> None:
    """Take packs from a broker, check each alone, store them. Runs until it is stopped.

    A pack is acknowledged when it is committed, never before. Workers may be killed and added at any time.
    The name is that of a session which the broker keeps: give each worker one of its own and keep it.

    \b
    Exit codes: 0 stopped, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.sources import open_source
    from receiver.store import Store
    from receiver.worker import Worker

    shards = open_shards(dsns)
    _start_log()
    stop = _on_stop()
    stores = [Store(dsn, readings=readings) for dsn in shards]
    connection = open_source(source, name or socket.gethostname())
    worker = Worker(connection, stores)
    reported, problem = time.monotonic(), "not said yet"
    while not stop:
        worker.step()
        if (now := connection.problem()) != problem:
            problem = now
            logging.getLogger("meterhouse.platform").log(
                logging.WARNING if problem else logging.INFO, "broker: %s", problem or "connected"
            )
        if time.monotonic() - reported >= 60:
            _log_totals(worker.report())
            reported = time.monotonic()
    connection.close()
    for store in stores:
        store.close()
    click.echo(json.dumps(worker.report(), sort_keys=True) if as_json else _in_words(worker.report()))


@platform.command("keep")
@click.option(
    "--broker",
    metavar="URL",
    help="mqtt://HOST[,HOST2]: acknowledge, and ask for what is missing. Without it: only check.",
)
@click.option("--metrics", metavar="ADDRESS", help="Prometheus metrics here, such as 127.0.0.1:9108.")
@click.option("--keep-days", type=click.IntRange(1), help="Drop packs that are older, by whole months. Default: never.")
@click.option("--name", default=None, help="Of this keeper at the broker; default: the host's name.")
@db_option
def keep_command(
    broker: str | None, metrics: str | None, keep_days: int | None, name: str | None, dsns: tuple[str, ...]
) -> None:
    """Check the seams between packs, settle completeness, acknowledge, ask for what is missing.

    Runs until it is stopped.

    \b
    Exit codes: 0 stopped, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.keeper import PAUSE_S, Keeper
    from receiver.metrics import MetricsServer, prometheus_text
    from receiver.publisher import Publisher

    shards = open_shards(dsns)
    _start_log()
    stop = _on_stop()
    publisher = Publisher(broker, name or socket.gethostname()) if broker else None
    keepers = [Keeper(dsn, publisher, keep_days=keep_days) for dsn in shards]
    server = MetricsServer(metrics, lambda: prometheus_text(_summary(shards))) if metrics else None
    while not stop:
        if not sum([keeper.step() for keeper in keepers]):
            time.sleep(PAUSE_S)
    if server:
        server.close()
    if publisher:
        publisher.close()
    for keeper in keepers:
        keeper.close()


@platform.command("status")
@click.argument("like", metavar="[SITE[/GATEWAY]]", required=False)
@click.option("--since", default=None, metavar="DAY", help="Count readings from this UTC day on; default: today.")
@db_option
@lang_option
@json_option
def status_command(like: str | None, since: str | None, dsns: tuple[str, ...], lang: str, as_json: bool) -> None:
    """The fleet: what is verified, what is missing and why, who is late.

    \b
    Exit codes: 0 all is verified, 6 something is false or missing, 3 a database cannot be used.
    """
    from receiver.fleet_state import FleetState, fleet_state
    from receiver.fleet_state import as_json as state_as_json
    from receiver.fleet_table import print_state

    day = since or datetime.now(UTC).date().isoformat()
    try:
        datetime.strptime(day, "%Y-%m-%d")
    except ValueError:
        raise UsageError(
            f'"{clean_text(day)}" is not a day', where="--since", hint="Expected such as 2026-11-28"
        ) from None
    states = []
    for dsn in open_shards(dsns):
        with connect(dsn) as connection:
            states.append(fleet_state(connection, like, day))
    whole = FleetState(
        [one for state in states for one in state.gateways], [one for state in states for one in state.unknown],
        sum(state.lots_waiting for state in states), sum(state.unsettled for state in states),
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(state_as_json(whole), sort_keys=True))
    else:
        print_state(whole)
    summary = whole.summary()
    sys.exit(6 if summary["failed"] or summary["incomplete"] else 0)


@platform.command("audit")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--of", "like", required=True, metavar="SITE[/GATEWAY[/STREAM]]", help="Whose packs.")
@click.option("--from", "from_text", metavar="TIME", help="UTC, 2026-11-01 or 2026-11-01T08:00.")
@click.option("--to", "to_text", metavar="TIME", help="End, not included.")
@db_option
@json_option
def audit_command(
    folder: Path, like: str, from_text: str | None, to_text: str | None, dsns: tuple[str, ...], as_json: bool
) -> None:
    """Write evidence to a folder that `meterhouse verify` judges: the packs as they were published, to the byte.

    \b
    Exit codes: 0 written, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.audit import write_export

    shards = open_shards(dsns)
    chosen = shards if like.count("/") == 0 else [shards[shard_of("/".join(like.split("/")[:2]), len(shards))]]
    between = (_utc_ms(from_text, "--from"), _utc_ms(to_text, "--to"))
    parts = []
    for number, dsn in enumerate(chosen):
        with connect(dsn) as connection:
            place = folder if len(chosen) == 1 else folder / f"shard{number}"
            parts.append(write_export(connection, place, like, *between))
    total = {name: sum(getattr(part, name) for part in parts) for name in ("gateways", "streams", "packs", "bytes")}
    if as_json:
        click.echo(json.dumps(total, sort_keys=True))
    else:
        click.echo(f"{folder}: {total['packs']} packs of {total['streams']} streams of {total['gateways']} gateways")


@platform.command("demo")
@click.option(
    "--gateways", type=click.IntRange(10, 2000), default=200, show_default=True, help="Size of the made-up fleet."
)
@lang_option
@json_option
def demo_command(gateways: int, lang: str, as_json: bool) -> None:
    """The whole platform on this machine: PostgreSQL, mosquitto, two workers, a keeper and a made-up fleet with faults.

    \b
    Exit codes: 0 it came to its end, 3 no PostgreSQL here, 5 no broker or not all arrived.
    """
    from receiver.demo import run_demo
    from receiver.fleet_state import as_json as state_as_json
    from receiver.fleet_table import print_state

    state = run_demo(gateways, (lambda text: None) if as_json else (lambda text: click.echo(say(text))))
    if as_json:
        click.echo(json.dumps(state_as_json(state), sort_keys=True))
    else:
        click.echo("")
        print_state(state, only_bad=True)


def _summary(shards: Sequence[str]) -> dict[str, Any]:
    from receiver.fleet_state import fleet_state

    total: dict[str, Any] = {}
    for dsn in shards:
        with connect(dsn) as connection:
            for name, value in fleet_state(connection).summary().items():
                total[name] = total.get(name, 0) + value
    return total


def _start_log() -> None:
    logging.basicConfig(level=os.environ.get("MH_LOG", "INFO"), format="%(levelname)s %(message)s", stream=sys.stderr)


def _on_stop() -> list[int]:
    """A list that is not empty once somebody asked us to stop."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: asked.append(signum))
    return asked


def _log_totals(report: dict[str, Any]) -> None:
    logging.getLogger("meterhouse.platform").info("%s", _in_words(report))


def _in_words(report: dict[str, Any]) -> str:
    refused = sum(report["refused"].values())
    aside = f", {report['aside']} set aside for a database that was away" if report["aside"] else ""
    return (
        f"{report['packs']} packs stored, {report['readings']} readings; {report['again']} delivered again, "
        f"{refused} refused, "
        f"{report['unknown']} of unknown gateways, {report['waiting']} waiting{aside}"
    )


def _utc_ms(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise UsageError(
            f'"{clean_text(text)}" is not a time', where=where, hint="Expected such as 2026-11-01T08:00, in UTC"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
