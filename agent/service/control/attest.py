"""Serves two kinds of statements that people make: handovers and declarations.

The gateway signs a handover together with its own readings. The agent adds identity, line, address and reading to the
handover, and accepts only readings that it has recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from agent.indicators.declared import Declaration, from_dict, in_force
from agent.indicators.units import parse_unit
from agent.pack import base64url, seconds
from agent.service.births import RunningDevice
from agent.service.control.protocol import Access, ComparedDevice, Declarations, Declare, Handover, Reply
from agent.service.results.site import read
from agent.store import Store
from agent.verify.canonical import canonical
from drivers.encoding import exact_text
from drivers.model import GatewayError, Quality, UsageError, clean_text
from ext.ring import ANSWER

# the largest number of devices in one event, so that its pack stays below the packet limit of brokers
AT_ONCE: Final = 50
# The longest wait for a reading. A tool may see a reading before the agent records it at the end of the visit.
VISIT_S: Final = 30.0
AGAIN_S: Final = 0.25  # interval of the checks during this wait
AROUND: Final = 3  # a reading is searched for in this number of packs before its time, and in as many packs after it


async def answer(access: Access, request: Handover | Declarations | Declare, reply: Reply) -> dict[str, Any]:
    """Serve a request for a handover, or a request about declarations."""
    return await (handover(access, request, reply) if isinstance(request, Handover) else declarations(access, request))


async def handover(access: Access, request: Handover, reply: Reply) -> dict[str, Any]:
    """Sign a handover.

    Returns {"events", "packs", "thumbprint"}: the signed events, the packs that contain them, and the thumbprint of the
    key.
    """
    service = access.service
    if service is None:
        hint = "Start the agent: the readings in the handover record come from the running agent"
        raise GatewayError("only a running agent can sign a handover", where="handover", hint=hint)
    running = {device.config.name: device for device in service.devices}
    for one in request.devices:
        if one.device not in running:
            hint = f"The running agent has {', '.join(list(running)[:20])}"
            raise UsageError(f"the running agent has no device {clean_text(one.device)!r}", where="handover", hint=hint)
    entries = []
    for one in request.devices:
        entries.append(await _entry(access, running[one.device], one))
        reply.progress(len(entries), len(request.devices))
    gateway = service.gateway
    before = await access.call(lambda store: _last_seq(store, gateway.name))
    number, pieces = secrets.token_hex(8), [entries[at : at + AT_ONCE] for at in range(0, len(entries), AT_ONCE)]
    for part, piece in enumerate(pieces, 1):
        event: dict[str, Any] = {
            "by": access.caller.as_dict(), "devices": piece, "event": "handover", "id": number, "who": request.who,
        }  # fmt: skip
        if request.remarks:
            event["remarks"] = clean_text(request.remarks, 2000)
        if len(pieces) > 1:
            event["part"] = [part, len(pieces)]
        service.sealing.gateway_event(event)
        if not await service.sealing.seal(service.clock.now_ms() + 1, [gateway]):
            why = service.sealing.trouble or "the store could not commit"
            what = f"the handover record was accepted, but is not signed yet ({why})"
            hint = "The agent signs the record as soon as it can; `meterhouse status` shows the fault and what to do"
            raise GatewayError(what, where="handover", hint=hint)
    found = await access.call(lambda store: _sealed(store, gateway.name, before, number))
    if len(found) != len(pieces):
        what = "the signed handover record is not in the database"
        raise GatewayError(what, where="handover", hint="See the agent's log")
    return {
        "events": [event for event, _ in found],
        "packs": [pack for _, pack in found],
        "thumbprint": service.active_key.signer.kid,
    }


async def _entry(access: Access, device: RunningDevice, one: ComparedDevice) -> dict[str, Any]:
    config, poll = device.config, device.poll
    entry: dict[str, Any] = {
        "address": config.address,
        "device": config.name,
        "identity": {name.removeprefix("device."): text for name, text in (device.identity or {}).items() if text},
        "line": config.line,
        "profile": device.profile.id,
        "state": poll.life(access.service.clock.now_ms()) if access.service else "unknown",
        "url": device.line.config.url,
    }
    if config.label:
        entry["label"] = config.label
    if config.roles:
        entry["roles"] = dict(config.roles)
    if config.ratio_ct != 1 or config.ratio_pt != 1:
        entry["ratio"] = {"ct": exact_text(config.ratio_ct), "pt": exact_text(config.ratio_pt)}
    if poll.last_answer_ms:
        entry["last_answer"] = seconds(poll.last_answer_ms)
    if one.remark:
        entry["remark"] = clean_text(one.remark, 400)
    if one.n:
        entry["reading"] = await _reading(access, device, one)
    if one.display:
        if not one.n:
            what = (
                f"a display value is given for the device {config.name}, but there is no reading to compare with this "
                "value"
            )
            raise UsageError(what, where="handover", hint="Leave out the display value")
        entry["display"] = one.display
        if one.resolution:
            entry["resolution"] = one.resolution
        entry["difference"], entry["agrees"] = compare(one.v, one.display, one.resolution)
    return entry


def compare(reading: str, display: str, resolution: str = "") -> tuple[str, bool]:
    """Compare a reading with a display. Returns reading minus display, and True if the two agree.

    They agree if they differ by at most one unit in the last digit of the less precise value. ``resolution``: the unit
    of the display's last digit, if ``display`` has more digits because it was converted to a smaller unit.
    """
    read, shown = Decimal(reading), Decimal(display)
    difference = read - shown
    steps = [Decimal(1).scaleb(_exponent(number)) for number in (read, shown)]
    return exact_text(difference), abs(difference) <= max(*steps, Decimal(resolution or 0))


def _exponent(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    return min(exponent, 0) if isinstance(exponent, int) else 0


async def _reading(access: Access, device: RunningDevice, one: ComparedDevice) -> dict[str, Any]:
    """Return the recorded reading as its pack states it.

    Raises UsageError if the agent has not recorded it.
    """
    stream, wanted, give_up = device.stream, Decimal(one.v), time.monotonic() + VISIT_S
    while True:
        idle = device.poll.idle
        found = _in_ring(device, one.n, one.t_ms, wanted)
        if found is None:
            packs = await access.call(lambda store: _packs_about(store, stream.name, one.t_ms))
            found = next((q for data in packs for q in _in_pack(data, one.n, one.t_ms, wanted)), None)
        if found is not None or idle or time.monotonic() > give_up:
            break
        await asyncio.sleep(AGAIN_S)
    if found is None:
        what = (
            f"{device.config.name}: the agent has recorded no reading {one.n} = {one.v} "
            "at the time that the handover record states"
        )
        raise UsageError(what, where="handover", hint="Was the agent restarted meanwhile? Repeat the command")
    units = {name: unit for name, unit, _ in stream.table_version.table.points.names}
    reading: dict[str, Any] = {"n": one.n, "t": seconds(one.t_ms), "u": units.get(one.n, ""), "v": exact_text(wanted)}
    return reading | ({"q": found} if found else {})


def _in_ring(device: RunningDevice, name: str, t_ms: int, wanted: Decimal) -> str | None:
    """Return the quality of a reading that is not sealed yet; "" means good. None: there is no such reading."""
    for version in device.stream.table_versions:
        names = [point for point, _, _ in version.table.points.names]
        for position in version.positions:
            record = version.ring.record(position)
            if record is None or record.kind != ANSWER or record.time_ns // 1_000_000 != t_ms:
                continue
            for value in record.values:
                if names[value.point] == name and Decimal(value.mantissa).scaleb(value.exponent) == wanted:
                    return Quality(value.quality).name.lower() if value.quality else ""
    return None


def _in_pack(data: bytes, name: str, t_ms: int, wanted: Decimal) -> list[str]:
    base = Decimal(0)
    for record in json.loads(data, parse_float=Decimal).get("e", ()):
        base = Decimal(record.get("bt", base))
        if record["n"] != name or "v" not in record or round((base + Decimal(record.get("t", 0))) * 1000) != t_ms:
            continue
        if Decimal(record.get("x") or record["v"]) == wanted:
            return [record.get("q", "")]
    return []


def _last_seq(store: Store, stream: str) -> int:
    head = store.packs.heads().get(stream)
    return head.seq if head is not None else 0


def _packs_about(store: Store, stream: str, at_ms: int) -> list[bytes]:
    last = _last_seq(store, stream)
    if not last:
        return []
    seq = store.packs.seq_at(stream, at_ms)
    return [pack.data for pack in store.packs.after(stream, seq - AROUND, min(seq + AROUND, last)) if not pack.is_birth]


def _sealed(store: Store, stream: str, before: int, number: str) -> Sequence[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the events of one handover, each with the pack that contains it."""
    found = []
    for pack in store.packs.after(stream, before, _last_seq(store, stream)):
        whole = json.loads(pack.data)
        for event in whole.get("events", ()):
            if event.get("event") == "handover" and event.get("id") == number:
                payload = canonical({name: value for name, value in whole.items() if name != "sig"})
                digest = base64url(hashlib.sha256(payload).digest())
                found.append((event, {"boot": pack.boot, "hash": digest, "seq": pack.seq, "stream": stream}))
    return found


