"""`meterhouse check --online`: tries the lines, devices and destinations of a configuration."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import click

from agent.certificates import WARN_DAYS
from agent.cli.common import COLON, SEMICOLON, agent_runs, as_complaint, progress, read_snapshot
from agent.cli.lease import borrow_line
from drivers.model import (
    PACES,
    BrokerError,
    DeviceSpec,
    GatewayError,
    LineError,
    LineTimeout,
    Point,
    Quality,
    clean_text,
)
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.cli.findings import Finding
    from agent.config import Config, DeviceConfig
    from agent.uplink.trial import TrialResult
    from drivers.plausibility import Hint
    from drivers.profile import Profile

LEASE_S: Final = 300.0
# number of points that are read from a device; this is enough to show that address and profile are right
MOST_POINTS: Final = 20
WORDS: Final = Catalogue(__package__, "online")


@dataclass(slots=True)
class DeviceTrial:
    """The result of reading one device once."""

    device: str
    line: str
    address: str
    identity: dict[str, str] = field(default_factory=dict)
    count: int = 0  # number of points that were read; 0 if the device could not be read
    all_count: int = 0  # number of points that the device has
    missing: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)  # texts about values that are out of range
    hints: list[Hint] = field(default_factory=list)  # hints about odd values that are not a fault
    problem: GatewayError | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the result as an object for `--json`."""
        return {
            "device": self.device,
            "line": self.line,
            "address": self.address,
            "ok": self.problem is None,
            "identity": self.identity,
            "points": self.count,
            "all_points": self.all_count,
            "hints": [hint.en for hint in self.hints],
            "missing": self.missing,
            "doubtful": self.doubtful,
            "error": _error_json(self.problem),
        }


def _error_json(error: GatewayError | None) -> dict[str, str] | None:
    return None if error is None else {"where": error.where, "what": error.what, "hint": error.hint}


def try_devices(config: Config, profiles: Mapping[str, Profile], lang: str) -> Iterator[DeviceTrial]:
    """Read up to ``MOST_POINTS`` points of each device, line by line. A running agent lends its lines for this."""
    # nothing is logged on stderr, because each error is in a result
    logging.getLogger("meterhouse").addHandler(logging.NullHandler())
    for line in config.lines:
        for device in config.devices:
            if device.line == line.name:
                yield _try_device(config, device, profiles[device.profile], lang)


def _try_device(config: Config, device: DeviceConfig, profile: Profile, lang: str) -> DeviceTrial:
    from agent.cli.read import is_missing, read_once, silence_hint
    from agent.config import device_spec
    from drivers.plausibility import all_zero

    result = DeviceTrial(device.name, device.line, device.address)
    result.all_count = len(device_spec(config, device, profile).points)

    def choose(spec: DeviceSpec) -> list[Point]:
        result.all_count = len(spec.points)  # the device's variant may have other points than the base
        return _chosen_points(spec, profile)

    try:
        with borrow_line(config.runtime_dir, config.line(device.line).url, "read", LEASE_S) as line:
            points, readings = line.run(read_once(config, device, profile, choose))
    except LineTimeout as error:
        result.problem = LineTimeout(
            error.what, where=f"device {device.name}", hint=error.hint or silence_hint(config, device)
        )
    except GatewayError as error:
        result.problem = error
    else:
        result.count = len(points)
        result.missing = [p.name for p, reading in zip(points, readings, strict=True) if is_missing(p, reading)]
        result.identity = {
            point.name: str(reading.value)
            for point, reading in zip(points, readings, strict=True)
            if point.name in profile.identity_points and reading.value is not None
        }
        result.doubtful = [  # a zero that is out of range is not doubtful, because a device in standby reports zeros
            p.name for p, r in zip(points, readings, strict=True) if r.quality == Quality.RANGE and r.value
        ]
        result.hints = list(all_zero(points, {reading.name: reading for reading in readings}))
        for what, names in (("missing", result.missing), ("doubtful", result.doubtful)):
            if names and result.problem is None:
                shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
                result.problem = LineTimeout(
                    WORDS[lang][what].format(names=shown),
                    where=f"device {device.name}",
                    hint=WORDS[lang][f"{what} hint"].format(name=device.name),
                )
    return result


