"""Writes the status of the agent for local tools: ``snapshot.json``, and the same numbers as Prometheus metrics.

The metrics are a file in the text format of node_exporter's textfile collector; no socket is opened. Their names follow
the conventions of Prometheus: base units, ``_total`` for counters, and labels to tell similar objects apart.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import agent
import ext.clock
from agent.config import Config
from agent.config.profiles import sleeps
from agent.outbox import NOWHERE
from agent.pack import seconds
from agent.service.births import RunningDevice
from agent.service.identity import quirks_summary
from agent.service.runtime_dir import LAST_ERROR, METRICS
from agent.service.seal_jobs import TableVersion
from drivers.encoding import exact_text
from drivers.files import write_atomic
from drivers.line import Line
from drivers.model import Reason

if TYPE_CHECKING:
    from agent.service.app import Service
    from agent.uplink import Uplink

# Interval of the metrics; longer if they take more than this share of the loop's time (30 s with 800 devices)
METRICS_EVERY_S, METRICS_MOST_S, METRICS_SHARE = 10.0, 30.0, 0.001
JUMP_SHOWN_MS = 86_400_000  # a jump of a counter is shown for this long
FUTURE_MS = 60_000  # if stored packs end further in the future than this, the clock is or was wrong: warn


class StatusFile:
    """Writes ``snapshot.json`` and the metrics into the runtime directory, with mode 0640, like the ring."""

    def __init__(self, config: Config, boot: str) -> None:
        self._path = config.snapshot_path
        self._metrics_path = config.runtime_dir / METRICS
        self._metrics_due = math.inf
        (config.runtime_dir / LAST_ERROR).unlink(missing_ok=True)
        self._named: tuple[int, ...] = ()  # table numbers in ``_tables``
        self._tables = "{}"
        self._fixed = {
            "site": config.site,
            "gateway": config.gateway,
            "boot": boot,
            "pid": os.getpid(),
            "version": agent.__version__,
        }

    def write(self, service: Service) -> list[tuple[Path, OSError]]:
        """Replace the snapshot. Every 10 to 30 seconds, also replace the metrics.

        The metrics begin with the second snapshot, because at a start with thousands of devices the first packs are
        more urgent. The directory is in memory, so no flash card wears out.

        Returns the files that cannot be written, with the error of each; the snapshot comes first.
        """
        versions = [(stream.name, s) for stream in service.sealing.streams.values() for s in stream.table_versions]
        if (numbers := tuple(version.number for _, version in versions)) != self._named:
            self._named, self._tables = numbers, point_tables(versions)
        ring = service.rings.current.path.name
        content = {**self._fixed, "ring": ring, "time": seconds(time.time_ns() // 1_000_000), **status(service)}
        failed: list[tuple[Path, OSError]] = []
        if self._metrics_due == math.inf:
            self._metrics_due = 0.0
        elif time.monotonic() >= self._metrics_due:
            began_s = time.thread_time()
            _replace(self._metrics_path, metrics_text(content).encode(), failed)
            cost_s = time.thread_time() - began_s
            self._metrics_due = time.monotonic() + min(max(METRICS_EVERY_S, cost_s / METRICS_SHARE), METRICS_MOST_S)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        _replace(self._path, f'{text[:-1]},"tables":{self._tables}}}'.encode(), failed)
        return failed[::-1]

    def remove(self) -> None:
        """Remove the files at the end of the run, so that tools do not show old values."""
        for path in (self._path, self._metrics_path):
            with contextlib.suppress(OSError):  # somebody has put a folder there; nothing of the agent's is lost by it
                path.unlink()


def _replace(path: Path, data: bytes, failed: list[tuple[Path, OSError]]) -> None:
    """Replace a file. If that is impossible, add the file and the error to ``failed``."""
    try:
        write_atomic(path, data, 0o640)
    except OSError as error:
        failed.append((path, error))


def status(service: Service) -> dict[str, Any]:
    """The current state of devices, lines, uplinks, store and clock, in the form of ``snapshot.json``."""
    clock, now_ms = ext.clock.state(), service.clock.now_ms()
    behind_ms, clock_set = service.newest_stored_ms - now_ms, service.clock_set
    return {
        "started": seconds(service.started_ms),
        "running_for": round(time.monotonic() - service.started_s, 3),
        "key": _key_facts(service),
        "config": {
            "hash": service.config.hash(),
            "loaded": seconds(service.loaded_ms),
            "complaints": service.complaints,
            "roleless": list(service.config.roleless) if service.config.wants_figures else [],
        },
        "devices": {device.config.name: _device_facts(device, now_ms, service.loaded_ms) for device in service.devices},
        "lines": {name: _line_facts(line) for name, line in service.lines.items()},
        "uplinks": {uplink.name: _uplink_facts(service, uplink) for uplink in service.uplinks},
        "store": _store_facts(service),
        "intervals": service.publisher.facts(),
        "clock": {
            "synced": clock.synced,
            "error_ms": None if clock.error_us is None else clock.error_us / 1000,
            "behind_store": behind_ms // 1000 if behind_ms > FUTURE_MS else None,
            "set": clock_set and {"by": clock_set.by_s, "age": round(time.monotonic() - clock_set.at_s, 3)},
        },
    }


def _key_facts(service: Service) -> dict[str, Any]:
    signer, watcher = service.active_key.signer, service.key_watcher
    file = str(watcher.path.absolute())  # absolute, because the reader may be in another folder
    return {
        "alg": signer.alg,
        "thumbprint": signer.kid,
        "file": file,
        "trouble": watcher.trouble or None,
        "cannot_sign": service.sealing.key_trouble,
    }


def _uplink_facts(service: Service, uplink: Uplink) -> dict[str, Any]:
    """The state of a destination for the snapshot.

    ``waiting``: number of unconfirmed packs. The store counts them if the uplink may not know all of them.
    """
    state = uplink.state()
    usage = service.watchdog.usage
    knows_all = state.connected and not (state.backfilling or state.silent_topics or state.set_aside or state.error)
    waiting = state.waiting
    if usage is not None and not (knows_all and state.confirm != "platform"):
        waiting = max(waiting, usage.pending.get(uplink.name, 0))
    certificates = [
        {"file": str(one.file), "what": one.what, "ends": one.ends, "error": one.error or None}
        for one in service.certificates
        if one.destination == uplink.name
    ]
    return {**asdict(state), "waiting": waiting, "certificates": certificates}


def _store_facts(service: Service) -> dict[str, Any]:
    """Facts about the store. Sizes and backlog are up to about ten seconds old: ``Watchdog.feed`` reads them."""
    facts: dict[str, Any] = {"trouble": service.sealing.trouble, "path": str(service.config.store_path)}
    if (usage := service.watchdog.usage) is not None:
        facts |= {
            "size_bytes": usage.disk_bytes,
            "limit_bytes": usage.max_bytes,
            "disk_free_bytes": usage.free_disk_bytes,
            "packs": usage.packs,
            "unused_bytes": usage.unused_bytes,
            "pending": {name: count for name, count in usage.pending.items() if name != NOWHERE},
            "undelivered": usage.pending.get(NOWHERE),  # None: there is a destination
            "lost_packs": service.watchdog.lost_packs,
            "lost_at": service.watchdog.lost_s,
        }
    return facts | service.scrubber.facts()


def summary(service: Service) -> str:
    """One line for ``systemctl status``."""
    now_ms = service.clock.now_ms()
    states = [device.poll.life(now_ms) for device in service.devices]
    parts = [f"{states.count('alive')} of {len(states)} devices answer"]
    if asleep := states.count("asleep"):
        parts[0] += f", {asleep} asleep"
    for uplink in service.uplinks:
        facts = _uplink_facts(service, uplink)
        state = "connected" if facts["connected"] else "not connected"
        parts.append(f"{uplink.name} {state}, {facts['waiting']} packs pending")
    if service.sealing.trouble:
        what = "signing key" if service.sealing.key_trouble else "store error"
        parts.append(f"{what}: {service.sealing.trouble}")
    if service.complaints:
        parts.append("the configuration on disk was rejected, so the previous one stays in effect")
    return "; ".join(parts)[:400]


def point_tables(versions: Sequence[tuple[str, TableVersion]]) -> str:
    """The point tables of the records in the ring, as JSON, by number.

    If an earlier table in the text has the same points, ``points`` is only the number of that table.
    """
    first: dict[int, int] = {}  # id of the points -> number of the table that states them
    rows = []
    for stream, version in versions:
        table = version.table.points
        if id(table) not in first:
            # marks for tools: the last digits of a ``float`` are noise, and a ``daily`` value may be a day old
            marks = {"float": table.floats, "daily": table.daily}
            named = [
                {"n": n, "u": unit, "kind": kind} | {mark: True for mark, names in marks.items() if n in names}
                for n, unit, kind in table.names
            ]
            text = json.dumps(named, ensure_ascii=False, separators=(",", ":"))
            first[id(table)] = version.number
        else:
            text = str(first[id(table)])
        rows.append(f'"{version.number}":{{"stream":{json.dumps(stream)},"points":{text}}}')
    return "{" + ",".join(rows) + "}"


def _device_facts(device: RunningDevice, now_ms: int, loaded_ms: int) -> dict[str, Any]:
    poll, stream = device.poll, device.stream
    life = poll.life(now_ms)
    silent = Reason.ASLEEP if life == "asleep" else Reason.LENT if device.line.lent else Reason.ABSENT
    return {
        "line": device.config.line,
        "address": device.config.address,
        "profile": device.profile.id,
        "variant": poll.driver.spec.variant or None,
        "life": life,
        "added": seconds(poll.added_ms),
        "last_answer": seconds(poll.last_answer_ms) if poll.last_answer_ms else None,
        "silent_for": poll.silent_ms(now_ms) / 1000,
        "answering_since": seconds(poll.answering_since_ms) if poll.answering_since_ms else None,
        "dead_after": poll.dead_after_ms / 1000,
        "may_sleep": poll.driver.spec.night is None and sleeps(device.config, device.profile),
        "error": poll.last_error or None,
        "line_down": life == "dead" and poll.line_down,
        "gateway_answers": life == "dead" and poll.gateway_answers,
        "garbled": life == "dead" and poll.is_garbled,
        "answers": _answer_facts(device),
        "still": _still_facts(device, now_ms),
        "idle_counter": device.stillness.idle_counter(poll.driver.spec),
        "recent": stream.recent_facts(poll.settled_ms, now_ms, silent, poll.not_asked.count),
        "swapped": device.swapped,
        "counter_jump": _jump_facts(device, now_ms, loaded_ms),
        "overloads": poll.overloads,
        "identity": device.identity,
        "epoch": stream.table_version.table.facts.epoch,
        "learned": quirks_summary(poll.driver) or None,
        "refused": _refused_points(device) or None,
        "readings": stream.readings,
        "gap_readings": stream.gap_readings,
        "packs": stream.packs,
        "sealed_to": seconds(stream.sealed_ms),
    }


def _jump_facts(device: RunningDevice, now_ms: int, loaded_ms: int) -> dict[str, Any] | None:
    """The last jump of a counter to another level. It is shown for a day, or until the next reload."""
    jump = getattr(device.poll.driver, "counter_jump", None)  # drivers of third parties may not have it
    if jump is None:
        return None
    t_ms = now_ms - round((time.monotonic() - jump.at_s) * 1000)
    if t_ms <= max(loaded_ms, now_ms - JUMP_SHOWN_MS):
        return None
    point = device.poll.driver.spec.points[jump.number]
    return {"counter": point.name, "u": point.unit, "from": exact_text(jump.before), "to": exact_text(jump.after),
            "t": seconds(t_ms)}  # fmt: skip


def _refused_points(device: RunningDevice) -> list[str]:
    """The names of the non-optional points for which the device always returns an exception."""
    points = device.poll.driver.spec.points
    lacking = getattr(device.poll.driver, "lacking", None)  # drivers of third parties may not have it
    if lacking is None:
        return []
    return [points[n].name for those, why in lacking(range(len(points))) if why is Reason.EXCEPTION for n in those]


def _answer_facts(device: RunningDevice) -> dict[str, Any]:
    """Counts the answers in the last ten minutes: good and bad. A bad answer counts even if a retry succeeded."""
    where = getattr(device.poll.driver, "where", "")  # drivers of third parties may not have it
    sound, broken, mismatches = device.line.stats.of_device(where).recent(time.monotonic_ns())
    count = sound + broken + mismatches
    share = round((broken + mismatches) / count, 4) if count else None
    return {"sound": sound, "broken": broken, "mismatches": mismatches, "broken_share": share}


def _still_facts(device: RunningDevice, now_ms: int) -> dict[str, Any] | None:
    """Facts about values that should change but are frozen: since when, how many, and whether all are zero."""
    spec, version, stillness = device.poll.driver.spec, device.stream.table_version, device.stillness
    stillness.look(spec, version.ring, version.number, device.stream.newest_visits.values(), now_ms)
    may_rest = spec.night.is_dark(now_ms) if spec.night is not None else sleeps(device.config, device.profile)
    return stillness.facts(spec, now_ms, may_rest)


def _line_facts(line: Line) -> dict[str, Any]:
    stats = line.stats
    return {
        "url": line.config.url,
        "open": line.is_open,
        "lent": line.lent or None,
        "busy_share": round(stats.busy_share(time.monotonic_ns()), 4),
        "sent": {str(function): count for function, count in sorted(stats.sent.items())},
        "answers": stats.answers,
        "timeouts": stats.timeouts,
        "broken": stats.broken,
        "mismatches": stats.mismatches,
        "exceptions": stats.exceptions,
        "stale": stats.stale,
        "foreign": stats.foreign,
        "opened": stats.opened,
        "open_failures": stats.open_failures,
        "lost": stats.lost,
        "notes": stats.notes,
    }


# --- metrics

Sample = tuple[str, float | int | bool | None]  # (labels as ``_labels`` returns them, value)
LINE_ERRORS = ("timeouts", "broken", "mismatches", "exceptions", "stale", "foreign", "open_failures", "lost")


class MetricFamily(NamedTuple):
    """One metric with its samples. The name of a counter ends in ``_total``.

    Samples with the value None are left out.
    """

    name: str
    help: str
    samples: Sequence[Sample]


def metrics_text(facts: Mapping[str, Any]) -> str:
    """Convert a snapshot to metrics. The text ends with a newline."""
    out: list[str] = []
    for name, words, samples in families(facts):
        lines = [
            f"meterhouse_{name}{{{labels}}} {_number(value)}" if labels else f"meterhouse_{name} {_number(value)}"
            for labels, value in samples
            if value is not None
        ]
        if lines:
            kind = "counter" if name.endswith("_total") else "gauge"
            out += [f"# HELP meterhouse_{name} {words}", f"# TYPE meterhouse_{name} {kind}", *lines]
    return "\n".join(out) + "\n"


def families(facts: Mapping[str, Any]) -> Iterable[MetricFamily]:
    """All metrics of a snapshot."""
    config, store, clock = facts["config"], facts["store"], facts["clock"]
    who = _labels(**{name: str(facts[name]) for name in ("site", "gateway", "version", "boot")})
    one = ""
    yield MetricFamily("info", "Which gateway this is; the value is always 1.", [(who, 1)])
    yield MetricFamily(
        "start_time_seconds", "When the agent started, in seconds since the epoch.", [(one, facts["started"])]
    )
    yield MetricFamily(
        "config_loaded_time_seconds",
        "When the configuration in effect was read, in seconds since the epoch.",
        [(one, config["loaded"])],
    )
    complaints = [(one, len(config["complaints"]))]
    words = "Errors in a configuration that was rejected at the last reload; 0 if none was."
    yield MetricFamily("config_complaints", words, complaints)
    yield MetricFamily(
        "store_trouble",
        "1 while the store cannot commit, or the key cannot sign, and readings wait in the ring.",
        [(one, bool(store["trouble"]))],
    )
    for key, words in (
        ("size_bytes", "Disk space used by the database, its WAL and the reserve file."),
        ("limit_bytes", "Maximum disk space for the database, its WAL and the reserve file."),
        ("disk_free_bytes", "Free space on the disk of the database."),
    ):
        yield MetricFamily(f"store_{key}", words, [(one, store.get(key))])
    yield MetricFamily(
        "store_lost_packs_total",
        "Packs lost before they were confirmed, for example dropped by the size cap.",
        [(one, store.get("lost_packs"))],
    )
    yield MetricFamily(
        "clock_synchronized", "1 if the kernel reports its clock as synchronised.", [(one, clock["synced"])]
    )
    error_ms = clock["error_ms"]
    error_s = None if error_ms is None else error_ms / 1000
    yield MetricFamily("clock_error_seconds", "Maximum error of the clock by the kernel's estimate.", [(one, error_s)])
    trouble = bool(facts.get("key", {}).get("trouble"))
    yield MetricFamily("key_trouble", "1 if the next start could not use the key file.", [(one, trouble)])
    yield from _devices(facts["devices"])
    yield from _lines(facts["lines"])
    yield from _uplinks(facts["uplinks"], store.get("pending", {}))


def _devices(devices: Mapping[str, Mapping[str, Any]]) -> Iterable[MetricFamily]:
    rows = [(_labels(device=name, line=device["line"]), device) for name, device in devices.items()]
    yield MetricFamily("device_up", "1 if the device answers.", [(labels, d["life"] == "alive") for labels, d in rows])
    asleep = [(labels, d["life"] == "asleep") for labels, d in rows]
    yield MetricFamily("device_asleep", "1 if the device does not answer at night, as its profile expects.", asleep)
    swapped = [(labels, bool(d["swapped"])) for labels, d in rows]
    yield MetricFamily("device_swapped", "1 if a different device answers at this address, until a reload.", swapped)
    recent = [(labels, d.get("recent") or {}) for labels, d in rows]
    complete = [(labels, facts.get("complete")) for labels, facts in recent]
    words = "Share of the readings due in the last ten minutes that were taken."
    yield MetricFamily("device_complete_ratio", words, complete)
    broken = [(labels, (d.get("answers") or {}).get("broken_share")) for labels, d in rows]
    words = "Share of the answers of the last ten minutes that were damaged or did not match the request."
    yield MetricFamily("device_broken_answers_ratio", words, broken)
    for key, label, words in (
        ("missing", "reason", "Readings due in the last ten minutes that are missing, by reason."),
        ("marked", "quality", "Readings of the last ten minutes that are not good, by quality."),
    ):
        counts = [
            (f"{labels},{_labels(**{label: kind})}", count)
            for labels, facts in recent
            for kind, count in facts.get(key, {}).items()
        ]
        yield MetricFamily(f"device_recent_{key}", words, counts)
    for name, key, words in (
        ("device_last_answer_timestamp_seconds", "last_answer", "Time of the last answer, in seconds since the epoch."),
        (
            "device_sealed_timestamp_seconds",
            "sealed_to",
            "Time up to which readings are sealed and stored, in seconds since the epoch.",
        ),
        ("device_readings_total", "readings", "Readings sealed since the start."),
        ("device_gap_readings_total", "gap_readings", "Readings recorded as missing since the start."),
        ("device_packs_total", "packs", "Packs sealed since the start."),
        ("device_overloads_total", "overloads", "Ticks skipped because the next one was due before they began."),
    ):
        yield MetricFamily(name, words, [(labels, device[key]) for labels, device in rows])


def _lines(lines: Mapping[str, Mapping[str, Any]]) -> Iterable[MetricFamily]:
    rows = [(_labels(line=name), line) for name, line in lines.items()]
    yield MetricFamily(
        "line_open", "1 if the port or connection is open.", [(labels, line["open"]) for labels, line in rows]
    )
    yield MetricFamily(
        "line_lent", "1 while a tool has borrowed the line.", [(labels, bool(line["lent"])) for labels, line in rows]
    )
    busy = [(labels, line["busy_share"]) for labels, line in rows]
    yield MetricFamily("line_busy_ratio", "Share of the last ten minutes in which the line was in use.", busy)
    sent = [(f"{labels},{_labels(function=f)}", count) for labels, line in rows for f, count in line["sent"].items()]
    yield MetricFamily("line_requests_total", "Requests sent, by function or control code.", sent)
    yield MetricFamily("line_answers_total", "Valid answers.", [(labels, line["answers"]) for labels, line in rows])
    wrong = [(f'{labels},kind="{kind}"', line[kind]) for labels, line in rows for kind in LINE_ERRORS]
    yield MetricFamily("line_errors_total", "Errors on the line, by kind.", wrong)


def _uplinks(uplinks: Mapping[str, Mapping[str, Any]], pending: Mapping[str, int]) -> Iterable[MetricFamily]:
    rows = [(_labels(destination=name), uplink) for name, uplink in uplinks.items()]
    waiting = [(_labels(destination=name), count) for name, count in pending.items()]
    yield MetricFamily(
        "uplink_connected", "1 if the broker is connected.", [(labels, u["connected"]) for labels, u in rows]
    )
    subscribed = [(labels, u.get("subscriber")) for labels, u in rows]
    yield MetricFamily("uplink_subscriber", "1 if a client subscribes to its packs, 0 if none does.", subscribed)
    ends = [
        (f"{labels},{_labels(file=one['file'], what=one['what'])}", one["ends"])
        for labels, u in rows
        for one in u.get("certificates") or ()
    ]
    words = "When a configured certificate expires, in seconds since the epoch."
    yield MetricFamily("uplink_certificate_expiry_timestamp_seconds", words, ends)
    yield MetricFamily("uplink_backlog_packs", "Packs in the store that the destination has not confirmed.", waiting)
    for name, key, words in (
        ("uplink_in_flight_packs", "in_flight", "Packs sent and not acknowledged."),
        ("uplink_confirmed_packs_total", "confirmed", "Packs that the broker has accepted since the start."),
        (
            "uplink_refused_packs_total",
            "refused",
            "Packs that the broker rejected, unless it had no subscriber for them.",
        ),
        ("uplink_connects_total", "connects", "Connections made."),
        ("uplink_sent_bytes_total", "sent_bytes", "Bytes of packs sent."),
    ):
        yield MetricFamily(name, words, [(labels, uplink[key]) for labels, uplink in rows])


def _labels(**labels: str) -> str:
    """Labels as they stand between the braces of a sample."""
    quoted = (value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in labels.values())
    return ",".join(f'{name}="{value}"' for name, value in zip(labels, quoted, strict=True))


def _number(value: float | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)
