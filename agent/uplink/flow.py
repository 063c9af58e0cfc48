"""Flow control of an uplink.

It decides how much to send, which packs to hold back because the broker refuses them, and when to drop a connection or
reconnect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from enum import Enum
from typing import Final

from agent.uplink.messages import BACKFILL, LIVE, OutgoingMessage
from drivers.backoff import Backoff

RETRY_MOST_S: Final = 60.0
SHORT_MOST_S, SHORT_FOR_S = 10.0, 600.0  # the longest delay is 10 s in the first ten minutes of an outage
# first and longest delay after another client with our id took over our session
TAKEN_OVER_S, TAKEN_OVER_MOST_S = 60.0, 900.0
STABLE_S: Final = 30.0  # a connection counts as stable if it lasted this long
JITTER: Final = 0.5  # this share of each delay is random, so that not all gateways reconnect at the same time
# largest, smallest and initial size of an InflightWindow
MOST_BYTES, LEAST_BYTES, FIRST_BYTES = 4 << 20, 16 << 10, 256 << 10
FAST_ACK_S: Final = 1.0  # the window grows if a PUBACK comes within this time in s
SLOW_ACK_S: Final = 5.0  # the window shrinks if a PUBACK takes longer than this time in s
PROBE_FIRST_S: Final = 1.0
PROBE_MOST_S: Final = 60.0
# if only a subscriber is missing, the pause between probes is at most this, because the subscriber may come soon
NO_READER_MOST_S: Final = 10.0
# A message is poison if the broker disconnected this number of times while it was the only message in flight.
STRIKES: Final = 3
# After this time in s without a probe by a live pack, streams that have had their turn get another one: the streams
# whose turn it is may have no live packs, because their device was removed or is silent.
LIVE_TURN_S: Final = 300.0
SKIPS: Final = 2_000  # between two probes, the backlog may skip at most this number of packs of blocked topics

TopicKey = tuple[str, str]  # stream, kind


class InflightWindow:
    """The number of bytes that may be in flight.

    It shrinks on a slow link, so that live packs do not wait behind others.
    """

    def __init__(self) -> None:
        self.limit_bytes = FIRST_BYTES
        self._shrunk_s = 0.0

    def on_ack(self, took_s: float, size: int, now: float) -> None:
        """Adapt the window: a message of this size was acknowledged after ``took_s``."""
        if took_s < FAST_ACK_S:
            self.limit_bytes = min(MOST_BYTES, self.limit_bytes + size)
        elif took_s > SLOW_ACK_S and now - self._shrunk_s > SLOW_ACK_S:
            self.limit_bytes, self._shrunk_s = max(LEAST_BYTES, self.limit_bytes // 2), now


class Admission(Enum):
    """Whether a pack may be sent."""

    OPEN = "open"
    PROBE = "probe"  # the pack may be sent: it tests whether the broker accepts its blocked topic again
    BLOCKED = "blocked"


class BlockedTopics:
    """Blocks topics without a subscriber or without write permission, as a circuit breaker does.

    A probe is one pack that is sent on a blocked topic. There is one probe at a time, and the pauses between probes
    grow (exponential backoff). When the broker accepts a probe, all topics are unblocked.

    The blocked topics get their probes in turn. Otherwise a topic that is refused for good would get all of them, and
    the other topics would stay blocked. Live packs and backlog have turns of their own, because only a new pack can
    probe a topic for live packs.
    """

    def __init__(self, first_s: float = PROBE_FIRST_S) -> None:
        self._lowest: dict[TopicKey, int] = {}  # blocked topic -> the lowest id of the packs that wait for it
        self._probed: set[TopicKey] = set()  # topics that have had their probe, until the others have had theirs too
        self._backoff = Backoff(first_s, PROBE_MOST_S)
        self._most_s = PROBE_MOST_S
        self._probe_at_s = 0.0
        # From this time on, a live pack may be a probe, even if the previous probe was refused only just now. Otherwise
        # the backlog, which always has packs, would take each probe as soon as it is due.
        self._live_at_s = 0.0
        self._skips = SKIPS
        self.half_open = False  # True: a probe is in flight

    def __bool__(self) -> bool:
        return bool(self._lowest)

    def __len__(self) -> int:
        return len(self._lowest)

    @property
    def search_from(self) -> int:
        """The id from which the backlog may have a pack for the next probe."""
        return min(number for number, _ in self._in_turn())

    def _in_turn(self) -> Iterator[tuple[int, str]]:
        """Return (lowest waiting id, stream) of each blocked topic whose stream has not had its turn yet."""
        return ((n, stream) for (stream, _), n in self._lowest.items() if (stream, BACKFILL) not in self._probed)

    def block(self, key: TopicKey, number: int, now: float, was_probe: bool, most_s: float = PROBE_MOST_S) -> None:
        """Block a topic on which the broker refused the pack with id ``number``.

        A probe follows after at most ``most_s``.
        """
        first = not self._lowest
        if first:
            self._backoff.reset()
        self._most_s = most_s
        self._lowest[key] = min(number, self._lowest.get(key, number))
        if was_probe or first:
            self.postpone_probe(now)
        if first:
            self._live_at_s = self._probe_at_s
        elif was_probe and key[1] == LIVE:
            self._live_at_s = self._probe_at_s + (self._probe_at_s - now)  # the backlog may have a probe in between
        if was_probe:
            self._end_turn(key)

    def _end_turn(self, key: TopicKey) -> None:
        self._probed.add(key)
        kind = key[1]
        # the packs of a stream whose live topic is blocked are backlog too
        if all((stream, kind) in self._probed for stream, k in self._lowest if kind in {k, BACKFILL}):
            self._new_round(kind)

    def _new_round(self, kind: str) -> None:
        self._probed = {key for key in self._probed if key[1] != kind}

    def skip_turn(self, now: float) -> None:
        """Note that the backlog has no pack for the probe: the next search starts with another stream."""
        self.postpone_probe(now)
        self._end_turn((min(self._in_turn())[1], BACKFILL))

    def postpone_probe(self, now: float) -> None:
        """Delay the next probe by the next pause of the backoff. Each pause is longer than the previous one."""
        self._probe_at_s = now + self._backoff.next_s(self._most_s)
        self._skips = SKIPS

    def allow(self, key: TopicKey, number: int, now: float) -> Admission:
        """Return whether the pack with id ``number`` may be sent on this topic now."""
        if key not in self._lowest:
            return Admission.OPEN
        if key[1] == LIVE:
            due = now >= self._live_at_s and not self.half_open
            if due and now >= self._live_at_s + LIVE_TURN_S:
                self._new_round(LIVE)
        else:
            due = self.probe_due(now)
        if due and key not in self._probed:
            self.half_open = True
            return Admission.PROBE
        self._lowest[key] = min(number, self._lowest[key])
        return Admission.BLOCKED

    def probe_due(self, now: float) -> bool:
        """Return True if the backlog must look for a pack to probe a blocked topic."""
        return bool(self._lowest) and not self.half_open and now >= self._probe_at_s

    def may_skip(self) -> bool:
        """Return True if the backlog may skip one more pack. Otherwise it waits for the next probe."""
        self._skips -= 1
        if self._skips < 0:
            self._new_round(BACKFILL)  # the pack at which the backlog waits may be the next probe
        return self._skips >= 0

    def reset(self) -> int:
        """Unblock all topics. Returns the lowest id of the packs that waited; 1 if no topic was blocked."""
        lowest = min(self._lowest.values(), default=1)
        self._lowest.clear()
        self._probed.clear()
        self.half_open = False
        return lowest

    def on_connect(self, now: float) -> None:
        """Begin a new connection: the next probe is due at once."""
        self._backoff.reset()
        self._new_round(LIVE)
        self._probe_at_s = self._live_at_s = now
        self.half_open, self._skips = False, SKIPS

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next probe is due; infinite if no probe is needed."""
        return max(0.05, self._probe_at_s - now) if self._lowest and not self.half_open else math.inf


