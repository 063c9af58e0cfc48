"""What monitoring counts, in the text form that node_exporter's textfile collector reads. No socket is opened.

Names follow the conventions of Prometheus: base units, ``_total`` for what only grows, labels for the many.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Labels = Mapping[str, str]
Sample = tuple[Labels, float | int | bool | None]
LINE_ERRORS = ("timeouts", "broken", "mismatches", "exceptions", "stale", "foreign", "open_failures", "lost")


class Family(NamedTuple):
    """One metric: counters end in ``_total``. Samples without a value are left out."""

    name: str
    help: str
    samples: Sequence[Sample]


def metrics_text(facts: Mapping[str, Any]) -> str:
    """The snapshot of the agent as metrics, ending in a newline."""
    out: list[str] = []
    for name, words, samples in families(facts):
        lines = [
            f"meterhouse_{name}{_labels(labels)} {_number(value)}" for labels, value in samples if value is not None
        ]
        if lines:
            kind = "counter" if name.endswith("_total") else "gauge"
            out += [f"# HELP meterhouse_{name} {words}", f"# TYPE meterhouse_{name} {kind}", *lines]
    return "\n".join(out) + "\n"


def families(facts: Mapping[str, Any]) -> Iterable[Family]:
    """Everything that is counted."""
    config, store, clock = facts["config"], facts["store"], facts["clock"]
    who = {name: str(facts[name]) for name in ("site", "gateway", "version", "boot")}
    one: Labels = {}
    yield Family("info", "Which gateway this is; the value is always 1.", [(who, 1)])
    yield Family("start_time_seconds", "When the agent started, in seconds since the epoch.", [(one, facts["started"])])
    yield Family("config_loaded_time_seconds", "When the configuration in force was read.", [(one, config["loaded"])])
    complaints = [(one, len(config["complaints"]))]
    yield Family("config_complaints", "What is wrong with a configuration that was not taken; 0 is good.", complaints)
    yield Family(
        "store_trouble",
        "1 while the store cannot commit and readings wait in the ring.",
        [(one, bool(store["trouble"]))],
    )
    for key, words in (
        ("size_bytes", "What database, WAL and reserve take on the disk."),
        ("limit_bytes", "What they may take at most."),
        ("disk_free_bytes", "What is free on that disk."),
    ):
        yield Family(f"store_{key}", words, [(one, store.get(key))])
    yield Family(
        "store_lost_packs_total",
        "Packs dropped by the size cap before they were confirmed.",
        [(one, store.get("lost_packs"))],
    )
    yield Family("clock_synchronized", "1 if the kernel says that its clock is synchronised.", [(one, clock["synced"])])
    error_ms = clock["error_ms"]
    error_s = None if error_ms is None else error_ms / 1000
    yield Family("clock_error_seconds", "How wrong the clock may be, by the kernel.", [(one, error_s)])
    yield from _devices(facts["devices"])
    yield from _lines(facts["lines"])
    yield from _uplinks(facts["uplinks"], store.get("pending", {}))


def _devices(devices: Mapping[str, Mapping[str, Any]]) -> Iterable[Family]:
    rows = [({"device": name, "line": device["line"]}, device) for name, device in devices.items()]
    yield Family("device_up", "1 if the device answers.", [(labels, d["life"] == "alive") for labels, d in rows])
    asleep = [(labels, d["life"] == "asleep") for labels, d in rows]
    yield Family("device_asleep", "1 if it is silent in the dark, as its profile says of it.", asleep)
    for name, key, words in (
        ("device_last_answer_timestamp_seconds", "last_answer", "When it answered last."),
        ("device_sealed_timestamp_seconds", "sealed_to", "Up to when its readings are sealed and stored."),
        ("device_readings_total", "readings", "Readings sealed since the start."),
        ("device_gap_readings_total", "gap_readings", "Readings that were due and are stated as missing."),
        ("device_packs_total", "packs", "Packs sealed since the start."),
        ("device_overloads_total", "overloads", "Ticks that were not begun before the next was due."),
    ):
        yield Family(name, words, [(labels, device[key]) for labels, device in rows])


def _lines(lines: Mapping[str, Mapping[str, Any]]) -> Iterable[Family]:
    rows = [({"line": name}, line) for name, line in lines.items()]
    yield Family("line_open", "1 if the port or connection is open.", [(labels, line["open"]) for labels, line in rows])
    yield Family(
        "line_lent", "1 while a tool has it on lease.", [(labels, bool(line["lent"])) for labels, line in rows]
    )
    yield Family(
        "line_busy_ratio", "Share of the line's time in use.", [(labels, line["busy_share"]) for labels, line in rows]
    )
    sent = [({**labels, "function": f}, count) for labels, line in rows for f, count in line["sent"].items()]
    yield Family("line_requests_total", "Requests sent, by function or control code.", sent)
    yield Family("line_answers_total", "Answers that were good.", [(labels, line["answers"]) for labels, line in rows])
    wrong = [({**labels, "kind": kind}, line[kind]) for labels, line in rows for kind in LINE_ERRORS]
    yield Family("line_errors_total", "What went wrong on the line, by kind.", wrong)


def _uplinks(uplinks: Mapping[str, Mapping[str, Any]], pending: Mapping[str, int]) -> Iterable[Family]:
    rows = [({"destination": name}, uplink) for name, uplink in uplinks.items()]
    waiting = [({"destination": name}, count) for name, count in pending.items()]
    yield Family("uplink_connected", "1 if the broker is connected.", [(labels, u["connected"]) for labels, u in rows])
    yield Family("uplink_backlog_packs", "Packs in the store that it has not confirmed.", waiting)
    for name, key, words in (
        ("uplink_in_flight_packs", "in_flight", "Packs sent and not acknowledged."),
        ("uplink_confirmed_packs_total", "confirmed", "Packs confirmed since the start."),
        ("uplink_refused_packs_total", "refused", "Packs that the broker refused."),
        ("uplink_connects_total", "connects", "Connections made."),
        ("uplink_sent_bytes_total", "sent_bytes", "Bytes of packs sent."),
    ):
        yield Family(name, words, [(labels, uplink[key]) for labels, uplink in rows])


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    quoted = (value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for value in labels.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(labels, quoted, strict=True)) + "}"


def _number(value: float | int | bool) -> str:
    return str(int(value)) if isinstance(value, bool) else repr(value)


def write_metrics(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace the file atomically; the collector never sees half of one. Mode 0640, like the snapshot."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w", encoding="utf-8") as stream:
        stream.write(metrics_text(facts))
    new.replace(path)
