"""Findings: problems of a running agent, each with advice. Pure functions find them in the agent's snapshot.

`status`, `doctor` and the page of the gateway show the same findings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from agent.certificates import WARN_DAYS
from agent.cli.common import age_in_chinese, show_age, singular
from agent.cli.finding_words import (
    BECAUSE,
    FINDINGS,
    LANGUAGES,
    STALLED,
    STALLED_ADVICE,
    WAS_SILENT,
    Texts,
    reason_words,
)
from agent.cli.reading_words import QUALITIES
from drivers.model import clean_text

# exit codes; a command returns the first code in this order that one of its findings has
OURS, CONFIG, LINE, BROKER = 1, 3, 4, 5
ORDER: Final = (OURS, CONFIG, LINE, BROKER)
COMPLETE: Final = 0.9  # if a smaller share of the due readings arrived, this is a fault
BUSY: Final = 0.9  # if a larger share of a line's time is used, the line is overloaded
# bytes that must be free in the runtime directory; this is space for ten snapshots of 100 devices
SNAPSHOT_ROOM: Final = 1 << 20
# if the snapshot is older, the agent hangs, because it writes a snapshot at least every ten seconds
STALE_S: Final = 15.0
LOSS_SHOWN_S: Final = 86_400.0
# bytes that must be free on the disk, or a tenth of the store's size limit if that is less
DISK_FREE: Final = 100_000_000
STORE_FULL: Final = 0.8  # if unconfirmed packs take a larger share of the store's size limit, this is a finding
BY_GATEWAY: Final = ("ring", "disk")  # gap reasons that show a fault of the gateway, not of a device
# kind of finding -> the one finding that replaces it if all devices of a line have it
WHOLE_LINE: Final[Mapping[str, str]] = {
    "device-unreachable": "line-down",
    "device-dead": "line-silent",
    "device-never-answered": "line-silent",
    "device-dead-behind-gateway": "line-silent",
    "device-garbled": "line-garbled",
}
# these findings mean that a state is still unknown, so `status` must not say "all well"
EARLY: Final = frozenset({"device-early", "device-not-heard"})
EXCUSED: Final = ("asleep", "lent", "stopped", "clock")  # gap reasons whose readings do not count as missing
TOLD: Final = EXCUSED[1:]  # these gap reasons get a finding; "asleep" needs none, because it is a state of the device
# the values of a finding with these names are English sentences that the agent wrote
OWN_TEXTS: Final = ("why", "hint", "what", "change")
BROKEN: Final = 0.01  # a device is reported if at least this share of its answers in ten minutes was broken
FEWEST_BROKEN: Final = 3  # fewer broken answers are ignored, because electrical switching nearby can cause one
# if the refused points are not known, fewer refused readings are ignored, because the device may be busy
FEWEST_REFUSED: Final = 3
FIRST_CONNECT_S: Final = 10.0  # a destination may take this long to connect
FIRST_ANSWER_S: Final = 10.0  # a device may take this long to answer after a start
VALUELESS_S: Final = 60.0
NO_VALUE: Final = ("sentinel", "absent")  # gap reasons of a device that answers but does not have the point or value
DOUBTFUL: Final = ("suspect", "range", "frozen")

MIN_SERIAL: Final = 4  # serial numbers with fewer characters are not compared

Facts = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem or a note. ``code`` stays the same in all versions. ``where`` is a place such as ``device inv1``."""

    code: str
    where: str
    values: Mapping[str, object] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The exit code of a command with this finding; 0 for a note, which is not a fault."""
        return FINDINGS[self.code].exit_code

    @property
    def level(self) -> str:
        """The level of the finding: ``error``, ``warning`` or ``note``."""
        return "error" if self.exit_code else "warning" if FINDINGS[self.code].warns else "note"

    def text(self, language: str = "en") -> str:
        """Return a sentence that tells what was found."""
        return self._filled(FINDINGS[self.code].found, language)

    def advice(self, language: str = "en") -> str:
        """Return a text that tells what to do; "" if there is no advice."""
        return self._filled(FINDINGS[self.code].advice, language)

    def _filled(self, texts: tuple[str, str], language: str) -> str:
        at = LANGUAGES.index(language)
        plain = {name: value for name, value in self.values.items() if not isinstance(value, tuple)}
        if language == "zh":
            plain = {name: _in_chinese(name, value) for name, value in plain.items()}
        ours = {name: str(value[at]).format(**plain) for name, value in self.values.items() if isinstance(value, tuple)}
        filled = texts[at].format(**plain, **ours)
        return singular(filled) if language == "en" else filled

    def to_json(self) -> dict[str, Any]:
        """Return the members of the finding for JSON, in English."""
        return {
            "code": self.code,
            "level": self.level,
            "exit_code": self.exit_code,
            "where": self.where,
            "text": self.text(),
            "advice": self.advice(),
        }


def _in_chinese(name: str, value: object) -> object:
    """Return a value in Chinese if the agent wrote it as a text. A text that the catalogue lacks stays English."""
    from agent.cli.chinese import translate

    if name in ("age", "span"):
        return age_in_chinese(str(value))
    if name not in OWN_TEXTS or not isinstance(value, str):
        return value
    if name == "change":
        return re.sub(r" instead of ([^,]+)", r"（原为 \1）", value)
    return "：" + translate(value[2:]) if value.startswith(": ") else translate(value)


def find(
    snapshot: Facts, now: float, agent_lives: bool, on_disk: Sequence[str] = (), runtime_free: int | None = None
) -> list[Finding]:
    """Return all findings about the agent that wrote a snapshot, the worst kind first.

    Args:
        now: UTC seconds.
        agent_lives: True if the process of the agent exists.
        on_disk: errors in the current configuration files, which the agent may not have read yet.
        runtime_free: bytes free in the runtime directory, into which the agent writes its snapshot.
    """
    found = [
        *_agent(snapshot, now, agent_lives, runtime_free),
        *_store(_part(snapshot, "store"), now, bool(_part(snapshot, "key").get("cannot_sign"))),
        *_clock(_part(snapshot, "clock"), now),
        *_key(_part(snapshot, "key")),
        *_intervals(_part(snapshot, "intervals")),
        *_config(_part(snapshot, "config"), on_disk),
        *_field(_part(snapshot, "devices"), _part(snapshot, "lines"), now),
        *destination_findings(snapshot, now),
    ]
    return in_order(found)


def destination_findings(snapshot: Facts, now: float) -> list[Finding]:
    """Return the findings about destinations, the worst kind first."""
    gateway = f"{snapshot.get('site', '+')}/{snapshot.get('gateway', '+')}"
    return in_order(_uplinks(_part(snapshot, "uplinks"), gateway, now))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with the worst kind first, and notes last."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.exit_code) if finding.exit_code else len(ORDER))


def exit_code_of(findings: Iterable[Finding]) -> int:
    """Return the exit code for findings: the first of 1, 3, 4 and 5 that a finding has; 0 if there is no fault."""
    return min((one.exit_code for one in findings if one.exit_code), key=ORDER.index, default=0)


def _part(facts: Facts, name: str) -> Facts:
    part = facts.get(name)
    return part if isinstance(part, Mapping) else {}


def _cut(text: object, limit: int = 200) -> str:
    return clean_text(str(text), limit)


# --- the gateway itself


def _agent(snapshot: Facts, now: float, agent_lives: bool, runtime_free: int | None) -> Iterator[Finding]:
    age = now - float(snapshot.get("time", 0))
    if not agent_lives:
        yield Finding("agent-gone", "agent", {"pid": snapshot.get("pid"), "age": show_age(age)})
    elif age > STALE_S:
        is_full = runtime_free is not None and runtime_free < SNAPSHOT_ROOM
        yield Finding("runtime-directory-full" if is_full else "agent-hangs", "agent", {"age": show_age(age)})


def _store(store: Facts, now: float, key_fails: bool) -> Iterator[Finding]:
    if (trouble := store.get("trouble")) and not key_fails:
        yield Finding("store-trouble", "store", {"what": _cut(trouble)})
    limit, free = store.get("limit_bytes") or 0, store.get("disk_free_bytes")
    if free is not None:
        yield from find_in_disk(free, limit, store.get("path", "?"))
    packs, pending, undelivered = store.get("packs") or 0, _part(store, "pending"), store.get("undelivered")
    name = max(pending, key=pending.__getitem__, default="")
    count = undelivered if undelivered is not None else pending.get(name, 0)
    used = (store.get("size_bytes") or 0) - (store.get("unused_bytes") or 0)
    values = {"share": f"{used / limit:.0%}" if limit else "", "count": count, "name": _cut(name)}
    is_full = packs and limit and used * min(count / packs, 1) > STORE_FULL * limit
    if undelivered is not None:
        yield Finding("store-full-of-undelivered" if is_full else "no-destination", "store", values)
    elif is_full:
        yield Finding("store-nearly-full", "store", values)
    lost_at = store.get("lost_at")
    if store.get("lost_packs") and lost_at is not None and now - lost_at < LOSS_SHOWN_S:
        yield Finding("packs-lost", "store", {"count": store["lost_packs"], "age": show_age(now - lost_at)})
    aside = _part(store, "set_aside")
    if aside and now - (aside.get("at") or 0) < LOSS_SHOWN_S:
        counts = {name: "?" if aside.get(name) is None else aside[name] for name in ("declarations", "devices")}
        yield Finding("database-set-aside", "store", {"file": _cut(aside.get("file", "?")), **counts})
    yield from not_durable(store.get("warnings") or ())


def find_in_disk(free: int, limit: int, path: object) -> Iterator[Finding]:
    """Yield a finding if the disk of the database has too little space.

    ``limit``: size limit of the database in bytes.
    """
    if free < min(DISK_FREE, limit // 10 or DISK_FREE):
        yield Finding("disk-nearly-full", "disk", {"free": show_size(free), "path": _cut(path)})


def not_durable(reasons: Iterable[object]) -> Iterator[Finding]:
    """Yield a finding for each reason why commits may not be durable.

    Reasons are from ``Mount.weaknesses`` or the store.
    """
    for reason in reasons:
        yield Finding("store-warning", "store", {"what": _cut(reason, 300)})


def _clock(clock: Facts, now: float) -> Iterator[Finding]:
    if clock.get("synced") is False:
        yield Finding("clock-not-synchronised", "clock")
    if (step := _part(clock, "set")) and float(step["age"]) < LOSS_SHOWN_S:
        by_s = float(step["by"])
        code = "clock-set-forward" if by_s > 0 else "clock-set-back"
        yield Finding(code, "clock", {"span": show_age(abs(by_s)), "age": show_age(float(step["age"]))})
    if (behind := clock.get("behind_store")) and clock.get("synced") is not True:
        yield Finding("clock-behind", "clock", {"age": show_age(behind)})


def _key(key: Facts) -> Iterator[Finding]:
    if fault := key.get("cannot_sign"):
        yield Finding("key-cannot-sign", "key", {"what": _cut(fault, 300)})
    if trouble := key.get("trouble"):
        yield Finding("key-trouble", "key", {"what": _cut(trouble, 300)})


def _intervals(intervals: Facts) -> Iterator[Finding]:
    if waits := intervals.get("waits"):
        yield Finding("intervals-delayed", "intervals", {"what": _cut(waits)})
    if stopped := intervals.get("stopped"):
        yield Finding("intervals-stopped", "intervals", {"names": _names(stopped)})


def _config(config: Facts, on_disk: Sequence[str]) -> Iterator[Finding]:
    rejected = [str(text) for text in config.get("complaints") or ()]
    for text in on_disk:
        if text not in rejected:
            yield Finding("config-invalid", "configuration", {"what": _cut(text, 300)})
    for text in rejected:
        yield Finding("config-rejected", "configuration", {"what": _cut(text, 300)})
    if roleless := config.get("roleless"):
        yield Finding("devices-without-role", "configuration", {"names": _names(roleless)})


def _names(names: Sequence[object], most: int = 5) -> str:
    return ", ".join(_cut(name, 60) for name in names[:most]) + (", ..." if len(names) > most else "")


# --- lines and devices


def _field(devices: Mapping[str, Facts], lines: Mapping[str, Facts], now: float) -> Iterator[Finding]:
    found = [
        (name, finding)
        for name, device in devices.items()
        for finding in _device(name, device, lines.get(str(device.get("line")), {}), now)
    ]
    slowed: dict[str, list[str]] = {}  # line -> its devices that lose readings because the line is too busy
    for name, finding in found:
        if finding.code == "device-incomplete" and finding.values["worst"] == "overload":
            slowed.setdefault(str(devices[name].get("line")), []).append(name)
    if lost := [name for name, finding in found if finding.code == "readings-lost"]:
        yield Finding("readings-lost", "store", {"names": _names(lost)})
    yield from _whole_lines([(name, one) for name, one in found if one.code != "readings-lost"], devices)
    read = [
        ReadIdentity(name, str(one.get("line")), str(one.get("address")), str(one.get("profile")), _serial(one))
        for name, one in devices.items()
    ]
    yield from same_serials(read)
    for reason in TOLD:
        counts = {name: missing[reason] for name, one in devices.items() if reason in (missing := _missing(one))}
        if counts:
            values = {"count": sum(counts.values()), "names": _names([*counts]), "why": reason_words(reason)}
            yield Finding("readings-excused", "lines", values)
    for name, line in lines.items():
        busy = line.get("busy_share") or 0.0
        late = slowed.get(name) or [n for n, d in devices.items() if d.get("line") == name and _overloads(d)]
        if busy > BUSY and late:
            yield Finding(
                "line-overloaded", f"line {name}", {"name": name, "busy": f"{busy:.0%}", "names": _names(late)}
            )


class ReadIdentity(NamedTuple):
    """The place where a device is read, its profile, and the serial number that it reports ("" if it reports none)."""

    name: str
    line: str
    address: str
    profile: str
    serial: str


def same_serials(read: Iterable[ReadIdentity]) -> Iterator[Finding]:
    """Yield findings about devices with the same serial number.

    Devices with one profile at several addresses are a fault, because one device is read twice. Devices at one address
    yield nothing, because their profiles together describe one device.
    """
    groups: dict[str, list[ReadIdentity]] = {}
    for one in read:
        plain = one.serial.strip().lower()
        # shorter numbers, and numbers such as 0000, were never set in the device, so they are not compared
        if len(plain) >= MIN_SERIAL and len(set(plain)) > 1:
            groups.setdefault(plain, []).append(one)
    for group in groups.values():
        if len({(one.line, one.address) for one in group}) < 2:
            continue
        places = {(one.profile, one.line, one.address) for one in group}
        is_one = len(places) > len({one.profile for one in group})
        names = _names([f"{one.name} ({one.line} {one.address})" for one in group])
        values = {"names": names, "serial": _cut(group[0].serial.strip(), 60)}
        yield Finding("device-read-twice" if is_one else "devices-same-serial", f"device {group[0].name}", values)


def _serial(device: Facts) -> str:
    return str(_part(device, "identity").get("device.serial") or "")


def _whole_lines(found: Sequence[tuple[str, Finding]], devices: Mapping[str, Facts]) -> Iterator[Finding]:
    """Yield the findings of devices.

    If a line is down, or no device on it answers, yield one finding for the whole line. If the line is down, this
    finding names all devices of the line that are not asleep, even rarely polled devices that are not due yet.
    """
    shown: set[tuple[str, str]] = set()
    down = {str(devices[name].get("line")): one for name, one in found if one.code == "device-unreachable"}
    for name, finding in found:
        line, kind = str(devices[name].get("line")), WHOLE_LINE.get(finding.code)
        affected = [n for n, one in found if WHOLE_LINE.get(one.code) == kind and devices[n].get("line") == line]
        awake = [n for n, d in devices.items() if d.get("line") == line and d.get("life") != "asleep"]
        if kind is not None and line in down and len(awake) > 1:
            if (line, "line-down") not in shown:
                shown.add((line, "line-down"))
                values = {**down[line].values, "names": _names(awake, most=20), "count": len(awake)}
                yield Finding("line-down", f"line {line}", values)
        elif kind is None or len(affected) < 2 or (kind != "line-down" and len(affected) < len(awake)):
            yield finding
        elif (line, kind) not in shown:
            shown.add((line, kind))
            yield Finding(kind, f"line {line}", {**finding.values, "names": _names(affected)})


def _missing(device: Facts) -> Facts:
    return _part(_part(device, "recent"), "missing")


def _overloads(device: Facts) -> bool:
    return bool(_part(device, "recent").get("settled") and _missing(device).get("overload"))


def _device(name: str, device: Facts, line: Facts, now: float) -> Iterator[Finding]:
    where, life = f"device {name}", device.get("life")
    if (swapped := _part(device, "swapped")) and life != "asleep":
        values: dict[str, object] = {
            "name": name,
            "age": show_age(now - float(swapped.get("t") or now)),
            "change": _cut(swapped.get("what")),
        }
        yield Finding("device-swapped", where, values)
    why = f": {_cut(device['error'], 160)}" if device.get("error") else ""
    silent_s = silent_for(device, now)
    values = {"name": name, "why": why, "age": show_age(silent_s), "line": str(device.get("line"))}
    is_line_down = device.get("line_down") or life == "unknown"
    if life == "dead" and not is_line_down:
        kind = "device-dead" if device.get("last_answer") else "device-never-answered"
        kind = "device-dead-behind-gateway" if device.get("gateway_answers") else kind
        kind = "device-dead-or-asleep" if device.get("may_sleep") else kind
        count, words = _unusable(device)
        # The count is 0 if the frames were valid and only their content was wrong. Error frames of a gateway are valid,
        # too.
        if device.get("garbled") and count and not device.get("gateway_answers"):
            kind, values = "device-garbled", values | {"words": words}
        yield Finding(kind, where, values)
    # the line of this device is down now, or was down
    elif life in ("dead", "unknown") and why and silent_s >= (device.get("dead_after") or 0):
        yield Finding("device-not-asked" if line.get("open") else "device-unreachable", where, values)
    elif life == "unknown" and not device.get("last_answer"):
        yield Finding("device-not-heard", where, values)
    elif life == "alive":
        yield from _readings(name, where, device, line, now)
        yield from _broken_answers(name, where, device)
        if (jump := _part(device, "counter_jump")) and not swapped:
            values = {"name": name, "age": show_age(now - float(jump.get("t") or now)),
                      **{key: _cut(jump.get(key), 60) for key in ("counter", "u", "from", "to")}}  # fmt: skip
            yield Finding("device-counter-jumped", where, values)
        if still := _part(device, "still"):
            values = {"name": name, "count": still["values"], "age": show_age(now - float(still["since"]))}
            yield Finding("device-all-zero" if still["zero"] else "device-still", where, values)
        elif idle := _part(device, "idle_counter"):
            watts = float(idle["least_w"])
            values = {"name": name, "counter": _cut(idle["counter"], 60), "power": _cut(idle["power"], 60),
                      "age": show_age(now - float(idle["since"])),
                      "least": f"{watts / 1000:.4g} kW" if watts >= 1000 else f"{watts:.4g} W"}  # fmt: skip
            yield Finding("device-counter-still", where, values)


class Silence(NamedTuple):
    """The time since which a device is silent, in UTC seconds.

    ``since_s``: the time of the last answer or, without any answer to this agent, the time when polling began.
    """

    since_s: float
    answered: bool


def silent_for(device: Facts, now: float) -> float:
    """Return for how many seconds a device has been silent. A step of the clock does not count."""
    since = device.get("silent_for")
    return float(now - float(device.get("last_answer") or device.get("added") or 0)) if since is None else float(since)


def silent_devices(snapshot: Facts, before_s: float) -> dict[str, Silence]:
    """Return the devices that became silent before ``before_s`` (UTC s).

    The gaps of a silent device are sealed only when it answers again.
    """
    found = {}
    for name, facts in _part(snapshot, "devices").items():
        last, added = facts.get("last_answer"), facts.get("added")
        if last and facts.get("life") == "dead":
            found[name] = Silence(float(last), True)
        elif added and not last:
            found[name] = Silence(float(added), False)
    return {name: one for name, one in found.items() if one.since_s < before_s}


def _valueless_s(device: Facts, recent: Facts, now: float) -> float:
    """Return for how many seconds a device has answered without any value.

    Returns 0 if this time is shorter than ``VALUELESS_S`` or the device's ``dead_after``. If the result is not 0, the
    device counts as faulty, even if ``recent`` contains earlier values.
    """
    since = recent.get("valueless_since")
    if since is None:
        return 0.0
    gone_s = float(recent.get("to", now)) - float(since)
    return gone_s if gone_s >= max(VALUELESS_S, float(device.get("dead_after") or 0)) else 0.0


def _readings(name: str, where: str, device: Facts, line: Facts, now: float) -> Iterator[Finding]:
    """Yield findings about the recent readings of a device that answers."""
    recent = _part(device, "recent")
    complete, due = recent.get("complete"), recent.get("due") or 0
    if complete is None or not due:
        return
    missing, marked = dict(_part(recent, "missing")), _part(recent, "marked")
    readings = recent.get("readings") or 0
    span = show_age(float(recent.get("to", now)) - float(recent.get("from", now)))
    values: dict[str, object] = {"name": name, "span": span, "due": due, "line": device.get("line")}
    has_none = 0
    if float(device.get("answering_since") or 0) <= float(recent.get("from", 0)) + FIRST_ANSWER_S:
        # The device answered all the time, so it lacks the points of readings with a reason in NO_VALUE. This is not a
        # fault if other points have values. But `absent` also includes requests that were skipped while the device was
        # silent, and these count as missing.
        not_asked = min(recent.get("not_asked") or 0, missing.get("absent", 0))
        has_none = sum(missing.pop(reason, 0) for reason in NO_VALUE) - not_asked
        if not_asked:
            missing["absent"] = not_asked
    excused = sum(missing.pop(reason, 0) for reason in EXCUSED)
    expected = due - excused - has_none
    doubtful = sum(marked.get(quality, 0) for quality in DOUBTFUL)
    if not recent.get("settled"):
        if expected and (good := (readings - doubtful) / expected) < COMPLETE:
            yield Finding("device-early", where, values | {"share": f"{good:.0%}"})
    elif has_none and not missing and not readings:
        yield Finding("device-without-values", where, values)
    elif has_none and not missing and (gone_s := _valueless_s(device, recent, now)):
        yield Finding("device-without-values", where, values | {"span": show_age(gone_s)})
        return
    elif missing and expected and readings / expected < COMPLETE:
        worst = max(missing, key=missing.__getitem__)
        why, advice = _because(worst, missing, recent, line)
        values |= {"share": f"{complete:.0%}", "worst": worst, "why": why, "count": sum(missing.values()),
                   "advice": advice, "again": _again(device, recent, now)}  # fmt: skip
        yield Finding("readings-lost" if worst in BY_GATEWAY else "device-incomplete", where, values)
    elif expected and (readings - doubtful) / expected < COMPLETE:
        code = "device-suspect" if 2 * marked.get("suspect", 0) > doubtful else "device-doubtful"
        yield Finding(code, where, values | {"count": doubtful, "words": _qualities(marked)})
    elif doubtful:
        yield Finding("device-some-doubtful", where, values | {"count": doubtful, "words": _qualities(marked)})
    if has_none and readings:
        yield Finding("device-lacks-values", where, values | {"count": has_none})
    if recent.get("settled") and expected and readings / expected >= COMPLETE:
        yield from _refused(where, device, values | {"count": missing.get("exception", 0)})


def _each_reason(missing: Mapping[str, int], words: Mapping[str, Texts], worst: str) -> Texts:
    """Return a text with each reason and its count of readings, ``worst``, the most frequent one, first."""
    order = [worst, *sorted(missing.keys() - {worst}, key=lambda reason: (-missing[reason], reason))]
    counted = [(words[reason], missing[reason]) for reason in order]
    return "; ".join(f"{one[0]}: {n}" for one, n in counted), "；".join(f"{one[1]} {n}" for one, n in counted)


def _again(device: Facts, recent: Facts, now: float) -> Texts:
    """Return words for a device that was silent in the time of ``recent`` but answers now; "" for any other device."""
    since = float(device.get("answering_since") or 0)
    if since <= float(recent.get("from", 0)) + FIRST_ANSWER_S:
        return ("", "")
    en, zh = (show_age(max(0.0, now - since), language) for language in ("en", "zh"))
    return (f"; it has answered again for {en}", f"；{zh}前已恢复应答")


def _refused(where: str, device: Facts, values: Mapping[str, object]) -> Iterator[Finding]:
    """Yield a finding about points that a device refuses.

    Even a few points matter, as they may be the energy counters.
    """
    names, count = device.get("refused"), values["count"]
    names = names if isinstance(names, list) else []
    if isinstance(count, int) and count >= (1 if names else FEWEST_REFUSED):
        points = (": {names}", "：{names}") if names else ""
        yield Finding("device-refuses", where, {**values, "names": _names(names), "points": points})


def _because(worst: str, missing: Mapping[str, int], recent: Facts, line: Facts) -> tuple[Texts, Texts]:
    """Return (text that tells why readings are missing, advice for ``worst``, the most frequent reason).

    If a line was late although it was not busy, the text says that the agent or the machine paused.
    """
    words, advice = {reason: reason_words(reason) for reason in missing}, BECAUSE.get(worst, ("", ""))
    if 0 < missing.get("absent", 0) <= (recent.get("not_asked") or 0):
        words["absent"] = WAS_SILENT
    if worst == "overload" and (line.get("busy_share") or 0.0) <= BUSY / 2:
        words[worst], advice = STALLED, STALLED_ADVICE
    return _each_reason(missing, words, worst) if len(missing) > 1 else words[worst], advice


def _broken_answers(name: str, where: str, device: Facts) -> Iterator[Finding]:
    """Yield a finding about broken answers that were requested again. It shows bad wiring before readings are lost."""
    answers = _part(device, "answers")
    (count, words), share = _unusable(device), answers.get("broken_share") or 0.0
    if count < FEWEST_BROKEN or share < BROKEN:
        return
    values = {"name": name, "line": device.get("line"), "count": count, "due": count + (answers.get("sound") or 0)}
    yield Finding("device-broken-answers", where, values | {"share": f"{share:.1%}", "words": words})


def _unusable(device: Facts) -> tuple[int, Texts]:
    """Return (number of unusable answers in the last ten minutes, text with the number of each kind)."""
    answers = _part(device, "answers")
    kinds = {reason: answers.get(key) or 0 for reason, key in (("crc", "broken"), ("mismatch", "mismatches"))}
    at = {reason: number for reason, number in kinds.items() if number}
    en, zh = (", ".join(f"{number} {reason_words(reason)[n]}" for reason, number in at.items()) for n in (0, 1))
    return sum(kinds.values()), (en, zh)


def _qualities(marked: Mapping[str, int]) -> Texts:
    found = [(marked[quality], quality) for quality in DOUBTFUL if marked.get(quality)]
    return (
        ", ".join(f"{count} {quality}" for count, quality in found),
        "，".join(f"{count} 个{QUALITIES.get(quality, (quality, quality))[1]}" for count, quality in found),
    )


# --- destinations


def _uplinks(uplinks: Mapping[str, Facts], gateway: str, now: float) -> Iterator[Finding]:
    for name, uplink in uplinks.items():
        where = f"destination {name}"
        why = f": {_cut(uplink['error'], 160)}" if uplink.get("error") else ""
        hint = _cut(uplink.get("hint") or "", 160)
        values = {"name": name, "why": why, "hint": hint, "waiting": uplink.get("waiting") or 0}
        if not uplink.get("connected", True):
            if why or now - float(uplink.get("since") or 0) >= FIRST_CONNECT_S:
                yield Finding("uplink-down", where, values)
        elif uplink.get("subscriber") is False:
            yield Finding("uplink-no-subscriber", where, values | {"topic": f"meterhouse/v1/{_cut(gateway, 80)}/#"})
        elif why or uplink.get("set_aside"):
            yield Finding("uplink-refusing", where, values | {"count": uplink.get("set_aside") or 0})
        yield from _certificates(name, uplink, now)


def _certificates(name: str, uplink: Facts, now: float) -> Iterator[Finding]:
    for one in uplink.get("certificates") or ():
        where = f"destination {name}"
        values = {"name": name, "what": _cut(one.get("what"), 60), "file": _cut(one.get("file"))}
        if (ends := one.get("ends")) is None:
            yield Finding("certificate-unreadable", where, values | {"why": _cut(one.get("error"))})
        else:
            yield from _ending("certificate", where, values, ends - now)
    if (ends := uplink.get("broker_certificate_ends")) is not None:
        yield from _ending("broker-certificate", f"destination {name}", {"name": name}, ends - now)


def _ending(kind: str, where: str, values: Mapping[str, object], left_s: float) -> Iterator[Finding]:
    """Yield a finding if a certificate expires soon or has expired."""
    days = left_s / 86_400
    if days < WARN_DAYS:
        code = f"{kind}-expires" if days > 0 else f"{kind}-expired"
        yield Finding(code, where, {**values, "days": f"{abs(days):.0f}"})


def show_size(size: float) -> str:
    """Return a size in bytes as text, such as 350 MB or 12 GB."""
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if size < limit:
            return f"{size / (limit / 1e3):.0f} {unit}" if unit != "GB" else f"{size / 1e9:.1f} {unit}"
    return f"{size / 1e12:.1f} TB"