class RejectedRetained:
    """Retained messages that the broker rejected.

    When it accepts one of them, all retained messages are published again.
    """

    def __init__(self) -> None:
        self._topics: set[str] = set()
        self._retry = False

    def __bool__(self) -> bool:
        return bool(self._topics)

    def on_puback(self, topic: str, accepted: bool) -> None:
        """Process the broker's answer to a retained message."""
        if not accepted:
            self._topics.add(topic)
        elif topic in self._topics:
            self._topics.discard(topic)
            self._retry = True

    def mark_retry(self) -> None:
        """Note that the broker accepts packs again. It may then accept the rejected messages too."""
        self._retry = True

    def take_retry(self) -> bool:
        """Return True if all retained messages must be published again. The next call then returns False."""
        retry, self._retry = self._retry and bool(self._topics), False
        if retry:
            self._topics.clear()
        return retry

    def clear(self) -> None:
        """Forget all rejected messages, because a new connection publishes all retained messages anyway."""
        self._topics.clear()
        self._retry = False


class PoisonDetector:
    """Finds a poison message: the message in flight that makes the broker disconnect."""

    def __init__(self) -> None:
        self._strikes: dict[int, int] = {}  # by ref

    def __bool__(self) -> bool:
        return bool(self._strikes)

    def on_disconnect(self, refs: Sequence[int], alone: bool) -> int:
        """Note that the broker disconnected while the messages ``refs`` were in flight.

        ``alone``: only one message was in flight. Returns the ref of the poison message; 0 if it is not known yet.
        """
        for ref in refs:
            self._strikes[ref] = self._strikes.get(ref, 0) + alone
        return next((ref for ref in refs if self._strikes[ref] >= STRIKES), 0)

    def clear(self, ref: int) -> None:
        """Forget a message that was acknowledged or quarantined."""
        self._strikes.pop(ref, None)

    def keep_only(self, refs: Collection[int]) -> None:
        """Forget all messages except ``refs``.

        The other messages were acknowledged, or dropped because the store has a size limit.
        """
        self._strikes = {ref: strikes for ref, strikes in self._strikes.items() if ref in refs}


