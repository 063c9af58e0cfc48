"""Flow control of an uplink.

It decides how much to send, which packs to hold back because the broker refuses them, and when to drop a connection or
reconnect.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from enum import Enum
from typing import Final

from agent.uplink.messages import BACKFILL, BIRTH, LIVE, OutgoingMessage
from drivers.backoff import Backoff

RETRY_MOST_S: Final = 60.0
# In the first ten minutes of an outage no delay is longer than this, so that the first value arrives within 10 s
SHORT_MOST_S, SHORT_FOR_S = 8.0, 600.0
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
# A message is poison if the broker disconnected at it this number of times: it was the only message or the only probe
# in flight.
STRIKES: Final = 3
MOST_STRUCK: Final = 1_000  # at most this number of messages are remembered, because the store may drop them unsent
# After this time in s without a probe by a live pack, streams that have had their turn get another one: the streams
# whose turn it is may have no live packs, because their device was removed or is silent.
LIVE_TURN_S: Final = 300.0
SKIPS: Final = 2_000  # between two probes, the backlog may skip at most this number of packs of blocked topics

# A connection is given up if nothing came from the broker's machine for this time in s, although bytes wait for it.
STALL_S: Final = 10.0

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
    """Blocks topics on which the broker refuses packs, or disconnects at them, as a circuit breaker does.

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
        self._since_s = 0.0  # when the first topic was blocked
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

    def has_stream(self, stream: str) -> bool:
        """Return True if the broker disconnected at a pack of this stream."""
        return (stream, BIRTH) in self._lowest

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
            self._since_s = now
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

    def block_stream(self, stream: str, number: int, now: float) -> None:
        """Block a stream, because its pack with id ``number`` made the broker disconnect.

        Only the backlog probes it: it is sent after the live packs of all other streams.
        """
        short = not self._lowest or now - self._since_s < SHORT_FOR_S
        self.block((stream, BACKFILL), number, now, True, SHORT_MOST_S if short else PROBE_MOST_S)
        self._lowest[stream, BIRTH] = self._lowest[stream, BACKFILL]

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
            return Admission.BLOCKED if self.has_stream(key[0]) else Admission.OPEN
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

    def on_disconnect(self, now: float) -> None:
        """Note that the connection ended, and not because of a probe: the next connection may begin with a probe."""
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
        self._suspects: set[int] = set()  # refs of messages that were in flight together when the broker disconnected
        self._strikes: dict[int, int] = {}  # ref -> how often the broker disconnected at this message

    @property
    def isolates(self) -> bool:
        """True while messages must be sent one at a time, to find the one at which the broker disconnects."""
        return bool(self._suspects)

    def suspect(self, refs: Iterable[int]) -> None:
        """Note that the broker disconnected while all messages ``refs`` were in flight."""
        self._suspects.update(refs)

    def strike(self, ref: int) -> int:
        """Note that the broker disconnected at this message. Returns how often it did so."""
        self._suspects.clear()
        strikes = self._strikes[ref] = self._strikes.get(ref, 0) + 1
        if len(self._strikes) > MOST_STRUCK:
            del self._strikes[next(iter(self._strikes))]
        return strikes

    def is_struck(self, ref: int) -> bool:
        """Return True if the broker disconnected at this message before."""
        return ref in self._strikes

    def clear(self, ref: int) -> None:
        """Forget a message that was acknowledged or quarantined."""
        self._suspects.discard(ref)
        self._strikes.pop(ref, None)

    def keep_only(self, refs: Collection[int]) -> None:
        """End the suspicion of all messages except ``refs``.

        The other messages were acknowledged, or dropped because the store has a size limit.
        """
        self._suspects.intersection_update(refs)


class Attempt(Enum):
    """How an attempt to connect ended, with the connection that it made."""

    UNREACHABLE = "unreachable"  # no broker answered
    REFUSED = "refused"  # the broker answered and refused the connection
    USELESS = "useless"  # the connection ended before the broker accepted a pack
    SERVED = "served"  # the broker accepted packs, or disconnected at a pack, which waits from now on
    TAKEN_OVER = "taken over"  # another client with our id took over the session


class ReconnectBackoff:
    """The delays between attempts to connect.

    A delay is twice as long as the previous delay, up to a limit. The limit is a minute. In the first ten minutes after
    the last connection that was stable or delivered packs, it is 8 s, unless the broker refuses us. After a connection
    that delivered packs, the delays begin anew: an unstable modem, or a pack at which the broker disconnects, may end
    connections early.

    If another client took over the session, a separate, longer backoff applies.
    """

    def __init__(self, first_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._backoff = Backoff(first_s, RETRY_MOST_S, JITTER)
        self._taken_over = Backoff(TAKEN_OVER_S, TAKEN_OVER_MOST_S, JITTER)
        self._healthy_s = monotonic()  # when a connection last delivered packs, or was stable

    def next(self, end: Attempt, lived_s: float) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            end: how the last attempt ended.
            lived_s: duration in seconds of the last attempt, with the connection that it made.
        """
        now = self._monotonic()
        connected = end not in {Attempt.UNREACHABLE, Attempt.REFUSED}
        if end is Attempt.SERVED or (connected and lived_s > STABLE_S):
            self._backoff.reset()
            self._healthy_s = now
        if connected and lived_s > TAKEN_OVER_MOST_S:
            self._taken_over.reset()
        if end is Attempt.TAKEN_OVER:
            return self._taken_over.next_s()
        short = end is not Attempt.REFUSED and now - self._healthy_s < SHORT_FOR_S
        delay_s = self._backoff.next_s(SHORT_MOST_S if short else RETRY_MOST_S)
        # in a network that drops packets, the attempt itself waits for seconds
        return max(delay_s - lived_s, delay_s / 2) if end is Attempt.UNREACHABLE else delay_s


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

    def stalled(self, oldest: OutgoingMessage, now: float, received: int, silent_s: float) -> bool:
        """Return True if bytes of the oldest message wait, and the broker's machine has not answered for ``STALL_S``.

        TCP itself would wait twice as long after each attempt, and so for a minute after the network is whole again.

        Args:
            silent_s: how long ago the last packet of the broker's TCP arrived, in seconds.
        """
        return received < oldest.end_offset and min(silent_s, now - oldest.sent_s) > STALL_S

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
