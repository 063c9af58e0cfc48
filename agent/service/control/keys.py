"""Serves requests about signing keys. To replace a key, a tool needs the last packs that the old key signed.

With ``hold``, the agent pauses sealing until the new key is active, so that the answer stays correct.
Readings wait in the ring meanwhile. If the tool makes no key, for example because it was killed, sealing resumes after
``HOLD_S``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Collection
from typing import Any, Final

from agent.keys import signed_by
from agent.service.control.peer import NotAllowed
from agent.service.control.protocol import Access, Keys, PublishedKey, Reply
from agent.store import Store
from drivers.model import GatewayError, UsageError, clean_text

# the longest pause of sealing; a tool must make its key at least two seconds before the end of the pause
HOLD_S: Final = 10.0
LOOK_S: Final = 0.05  # interval of the checks for the new key
PAUSE_S: Final = 60.0  # if a tool paused sealing but made no key, no new pause is possible for this long


async def answer(access: Access, request: PublishedKey | Keys, reply: Reply) -> dict[str, Any]:
    """Serve a request about keys. Returns {"kid": thumbprint}.

    For ``PublishedKey``, this is the thumbprint of the newest published key. For ``Keys``, it is that of the key which
    is active after the pause of sealing; None if there was no pause. The answer to ``Keys`` also has one part: the last
    signed sequence of each stream.

    Raises:
        NotAllowed: only root and the agent's user may pause sealing.
    """
    if isinstance(request, PublishedKey):
        kept = await access.call(lambda store: store.keys.newest())
        return {"kid": None if kept is None else json.loads(kept[1])["records"][-1]["kid"]}
    kid, until_ms, before = request.kid, request.until_ms, request.before
    service = access.service
    if service is None or not request.hold:
        await reply.part(json.dumps(await last_signed(access, kid, until_ms, before)).encode())
        return {"kid": None}
    if access.caller.uid not in (0, os.geteuid()):  # other users cannot make a key, so they need no pause
        hint = "Use sudo to replace or revoke keys"
        what = f"{access.caller} may not pause sealing: only root and the agent's user have this right"
        raise NotAllowed(what, where="control", hint=hint)
    watch = service.key_watcher
    async with service.sealing.paused():
        # repeated pauses could stop sealing, so there must be time between them
        if time.monotonic() - watch.last_unused_hold_s < PAUSE_S:
            hint = f"Try again in {PAUSE_S:.0f} s, or stop the agent first"
            what = "sealing cannot be paused again yet: a pause began less than a minute ago and no new key was made"
            raise GatewayError(what, where="agent", hint=hint)
        await reply.part(json.dumps(await last_signed(access, kid, until_ms, before)).encode())
        old, give_up = watch.kid, time.monotonic() + HOLD_S
        watch.last_unused_hold_s = time.monotonic()  # set before the pause, because the tool may disconnect during it
        while watch.kid == old and time.monotonic() <= give_up:
            if not watch.locked().locked():  # otherwise a reload holds it, and may wait for sealing, which waits for us
                await watch.check()
            await asyncio.sleep(LOOK_S)
        if watch.kid != old:
            watch.last_unused_hold_s = -math.inf
    return {"kid": watch.kid}


async def last_signed(access: Access, kid: str, until_ms: int | None, before: Collection[str] = ()) -> dict[str, int]:
    """Find, in each stream, the last pack that a key or one of its predecessors signed. Returns stream -> sequence.

    Args:
        until_ms: only packs that end at or before this time count; None: all packs.
        before: the predecessors of the key according to the key file, which may be newer than the published records.

    Raises:
        UsageError: the published records do not name this key.
    """
    kept = await access.call(lambda store: store.keys.newest())
    kids = [] if kept is None else [record["kid"] for record in json.loads(kept[1])["records"]]
    if kid not in kids and kids and kids[-1] in before:
        return {}  # the key was made after the last run of the agent, so it has signed nothing
    if kid not in kids:
        hint = f"Known keys: {', '.join(kids)}" if kids else "The agent has not published any key yet"
        raise UsageError(f"unknown key {clean_text(kid, 60)}", where="keys", hint=hint)
    later = frozenset(kids[kids.index(kid) + 1 :])
    found: dict[str, int] = {}
    for stream in await access.call(lambda store: store.packs.heads()):
        found[stream] = await access.call(lambda store, name=stream: _last(store, name, later))  # type: ignore[misc]
    if until_ms is not None:
        ends = await access.call(lambda store: {name: _until(store, name, until_ms) for name in found})
        found = {name: min(seq, ends[name]) for name, seq in found.items()}
    return {name: seq for name, seq in found.items() if seq}


def _last(store: Store, stream: str, later: frozenset[str]) -> int:
    """Return the sequence before the first pack that a key in ``later`` signed, by bisection; 0: none."""
    low, high = 0, store.packs.head(stream).seq + 1
    top = high
    if not later:
        return high - 1
    while high - low > 1:
        middle = (low + high) // 2
        packs = store.packs.after(stream, middle - 1, top, 1)
        if not packs or signed_by(packs[0].data) in later:
            high = middle
        else:
            low = packs[0].seq
    if low == 0 and (oldest := store.packs.after(stream, 0, top, 1)):
        return oldest[0].seq - 1  # all packs that earlier keys signed are deleted
    return low


def _until(store: Store, stream: str, until_ms: int) -> int:
    """Return the sequence of the last pack that ends at or before ``until_ms``; 0 if no pack ends by then."""
    span = store.packs.spans(0, until_ms).get(stream)
    if span is None:
        return 0
    last = span[1]
    packs = store.packs.after(stream, last - 1, last, 1)
    return last - 1 if packs and packs[0].to_ms > until_ms else last
