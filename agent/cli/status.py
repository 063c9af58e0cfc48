"""`meterhouse status`: the state of the running agent."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_line, is_alive, learned_maps, read_snapshot, show_age
from agent.cli.options import ConfigOptions, config_options, json_option
from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.cli.ring_follower import Latest

STALE_S = 15.0  # the agent writes its snapshot every few seconds
GOOD, OURS, CONFIG, LINE, BROKER = 0, 1, 3, 4, 5


@click.command()
@config_options
@click.option("--points", is_flag=True, help="Every point with the age of its last value.")
@json_option
def status(options: ConfigOptions, points: bool, as_json: bool) -> None:
    """Show the state of the running agent: devices, lines, destinations, store.

    Reads files only; the agent is not disturbed.

    \b
    Examples:
      meterhouse status
      meterhouse status --points
      meterhouse status --json | jq .devices.inv1.age

    \b
    Exit codes: 0 all good, 1 no agent runs here, it hangs or its store has a problem,
    3 bad configuration, also one that a reload rejected, 4 a device or line does not respond,
    5 a destination cannot be reached.
    """
    folder = options.find_runtime_dir()
    snapshot = read_snapshot(folder)
    now = time.time()
    faults = find_faults(snapshot, now)
    latest = _latest(folder, snapshot) if points else []
    if as_json:
        click.echo(as_line(to_json(snapshot, faults, latest, now)))
    else:
        _print(snapshot, faults, latest, now)
    raise SystemExit(min(faults, key=[OURS, CONFIG, LINE, BROKER].index, default=GOOD))


def find_faults(snapshot: Mapping[str, Any], now: float) -> dict[int, list[str]]:
    """Problems, as sentences, by exit code."""
    faults: dict[int, list[str]] = {}

    def add(code: int, text: str) -> None:
        faults.setdefault(code, []).append(text)

    age = now - float(snapshot.get("time", 0))
    if not is_alive(snapshot.get("pid")):
        add(OURS, f"the agent is gone (process {snapshot.get('pid')}); the data below is {show_age(age)} old")
    elif age > STALE_S:
        add(OURS, f"the agent has written no snapshot for {show_age(age)}: it hangs, or the clock was set")
    if trouble := snapshot.get("store", {}).get("trouble"):
        add(OURS, f"store: {clean_text(str(trouble), 200)}")
    intervals = snapshot.get("intervals", {})
    if waits := intervals.get("waits"):
        add(OURS, f"intervals are delayed: {clean_text(str(waits), 200)}")
    if stopped := intervals.get("stopped"):
        names = ", ".join(clean_text(str(name), 60) for name in stopped[:5]) + (", ..." if len(stopped) > 5 else "")
        add(OURS, f"intervals of {names} stopped by an error in the agent; a restart rebuilds them from packs")
    for text in snapshot.get("config", {}).get("complaints", ()):
        add(CONFIG, f"configuration rejected, the previous one stays in effect: {clean_text(str(text), 300)}")
    for name, device in snapshot.get("devices", {}).items():
        why = f": {clean_text(str(device['error']), 160)}" if device.get("error") else ""
        if device.get("life") == "dead":
            add(LINE, f"device {name} does not respond{why}")
        elif device.get("life") == "unknown" and why:  # its line is down: the state of the device is unknown
            add(LINE, f"device {name} cannot be reached{why}")
    for name, uplink in snapshot.get("uplinks", {}).items():
        if not uplink.get("connected", True):
            why = f": {clean_text(str(uplink['error']), 160)}" if uplink.get("error") else ""
            why += f". {clean_text(str(uplink['hint']), 160)}" if uplink.get("hint") else ""
            add(BROKER, f"destination {name} cannot be reached{why}")
    return faults


def interval_notes(facts: Mapping[str, Any]) -> list[str]:
    """Pending work before all intervals are known, a sentence each."""
    notes = []
    if count := facts.get("reading"):
        notes.append(f"intervals: reading the packs of {count} devices")
    if repair := facts.get("repair"):
        done, packs = (
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(repair[key])) for key in ("compared_from", "packs_from")
        )
        notes.append(
            f"intervals: comparing those of {repair['streams']} devices with their packs, newest first;"
            f" done back to {done} UTC, packs reach back to {packs} UTC. Figures of days wait for it"
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
    snapshot: Mapping[str, Any], faults: Mapping[int, list[str]], latest: Iterable[Latest], now: float
) -> dict[str, Any]:
    """The snapshot with ``ok``, ``faults`` and ages in seconds."""
    facts = {key: value for key, value in snapshot.items() if key != "tables"}
    facts["ok"] = not faults
    facts["faults"] = [text for texts in faults.values() for text in texts]
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


def _print(snapshot: Mapping[str, Any], faults: Mapping[int, list[str]], latest: Iterable[Latest], now: float) -> None:

    from agent.cli.console_tables import cell, device_table, line_table, open_console, point_table, uplink_table

    console = open_console()
    started = snapshot.get("started")
    since = f", running for {show_age(now - started)}" if isinstance(started, (int, float)) else ""
    who = f"{snapshot.get('site', '?')}/{snapshot.get('gateway', '?')}"
    head = f"{who}  meterhouse {snapshot.get('version', '?')}, boot {snapshot.get('boot', '?')}"
    console.print(cell(head, 400) + since)
    for table in (
        device_table(snapshot.get("devices", {}), now),
        line_table(snapshot.get("lines", {})),
        uplink_table(snapshot.get("uplinks", {})),
        point_table(latest, int(now * 1e9)),
    ):
        if table.row_count:
            console.print(table)
            console.print()
    for name, learned in learned_maps(snapshot).items():
        click.echo(f"device {name} has a register map that the agent had to learn: {learned}")
    for text in interval_notes(snapshot.get("intervals", {})):
        click.echo(text)
    for text in snapshot.get("store", {}).get("warnings", ()):
        click.echo(f"warning: {clean_text(str(text), 300)}", err=True)
    for text in (text for texts in faults.values() for text in texts):
        click.echo(f"error: {text}", err=True)
    if not faults:
        console.print("All is well.")
