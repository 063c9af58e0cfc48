"""Answers a request for a stretch of time: the pieces of an archive, one after the other.

Each part is a line of JSON, ``{"file", "packs"}``, and then the lines for the end of that file. It is read in slices
through the store's thread, which has as long for others between two of them as one took.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from agent.keys import current_records, load_key
from agent.service.requests import Access, Reply
from agent.store import Archive, Piece, Store
from drivers.model import GatewayError, UsageError, clean_text

END_MS = 1 << 52
MAX_STREAMS = 1000


async def answer(access: Access, body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """``body``: from_ms, to_ms, streams (last parts of names; empty: all). Gives packs, full names, warnings."""
    from_ms, to_ms, streams = checked(body)
    archive = await access.call(lambda store: Archive(store, from_ms, to_ms, streams))
    complain(archive, streams)
    await access.call(lambda store: _look_at_key_file(store, access, archive))
    pieces, done = archive.pieces(), 0
    while True:
        began = time.monotonic()
        piece = await access.call(lambda store: next(pieces, None))
        if piece is None:
            return {"packs": done, "streams": archive.streams, "warnings": archive.warnings}
        await asyncio.sleep(time.monotonic() - began if access.service else 0)
        await reply.part(as_part(piece))
        done += piece.packs
        reply.progress(done, archive.total)


def checked(body: Mapping[str, Any]) -> tuple[int, int, list[str]]:
    """The range and the streams of a request. Raises UsageError."""
    from_ms, to_ms, streams = body.get("from_ms"), body.get("to_ms"), body.get("streams")
    if type(from_ms) is not int or type(to_ms) is not int or not 0 <= from_ms < to_ms <= END_MS:
        raise UsageError("from_ms before to_ms is wanted", where="export")
    if not isinstance(streams, list) or len(streams) > MAX_STREAMS or not all(isinstance(n, str) for n in streams):
        raise UsageError("streams is a list of names", where="export")
    return from_ms, to_ms, streams


def complain(archive: Archive, streams: list[str]) -> None:
    """Raises UsageError for a stream that is not there, GatewayError where there is nothing to give."""
    for name in streams:
        if name not in archive.known:
            hint = f"Known: {', '.join(archive.known)}" if archive.known else "It holds none at all"
            raise UsageError(f"the database has no stream {clean_text(name, 80)!r}", where="--stream", hint=hint)
    if not archive.streams:
        raise GatewayError("nothing is in this range", where="export", hint="Older packs leave after keep_delivered")


def as_part(piece: Piece) -> bytes:
    """A piece as it travels."""
    head = json.dumps({"file": piece.file, "packs": piece.packs}).encode()
    return b"\n".join((head, *piece.lines))


def from_part(data: bytes) -> Piece:
    """The reverse of ``as_part``."""
    head, *lines = data.split(b"\n")
    facts = json.loads(head)
    return Piece(facts["file"], tuple(lines), facts["packs"])


def _look_at_key_file(store: Store, access: Access, archive: Archive) -> None:
    """Records that were made while no agent ran are in the key's file alone: a revocation must not be missing.

    A running agent has taken them up within seconds, unless it is of an early version without destinations.
    """
    kept = store.key_record()
    if kept and access.service is not None:
        return
    try:
        data = current_records(
            load_key(access.config.key.path(os.environ)), access.config.base, kept[1] if kept else None
        )
    except GatewayError as error:
        if kept is None:
            raise
        archive.warnings.append(f"key records are those of the database; newer ones cannot be looked for: {error.what}")
        return
    if kept is None or data != kept[1]:
        archive.newest_keys = data
