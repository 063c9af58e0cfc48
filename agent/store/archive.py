"""A stretch of time as pieces of files: what ``meterhouse verify`` takes as it takes what a broker delivers."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from agent.store.store import Store

CHUNK, CHUNK_BYTES = 256, 256 << 10  # packs in a piece, and their bytes: a slice of the store's time, and of memory


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
    Checkpoints made in the range, but for those that name packs after it. What is sealed after the archive was made is
    not in it, and what retention drops meanwhile is missing at the beginning; between two pieces nothing is held open.

    Args:
        streams: last parts of names, such as ``inv1``; empty: all.
    """

    def __init__(self, store: Store, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> None:
        self._store, self._from, self._to, self._wanted = store, from_ms, to_ms, sorted(streams)
        store.leaving()
        self.known = sorted(name.rpartition("/")[2] for name in store.heads())
        self._spans = {
            stream: span
            for stream, span in store.spans(from_ms, to_ms).items()
            if not streams or stream.rpartition("/")[2] in streams
        }
        self.newest_keys = b""  # a ``keys`` object that the store does not know yet
        self.warnings: list[str] = []
        if store.quarantine:
            self.warnings.append(f"the database was damaged; it is set aside as {store.quarantine.path}")

    @property
    def streams(self) -> list[str]:
        """Full names of those that have packs in the range."""
        return list(self._spans)

    @property
    def total(self) -> int:
        """About how many packs there are: what the size cap dropped in between counts as well."""
        return sum(last - first + 1 for first, last in self._spans.values())

    def pieces(self) -> Iterator[Piece]:
        """Keys, births, checkpoints, then the packs of one stream after the other; of some streams, which they are."""
        if self._wanted:
            yield Piece("streams.txt", tuple(name.encode() for name in self._wanted), 0)
        for n, chain in enumerate(self._key_chains()):
            yield Piece(f"keys{n + 1 if n else ''}.json", (chain,), 0)
        for stream, (first, last) in self._spans.items():
            if first <= last and (birth := self._store.birth_before(stream, first)):
                yield Piece("births.jsonl", (birth,), 0)
        for _, keys in groupby(self._store.checkpoint_keys(self._from, self._to), lambda key: key[1]):
            pages = [body for key in keys if (body := self._store.checkpoint(*key))]
            if all(map(self._is_within, pages)):  # a page without the others would look held back
                yield Piece("checkpoints.jsonl", tuple(pages), 0)
        for stream, (first, last) in self._spans.items():
            file = f"packs/{stream.rpartition('/')[2]}.packs.jsonl"
            after = first - 1
            while packs := self._store.after(stream, after, last, CHUNK, CHUNK_BYTES):
                yield Piece(file, tuple(pack.data for pack in packs), len(packs))
                after = packs[-1].seq

    def _key_chains(self) -> list[bytes]:
        chains = {json.loads(body)["records"][0]["kid"]: body for body in self._store.key_chains()}
        if self.newest_keys:
            chains[json.loads(self.newest_keys)["records"][0]["kid"]] = self.newest_keys
        return list(chains.values())

    def _is_within(self, checkpoint: bytes) -> bool:
        heads = json.loads(checkpoint)["heads"]
        return all(h["seq"] <= self._spans[h["stream"]][1] for h in heads if h["stream"] in self._spans)
