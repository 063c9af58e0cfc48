"""Adds gaps that are not sealed yet to the day pages.

The agent seals the gaps of a silent device only when the device answers again. Until then, the agent's answers about a
day lack these gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.cli.findings import Silence

Answer = Mapping[str, Any]


def with_unsealed(answer: Answer, silent: Mapping[str, Silence], snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of an answer about a day. The copy also has the gaps of silent devices until the snapshot's time.

    Args:
        answer: the day of the site or of one device.
        silent: the silent devices, as returned by ``agent.cli.findings.silent_devices``.
    """
    until_s = min(float(snapshot.get("time") or 0.0), answer["to"])
    lacks = {
        name: list(_intervals(answer, one.since_s, until_s, _reason(name, one, snapshot)))
        for name, one in silent.items()
    }
    if answer["site"]:
        return {**answer, "site": [_role(one, answer, lacks) for one in answer["site"]]}
    return {**answer, "devices": [_device(one, lacks.get(one["device"], [])) for one in answer["devices"]]}


def _reason(name: str, one: Silence, snapshot: Mapping[str, Any]) -> str:
    """Return the most frequent reason among the device's recent missing readings.

    Without missing readings, the reason is ``timeout``, or ``absent`` for a device that has never answered.
    """
    missing = (snapshot["devices"][name].get("recent") or {}).get("missing") or {}
    return max(missing, key=missing.__getitem__, default="timeout" if one.answered else "absent")


def _intervals(answer: Answer, since_s: float, until_s: float, reason: str) -> Iterator[tuple[int, str, int]]:
    """Yield (start in UTC seconds, reason, ms missing) for each interval that the silence touches."""
    for start in map(int, answer["starts"]):
        ms = int((min(until_s, start + answer["length"]) - max(since_s, start)) * 1000)
        if ms > 0:
            yield start, reason, ms


def _device(device: Mapping[str, Any], lacks: list[tuple[int, str, int]]) -> dict[str, Any]:
    gaps, missing = list(device.get("gaps", ())), dict(device["missing"])
    sealed = {int(start) for start, *_ in gaps} | {
        int(row[0]) for one in device.get("points", ()) for row in one["rows"]
    }
    for start, reason, ms in lacks:
        if start not in sealed:
            gaps.append((start, reason, ms, ms))
            before_ms, before_whole_ms = missing.get(reason, (0, 0))
            missing[reason] = before_ms + ms, before_whole_ms + ms
    return {**device, "gaps": gaps, "missing": missing}


def _role(role: Mapping[str, Any], answer: Answer, lacks: Mapping[str, list[tuple[int, str, int]]]) -> dict[str, Any]:
    """Return the role with the added gaps. Each interval names the device with the most missing data."""
    gaps = {int(start): (device, devices, reasons) for start, device, devices, reasons in role.get("gaps", ())}
    sealed = {start: sum(whole for *_, whole in reasons) for start, (_, _, reasons) in gaps.items()}
    for device in answer["devices"]:
        if not any((one["role"], one["flow"]) == (role["role"], role["flow"]) for one in device["energy"]):
            continue
        for start, reason, ms in lacks.get(device["device"], ()):
            if sealed.get(start, 0) >= ms:  # the answer may contain this gap already, so only a longer gap is added
                continue
            worst, devices, reasons = gaps.get(start, ("", 0, ()))
            if ms > sum(whole for *_, whole in reasons):
                worst, reasons = device["device"], [(reason, ms, ms)]
            gaps[start] = worst, devices + 1, reasons
    return {**role, "gaps": [(start, *one) for start, one in sorted(gaps.items())]}
