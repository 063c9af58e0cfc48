"""A stretch of time as pieces of files: what ``meterhouse verify`` takes as it takes what a broker delivers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from agent.store.engine import Store

CHUNK = 64  # packs in a piece


@dataclass(frozen=True, slots=True)
class Piece:
    """Lines for the end of one file of the folder: signed objects as published, none of which holds a line break."""

    file: str  # births.jsonl, packs/inv1.packs.jsonl, ...
    lines: tuple[bytes, ...]
    packs: int  # how many of them count as packs


class Archive:
    """What the store holds of ``[from_ms, to_ms)``, piece by piece. Belongs to the store's thread.

    Of each stream all packs that touch the range, without a hole that the store itself does not have, and the
    birth in force before it, in a file of its own: a birth whose neighbours are not here would look like a loss.
    Checkpoints made in the range, but for those that name packs after it.

    Args:
        streams: last parts of names, such as ``inv1``; empty: all.
    """

    def __init__(self, store: Store, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> None:
        self._store, self._from, self._to = store, from_ms, to_ms
        self.known = sorted(name.rpartition("/")[2] for name in store.heads())
        self._spans = {
            stream: span
            for stream, span in store.spans(from_ms, to_ms).items()
            if not streams or stream.rpartition("/")[2] in streams
        }

    @property
    def streams(self) -> list[str]:
        """Full names of those that have packs in the range."""
        return list(self._spans)

    @property
    def total(self) -> int:
        """About how many packs there are: what the size cap dropped in between counts as well."""
        return sum(last - first + 1 for first, last in self._spans.values())

    def pieces(self) -> Iterator[Piece]:
        """Keys, births, checkpoints, then the packs of one stream after the other."""
        if record := self._store.key_record():
            yield Piece("keys.json", (record[1],), 0)
        births = []
        for stream, (first, last) in self._spans.items():
            if first <= last and (birth := self._store.birth_before(stream, first)):
                births.append(birth)
        if births:
            yield Piece("births.jsonl", tuple(births), 0)
        if pages := tuple(self._checkpoints()):
            yield Piece("checkpoints.jsonl", pages, 0)
        for stream, (first, last) in self._spans.items():
            file = f"packs/{stream.rpartition('/')[2]}.packs.jsonl"
            after = first - 1
            while page := self._store.after(stream, after, last, CHUNK):
                yield Piece(file, tuple(pack.data for pack in page), len(page))
                after = page[-1].seq

    def _checkpoints(self) -> Iterator[bytes]:
        for _, _, body in self._store.checkpoints(self._from, self._to):
            heads = json.loads(body)["heads"]
            if all(h["seq"] <= self._spans[h["stream"]][1] for h in heads if h["stream"] in self._spans):
                yield body
