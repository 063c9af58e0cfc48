"""Serves declarations: stores what a person attests, with the caller, and lists declarations."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import Any

from agent.indicators.declared import Declaration, from_dict, in_force
from agent.indicators.units import parse_unit
from agent.service.control.protocol import Access, Declarations, Declare, Reply
from agent.service.results.site import read
from agent.store import Store
from drivers.model import UsageError


async def answer(access: Access, request: Declarations | Declare, reply: Reply) -> dict[str, Any]:
    """Gives {"entries"} or {"entry"}."""
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
    """Store it, but not into an interval whose figures are published: nothing would sign it. In the database thread."""
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
        known = ", ".join(sorted(plan.inputs)) or "none: the plan names no set that takes any"
        raise UsageError(f"the plan has no input {made.name}", where="declare", hint=f"Known: {known}")
    if made.replaces and made.replaces not in {entry.id for entry in in_force(entries) if entry.name == made.name}:
        raise UsageError(
            f"{made.replaces} is not an entry of {made.name} in effect",
            where="declare",
            hint="`meterhouse declare` lists them",
        )
    if not made.value:
        return
    if parse_unit(made.unit).dimension != wanted.unit.dimension:
        hint = f"Use {wanted.unit.text} or a multiple of it"
        raise UsageError(f"{made.name} cannot have the unit {made.unit}", where="declare", hint=hint)
    if (made.to_ms is None) != (wanted.kind == "state"):
        problem = "is valid from a day on: omit --to" if wanted.kind == "state" else "belongs to a period: give --to"
        raise UsageError(f"{made.name} {problem}", where="declare")