async def declarations(access: Access, request: Declarations | Declare) -> dict[str, Any]:
    """Serve a request about declarations.

    Returns all declarations as {"entries"}, or stores one declaration and returns it as {"entry"}.
    """
    entries = [from_dict(plain) for plain in await access.call(lambda store: store.documents.declarations())]
    if isinstance(request, Declarations):
        holding = {entry.id for entry in in_force(entries)}
        return {"entries": [{**entry.as_dict(), "in_force": entry.id in holding} for entry in entries]}
    plain: dict[str, Any] = {"n": request.n, "v": request.v, "u": request.u, "who": request.who, "to": request.to}
    plain |= {"from": request.from_, "document": request.document, "replaces": request.replaces}
    plain |= {"id": secrets.token_hex(8), "at": time.time_ns() // 1_000_000 / 1000, "by": access.caller.as_dict()}
    made = from_dict(plain)
    await asyncio.to_thread(check_against, made, entries, access)
    kept = await access.call(lambda store: _keep(store, made, f"{access.config.base}/_indicators"))
    return {"entry": kept.as_dict()}


def _keep(store: Store, made: Declaration, results: str) -> Declaration:
    """Store a declaration. This is called in the database thread.

    A declaration is signed with the results of the interval that contains its time. If these results are already
    published, the declaration gets a later time: the end of the published results.
    """
    head = store.packs.heads().get(results)
    if head is not None and head.to_ms > made.at_ms:
        made = replace(made, at_ms=head.to_ms)
    store.documents.declare(made.id, made.at_ms, made.as_dict())
    return made


def check_against(made: Declaration, entries: list[Declaration], access: Access) -> None:
    """Check a declaration against the plan and earlier declarations. Raises UsageError."""
    plan = read(access.config)
    wanted = plan.inputs.get(made.name)
    if wanted is None:
        known = ", ".join(sorted(plan.inputs)) or "none, because no set of indicators in the plan needs inputs"
        raise UsageError(f"the plan has no input {made.name}", where="declare", hint=f"Known: {known}")
    if made.replaces and made.replaces not in {entry.id for entry in in_force(entries) if entry.name == made.name}:
        raise UsageError(
            f"{made.replaces} is not the id of a current entry of the input {made.name}",
            where="declare",
            hint="`meterhouse declare` lists the current entries",
        )
    if not made.value:
        return
    if parse_unit(made.unit).dimension != wanted.unit.dimension:
        hint = f"Use {wanted.unit.text} or another unit of the same quantity"
        raise UsageError(f"input {made.name} cannot be given in the unit {made.unit}", where="declare", hint=hint)
    if (made.to_ms is None) != (wanted.kind == "state"):
        what = (
            f"input {made.name} holds until a new value replaces it, so it has no end date: omit --to"
            if wanted.kind == "state"
            else f"input {made.name} is an amount for a period: with --to, give the day after the last day of the "
            "period"
        )
        raise UsageError(what, where="declare")
