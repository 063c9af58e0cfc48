"""Serves an export of signed objects: the pieces of an archive, in order.

Each part is a line of JSON, ``{"file", "packs"}``, and then the lines for the end of that file.
"""

from __future__ import annotations

import json
import os
from typing import Any

from agent.keys import current_records, load_key
from agent.service.control.protocol import Access, Export, Reply
from agent.store import Archive, Piece, Store
from drivers.model import GatewayError, UsageError, clean_text


async def answer(access: Access, request: Export, reply: Reply) -> dict[str, Any]:
    """Gives packs, full names of streams, warnings."""
    streams = request.streams
    archive = await access.call(lambda store: Archive(store, request.from_ms, request.to_ms, streams))
    complain(archive, streams)
    await access.call(lambda store: _look_at_key_file(store, access, archive))
    pieces, done = archive.pieces(), 0
    while (piece := await access.call(lambda store: next(pieces, None))) is not None:
        await reply.part(as_part(piece))
        done += piece.packs
        reply.progress(done, archive.total)
    return {"packs": done, "streams": archive.streams, "warnings": archive.warnings}


def complain(archive: Archive, streams: list[str]) -> None:
    """Raises UsageError for an unknown stream, GatewayError if the archive is empty."""
    for name in streams:
        if name not in archive.known:
            hint = f"Known: {', '.join(archive.known)}" if archive.known else "It is empty"
            raise UsageError(f"the database has no stream {clean_text(name, 80)!r}", where="--stream", hint=hint)
    if not archive.streams:
        raise GatewayError("no packs in this range", where="export", hint="Packs are deleted after keep_delivered")


def as_part(piece: Piece) -> bytes:
    """A piece as a PART."""
    head = json.dumps({"file": piece.file, "packs": piece.packs}).encode()
    return b"\n".join((head, *piece.lines))


def _look_at_key_file(store: Store, access: Access, archive: Archive) -> None:
    """Key records that were made while no agent ran are only in the key file: a revocation must not be missing.

    A running agent stores them within seconds, unless it is an early version without destinations.
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
