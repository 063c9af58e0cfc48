"""`meterhouse doctor`: checks this machine, the configuration, the agent and its destinations, and gives advice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from agent.cli.common import COLON, REQUESTED, NoAgent, as_line, clean, is_alive, read_snapshot, say, say_at
from agent.cli.doctor import host
from agent.cli.doctor.host import CheckResult, Results
from agent.cli.doctor.texts import TEXTS, text
from agent.cli.options import FILE, ConfigOptions, config_options, is_denied, json_option, lang_option, may_be_there
from drivers.model import ConfigError, GatewayError, ProfileError

if TYPE_CHECKING:
    from agent.config import Config

JOURNAL_S: Final = 10.0
SHOWN_LINES: Final = 20
BUNDLE_LINES: Final = 2000
# exit codes in order of priority; the command ends with the first code that one of the faults has
CODES: Final = (1, 3, 4, 5)


@click.command()
@config_options
@click.option("--offline", is_flag=True, help="Do not connect to the destinations.")
@click.option("--bundle", "bundle_file", type=FILE, metavar="FILE.tar.gz", help="Also write an archive for support.")
@lang_option
@json_option
def doctor(options: ConfigOptions, offline: bool, bundle_file: Path | None, lang: str, as_json: bool) -> None:
    """Examine this machine, the configuration and the running agent, and say what to do.

    Checks versions, clock, disks, serial adapters, permissions, the configuration, the findings of `status`, and the
    last errors in the agent's journal. Like `check --online`, connects once to each destination; unlike
    `check --online`, opens no line. Changes nothing.

    The archive of --bundle contains all these results, the configuration and the status. Passwords and keys are
    removed; check the archive before you send it.

    \b
    Examples:
      meterhouse doctor
      meterhouse doctor --lang zh
      meterhouse doctor --bundle gw01.tar.gz

    \b
    Exit codes: 0 no fault found; otherwise the first that applies: 1 a fault of the agent, store, disk, clock, key
    or certificate; 2 wrong usage; 3 bad configuration; 4 a fault of a device, line or adapter; 5 a fault of a
    destination.
    """
    if as_json:
        lang = "en"  # JSON is always English, because scripts may compare texts
        REQUESTED.set(lang)
    config, results = _load(options, lang)
    folder = config.runtime_dir if config else options.find_runtime_dir(warn=False, strict=False)
    snapshot, why = _snapshot(folder)
    pid = snapshot.get("pid") if snapshot else None
    results = [*host.check_clock(lang), *results]
    if config is not None:
        user = host.agent_user(config)
        results += [*host.check_disks(config, lang), *host.check_adapters(config, user, lang, pid)]
        results += host.check_permissions(config, user, lang)
    seen = {result.text for result in results}
    hidden = config is None and options.runtime_dir is None and may_be_there(options.config_file)
    hidden = hidden and not os.access(options.config_file, os.R_OK)
    results += (one for one in _agent(folder, snapshot, why, config, hidden, lang) if one.text not in seen)
    if config is not None and not offline:
        results += _destinations(config, is_alive(pid), lang)
    log = read_journal(SHOWN_LINES, "warning")
    facts = {
        "ok": all(result.state != host.FAULT for result in results),
        "versions": dict(host.versions()),
        "checks": [
            {"subject": r.subject, "state": r.state, "text": r.text, "hint": r.hint, "code": r.code} for r in results
        ],
        "log": log,
    }
    if as_json:
        click.echo(as_line(facts))
    else:
        _print(host.versions(), results, log, lang)
    if bundle_file is not None:
        _bundle(bundle_file, options, config, facts, snapshot, lang)
    raise SystemExit(min((r.code for r in results if r.state == host.FAULT), key=CODES.index, default=0))


def _load(options: ConfigOptions, lang: str) -> tuple[Config | None, list[CheckResult]]:
    from agent.cli.check import find_notes
    from agent.config import load_profiles

    results = Results(lang, "configuration")
    subject = text(lang, "configuration")
    try:
        config = options.load()
        load_profiles(config)
    except (ConfigError, ProfileError) as error:
        found = [
            CheckResult(
                subject, host.FAULT, say_at(one.where, one.what) if one.where else say(one.what), say(one.hint), 3
            )
            for one in error.complaints
        ]
        denied = any(map(is_denied, error.complaints))
        return None, [*found, *([host.denied(lang)] if denied else [])]
    good = results.good("valid", file=config.path, lines=len(config.lines), devices=len(config.devices))
    notes = [*config.notes, *find_notes(config)]
    return config, [good, *(CheckResult(subject, host.NOTE, say_at(n.where, n.what), say(n.hint)) for n in notes)]


def _snapshot(folder: Path) -> tuple[dict[str, Any] | None, GatewayError | None]:
    """Return (snapshot, None), or (None, error) if the snapshot cannot be read."""
    try:
        return read_snapshot(folder), None
    except GatewayError as error:
        return None, error


def _agent(
    folder: Path,
    snapshot: dict[str, Any] | None,
    why: GatewayError | None,
    config: Config | None,
    hidden: bool,
    lang: str,
) -> Iterator[CheckResult]:
    """Yield the results about the agent with this runtime directory. ``why``: the error if there is no snapshot.

    ``hidden``: True if this user may not read the configuration, so the agent's folder is not known.
    """
    from agent.cli.file_findings import edited
    from agent.cli.findings import find

    results = Results(lang, "agent")
    if snapshot is None:
        if why is not None and not isinstance(why, NoAgent):  # the snapshot cannot be read, but an agent may run
            yield CheckResult(text(lang, "agent"), host.FAULT, say_at(why.where, why.what), say(why.hint), 1)
        elif hidden:
            yield results.note("not found")
        else:
            yield results.fault("not running")
        return
    alive = is_alive(snapshot.get("pid"))
    files = edited(snapshot, config) if config is not None and alive else ()
    looked_at = {"clock-not-synchronised"} | ({"disk-nearly-full"} if config is not None else set())
    free = shutil.disk_usage(folder).free
    findings = (*find(snapshot, time.time(), alive, runtime_free=free), *files)
    if alive and not any(one.code == "agent-hangs" for one in findings):
        yield results.good("runs", pid=snapshot.get("pid"))
    yield from results.found(one for one in findings if one.code not in looked_at)


def _destinations(config: Config, running: bool, lang: str) -> Iterator[CheckResult]:
    from agent.cli.online import agent_finds, destination_problems, destination_words, try_destinations

    subject = text(lang, "destination")
    # these findings are already in the results about the agent; here they only prevent a destination with a finding
    # from being called good
    found = agent_finds(config) if running else {}
    for trial in try_destinations(config, running):
        problems = destination_problems(trial, lang)
        for problem in problems:
            yield CheckResult(
                subject,
                host.FAULT,
                COLON[lang].join((trial.name, problem.where, problem.what)),
                problem.hint,
                problem.exit_code,
            )
        if not problems and trial.name not in found:
            yield CheckResult(subject, host.GOOD, f"{trial.name}{COLON[lang]}{destination_words(trial, running, lang)}")


def read_journal(lines: int, priority: str) -> list[str]:
    """Return the newest lines of the service in the journal, oldest first; empty if there is no journal."""
    if not shutil.which("journalctl"):
        return []
    command = [
        "journalctl",
        "-u",
        "meterhouse",
        "-p",
        priority,
        "-n",
        str(lines),
        "-o",
        "short-iso",
        "--no-pager",
        "-q",
    ]
    try:
        done = subprocess.run(command, capture_output=True, timeout=JOURNAL_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(clean(line)) for line in done.stdout.decode("utf-8", "replace").splitlines()]


def _bundle(
    path: Path,
    options: ConfigOptions,
    config: Config | None,
    facts: dict[str, Any],
    snapshot: dict[str, Any] | None,
    lang: str,
) -> None:
    from agent.cli.doctor.bundle import Redactor, config_texts, write_bundle
    from agent.config.parsers import show_bytes

    written = config_texts(options.config_file, config)
    texts = {
        "doctor.json": json.dumps(facts, indent=1, ensure_ascii=False),
        "snapshot.json": json.dumps(snapshot, indent=1, ensure_ascii=False),
        "journal.txt": "\n".join(read_journal(BUNDLE_LINES, "debug")),
        "mounts.txt": Path("/proc/self/mountinfo").read_text(),
        "serial.txt": "\n".join(host.serial_ports()),
        **written,
    }
    size = write_bundle(path, texts, Redactor(config, options.config_file.parent, written.values()))
    click.echo(text(lang, "bundled", file=path, size=show_bytes(size)), err=True)


def _print(versions: Mapping[str, str], results: Sequence[CheckResult], log: Sequence[str], lang: str) -> None:
    from rich.markup import escape

    from agent.cli.console_tables import cell, open_console, plain_table

    console = open_console()
    named = {text(lang, name) if name in TEXTS else name: version for name, version in versions.items()}
    console.print(escape(", ".join(f"{name} {version}" for name, version in named.items())))
    console.print()
    table = plain_table("", "", "", "")
    table.show_header = False
    colours = {host.GOOD: "green", host.NOTE: "yellow", host.FAULT: "red"}
    for result in results:
        hint = f"\n  {cell(result.hint, 600)}" if result.hint else ""
        table.add_row(
            cell(result.subject),
            f"[{colours[result.state]}]{text(lang, result.state)}[/]",
            cell(result.text, 600) + hint,
        )
    console.print(table)
    console.print()
    console.print(text(lang, "log") + COLON[lang] + ("" if log else text(lang, "no log")))
    for line in log:
        console.print("  " + escape(line))
    if all(result.state != host.FAULT for result in results):
        console.print(text(lang, "all good"))
