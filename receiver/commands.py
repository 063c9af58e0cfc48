"""`meterhouse platform`: the commands of the platform."""

from __future__ import annotations

import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from agent.cli.common import say, say_at, singular
from agent.cli.options import EXISTING_FILE, json_option, lang_option
from agent.cli.output_files import writing
from drivers.model import UsageError, clean_text
from receiver.database import (
    connect,
    create_tables,
    open_database,
    open_shards,
    parse_shards,
    rights_of,
    shard_of,
    show_dsn,
)
from receiver.enrol_command import enrol_command
from receiver.options import db_option, start_log
from receiver.page.command import page_command
from receiver.shards import Away, each_shard, open_some
from receiver.trust import trusted_count


@click.group()
def platform() -> None:
    """Receive the packs of many gateways from a broker, verify them and keep them in PostgreSQL.

    \b
    Examples:
      meterhouse platform demo
      meterhouse platform init --db DSN                 the tables
      meterhouse platform enrol fleet.csv --db DSN      which gateways are trusted
      meterhouse platform work --from mqtt://HOST --db DSN    run as many workers as needed
      meterhouse platform keep --broker mqtt://HOST --db DSN
      meterhouse platform page --db DSN                 the fleet in a browser
    """


@platform.command("init")
@db_option
def init_command(dsns: tuple[str, ...]) -> None:
    """Create the tables.

    \b
    Exit codes: 0 done, 3 a database cannot be used.
    """
    shards = parse_shards(dsns)
    for place, dsn in enumerate(shards):
        made = create_tables(dsn)
        open_database(dsn, (place, len(shards))).close()
        done = "tables created" if made else "nothing to do"
        click.echo(say_at(show_dsn(dsn), done))


platform.add_command(enrol_command)
platform.add_command(page_command)


@platform.command("work")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="URL",
    help="mqtt://HOST:1883, mqtts://, amqp://HOST:5672,HOST2:5672/%2F?queue=NAME, amqps://.",
)
@click.option(
    "--name",
    default=None,
    help="Name of this worker, which must be the same after a restart; default: the host's name.",
)
@click.option("--readings", is_flag=True, help="Also store readings for queries (the view `readings`).")
@db_option
@json_option
def work_command(source: str, name: str | None, readings: bool, dsns: tuple[str, ...], as_json: bool) -> None:
    """Take packs from a broker, check each pack separately and store it. Runs until it is stopped.

    A pack is acknowledged after it is committed, never before. Workers may be killed and added at any time.
    The broker keeps a session under the worker's name: give each worker a different name, and do not change it.

    \b
    Exit codes: 0 stopped, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.sources import open_source
    from receiver.store import Store
    from receiver.worker import Worker

    shards, away = open_some(dsns)
    start_log()
    stop = _on_stop()
    stores = [Store(dsn, readings=readings, place=(place, len(shards))) for place, dsn in enumerate(shards)]
    name = name or socket.gethostname()
    connection = open_source(source, name)
    _log_start(f"worker {name} reads from {show_url(source)}", shards, away)
    worker = Worker(connection, stores, away=[one.place - 1 for one in away])
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
    help="mqtt://HOST[,HOST2]: acknowledge packs and request missing packs through this broker. Default: only check.",
)
@click.option("--metrics", metavar="ADDRESS", help="Serve Prometheus metrics at this address, such as 127.0.0.1:9108.")
@click.option(
    "--keep-days",
    type=click.IntRange(1),
    help="Delete a month when all its packs are older than this many days. Default: never.",
)
@click.option("--name", default=None, help="Name of this `keep` process at the broker; default: the host's name.")
@click.option(
    "--clickhouse",
    metavar="URL",
    help="Also send readings and computed figures to this ClickHouse database: http://user@host:8123/DATABASE.",
)
@click.option(
    "--latest", is_flag=True, help="Publish the newest values of each device as retained messages. Needs --broker."
)
@db_option
def keep_command(
    broker: str | None,
    metrics: str | None,
    keep_days: int | None,
    name: str | None,
    clickhouse: str | None,
    latest: bool,
    dsns: tuple[str, ...],
) -> None:
    """Check that packs follow each other, determine completeness, acknowledge packs, request missing packs.

    Runs until it is stopped.

    \b
    Exit codes: 0 stopped, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.clickhouse_feed import FeedThread
    from receiver.keeper import PAUSE_S, Keeper
    from receiver.metrics import MetricsServer, prometheus_text
    from receiver.publisher import Publisher

    if latest and not broker:
        raise UsageError(
            "--latest publishes to a broker, but no broker is given", where="--latest", hint="Add --broker mqtt://HOST"
        )
    shards, away = open_some(dsns)
    start_log()
    stop = _on_stop()
    publisher = Publisher(broker, name or socket.gethostname()) if broker else None
    _log_start(
        f"keeper, acknowledging through {show_url(broker)}" if broker else "keeper, acknowledging nothing", shards, away
    )
    keepers = [
        Keeper(dsn, publisher, keep_days=keep_days, latest=latest, place=(place, len(shards)))
        for place, dsn in enumerate(shards)
    ]
    feed = FeedThread(shards, clickhouse) if clickhouse else None
    server = MetricsServer(metrics, lambda: prometheus_text(_summary(shards))) if metrics else None
    while not stop:
        if not sum([keeper.step() for keeper in keepers]):
            time.sleep(PAUSE_S)
    if feed:
        feed.close()
    if server:
        server.close()
    if publisher:
        publisher.close()
    for keeper in keepers:
        keeper.close()