def _chosen_points(spec: DeviceSpec, profile: Profile) -> list[Point]:
    """Return the points to try, in the order of the profile.

    Identity points are chosen first, then fast points, then slow points. Optional points are chosen last.
    """
    identity = [point.name for point in spec.points if point.name in profile.identity_points]
    paced = sorted((p for p in spec.points if p.name not in identity), key=lambda p: (p.optional, PACES.index(p.pace)))
    names = [*identity, *(point.name for point in paced)][:MOST_POINTS]
    return [point for point in spec.points if point.name in names]


def try_destinations(config: Config, running: bool) -> Iterator[TrialResult]:
    """Connect to each destination once. If ``running``, an agent runs here, and the rights to publish are not tried."""
    import agent
    from agent.uplink.trial import try_destination

    for uplink in config.uplinks:
        yield try_destination(uplink, config.site, config.gateway, agent.__version__, not running)


def destination_problems(trial: TrialResult, lang: str, now: float | None = None) -> list[GatewayError]:
    """Return the problems of a destination, including each certificate that has expired or expires within
    ``WARN_DAYS`` days.
    """
    now = time.time() if now is None else now
    words, problems = WORDS[lang], list(trial.problems)
    for what, ends in trial.certificates.items():
        if (days := (ends - now) / 86_400) < WARN_DAYS:
            text = words["expires" if days > 0 else "expired"].format(what=what, days=abs(days))
            problems.append(BrokerError(text, where=trial.url, hint=words["expires hint"]))
    return problems


def agent_finds(config: Config) -> dict[str, list[Finding]]:
    """Return name of a destination -> findings of the running agent. Empty if the agent's snapshot cannot be read.

    These are needed because only the agent knows about refused packs and missing subscribers.
    """
    from agent.cli.findings import destination_findings

    try:
        found = destination_findings(read_snapshot(config.runtime_dir), time.time())
    except GatewayError:
        return {}
    names = {f"destination {uplink.name}": uplink.name for uplink in config.uplinks}
    by_name: dict[str, list[Finding]] = {}
    for one in found:
        if one.exit_code == BrokerError.exit_code and one.where in names:
            by_name.setdefault(names[one.where], []).append(one)
    return by_name


def destination_words(trial: TrialResult, running: bool, lang: str) -> str:
    """Return the result of one destination as a short text for the table."""
    words = WORDS[lang]
    if trial.mqtt is None:
        return words["failed"]
    parts = [words["connected"].format(mqtt=trial.mqtt)]
    if trial.plain:
        parts.append(words["plain"])
    if running:
        return SEMICOLON[lang].join([*parts, words["running"]])
    if trial.may_publish:
        parts.append(words["may publish"])
    if trial.may_publish is not False:
        known = {True: "subscriber", False: "nobody", None: "no report"}
        parts.append(words[known[trial.has_subscriber]])
    return ("，" if lang == "zh" else ", ").join(parts)


