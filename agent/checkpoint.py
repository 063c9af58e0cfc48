"""Signed checkpoints: the heads of all streams, split into pages.

Each page contains the hash of the page with the same number in the previous checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from agent.keys import TYP_CHECKPOINT, Signer
from agent.pack import seconds
from agent.verify import signed
from drivers.encoding import base64url

SKIPPED = 100  # after a loss, at least this many counters are skipped; a run makes one checkpoint an hour
PAGE_HEADS = 200  # heads in a page; such a page has about 40 KiB, less than the smallest packet limit of brokers


class StreamPosition(Protocol):
    """The newest pack of a stream.

    This class is a Protocol, because ``agent.store.StreamHead`` is in a layer above this module and cannot be imported.
    """

    @property
    def stream(self) -> str: ...
    @property
    def boot(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def hash(self) -> bytes: ...
    @property
    def to_ms(self) -> int: ...


class CheckpointPage(NamedTuple):
    """One page of a checkpoint. ``data``: the signed object, as stored and published."""

    page: int
    counter: int
    time_ms: int
    data: bytes


def checkpoint(
    signer: Signer,
    gateway: str,
    heads: Iterable[StreamPosition],
    before: Sequence[tuple[int, int, bytes]],
    time_ms: int,
    page_heads: int = PAGE_HEADS,
    retired: Callable[[str], bool] = lambda stream: False,
) -> list[CheckpointPage]:
    """Make and sign the next checkpoint. Returns its pages, at least one.

    Args:
        gateway: such as ``park7/gw01``.
        before: (page, counter, signed object) of the newest stored version of each page. An entry with page 0 means
            that the store lost newer versions of pages. A damaged object has the same effect.
        page_heads: the maximum number of heads in a page.
        retired: returns True for a stream that has ended, because its device is no longer configured.
    """
    rows = [_head(head, retired(head.stream)) for head in sorted(heads, key=lambda head: head.stream)]
    counts = [kept for _, kept, _ in before]
    hashes = {(page, kept): payload_hash(data) for page, kept, data in before}
    if not before or None in hashes.values():
        # Higher than any counter that the lost pages can have, also if the clock was set back: a checkpoint with a lost
        # counter would contradict it, and one with the next counter would have to contain its hash.
        # The milliseconds leave a gap even if a store is lost right after its first checkpoint.
        counts.append(max(0, time_ms - 1, *(kept + SKIPPED for kept in counts)))
    counter = max(counts) + 1
    pages = max(1, -(-len(rows) // page_heads))
    made = []
    for page in range(1, pages + 1):
        body = {
            "counter": counter,
            "gateway": gateway,
            "heads": rows[(page - 1) * page_heads : page * page_heads],
            "page": page,
            "pages": pages,
            "prev": hashes.get((page, counter - 1)),
            "time": seconds(time_ms),
            "v": 1,
        }
        made.append(CheckpointPage(page, counter, time_ms, signer.sign_object(TYP_CHECKPOINT, body)))
    return made


def payload_hash(data: bytes) -> str | None:
    """Return the hash of a page. The page with the same number in the next checkpoint contains it as ``prev``.

    None: ``data`` is not a page, because the disk has changed its bytes, or the store lost it.
    """
    try:
        return base64url(signed.payload_hash(data))
    except ValueError:
        return None


def _head(head: StreamPosition, retired: bool) -> Mapping[str, Any]:
    digest, to = base64url(head.hash), seconds(head.to_ms)
    row: dict[str, Any] = {"boot": head.boot, "hash": digest, "seq": head.seq, "stream": head.stream, "to": to}
    return row | {"retired": True} if retired else row
