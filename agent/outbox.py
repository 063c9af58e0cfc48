"""The interface between store and uplink.

It is a separate module so that store and uplink need not import each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

NOWHERE = ""  # the name of the outbox in which packs wait while no destination is configured


def outbox_names(destinations: Iterable[str]) -> list[str]:
    """Return the names of the outboxes of a gateway with these destinations. It has one even without a destination."""
    return list(destinations) or [NOWHERE]


class OutboxItem(NamedTuple):
    """A pack that one destination has not confirmed.

    ``id`` grows with every commit and is never reused. ``data``: the bytes to publish.
    """

    id: int
    stream: str
    data: bytes
    is_birth: bool
    to_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """A platform's confirmation of packs ``first`` to ``last`` of a boot. ``hash``: the hash of pack ``last``."""

    stream: str
    boot: str
    first: int
    last: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Packs ``first`` to ``last``, which are no longer in the store.

    ``loss``: the loss event that the stream has for these packs. None: nothing was lost, because the packs were deleted
    only after they were confirmed and their retention time was over.
    """

    first: int
    last: int
    loss: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """One page of the answer to a replay request.

    ``next_seq``: the first sequence of the next page; 0 if this is the last page. ``refused``: why the request is
    rejected; "" if the request is accepted.
    """

    items: Sequence[OutboxItem] = ()
    gone: Sequence[MissingRange] = ()
    next_seq: int = 0
    refused: str = ""


class Outbox(Protocol):
    """The methods of the store that an uplink calls. Each returns at once; the database thread does the work later."""

    def fetch(
        self,
        dest: str,
        after_id: int,
        limit: int,
        max_bytes: int,
        callback: Callable[[Sequence[OutboxItem]], None],
    ) -> None:
        """Read the unconfirmed packs with an id above ``after_id``, oldest first.

        ``callback`` runs in the database thread. It receives at most ``limit`` packs, with ``max_bytes`` in total; a
        single pack may be larger. It receives an empty sequence if there are no more packs.
        """

    def births(self, after: str, limit: int, max_bytes: int, callback: Callable[[Sequence[OutboxItem]], None]) -> None:
        """Read the newest birth of each stream whose name sorts after ``after``, in order of names.

        ``limit``, ``max_bytes`` and ``callback`` are as in ``fetch``.
        """

    def before_send(self) -> None:
        """Record that all packs committed so far may leave the gateway now.

        Uplinks call this before each message, so it must be cheap.
        """

    def confirm(self, dest: str, ids: Sequence[int]) -> None:
        """Remove these packs from the outbox of ``dest``."""

    def acknowledge(self, dest: str, acks: Sequence[Ack], callback: Callable[[int, str | None], None]) -> None:
        """Confirm the packs in ``acks``.

        ``callback`` runs in the database thread. It receives the number of valid acks, and the reason why the first
        invalid ack was rejected. The reason is None if all acks are valid.
        """

    def replay(
        self,
        stream: str,
        boot: str | None,
        first: int,
        last: int,
        limit: int,
        max_bytes: int,
        callback: Callable[[ReplayPage], None],
    ) -> None:
        """Read packs ``first`` to ``last`` of a stream as they were published, whether they are confirmed or not.

        ``boot``: None means packs of every boot. ``limit``, ``max_bytes`` and ``callback`` are as in ``fetch``.
        """

    def spend(self, dest: str, day: int, size: int, callback: Callable[[int], None]) -> None:
        """Count ``size`` more bytes of replay traffic to ``dest`` on ``day``.

        ``callback`` runs in the database thread and receives the total number of bytes on that day.
        """
