"""`meterhouse status`: shows the state of the running agent."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_line, is_alive, read_snapshot, say
from agent.cli.file_findings import find_in_files
from agent.cli.findings import Finding, exit_code_of, find, in_order
from agent.cli.options import ConfigOptions, config_options, json_option, lang_option
from drivers.model import ConfigError, GatewayError, ProfileError

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest


@click.command()
@config_options
@click.option("--points", is_flag=True, help="Also show every point with the age of its last value.")
@lang_option
@json_option
def status(options: ConfigOptions, points: bool, lang: str, as_json: bool) -> None:
    """Show whether the running agent is well, and if not, what to do.

    Shows devices, lines, destinations, store, clock and key, and each fault with what to do. Only reads files; does
    not disturb the agent.

    \b
    Examples:
      meterhouse status
      meterhouse status --points
      meterhouse status --json | jq .devices.inv1.recent

    \b
    Exit codes: 0 all is well; otherwise the first that applies: 1 a fault of the agent, store, disk, clock, key or
    certificate; 3 the configuration is bad or a reload rejected it; 4 a device is silent, swapped, doubtful, or
    delivered less than 0.9 of its readings in ten minutes; 5 a destination has no connection or subscriber, or
    refuses packs.
    """
    try:
        folder, complaints, config = options.find_agent()
        snapshot = read_snapshot(folder)
    except GatewayError as error:
        if not as_json:
            raise
        click.echo(as_line(no_status(error)))
        raise SystemExit(error.exit_code) from None
    now = time.time()
    findings = in_order(
        [
            *find(
                snapshot,
                now,
                is_alive(snapshot.get("pid")),
                [str(one) for one in complaints],
                shutil.disk_usage(folder).free,
            ),
            *find_in_files(snapshot, config),
        ]
    )
    exit_code = exit_code_of(findings)
    latest = _latest(folder, snapshot) if points else []
    if as_json:
        click.echo(as_line(to_json(snapshot, findings, latest, now)))
    else:
        _print(snapshot, findings, latest, lang, now)
    raise SystemExit(exit_code)


def no_status(error: GatewayError) -> dict[str, Any]:
    """Return the object for ``--json`` if no state can be shown.

    ``ok``, ``faults`` and ``findings`` are as in ``to_json``.
    """
    code = "config-invalid" if isinstance(error, (ConfigError, ProfileError)) else "no-agent"
    found = [
        {
            "code": code,
            "level": "error",
            "exit_code": one.exit_code,
            "where": one.where,
            "text": one.what,
            "advice": one.hint,
        }
        for one in getattr(error, "complaints", (error,))
    ]
    return {"ok": False, "faults": [f"{one['where']}: {one['text']}" for one in found], "findings": found}


def interval_notes(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each task that must be finished before all intervals are known."""
    notes = []
    if count := facts.get("reading"):
        notes.append(say(f"intervals: reading the packs of {count} devices"))
    if repair := facts.get("repair"):
        done, packs = (
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(repair[key])) for key in ("compared_from", "packs_from")
        )
        count = repair["streams"]
        notes.append(
            say(
                f"intervals: comparing the intervals of {count} devices with their packs, newest first;"
                f" the comparison has gone back to {done} UTC so far, and the oldest pack is from {packs} UTC."
                " Daily figures wait until the comparison is finished"
            )
        )
    return notes


def _latest(folder: Path, snapshot: Mapping[str, Any]) -> list[Latest]:
    from agent.cli.ring_follower import Follower

    follower = Follower.open(folder, snapshot)
    try:
        for _ in follower.follow():
            pass
    finally:
        follower.ring.close()
    return list(follower.latest.values())


def to_json(
    snapshot: Mapping[str, Any], findings: Sequence[Finding], latest: Iterable[Latest], now: float
) -> dict[str, Any]:
    """Return the snapshot with ``ok``, ``findings``, ``faults`` and ages in seconds.

    ``faults`` has the texts of the findings that are faults.
    """
    facts = {key: value for key, value in snapshot.items() if key != "tables"}
    facts["faults"] = [one.text() for one in findings if one.exit_code]
    facts["ok"] = not facts["faults"]
    facts["findings"] = [one.to_json() for one in findings]
    facts["age"] = round(now - float(snapshot.get("time", 0)), 3)
    facts["devices"] = {
        name: {**device, "age": _age(device.get("last_answer"), now)}
        for name, device in snapshot.get("devices", {}).items()
    }
    if latest:
        facts["points"] = [point.to_json(int(now * 1e9)) for point in latest]
    return facts


def _age(moment: object, now: float) -> float | None:
    return round(now - moment, 3) if isinstance(moment, (int, float)) and moment else None


def _print(
    snapshot: Mapping[str, Any], findings: Sequence[Finding], latest: Iterable[Latest], lang: str, now: float
) -> None:
    from agent.cli.status_screen import StatusScreen

    screen = StatusScreen(snapshot, lang, now)
    screen.show(latest, interval_notes(snapshot.get("intervals", {})))
    faults = [one for one in findings if one.exit_code]
    for text in screen.lines_of([one for one in findings if not one.exit_code]):
        screen.say(text)
    sys.stdout.flush()
    for text in screen.lines_of(faults):
        screen.say(text, err=True)
    screen.say(screen.verdict(findings, exit_code_of(findings)), err=bool(faults))