@platform.command("status")
@click.argument("like", metavar="[SITE[/GATEWAY]]", required=False)
@click.option(
    "--since", default=None, metavar="DAY", help="Count packs and readings from this UTC day on; default: today."
)
@db_option
@lang_option
@json_option
def status_command(like: str | None, since: str | None, dsns: tuple[str, ...], lang: str, as_json: bool) -> None:
    """Show the fleet: what is verified, what is missing and why, which gateways are late.

    \b
    Exit codes: 0 all verified, 2 no such gateway, 6 something is invalid or missing, 3 a database cannot be used.
    """
    from receiver.fleet_state import as_json as state_as_json
    from receiver.fleet_state import whole_fleet
    from receiver.fleet_table import print_state

    day = since or datetime.now(UTC).date().isoformat()
    try:
        datetime.strptime(day, "%Y-%m-%d")
    except ValueError:
        raise UsageError(
            f'"{clean_text(day)}" is not a day', where="--since", hint="Expected a date such as 2026-11-28"
        ) from None
    whole = whole_fleet(dsns, like, day)
    if like is not None and not whole.gateways and not whole.away:
        hint = "`meterhouse platform status` lists enrolled gateways; `platform enrol FILE.csv` enrols more"
        raise UsageError(f'no enrolled gateway matches "{clean_text(like, 130)}"', where="status", hint=hint)
    if as_json:
        click.echo(json.dumps(state_as_json(whole), sort_keys=True))
    else:
        print_state(whole)
    summary = whole.summary()
    sys.exit(3 if whole.away else 6 if summary["failed"] or summary["incomplete"] or summary["silent"] else 0)


MOST_DAMAGED = 20  # number of damaged packs that `audit` lists


@platform.command("audit")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--of",
    "like",
    required=True,
    metavar="SITE[/GATEWAY[/STREAM]]",
    help="Export the packs of this site, gateway or stream.",
)
@click.option("--from", "from_text", metavar="TIME", help="UTC, 2026-11-01 or 2026-11-01T08:00.")
@click.option("--to", "to_text", metavar="TIME", help="End of the range, not included.")
@db_option
@json_option
def audit_command(
    folder: Path, like: str, from_text: str | None, to_text: str | None, dsns: tuple[str, ...], as_json: bool
) -> None:
    """Write packs to a folder as evidence for `meterhouse verify`, byte for byte as they were published.

    \b
    Exit codes: 0 written, 1 a pack is damaged or the folder not writable, 2 wrong usage, 3 a database cannot be used.
    """
    from receiver.audit import NoStreamError, write_export

    shards = open_shards(dsns)
    chosen = shards if like.count("/") == 0 else [shards[shard_of("/".join(like.split("/")[:2]), len(shards))]]
    between = (_utc_ms(from_text, "--from"), _utc_ms(to_text, "--to"))
    if between[0] is not None and between[1] is not None and between[0] >= between[1]:
        raise UsageError(
            f"the start {clean_text(str(from_text))} is not before the end {clean_text(str(to_text))}", where="--from",
            hint="--to is the end, which is not included. Write one day as --from 2026-11-01 --to 2026-11-02",
        )  # fmt: skip
    parts = []
    absent: NoStreamError | None = None
    for number, dsn in enumerate(chosen):
        with connect(dsn) as connection, rights_of(connection, dsn):
            place = folder if len(chosen) == 1 else folder / f"shard{number}"
            try:
                with writing(place):
                    parts.append(write_export(connection, place, like, *between))
            except NoStreamError as error:
                absent = error  # a small site may have gateways in only some of the databases
    if absent is not None and not parts:
        raise absent
    total = {name: sum(getattr(part, name) for part in parts) for name in ("gateways", "streams", "packs", "bytes")}
    agreed = [entry for part in parts for entry in part.agreed]
    damaged = [{"seq": seq, "stream": stream} for part in parts for stream, seq in part.damaged]
    if as_json:
        click.echo(json.dumps({**total, "agreed": agreed, "damaged": damaged}, sort_keys=True))
        sys.exit(1 if damaged else 0)
    click.echo(say(f"{folder}: {total['packs']} packs from {total['streams']} streams of {total['gateways']} gateways"))
    if agreed:  # print the list and do not write it to the folder, because a verifier must get it from a trusted source
        click.echo(say("For the streams that were agreed at enrolment, run `meterhouse verify` with these options:"))
        click.echo("".join(f' --streams "{entry}"' for entry in agreed).strip())
    for one in damaged[:MOST_DAMAGED]:
        text = f"{one['stream']}: pack {one['seq']} is damaged in the database and was not written"
        click.echo(say(text), err=True)
    if damaged:
        click.echo(say(f"damaged packs that were not written: {len(damaged)}"), err=True)
        sys.exit(1)


