"""A time range as pieces of files, which ``meterhouse verify`` reads like the messages of a broker."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby

from agent.store.store import Store

CHUNK, CHUNK_BYTES = 256, 256 << 10  # packs of a piece, and their bytes: limits time in the store's thread and memory


@dataclass(frozen=True, slots=True)
class ArchivePiece:
    """Lines to append to one file of the folder: signed objects as published, without line breaks."""

    file: str  # births.jsonl, packs/inv1.packs.jsonl, ...
    lines: tuple[bytes, ...]
    packs: int  # how many of them count as packs


class Archive:
    """The content of the store in ``[from_ms, to_ms)``, piece by piece. Belongs to the store's thread.

    For each stream all packs that overlap the range, without holes that the store does not have, and in a file of its
    own the birth that is valid before them: a birth without its neighbours would look like a loss. Also the checkpoints
    made in the range, except those that name packs after it. Packs that are sealed after the archive was made are not
    in it, and packs that retention deletes meanwhile are missing at the beginning; no cursor is open between pieces.

    Args:
        streams: last parts of names, such as ``inv1``; empty: all.
    """

    def __init__(self, store: Store, from_ms: int, to_ms: int, streams: Collection[str] = ()) -> None:
        self._store, self._from, self._to, self._wanted = store, from_ms, to_ms, sorted(streams)
        store.mark_sent()
        self.known = sorted(name.rpartition("/")[2] for name in store.packs.heads())
        self._spans = {
            stream: span
            for stream, span in store.packs.spans(from_ms, to_ms).items()
            if not streams or stream.rpartition("/")[2] in streams
        }
        self.newest_keys = b""  # a ``keys`` object that is not in the store yet
        self.warnings: list[str] = []
        if store.quarantine:
            self.warnings.append(f"the database was damaged; it is set aside as {store.quarantine.path}")

    @property
    def streams(self) -> list[str]:
        """Full names of the streams that have packs in the range."""
        return list(self._spans)

    @property
    def total(self) -> int:
        """About how many packs there are, with those that the size cap dropped in between."""
        return sum(last - first + 1 for first, last in self._spans.values())

    def pieces(self) -> Iterator[ArchivePiece]:
        """Keys, births, checkpoints, then the packs, stream by stream; first the streams if not all were wanted."""
        if self._wanted:
            yield ArchivePiece("streams.txt", tuple(name.encode() for name in self._wanted), 0)
        for n, chain in enumerate(self._key_chains()):
            yield ArchivePiece(f"keys{n + 1 if n else ''}.json", (chain,), 0)
        for stream, (first, last) in self._spans.items():
            if first <= last and (birth := self._store.packs.birth_before(stream, first)):
                yield ArchivePiece("births.jsonl", (birth,), 0)
        for _, keys in groupby(self._store.documents.checkpoint_keys(self._from, self._to), lambda key: key[1]):
            pages = [body for key in keys if (body := self._store.documents.checkpoint(*key))]
            if all(map(self._is_within, pages)):  # a page without the others would look withheld
                yield ArchivePiece("checkpoints.jsonl", tuple(pages), 0)
        for stream, (first, last) in self._spans.items():
            file = f"packs/{stream.rpartition('/')[2]}.packs.jsonl"
            after = first - 1
            while packs := self._store.packs.after(stream, after, last, CHUNK, CHUNK_BYTES):
                yield ArchivePiece(file, tuple(pack.data for pack in packs), len(packs))
                after = packs[-1].seq

    def _key_chains(self) -> list[bytes]:
        chains = {json.loads(body)["records"][0]["kid"]: body for body in self._store.keys.chains()}
        if self.newest_keys:
            chains[json.loads(self.newest_keys)["records"][0]["kid"]] = self.newest_keys
        return list(chains.values())

    def _is_within(self, checkpoint: bytes) -> bool:
        heads = json.loads(checkpoint)["heads"]
        return all(h["seq"] <= self._spans[h["stream"]][1] for h in heads if h["stream"] in self._spans)