def online(config: Config, profiles: Mapping[str, Profile], lang: str, as_json: bool) -> tuple[int, dict[str, Any]]:
    """Try all devices and destinations. Prints the results if ``as_json`` is False.

    Returns the exit code and the results for JSON.
    """
    running, words = agent_runs(config.runtime_dir), WORDS[lang]
    devices: list[DeviceTrial] = []
    with progress("devices") as report:
        for trial in try_devices(config, profiles, lang):
            devices.append(trial)
            report(len(devices), len(config.devices), trial.device)
    destinations = list(try_destinations(config, running))
    problems = [trial.problem for trial in devices if trial.problem is not None]
    twins = _same_devices(config, devices, lang)
    problems += [error for error, is_fault in twins if is_fault]
    problems += [
        # add the name of the destination, because two destinations may have the same url
        type(one)(one.what, where=f"destination {trial.name}: {one.where}", hint=one.hint)
        for trial in destinations
        for one in destination_problems(trial, lang)
    ]
    for name, findings in agent_finds(config).items() if running else ():
        # if a trial failed, findings of the agent about this destination would only repeat the problem
        if not any(trial.name == name and trial.problems for trial in destinations):
            problems += [BrokerError(one.text(lang), where="", hint=one.advice(lang)) for one in findings]
    if not as_json:
        _print(devices, destinations, running, lang)
        for text in dict.fromkeys(as_complaint("error", problem) for problem in problems):
            # print each text only once, because all devices of a line that is down have the same problem
            click.echo(text, err=True)
        for one in destinations:
            if one.unproven:
                base = f"meterhouse/v1/{config.base}/"
                topics = ", ".join(topic.removeprefix(base) for topic in one.unproven)
                text = words["unproven"].format(name=one.name, topics=f"{base}{{{topics}}}")
                click.echo(f"{words['note']}{COLON[lang]}{clean_text(text, 1000)}", err=True)
        for error, is_fault in twins:
            if not is_fault:
                click.echo(as_complaint("warning", error), err=True)
        doubts = [(trial, hint) for trial in devices for hint in trial.hints]
        for trial, hint in doubts:
            click.echo(as_complaint("warning", LineError(hint.text(lang), where=f"device {trial.device}")), err=True)
        if not problems and not doubts and (devices or destinations):
            click.echo(words["good"])
    code = min((problem.exit_code for problem in problems), default=0)
    return code, {
        "devices": [trial.to_json() for trial in devices],
        "same_serial": [_error_json(error) for error, _ in twins],
        "destinations": [
            {
                "name": trial.name,
                "url": trial.url,
                "mqtt": trial.mqtt,
                "may_publish": trial.may_publish,
                "unproven": list(trial.unproven),
                "has_subscriber": trial.has_subscriber,
                "certificates": trial.certificates,
                "errors": [_error_json(problem) for problem in destination_problems(trial, lang)],
            }
            for trial in destinations
        ],
    }


def _same_devices(config: Config, trials: Sequence[DeviceTrial], lang: str) -> list[tuple[LineError, bool]]:
    """Return (error, True if it is a fault) for each serial number that several devices report."""
    from agent.cli.findings import ReadIdentity, same_serials

    profiles = {device.name: device.profile for device in config.devices}
    read = [
        ReadIdentity(one.device, one.line, one.address, profiles[one.device], one.identity.get("device.serial", ""))
        for one in trials
    ]
    return [
        (LineError(one.text(lang), where=one.where, hint=one.advice(lang)), bool(one.exit_code))
        for one in same_serials(read)
    ]


def _print(devices: Sequence[DeviceTrial], destinations: Sequence[TrialResult], running: bool, lang: str) -> None:
    from agent.cli.console_tables import cell, open_console, plain_table
    from agent.cli.main_points import identity_words

    words, console = WORDS[lang], open_console()
    table = plain_table(words["devices"], *(words[key] for key in ("device", "line", "address", "answer")))
    for trial in devices:
        good = trial.count - len(trial.missing) - len(trial.doubtful)
        shown = words["points" if trial.count >= trial.all_count else "sample"]
        counted = shown.format(good=good, count=trial.count, all=trial.all_count)
        named = identity_words({name: text for name, text in trial.identity.items() if text.strip()}, lang)
        answer = (
            ("，" if lang == "zh" else ", ").join(filter(None, (counted, named))) if trial.count else words["failed"]
        )
        table.add_row(cell(trial.device), cell(trial.line), cell(trial.address), cell(answer, 160))
    uplinks = plain_table(words["destinations"], *(words[key] for key in ("name", "url", "answer")))
    for one in destinations:
        uplinks.add_row(cell(one.name), cell(one.url), cell(destination_words(one, running, lang), 160))
    for rows in (table, uplinks):
        if rows.row_count:
            console.print()
            console.print(rows)
