"""Decides what to send next to one destination, and handles each PUBACK. Uses no socket, so that tests can drive it.

Live packs are sent in order of their ids, from memory if they fit, otherwise from the store. ``_backlog_end`` is the
last id that left the live queue. The backlog consists of all packs up to this id that are neither in flight nor
confirmed. It is read from the store, oldest first.

A live pack becomes backlog in three cases: the broker refuses it, the connection ends before its PUBACK, or it is late.
Such a pack is dropped from memory, and later read from the store.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from agent.outbox import Outbox, OutboxItem
from agent.uplink.errors import (
    BAD_FORMAT,
    FAILURE,
    ID_IN_USE,
    NO_SUBSCRIBERS,
    NOT_AUTHORIZED,
    TOO_LARGE,
    TOPIC_INVALID,
)
from agent.uplink.flow import (
    NO_READER_MOST_S,
    PROBE_MOST_S,
    STRIKES,
    Admission,
    BlockedTopics,
    InflightWindow,
    PoisonDetector,
    RejectedRetained,
    TopicKey,
)
from agent.uplink.messages import BACKFILL, BIRTH, LIVE, NO_LIMIT, REPLAY, OutgoingMessage, PackCompressor
from agent.uplink.queues import InboundQueue, OutboxCursor
from drivers.backoff import Backoff
from drivers.rate_limit import TokenBucket

# at most this many bytes of live packs are in memory; further packs are read back from the store
LIVE_BYTES: Final = 8 << 20
LATE_INTERVALS: Final = 3  # a live pack becomes backlog when it is older than this many pack intervals
RECENT: Final = 20_000  # number of confirmed ids that are remembered, because the store may not have recorded them yet
MAX_QUARANTINED: Final = 1_000
REJECT_MOST_S: Final = 60.0
# If the platform does not acknowledge packs within RESEND_S, they are sent again. After each resend, this time doubles,
# up to RESEND_MOST_S.
RESEND_S, RESEND_MOST_S = 60.0, 3600.0
REFRESH_S: Final = 1.0  # even if nothing happens, the uplink calls ``next`` again after this time in s
# a PUBLISH packet has at most this many bytes besides its payload and the base of its topic
OVERHEAD_BYTES: Final = 100
TYPE_BYTES: Final = 30  # a content type makes the PUBLISH packet at most this many bytes larger
NEVER: Final = 1 << 62


class SendScheduler:
    """The queues of one destination. Any thread may use ``inbound``; only the uplink's thread may use the rest.

    Args:
        base: first part of all topics, such as ``meterhouse/v1/park7/gw01``.
        window: number of messages that may be in flight.
        rate: packs of backlog per second.
        every_s: the pack interval in seconds.
        replay: returns the next pack that the platform requested again. Its argument is the largest payload in bytes.
        monotonic, wall_ms: clocks.
        wake: called from other threads when ``inbound`` has a new entry.
        backoff_s: the first pause after a refusal. Each later pause is twice as long, up to a minute.
        wants: returns True for a stream that this destination gets. It is needed only for births, because the store
            returns the births of all streams. From the outbox, the store returns only the packs for this destination.
        compressor: makes the payload of a pack.
        on_replayed: called with True if the broker accepted a pack from ``replay``, with False if it refused the pack.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        base: str,
        window: int,
        rate: float,
        every_s: float,
        replay: Callable[[int], OutboxItem | None],
        live_bytes: int = LIVE_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        wake: Callable[[], None] = lambda: None,
        backoff_s: float = 1.0,
        wants: Callable[[str], bool] = lambda stream: True,
        compressor: PackCompressor | None = None,
        on_replayed: Callable[[bool], None] = lambda accepted: None,
    ) -> None:
        self._wants, self._compressor = wants, compressor or PackCompressor(wanted=False)
        self._name, self._outbox, self._base = name, outbox, base
        self._max_window, self._late_s = window, LATE_INTERVALS * every_s
        self._monotonic, self._wall_ms = monotonic, wall_ms
        self.inbound = InboundQueue(live_bytes, monotonic, wake)
        self._live: deque[tuple[OutboxItem, float]] = deque()
        self._overflow = OutboxCursor(self._fetch, monotonic)
        self._backlog = OutboxCursor(self._fetch, monotonic)
        self._births = OutboxCursor(self._fetch_births, monotonic)
        self._control: deque[OutgoingMessage] = deque()
        self._in_flight: dict[int, OutgoingMessage] = {}  # by packet id; the oldest message comes first
        self._in_flight_bytes = 0
        self._inflight_window = InflightWindow()
        self._active: set[int] = set()  # ids of the packs that are in the live queue or in flight
        self._recent = RecentIds(RECENT)
        self.quarantined: set[int] = set()  # refs of messages that are not sent again until the agent restarts
        self.blocked = BlockedTopics(backoff_s)
        self._unsubscribed: set[TopicKey] = set()  # the blocked topics that have no subscriber
        self._accepts = False  # True: the broker has accepted a pack on this connection
        self._looking_for_probe = False  # True: the backlog was rewound to find a pack for a due probe
        self._poison = PoisonDetector()
        self._backlog_end = NEVER  # as long as no pack was offered, all packs are backlog
        self._bucket = TokenBucket(rate, _burst(rate), monotonic())
        self._reject_backoff = Backoff(backoff_s, REJECT_MOST_S)
        self._paused_until_s = 0.0
        self._resend_backoff = Backoff(RESEND_S, RESEND_MOST_S)
        self._resend_at_s, self._resend_mark = float(NEVER), 0
        self._platform_acked = False  # True: the platform has sent a valid ack since the last ``collect``
        self._replay, self._on_replayed = replay, on_replayed
        self.mode, self.draining = "subscriber", False
        # limits of the broker: number of messages in flight, and bytes of a payload
        self.window, self.max_payload = window, NO_LIMIT
        # topic of the last pack that was quarantined for its size; None after this was reported
        self.too_large: str | None = None
        # topic of the last message at which the broker disconnected; None after this was reported
        self.disconnects_at: str | None = None
        self._rejected = RejectedRetained()
        self.delivered: list[int] = []  # ids that are to be confirmed to the store
        self.accepted = self.refused = self.sent_bytes = 0

    # --- requests to the store

    def _fetch(self, cursor: OutboxCursor, after: int, limit: int, max_bytes: int) -> None:
        cursor.requested_up_to = self.inbound.last_offered
        put = partial(self.inbound.put_page, cursor, cursor.request_number)
        self._outbox.fetch(self._name, after, limit, max_bytes, put)

    def _fetch_births(self, cursor: OutboxCursor, after: int, limit: int, max_bytes: int) -> None:
        put = partial(self.inbound.put_page, cursor, cursor.request_number)
        self._outbox.births(cursor.after_stream, limit, max_bytes, put)

    def change_rates(self, rate: float, every_s: float) -> None:
        """Use another rate of the backlog and another pack interval from now on."""
        self._bucket.change(rate, _burst(rate), self._monotonic())
        self._late_s = LATE_INTERVALS * every_s

    # --- connect and disconnect

    def begin(self, mode: str, receive_maximum: int, max_packet: int) -> None:
        """Begin a connection: all unconfirmed packs in the store will be sent.

        Args:
            mode: where a pack must arrive to count as delivered: platform, subscriber or broker.
            receive_maximum, max_packet: limits of the broker, in messages and bytes.
        """
        now = self._monotonic()
        overhead = OVERHEAD_BYTES + (TYPE_BYTES if self._compressor.enabled else 0)
        self.mode, self.max_payload = mode, max_packet - len(self._base) - overhead
        self.window = max(1, min(self._max_window, receive_maximum))
        recent, last = self.inbound.open(self._late_s), self.inbound.last_offered
        if last:
            end = 0 if self._backlog_end == NEVER else self._backlog_end
            self._backlog_end = max(end, last if recent is None else recent - 1)
        self._overflow.restart(self._backlog_end)
        self._overflow.exhausted = recent is None
        self._backlog.restart(0)
        self._births.restart(0)
        self._rejected.clear()
        self._accepts = False
        self._looking_for_probe = False
        self._paused_until_s = 0.0
        self._reject_backoff.reset()
        if mode == "platform":
            self._resend_at_s = now + self._resend_backoff.delay_s

    def end(self, by_broker: bool) -> bool:
        """End a connection. The packs in flight become backlog again.

        Args:
            by_broker: True if the broker closed the connection. A poison message may be the reason.

        Returns:
            True if a message was the reason.
        """
        self.inbound.close()
        now = self._monotonic()
        # if a probe was in flight, it is the reason, and the other messages are not
        suspects = [message for message in self._in_flight.values() if message.probe] or [*self._in_flight.values()]
        if struck := by_broker and len(suspects) == 1 and bool(suspects[0].ref):
            self._strike(suspects[0], now)
        else:
            self.blocked.on_disconnect(now)
            if by_broker:
                self._poison.suspect(message.ref for message in suspects if message.ref)
        self.blocked.half_open = False
        self._in_flight.clear()
        self._live.clear()
        self._control.clear()
        self._active.clear()
        self._in_flight_bytes = 0
        for cursor in (self._overflow, self._backlog, self._births):
            cursor.stop()
        return struck

    def _strike(self, message: OutgoingMessage, now: float) -> None:
        """Note that the broker disconnected at this message. Its stream waits for a probe, and other streams do not."""
        strikes = self._poison.strike(message.ref)
        if strikes > 1:  # once may be chance
            self.disconnects_at = message.topic
        if message.id:
            self.blocked.block_stream(message.stream, message.id, now)
        else:
            self.blocked.on_disconnect(now)
        if strikes >= STRIKES:
            self._quarantine(message.ref)

    # --- sending

    def publish(self, topic: str, data: bytes, retain: bool = True) -> None:
        """Queue a message that is not a pack. It is sent before all packs."""
        self._control.append(OutgoingMessage(topic, data, retain=retain))

    def collect(self) -> None:
        """Process what other threads put into ``inbound``, and acks of the platform."""
        if self._platform_acked:  # after an outage of the platform, packs must not wait for the delay that it caused
            self._platform_acked = False
            self._resend_backoff.reset()
            self._resend_at_s = min(self._resend_at_s, self._monotonic() + RESEND_S)
        while (entry := self.inbound.take()) is not None:
            cursor, items, at = entry
            if cursor is None:
                self._on_offer(items, at)
            elif cursor is self._overflow:
                self._on_overflow_page(items)
            elif cursor is self._births:
                cursor.on_page(items, [item for item in items if self._wants(item.stream)])
            else:
                cursor.on_page(items)

    def _on_offer(self, items: Sequence[OutboxItem], at: float) -> None:
        inbound, overflow = self.inbound, self._overflow
        if self._backlog_end == NEVER:
            self._backlog_end = inbound.first_offered - 1
            overflow.restart(self._backlog_end)
            overflow.exhausted = True
        for item in items:
            self._live.append((item, at))
            self._active.add(item.id)
        if inbound.overflowed and overflow.exhausted:
            overflow.position = max(overflow.position, inbound.overflow_from)
            overflow.exhausted = False

    def _on_overflow_page(self, items: Sequence[OutboxItem]) -> None:
        overflow = self._overflow
        new = [item for item in items if item.id > self._backlog_end and item.id not in self._active]
        for item in new:
            self._active.add(item.id)
        overflow.on_page(items, new)
        if not items:
            overflow.position = max(overflow.position, overflow.requested_up_to)
            overflow.exhausted = self.inbound.caught_up(overflow.position)

    @property
    def _window_full(self) -> bool:
        window = 1 if self._poison.isolates else self.window
        return len(self._in_flight) >= window or self._in_flight_bytes >= self._inflight_window.limit_bytes

    def next(self) -> OutgoingMessage | None:
        """Return the message to send now; None if there is none. The caller then calls ``sent``."""
        if self._window_full:
            return None
        if self._control:
            return self._control.popleft()
        now = self._monotonic()
        if now < self._paused_until_s:
            return None
        found = self._next_live(now) or self._next_birth()
        return found or (None if self.draining else self._next_backlog(now) or self._next_replayed(now))

    def _next_live(self, now: float) -> OutgoingMessage | None:
        late_ms = self._wall_ms() - self._late_s * 1000
        while self._live or self._overflow.ready:
            if self._live and not (self._overflow.queue and self._overflow.queue[0].id < self._live[0][0].id):
                item, at = self._live.popleft()
                self.inbound.release(len(item.data))
            else:
                if (found := self._overflow.pop()) is None:
                    return None
                item, at = found, now
            self._backlog_end = max(self._backlog_end, item.id)
            # the birth is also sent as a retained message at once, even if the pack itself becomes backlog
            if item.is_birth:
                self._births.queue.append(item)
            if item.id in self.quarantined or item.id in self._recent:
                self._active.discard(item.id)
                continue
            late = now - at > self._late_s or item.to_ms < late_ms
            if (late and not self.draining) or self._too_large(item, item.id):
                self._to_backlog(item.id)
                continue
            # Before a stop (``draining``), late packs are sent too. As backlog they would wait for the next start.
            kind = BACKFILL if late else LIVE
            if (admission := self._allow(item, kind, now)) is Admission.BLOCKED:
                self._active.discard(item.id)
                continue
            return self._pack_message(item, kind, admission)
        return None

    def _next_birth(self) -> OutgoingMessage | None:
        while (item := self._births.pop()) is not None:
            ref, topic = -item.id, self._topic(item.stream, BIRTH)
            if self.blocked.has_stream(item.stream):
                self.reject_retained(topic)
            elif ref not in self.quarantined and not self._too_large(item, ref):
                (data, content_type), probe = self._compressor.payload(item), self._poison.is_struck(ref)
                return OutgoingMessage(topic, data, BIRTH, True, 0, ref, item.stream, probe, content_type=content_type)
        return None

    def _next_backlog(self, now: float) -> OutgoingMessage | None:
        if self._poison.isolates and self._backlog.exhausted and not self._backlog.queue:
            self._poison.keep_only(self._active)
        if now >= self._resend_at_s:
            self._resend(now)
        if self._backlog.exhausted and not self._backlog.queue and self.blocked.probe_due(now):
            # the search found no pack for the probe, perhaps because the store dropped all of them
            if self._looking_for_probe:
                self.blocked.skip_turn(now)
            else:
                self._backlog.rewind(self.blocked.search_from)
            self._looking_for_probe = not self._looking_for_probe
        while self._bucket.available(now) and (item := self._backlog.peek()) and item.id <= self._backlog_end:
            if self._is_done(item.id) or self._too_large(item, item.id):
                self._backlog.pop()
                continue
            if (admission := self._allow(item, BACKFILL, now)) is Admission.BLOCKED:
                if not self.blocked.may_skip():
                    return None
                self._backlog.pop()
                continue
            self._backlog.pop()
            self._bucket.take(now)
            return self._pack_message(item, BACKFILL, admission)
        return None

    def _allow(self, item: OutboxItem, kind: str, now: float) -> Admission:
        return self.blocked.allow((item.stream, kind), item.id, now) if self.blocked else Admission.OPEN

    def _is_done(self, number: int) -> bool:
        return number in self._active or number in self._recent or number in self.quarantined

    def _next_replayed(self, now: float) -> OutgoingMessage | None:
        """Return the next replayed pack; None while there is backlog.

        The rate of the backlog limits replayed packs too.
        """
        if self._backlog.queue or not self._bucket.available(now):
            return None
        if (item := self._replay(self.max_payload)) is None:
            return None
        self._bucket.take(now)
        topic, (data, content_type) = self._topic(item.stream, BACKFILL), self._compressor.payload(item)
        return OutgoingMessage(topic, data, REPLAY, retain=False, stream=item.stream, content_type=content_type)

    def _pack_message(self, item: OutboxItem, kind: str, admission: Admission) -> OutgoingMessage:
        self._active.add(item.id)
        topic, probe = self._topic(item.stream, kind), admission is Admission.PROBE or self._poison.is_struck(item.id)
        data, content_type = self._compressor.payload(item)
        return OutgoingMessage(
            topic, data, kind, False, item.id, item.id, item.stream, probe, content_type=content_type
        )

    def _topic(self, stream: str, kind: str) -> str:
        return f"{self._base}/{stream.rpartition('/')[2]}/{kind}"

    def _too_large(self, item: OutboxItem, ref: int) -> bool:
        if len(item.data) <= self.max_payload or self._compressor.size(item) <= self.max_payload:
            return False
        self._quarantine(ref)
        self.too_large = self._topic(item.stream, BIRTH if ref < 0 else LIVE)
        return True

    def _quarantine(self, ref: int) -> None:
        """Do not send a message to this broker again before the next start. If it is a pack, it stays in the outbox."""
        if len(self.quarantined) < MAX_QUARANTINED:
            self.quarantined.add(ref)
        self._poison.clear(ref)
        self._active.discard(ref)

    def _to_backlog(self, number: int) -> None:
        self._active.discard(number)
        self._backlog.rewind(number)

    def _resend(self, now: float) -> None:
        """Return to the backlog the packs that the broker accepted, but the platform did not acknowledge in time."""
        if self._recent.forget_up_to(self._resend_mark):
            self._backlog.rewind(1)
            self._resend_backoff.next_s()
        self._resend_mark = self._recent.newest
        self._resend_at_s = now + self._resend_backoff.delay_s

    def sent(self, packet: int, message: OutgoingMessage) -> None:
        """Note that ``message`` was sent with this packet id."""
        message.sent_s = self._monotonic()
        self._in_flight[packet] = message
        self._in_flight_bytes += len(message.data)
        self.sent_bytes += len(message.data)
        if message.probe:
            self.blocked.half_open, self._looking_for_probe = True, False

    # --- answers

    def on_puback(self, packet: int, code: int) -> OutgoingMessage | None:
        """Process a PUBACK.

        Returns the message if the broker refused it, so that the caller reports this; otherwise None.
        """
        message = self._in_flight.pop(packet, None)
        if message is None:
            return None
        self._in_flight_bytes -= len(message.data)
        self._poison.clear(message.ref)
        now = self._monotonic()
        self._inflight_window.on_ack(now - message.sent_s, len(message.data), now)
        accepted = code < FAILURE and (code != NO_SUBSCRIBERS or self.mode == "broker")
        if message.kind == REPLAY:
            self._on_replayed(accepted)
            self.refused += code >= FAILURE
            return None if accepted else message
        if not message.id:
            return self._on_unconfirmed_puback(message, code)
        self._active.discard(message.id)
        if message.probe:
            self.blocked.half_open = False
        if accepted:
            self._on_accepted(message)
            return None
        # the broker accepted the pack but has no subscriber for it; this does not count as a refusal
        if code == NO_SUBSCRIBERS:
            self._unsubscribed.add((message.stream, message.kind))
        else:
            self.refused += 1
        if code in {NO_SUBSCRIBERS, NOT_AUTHORIZED, TOPIC_INVALID}:
            most_s = NO_READER_MOST_S if code == NO_SUBSCRIBERS else PROBE_MOST_S
            self.blocked.block((message.stream, message.kind), message.id, now, message.probe, most_s)
        elif code in {TOO_LARGE, BAD_FORMAT}:
            self._quarantine(message.id)
        else:
            # if several packs are refused, there is only one pause
            if code != ID_IN_USE and now >= self._paused_until_s:
                self._paused_until_s = now + self._reject_backoff.next_s()
            self._to_backlog(message.id)
        return message

    def _on_unconfirmed_puback(self, message: OutgoingMessage, code: int) -> OutgoingMessage | None:
        """Process the PUBACK of a message that is not in the outbox, such as a birth or the status."""
        if message.ref and code in {TOO_LARGE, BAD_FORMAT}:
            self._quarantine(message.ref)
        elif message.retain:
            self._rejected.on_puback(message.topic, code < FAILURE)
        return message if code >= FAILURE else None

    def _on_accepted(self, message: OutgoingMessage) -> None:
        self._recent.add(message.id)
        self._reject_backoff.reset()
        self.accepted += 1
        self._accepts = True
        self._unsubscribed.discard((message.stream, message.kind))
        if self.mode != "platform":
            self.delivered.append(message.id)
        if message.probe:
            self._backlog.rewind(self.blocked.reset())  # go back to the oldest pack that waited for a blocked topic
            self._unsubscribed.clear()
            self._rejected.mark_retry()

    def take_retained_retry(self) -> bool:
        """Return True if the broker accepts retained messages again, so that the caller must publish them again.

        The scheduler itself publishes births again.
        """
        if not self._rejected.take_retry():
            return False
        self._births.restart(0)
        return True

    def reject_retained(self, topic: str) -> None:
        """Note that a retained message was not sent, because the broker would not accept it."""
        self._rejected.on_puback(topic, accepted=False)

    def on_platform_ack(self) -> None:
        """Note that the platform has sent a valid ack. Any thread may call this."""
        self._platform_acked = True

    # --- state

    @property
    def oldest(self) -> OutgoingMessage | None:
        """The message that has waited longest for a PUBACK; None if no message waits."""
        return next(iter(self._in_flight.values()), None)

    def wait_s(self) -> float:
        """Return the seconds after which ``next`` must be called again, even if nothing happens before.

        A PUBACK, or a new entry in ``inbound``, is a reason to call it earlier.
        """
        if self.inbound or (self._control and not self._window_full):
            return 0.0
        now = self._monotonic()
        wait = min(REFRESH_S, self.blocked.wait_s(now))
        if self._paused_until_s > now:
            return min(wait, self._paused_until_s - now)
        if not self._window_full and not self.draining:  # otherwise ``next`` does not resend, even if it is time
            wait = min(wait, max(0.0, self._resend_at_s - now))
        return wait if self._bucket.available(now) else min(wait, self._bucket.wait_s)

    @property
    def in_flight(self) -> int:
        """The number of messages without a PUBACK."""
        return len(self._in_flight)

    @property
    def idle(self) -> bool:
        """True if all messages except the backlog are sent and acknowledged."""
        return not (
            self._in_flight
            or self._control
            or self._live
            or self._overflow.queue
            or self.inbound
            or self.inbound.overflowed
        )

    @property
    def waiting(self) -> int:
        """The number of unconfirmed packs in memory or in flight. The store may have more."""
        return len(self._live) + len(self._overflow.queue) + len(self._backlog.queue) + len(self._in_flight)

    @property
    def refuses(self) -> bool:
        """True while the broker refuses packs or retained messages that are sent again."""
        return bool(self.blocked or not self._reject_backoff.is_reset or self._rejected)

    @property
    def has_fault(self) -> bool:
        """True while the broker refuses packs or retained messages, or packs are quarantined."""
        return bool(self.refuses or self.quarantined)

    @property
    def subscriber(self) -> bool | None:
        """True if all our packs have a subscriber; False if some have none; None if it is not known."""
        if self._unsubscribed:
            return False
        return True if self._accepts and self.mode != "broker" else None

    @property
    def backfilling(self) -> bool:
        """True while backlog is being sent."""
        return bool(self._backlog.queue) or not self._backlog.exhausted


def _burst(rate: float) -> float:
    """Return how many packs of backlog may be sent at once."""
    return max(1.0, rate / 2)


class RecentIds:
    """Remembers the last ``size`` ids that were added."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._order: deque[int] = deque()
        self._ids: set[int] = set()
        self.newest = 0

    def add(self, number: int) -> None:
        """Add an id. If there are then too many, drop the oldest one."""
        if number in self._ids:
            return
        self._ids.add(number)
        self._order.append(number)
        self.newest = max(self.newest, number)
        if len(self._order) > self._size:
            self._ids.discard(self._order.popleft())

    def forget_up_to(self, number: int) -> bool:
        """Drop all ids up to ``number``. Returns False if there were no such ids."""
        kept = deque(n for n in self._order if n > number)
        dropped = len(kept) < len(self._order)
        self._order, self._ids = kept, set(kept)
        return dropped

    def __contains__(self, number: int) -> bool:
        return number in self._ids