class ReconnectBackoff:
    """The delays between attempts to connect.

    A delay is twice as long as the previous delay, up to a limit. The limit is usually a minute. It is 10 s in two
    cases:
    - after a connection that delivered packs, because an unstable modem may end connections early
    - in the first ten minutes in which the broker cannot be reached

    If another client took over the session, a separate, longer backoff applies.
    """

    def __init__(self, first_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._backoff = Backoff(first_s, RETRY_MOST_S, JITTER)
        self._taken_over = Backoff(TAKEN_OVER_S, TAKEN_OVER_MOST_S, JITTER)
        self._healthy_s = monotonic()  # when a connection last delivered packs, or was stable

    def next(self, *, lived_s: float, answered: bool, taken_over: bool, served: bool = False) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            lived_s: duration in seconds of the last attempt, with the connection that it made.
            answered: True if the attempt received a CONNACK.
            taken_over: True if another client with our id ended the connection.
            served: True if the broker accepted packs on the connection.
        """
        now = self._monotonic()
        if served:
            self._healthy_s = now
        if lived_s > STABLE_S and answered:
            self._backoff.reset()
            self._healthy_s = now
        if lived_s > TAKEN_OVER_MOST_S and answered:
            self._taken_over.reset()
        if taken_over:
            return self._taken_over.next_s()
        short = (served or not answered) and now - self._healthy_s < SHORT_FOR_S
        return self._backoff.next_s(SHORT_MOST_S if short else RETRY_MOST_S)


class AckWatchdog:
    """Measures how long the oldest message has made no progress, so that the uplink can drop a dead connection.

    A slow link may need minutes to deliver a message. As long as bytes of the message arrive, it makes progress. When
    the broker has received all its bytes, only the PUBACK is progress.
    """

    def __init__(self) -> None:
        # number of bytes that the broker has received, and the time when this number last grew
        self._received, self._progress_s = 0, 0.0
        self._complete: OutgoingMessage | None = None  # the oldest message, if the broker has received all its bytes
        self._complete_s = 0.0

    def overdue_s(self, oldest: OutgoingMessage, now: float, received: int) -> float:
        """Return how long, in s, the oldest message has made no progress.

        Args:
            oldest: the oldest message without a PUBACK.
            received: bytes of this connection that the broker's TCP has acknowledged; 0 if not known.
        """
        if received > self._received:
            self._received, self._progress_s = received, now
        if received < oldest.end_offset:
            return now - max(oldest.sent_s, self._progress_s)
        if self._complete is not oldest:
            # the link needed this time, so it does not count as a delay of the broker
            slow = received and now - oldest.sent_s > 1.0
            self._complete, self._complete_s = oldest, now if slow else oldest.sent_s
        return now - self._complete_s
