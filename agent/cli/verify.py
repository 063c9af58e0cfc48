"""`meterhouse verify`: checks packs from a broker or from exported files, and prints a verdict."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from agent.cli.common import COLON, as_complaint, as_line, progress, say, say_at, speaks_chinese
from agent.cli.options import (
    FILE,
    BrokerLogin,
    ConfigOptions,
    Duration,
    config_options,
    json_option,
    login_options,
    parse_broker,
)
from drivers.model import BrokerError, UsageError, clean_text

if TYPE_CHECKING:
    from agent.recompute import Recomputed
    from agent.verify import Report
    from agent.verify.live import Live

STDIN = Path("-")


def parse_streams(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[str]:
    """Split values such as ``park7/gw01=inv1,meter-*`` into one entry per name. Raises UsageError."""
    from agent.verify import AgreedStreams

    entries = []
    for value in values:
        gateway, named, names = value.rpartition("=")
        entries += [f"{gateway}{named}{name}" for name in names.replace(",", " ").split()] or [value]
    try:
        AgreedStreams(entries)
    except ValueError as error:
        hint = "Expected names or patterns separated by commas; prefix them with `park7/gw01=` for one gateway"
        raise UsageError(clean_text(str(error)), where="--streams", hint=hint) from None
    return entries


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--broker",
    metavar="URL",
    callback=parse_broker,
    help="Subscribe to this broker: mqtt://host:1883 or mqtts://host:8883.",
)
@click.option(
    "--site", default="+", show_default=True, help="Subscribe only to topics of this site; + means all sites."
)
@click.option(
    "--gateway", default="+", show_default=True, help="Subscribe only to topics of this gateway; + means all gateways."
)
@login_options
@click.option(
    "--trust",
    multiple=True,
    metavar="[SITE/GATEWAY=]THUMBPRINT",
    help="Trust this key of a gateway; obtain its thumbprint out of band. Repeat --trust for several gateways.",
)
@click.option(
    "--streams",
    multiple=True,
    metavar="[SITE/GATEWAY=]NAME,...",
    callback=parse_streams,
    help="Names and patterns (inv1,meter-*) of the streams that were agreed and must be present. May be repeated.",
)
@click.option(
    "--for",
    "duration_s",
    type=Duration(),
    metavar="TIME",
    help="Stop listening after this time, counted from the first pack (20s, 5 min); default: listen until Ctrl-C.",
)
@click.option(
    "--wait",
    "wait_s",
    type=Duration(),
    metavar="TIME",
    default="30s",
    show_default=True,
    help="With --for: wait at most this long for the first pack.",
)
@click.option("--db", "database", is_flag=True, help="Check the database of this gateway instead of packs.")
@config_options
@click.option("--recompute", is_flag=True, help="Recompute the figures from the packs.")
@click.option("--plan", "plan_file", type=FILE, help="File with the park's plan.")
@click.option(
    "--expect-complete", is_flag=True, help="Treat gaps, reported losses and streams without packs as failures, too."
)
@json_option
def verify(
    paths: tuple[Path, ...],
    broker: str | None,
    site: str,
    gateway: str,
    login: BrokerLogin,
    trust: tuple[str, ...],
    streams: list[str],
    duration_s: float | None,
    wait_s: float,
    recompute: bool,
    plan_file: Path | None,
    expect_complete: bool,
    database: bool,
    options: ConfigOptions,
    as_json: bool,
) -> None:
    """Check the signatures and the order of packs, and that every due reading is present or accounted for.

    PATHs are exported files or folders (.json, .jsonl, also with .zst appended). If a PATH is -, stdin is read, with
    one pack per line. Only packs signed by the pinned key are trusted: get the thumbprint with `meterhouse keys show`
    at the gateway, not over the network. With several gateways, put SITE/GATEWAY= before each thumbprint; otherwise the
    owner of one gateway could sign for another gateway. With --recompute, each signed figure whose packs are all
    present is computed again and must agree to the last digit. If the packs do not contain the park's plan, because the
    plan is too long, give its file with --plan.

    --streams is for a platform that receives only some streams. These streams must be present, and other streams are
    not expected, even if the gateway or the files say otherwise.

    --db checks the database of this gateway: each row against its checksum, and each pack against its signature. The
    agent may run meanwhile. Changed rows are restored if possible. Packs that cannot be restored are kept aside in the
    database, and the next pack of their stream states them as lost.

    \b
    Example:
      meterhouse verify --broker mqtt://127.0.0.1 --trust pVa0...Q3k --for 20s
      meterhouse verify export/ --trust pVa0...Q3k --json
      meterhouse verify exports/ --trust park7/gw01=pVa0...Q3k --trust park7/gw02=x7Rt...0aE
      meterhouse verify evidence/ --trust pVa0...Q3k --streams "main-meter,inv*,_indicators"
      meterhouse verify --db

    \b
    Exit codes: 0 verified; 2 wrong usage; 5 broker error; 6 failed, incomplete, origin unproven or nothing to verify.
    """
    from agent.verify.keyring import is_pin

    if bool(paths) + bool(broker) + database != 1:
        raise UsageError("give either --broker, PATHs or --db", where="verify", hint="See `meterhouse verify --help`")
    for pin in trust:
        if not is_pin(pin):
            hint = (
                "Give the 43 characters that `meterhouse keys show` prints, or park7/gw01= followed by these characters"
            )
            raise UsageError(f"invalid thumbprint {clean_text(pin)!r}", where="--trust", hint=hint)
    if database:
        _database(options, as_json)
    if broker:
        report = _live(broker, trust, streams, site, gateway, login, duration_s, wait_s)
    else:
        report = _files(paths, trust, streams)
    short = report.shortfalls() if expect_complete else []
    # after a refused object, no figures are recomputed, because it may contain anything
    repeated = _repeat(paths, plan_file, streams) if recompute and not report.failures else None
    if expect_complete and repeated and repeated.undecidable:
        short.append(f"{repeated.undecidable} figures are not decidable, because declarations are missing")
    if as_json:
        facts = report.as_dict()
        if recompute:
            facts["recomputed"] = repeated.as_dict() if repeated else None
        if expect_complete:
            facts["complete"], facts["shortfalls"] = not short, short
        click.echo(as_line(facts))
    else:
        _say(report, short, bool(broker))
        if recompute:
            _say_repeated(repeated)
        click.echo(_verdict(report, len(short), repeated.counts["differ"] if repeated else 0))
    raise SystemExit(0 if report.ok and not short and not (repeated and repeated.counts["differ"]) else 6)


def _database(options: ConfigOptions, as_json: bool) -> NoReturn:
    """Check the database of this gateway, and end the command."""
    from agent.cli.answers import CheckedStore, checked
    from agent.cli.control import ask
    from agent.service.control.protocol import CheckStore

    config = options.load()
    with progress("packs") as update:
        found: CheckedStore = checked(ask(config, CheckStore(), progress=update), CheckedStore, "check of the database")
    if as_json:
        click.echo(as_line(found))
    else:
        for text in found["findings"]:
            click.echo(clean_text(say(f"changed: {text}"), 500))
        if (more := found["count"] - len(found["findings"])) > 0:
            click.echo(say(f"further changed rows: {more}"))
        if found["set_aside"]:
            click.echo(say(f"packs that are kept aside in the database: {found['set_aside']}"))
        click.echo(say(f"database: {found['packs']} packs, {found['rows']} rows, {found['count']} changed"))
    raise SystemExit(6 if found["count"] else 0)


def _repeat(paths: tuple[Path, ...], plan_file: Path | None, streams: list[str]) -> Recomputed:
    from agent.recompute import recompute

    files = [path for path in paths if path != STDIN]
    if not files:
        raise UsageError(
            "--recompute needs exported files", where="verify", hint="`meterhouse export FOLDER` writes these files"
        )
    return recompute(files, plan_file, streams)


def _say(report: Report, short: list[str], is_live: bool) -> None:
    from rich.cells import cell_len

    from agent.verify.report_text import aligned, remarks, table_rows

    titles, *rows = table_rows(report)
    for line in aligned([[say(title) for title in titles], *rows], cell_len):
        click.echo(clean_text(line, 500))
    for line in (*remarks(report), *(f"not complete: {text}" for text in short)):
        click.echo(clean_text(say(_in_words(line)), 500))
    if (text := _advice(report, is_live)) or (short and is_live and (text := _WAIT)):
        click.echo(say(f"what to do: {text}"))


def _in_words(remark: str) -> str:
    """Return a remark in which the codes of gap reasons are words if the command prints Chinese."""
    stream, label, reasons = remark.partition(_BY_REASON)
    if not label or not speaks_chinese():
        return remark
    from agent.cli.finding_words import reason_words

    counted = (one.rpartition(" ") for one in reasons.split(", "))
    return stream + label + "，".join(f"{reason_words(code)[1]} {count}" for code, _, count in counted)


_BY_REASON = ": readings that the gateway reported as missing (gaps), by reason: "
_WAIT = (
    "wait a minute, then listen for longer, such as --for 2min. Right after a start, the first packs of a stream may"
    " still be on the way. Packs of a silent device are sealed only every 15 minutes. Packs that wait at the gateway"
    " arrive later (see `meterhouse status` there). If the result stays the same, packs get lost between the gateway"
    " and here"
)
_EXPORT = (
    "give all files of the export. If all files are here, export again: packs that were sealed after the export are"
    " not in the files. If the result stays the same, packs were lost"
)
_BEFORE = "listen again: the broker retains birth packs and key records and sends them first"
_PIN = "pin the key: give --trust with the thumbprint that `meterhouse keys show` prints at the gateway"
_OTHER_KEY = (
    "compare the thumbprint that you gave as --trust with the one that `meterhouse keys show` prints at the gateway,"
    " because another key signed the packs. If both thumbprints are the same, --trust is right, and the packs come from"
    " another gateway"
)
_FAULTY = "save the refused packs with `--json`, and find out where they were changed after the gateway had sent them"


_CHINESE = {
    "VERIFIED": "验证通过", "UNPROVEN": "前后一致，来源未证实", "INCOMPLETE": "不完整", "FAILED": "验证失败",
    "NOTHING": "没有可验证的内容",
}  # fmt: skip


def _advice(report: Report, is_live: bool) -> str:
    """Return the advice for a verdict; "" if the verdict is good."""
    from agent.verify import Verdict

    if report.verdict is Verdict.UNPROVEN:
        return _PIN
    if report.verdict is Verdict.FAILED:
        return _OTHER_KEY if _is_other_key(report) else _FAULTY
    if report.verdict is not Verdict.INCOMPLETE:
        return ""
    is_cut = report.missing or report.withheld or report.torn_checkpoints
    return (_WAIT if is_cut else _BEFORE) if is_live else _EXPORT


def _is_other_key(report: Report) -> bool:
    """True if the only fault is that another key signed the packs. Usually the given thumbprint is wrong then."""
    foreign = (fault.code == "kid" or fault.unpinned for fault in report.faults)
    return bool(report.faults) and set(report.failures) <= {"key-chain", "kid"} and all(foreign)


def _verdict(report: Report, short: int, differ: int) -> str:
    """Return the last line of the output: the verdict with its numbers, and any other reason for exit code 6."""
    from agent.verify.report_text import verdict_line

    more = [f"not complete: see the {short} remarks above"] * bool(short)
    more += [f"{differ} figures differ from the recomputed figures"] * bool(differ)
    text = say("; ".join([verdict_line(report), *more]))
    return text.replace(report.verdict.value, _CHINESE[report.verdict.name], 1) if speaks_chinese() else text


def _say_repeated(repeated: Recomputed | None) -> None:
    if repeated is None:
        why = "an object (pack, key or checkpoint) in the files was refused or is faulty"
        click.echo(say(f"figures: not recomputed, because {why}"))
        return
    for text in repeated.differ:
        click.echo(_about("differs", text))
    for text in repeated.unknown:
        click.echo(_about("not recomputed", text))
    counts = repeated.counts
    text = f"figures: {repeated.agree} agree, {counts['differ']} differ, {counts['unknown']} could not be recomputed"
    click.echo(say(text))
    if count := repeated.not_asked:
        click.echo(say(f"{count} of the figures that could not be recomputed need streams that are not in --streams"))
    if count := repeated.undecidable:
        click.echo(say(f"{count} figures are not decidable from this export, because it lacks declarations"))


def _about(label: str, text: str) -> str:
    """Return `LABEL: WHICH FIGURE: WHAT` in the language of the command."""
    where, _, what = text.partition(": ")
    return clean_text(f"{say(label)}{COLON['zh' if speaks_chinese() else 'en']}{say_at(where, what)}", 500)


def _files(paths: tuple[Path, ...], trust: tuple[str, ...], streams: list[str]) -> Report:
    from agent.verify import Verifier
    from agent.verify.files import read_paths, read_stream

    verifier = Verifier(trust, streams=streams)
    try:
        with progress("objects read") as update:
            if files := [path for path in paths if path != STDIN]:
                read_paths(verifier, files, update)
            if STDIN in paths:
                if files:
                    verifier.new_file()
                read_stream(verifier, sys.stdin.buffer, "stdin")
    except OSError as error:
        hint = "Give the files or the folder that `meterhouse export` wrote"
        raise UsageError(error.strerror or str(error), where=str(error.filename or "verify"), hint=hint) from error
    return verifier.finish()


def _live(
    broker: str,
    trust: tuple[str, ...],
    streams: list[str],
    site: str,
    gateway: str,
    login: BrokerLogin,
    duration_s: float | None,
    wait_s: float,
) -> Report:
    from agent.verify.live import Live, LiveError

    try:
        live = Live(broker, trust, streams=streams, site=site, gateway=gateway, **asdict(login))
        live.start()
    except (LiveError, OSError) as error:  # an invalid CA file raises OSError
        raise BrokerError(str(error), where="verify", hint=getattr(error, "hint", "")) from error
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    none_came = False
    refusals = _RefusalNotes(live)
    try:
        with progress("packs") as update:
            if duration_s is None or _first_came(live, stop, wait_s, refusals):
                end = time.monotonic() + (math.inf if duration_s is None else duration_s)
                while not stop.wait(max(0.0, min(1.0, end - time.monotonic()))) and time.monotonic() < end:
                    refusals.look()
                    packs, readings, failed = live.counts()
                    update(packs, text=f"{packs} packs, {readings} readings, {failed} failed packs")
            else:
                none_came = not stop.is_set()
            refusals.look()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        report = live.stop()
    # if packs failed or wait for keys, the report already states why none was verified
    if none_came and not report.failures and not report.held:
        click.echo(say(f"note: no pack arrived within {wait_s:g} s. {_NO_PACK}"), err=True)
    return report


_NO_PACK = (
    "Check --site, --gateway, the thumbprint, the access rules, "
    "and the gateway's connection (`meterhouse status` there)"
)


class _RefusalNotes:
    """Warns if the broker refuses a reconnect. Each refusal is printed once."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._warned = ""

    def look(self) -> None:
        """Print the refusal that is in effect, if it is new."""
        refusal = self._live.refusal
        text = str(refusal) if refusal else ""
        if refusal and text != self._warned:
            error = BrokerError(clean_text(text, 500), where="verify", hint=refusal.hint)
            click.echo(as_complaint("warning", error), err=True)
        self._warned = text


def _first_came(live: Live, stop: threading.Event, wait_s: float, refusals: _RefusalNotes) -> bool:
    """Wait for the first pack. Returns False if no pack arrived in time.

    The wait is needed because a gateway checks for a new subscriber only every few seconds.
    """
    give_up = time.monotonic() + wait_s
    while not any(live.counts()):
        refusals.look()
        left_s = give_up - time.monotonic()
        if left_s <= 0 or stop.wait(min(left_s, 0.2)):
            return False
    return True
