"""Signed checkpoints: the heads of all streams in pages, each chained to the page with the counter before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from agent.keys import TYP_CHECKPOINT, Signer
from agent.pack import seconds
from agent.verify import signed
from drivers.encoding import base64url

PAGE_HEADS = 200  # 40 KiB: smaller than the smallest packet that brokers allow


class StreamPosition(Protocol):
    """The position of a stream: a protocol, because ``agent.store.StreamHead`` is on a floor above this one."""

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
    """One page as it is stored and published."""

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
    """The checkpoint after the one that the store keeps, at least one page.

    Args:
        gateway: ``park7/gw01``.
        before: (page, counter, object) of the newest of each page; page 0: newer ones existed, and are lost.
        retired: is a stream at its end, because its device is no longer configured?
    """
    rows = [_head(head, retired(head.stream)) for head in sorted(heads, key=lambda head: head.stream)]
    counts = [kept for _, kept, _ in before]
    if not before or any(page == 0 for page, _, _ in before):
        counts.append(max(0, time_ms // 1000 - 1))  # continue above any counter that the lost pages may have had
    counter = max(counts) + 1
    known = {page: data for page, kept, data in before if kept == counter - 1}
    pages = max(1, -(-len(rows) // page_heads))
    made = []
    for page in range(1, pages + 1):
        body = {
            "counter": counter,
            "gateway": gateway,
            "heads": rows[(page - 1) * page_heads : page * page_heads],
            "page": page,
            "pages": pages,
            "prev": payload_hash(known[page]) if page in known else None,
            "time": seconds(time_ms),
            "v": 1,
        }
        made.append(CheckpointPage(page, counter, time_ms, signer.sign_object(TYP_CHECKPOINT, body)))
    return made


def payload_hash(data: bytes) -> str:
    """The hash that the next page has as ``prev``."""
    return base64url(signed.payload_hash(data))


def _head(head: StreamPosition, retired: bool) -> Mapping[str, Any]:
    digest, to = base64url(head.hash), seconds(head.to_ms)
    row: dict[str, Any] = {"boot": head.boot, "hash": digest, "seq": head.seq, "stream": head.stream, "to": to}
    return row | {"retired": True} if retired else row
