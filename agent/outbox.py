"""The contract between store and uplink, as plain values: neither imports the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """A pack that one destination has not confirmed.

    ``id`` grows with every commit and is never used twice; ``data`` are the bytes as published.
    """

    id: int
    stream: str
    data: bytes
    is_birth: bool
    to_ms: int


@dataclass(frozen=True, slots=True)
class Ack:
    """A platform confirms packs ``first`` to ``last`` of a boot; ``hash`` is the hash of ``last``."""

    stream: str
    boot: str
    first: int
    last: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class MissingRange:
    """Sequences that are no longer here; ``loss``: the loss event of the stream, None where the packs expired."""

    first: int
    last: int
    loss: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class ReplayPage:
    """Part of the answer to a replay. ``next_seq``: where the next page begins, 0 at the end; ``refused``: a reason."""

    items: Sequence[OutboxItem] = ()
    gone: Sequence[MissingRange] = ()
    next_seq: int = 0
    refused: str = ""


class Outbox(Protocol):
    """The store as an uplink sees it. Each call returns at once; the database thread does the work."""

    def fetch(
        self,
        dest: str,
        after_id: int,
        limit: int,
        max_bytes: int,
        callback: Callable[[Sequence[OutboxItem]], None],
    ) -> None:
        """Unconfirmed packs with an id above ``after_id``, oldest first, to ``callback`` (in the database thread).

        At most ``limit`` packs and ``max_bytes``, but at least one pack if there is one. Empty: there are no more.
        """

    def births(self, after: str, limit: int, max_bytes: int, callback: Callable[[Sequence[OutboxItem]], None]) -> None:
        """The newest birth of each stream whose name is above ``after``, by name; otherwise as ``fetch``."""

    def before_send(self) -> None:
        """To be called before each message that is sent to a destination. Cheap."""

    def confirm(self, dest: str, ids: Sequence[int]) -> None:
        """Remove these packs from the outbox of ``dest``."""

    def acknowledge(self, dest: str, acks: Sequence[Ack], callback: Callable[[int, str | None], None]) -> None:
        """Confirm what ``acks`` cover.

        ``callback`` (in the database thread) gets how many were valid, and why the first of the others was rejected.
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
        """Packs ``first`` to ``last`` of a stream (and boot) as published, confirmed or not; otherwise as ``fetch``."""

    def spend(self, dest: str, day: int, size: int, callback: Callable[[int], None]) -> None:
        """Record ``size`` more bytes of replay to ``dest`` on ``day``; ``callback`` gets the sum of that day."""