@platform.command("convert")
@click.argument("name", required=False)
@click.option(
    "--map",
    "mapping",
    type=EXISTING_FILE,
    help="Your mapping file: for each value of the format, it names the point that provides this value.",
)
@click.option("--from", "from_text", metavar="TIME", help="UTC, 2026-11-01 or 2026-11-01T08:00.")
@click.option("--to", "to_text", metavar="TIME", help="End of the range, not included; default: now.")
@click.option("--into", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file; default: stdout.")
@db_option
def convert_command(
    name: str | None,
    mapping: Path | None,
    from_text: str | None,
    to_text: str | None,
    into: Path | None,
    dsns: tuple[str, ...],
) -> None:
    """Write verified values in another format, interval by interval. Without NAME, list the formats.

    Missing values are marked as the format requires, and are never written as zero. Other packages may add formats.

    \b
    Examples:
      meterhouse platform convert --db DSN
      meterhouse platform convert hj212-2017 --map cod.toml --from 2026-11-01 --to 2026-11-02 --db DSN

    \b
    Exit codes: 0 written, 1 the file cannot be written, 2 wrong usage, 3 a faulty mapping or database.
    """
    from receiver.converters import converters, find_converter
    from receiver.converters.intervals import read_intervals

    if name is None:
        for one in converters().values():
            click.echo(f"{one.name}  {say(one.title)}")
        return
    if mapping is None or from_text is None:
        missing = "--map" if mapping is None else "--from"
        raise UsageError("this option is missing", where=missing, hint="A conversion needs --map FILE and --from TIME")
    conversion = find_converter(name).read_map(mapping)
    from_ms, to_ms = _utc_ms(from_text, "--from"), _utc_ms(to_text, "--to")
    shards = open_shards(dsns)
    gateways = {one.stream.rpartition("/")[0] for one in conversion.series}
    places = {shard_of(gateway, len(shards)) for gateway in gateways}
    if len(places) > 1:
        hint = "Write one mapping for each database"
        raise UsageError("the gateways of this mapping are in several databases", where=str(mapping), hint=hint)
    dsn = shards[places.pop()]
    with connect(dsn) as connection, rights_of(connection, dsn):
        until_ms = round(time.time() * 1000) if to_ms is None else to_ms
        # convert everything before the first write, because after an error half a file could be mistaken for a complete
        # one
        messages = list(conversion.write(read_intervals(connection, conversion, from_ms or 0, until_ms, mapping)))
        guard = writing(into) if into else nullcontext()
        with guard, into.open("wb") if into else click.open_file("-", "wb") as file:
            for message in messages:
                file.write(message)


@platform.command("demo")
@click.option(
    "--gateways", type=click.IntRange(10, 2000), default=200, show_default=True, help="Number of simulated gateways."
)
@lang_option
@json_option
def demo_command(gateways: int, lang: str, as_json: bool) -> None:
    """Run the platform on this machine: PostgreSQL, mosquitto, two workers, a keeper and a simulated fleet with faults.

    \b
    Exit codes: 0 the demo is complete, 3 there is no PostgreSQL here, 5 there is no broker, or not all packs
    arrived.
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
    from receiver.fleet_state import whole_fleet

    return whole_fleet(shards).summary()


def _log_start(who: str, shards: Sequence[str], away: Sequence[Away]) -> None:
    """Log one line with the task, the databases and the number of trusted gateways. Warnings follow."""
    counts, _ = each_shard(shards, trusted_count)
    log = logging.getLogger("meterhouse.platform")
    log.info("%s; %s; %d gateways trusted", who, "; ".join(map(show_dsn, shards)), sum(counts))
    for one in away:
        log.warning(
            "database %d is unreachable: %s. Work with the other databases continues; retrying", one.place, one.why
        )
    if not sum(counts) and not away:
        log.warning("no gateway is trusted, so nothing will be stored. Run meterhouse platform enrol FILE.csv --db ...")


def show_url(url: str) -> str:
    """The URL of a broker, without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _on_stop() -> list[int]:
    """Handle SIGTERM and SIGINT. The returned list stays empty until one of these signals arrives."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: asked.append(signum))
    return asked


def _log_totals(report: dict[str, Any]) -> None:
    logging.getLogger("meterhouse.platform").info("%s", _in_words(report))


def _in_words(report: dict[str, Any]) -> str:
    refused = sum(report["refused"].values())
    aside = f", {report['aside']} set aside for an unreachable database" if report["aside"] else ""
    return singular(
        f"{report['packs']} packs stored, {report['readings']} readings; {report['again']} delivered again, "
        f"{refused} refused, "
        f"{report['unknown']} from unknown gateways, {report['waiting']} waiting{aside}"
    )


def _utc_ms(text: str | None, where: str) -> int | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise UsageError(
            f'"{clean_text(text)}" is not a time', where=where, hint="Expected a UTC time such as 2026-11-01T08:00"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
