"""What goes to one destination next, and what becomes of it. Knows no socket: everything here can be tested by hand.

Two roads. The fresh road takes packs in the order of their ids, straight from memory while there is room, else from the
store. ``floor`` is the last id that left it; whatever is at or below, neither on its way nor confirmed, is backlog and
goes oldest first from the store. So a pack that is refused, unacknowledged or too old is just dropped from memory.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from agent.outbox import Outbox, OutboxItem
from agent.uplink.errors import BAD_FORMAT, ID_IN_USE, NO_SUBSCRIBERS, NOT_AUTHORIZED, TOO_LARGE, TOPIC_INVALID
from agent.uplink.flow import Denied, Holds, Suspects
from agent.uplink.mailbox import Mailbox
from agent.uplink.parcel import BACKFILL, BIRTH, READINGS, Parcel
from agent.uplink.queues import Lane, Recent
from agent.uplink.room import Pause, Rate, Room

FRESH_BYTES: Final = 8 << 20  # kept in memory at most; beyond, fresh packs are read back from the store
LATE_INTERVALS: Final = 3
RECENT: Final = 20_000  # ids whose confirmation the store may not have written yet
ASIDE: Final = 1_000
RESEND_S, RESEND_MAX_S = 60.0, 3600.0  # a platform that does not acknowledge
NEVER: Final = 1 << 62


class Traffic:
    """One destination's queues. Only ``mailbox`` is for other threads, the rest is the uplink's own.

    Args:
        base: ``meterhouse/v1/park7/gw01``.
        rate: packs of backlog a second.
        every_s: the pack interval.
        monotonic, wall_ms: clocks.
        wake: called from other threads when they left something.
        pause_s: the first wait after a refusal; it doubles up to a minute.
    """

    def __init__(
        self,
        name: str,
        outbox: Outbox,
        base: str,
        window: int,
        rate: float,
        every_s: float,
        fresh_bytes: int = FRESH_BYTES,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        wake: Callable[[], None] = lambda: None,
        pause_s: float = 1.0,
    ) -> None:
        self._name, self._outbox, self._base = name, outbox, base
        self._asked_window, self._late_s = window, LATE_INTERVALS * every_s
        self._monotonic, self._wall_ms = monotonic, wall_ms
        self.mailbox = Mailbox(fresh_bytes, monotonic, wake)
        self._fresh: deque[tuple[OutboxItem, float]] = deque()
        self._spill = Lane(self._fetch, monotonic)
        self._backlog = Lane(self._fetch, monotonic)
        self._births = Lane(self._fetch_births, monotonic)
        self._others: deque[Parcel] = deque()
        self._flying: dict[int, Parcel] = {}  # by packet id, oldest first
        self._flying_bytes = 0
        self._room = Room()
        self._busy: set[int] = set()
        self._recent = Recent(RECENT)
        self.aside: set[int] = set()
        self.holds = Holds(pause_s)
        self._suspects = Suspects()
        self._floor = NEVER  # all that exists is backlog, until something is offered
        self._rate = Rate(rate, monotonic())
        self._pause = Pause(pause_s)
        self._resend_at, self._resend_s, self._resend_mark = NEVER * 1.0, RESEND_S, 0
        self.replayed: Callable[[int], OutboxItem | None] = lambda max_bytes: None
        self.mode, self.draining = "subscriber", False
        self.window, self.max_packet = window, NEVER
        self.too_large: str | None = None  # the topic of a pack that was set aside, until somebody said so
        self._denied = Denied()
        self.delivered: list[int] = []  # to be confirmed to the store
        self.confirmed = self.refused = self.sent_bytes = 0

    # --- from the store

    def _fetch(self, lane: Lane, after: int, limit: int, max_bytes: int) -> None:
        session, lane.asked_up_to = lane.session, self.mailbox.last_offered
        self._outbox.fetch(self._name, after, limit, max_bytes, lambda page: self.mailbox.post(lane, session, page))

    def _fetch_births(self, lane: Lane, after: int, limit: int, max_bytes: int) -> None:
        session = lane.session
        self._outbox.births(lane.after_stream, limit, max_bytes, lambda page: self.mailbox.post(lane, session, page))

    # --- a connection begins and ends

    def begin(self, mode: str, receive_maximum: int, max_packet: int) -> None:
        """Connected: everything that the store holds and nobody confirmed is due again."""
        now = self._monotonic()
        self.mode, self.max_packet = mode, max_packet
        self.window = max(1, min(self._asked_window, receive_maximum))
        young, last = self.mailbox.open(self._late_s), self.mailbox.last_offered
        if last:
            left = 0 if self._floor == NEVER else self._floor
            self._floor = max(left, last if young is None else young - 1)
        self._spill.restart(self._floor)
        self._spill.dry = young is None
        self._backlog.restart(0)
        self._births.restart(0)
        self._denied.clear()
        self.holds.try_again(now)
        self._pause.clear()
        if mode == "platform":
            self._resend_at = now + self._resend_s

    def end(self, by_broker: bool) -> None:
        """Disconnected: what was in flight is backlog again.

        Args:
            by_broker: it hung up by itself; a pack that it cannot stand may be the reason.
        """
        self.mailbox.close()
        if by_broker:
            refs = [parcel.ref for parcel in self._flying.values() if parcel.ref]
            if bad := self._suspects.hung_up(refs, len(self._flying) == 1):
                self._set_aside(bad)
        self._flying.clear()
        self._fresh.clear()
        self._others.clear()
        self._busy.clear()
        self._flying_bytes = 0
        for lane in (self._spill, self._backlog, self._births):
            lane.stop()

    # --- sending

    def publish(self, topic: str, data: bytes, retain: bool = True) -> None:
        """Something beside the packs, before everything else."""
        self._others.append(Parcel(topic, data, retain=retain))

    def collect(self) -> None:
        """Sort what other threads left."""
        while (letter := self.mailbox.take()) is not None:
            lane, items, at = letter
            if lane is None:
                self._take_offer(items, at)
            elif lane is self._spill:
                self._take_spill(items)
            else:
                lane.fill(items)

    def _take_offer(self, items: Sequence[OutboxItem], at: float) -> None:
        box = self.mailbox
        if self._floor == NEVER:
            self._floor = box.first_offered - 1
            self._spill.restart(self._floor)
            self._spill.dry = True
        for item in items:
            self._fresh.append((item, at))
            self._busy.add(item.id)
        if box.spilling and self._spill.dry:
            self._spill.cursor = max(self._spill.cursor, box.spill_from)
            self._spill.dry = False

    def _take_spill(self, items: Sequence[OutboxItem]) -> None:
        lane = self._spill
        new = [item for item in items if item.id > self._floor and item.id not in self._busy]
        for item in new:
            self._busy.add(item.id)
        lane.fill(items, new)
        if not items:
            lane.cursor = max(lane.cursor, lane.asked_up_to)
            lane.dry = self.mailbox.caught_up(lane.cursor)

    def next(self) -> Parcel | None:
        """What to publish now; None if nothing may or needs to go. To be followed by ``sent``."""
        now = self._monotonic()
        if len(self._flying) >= (1 if self._suspects else self.window) or self._flying_bytes >= self._room.bytes:
            return None
        if self._others:
            return self._others.popleft()
        if now < self._pause.until_s:
            return None
        found = self._next_fresh(now) or self._next_birth()
        return found or (None if self.draining else self._next_backlog(now) or self._next_replayed())

    def _next_fresh(self, now: float) -> Parcel | None:
        late_ms = self._wall_ms() - self._late_s * 1000
        while self._fresh or self._spill.ready:
            if self._fresh and not (self._spill.queue and self._spill.queue[0].id < self._fresh[0][0].id):
                item, at = self._fresh.popleft()
                self.mailbox.left(len(item.data))
            else:
                if (found := self._spill.pop()) is None:
                    return None
                item, at = found, now
            self._floor = max(self._floor, item.id)
            if item.is_birth:  # retained at once, whichever road the pack takes: a device met late has an old birth
                self._births.queue.append(item)
            if item.id in self.aside or item.id in self._recent:
                self._busy.discard(item.id)
                continue
            if now - at > self._late_s or item.to_ms < late_ms or self._is_large(item, item.id):
                self._give_back(item.id)
                continue
            probe = False
            if self.holds and (verdict := self.holds.look((item.stream, READINGS), item.id, now)) is not None:
                if not verdict:
                    self._busy.discard(item.id)
                    continue
                probe = True
            return self._parcel(item, READINGS, probe)
        return None

    def _next_birth(self) -> Parcel | None:
        while (item := self._births.pop()) is not None:
            if -item.id not in self.aside and not self._is_large(item, -item.id):
                return Parcel(self._topic(item.stream, BIRTH), item.data, BIRTH, True, 0, -item.id, item.stream)
        return None

    def _next_backlog(self, now: float) -> Parcel | None:
        if self._suspects and self._backlog.dry and not self._backlog.queue:
            self._suspects.keep(self._busy)
        if now >= self._resend_at:
            self._resend(now)
        if self.holds.due(now) and self._backlog.dry and not self._backlog.queue:
            self._backlog.reopen(self.holds.lowest)
        while self._rate.may(now) and (item := self._backlog.peek()) is not None and item.id <= self._floor:
            if self._is_done(item.id) or self._is_large(item, item.id):
                self._backlog.pop()
                continue
            probe = False
            if self.holds and (verdict := self.holds.look((item.stream, BACKFILL), item.id, now)) is not None:
                if not verdict:
                    if not self.holds.may_skip():
                        return None
                    self._backlog.pop()
                    continue
                probe = True
            self._backlog.pop()
            self._rate.spend()
            return self._parcel(item, BACKFILL, probe)
        return None

    def _is_done(self, number: int) -> bool:
        return number in self._busy or number in self._recent or number in self.aside

    def _next_replayed(self) -> Parcel | None:
        """What was asked for again shares the rate of the backlog, and comes after it."""
        if self._backlog.queue or not self._rate.may(self._monotonic()):
            return None
        if (item := self.replayed(self.max_packet - len(self._base) - 100)) is None:
            return None
        self._rate.spend()
        return Parcel(self._topic(item.stream, BACKFILL), item.data, retain=False, stream=item.stream)

    def _parcel(self, item: OutboxItem, road: str, probe: bool) -> Parcel:
        self._busy.add(item.id)
        return Parcel(self._topic(item.stream, road), item.data, road, False, item.id, item.id, item.stream, probe)

    def _topic(self, stream: str, road: str) -> str:
        return f"{self._base}/{stream.rpartition('/')[2]}/{road}"

    def _is_large(self, item: OutboxItem, ref: int) -> bool:
        if len(item.data) + len(self._base) + 100 <= self.max_packet:
            return False
        self._set_aside(ref)
        self.too_large = self._topic(item.stream, BIRTH if ref < 0 else READINGS)
        return True

    def _set_aside(self, number: int) -> None:
        """This broker will not take this pack: stop trying, for this run. It stays in the outbox."""
        if len(self.aside) < ASIDE:
            self.aside.add(number)
        self._suspects.clear(number)
        self._busy.discard(number)

    def _give_back(self, number: int) -> None:
        """Not by the fresh road: it is backlog."""
        self._busy.discard(number)
        self._backlog.reopen(number)

    def _resend(self, now: float) -> None:
        """The platform has not acknowledged what the broker took long ago."""
        if self._recent.forget_up_to(self._resend_mark):
            self._backlog.reopen(1)
            self._resend_s = min(self._resend_s * 2, RESEND_MAX_S)
        self._resend_mark = self._recent.newest
        self._resend_at = now + self._resend_s

    def sent(self, packet: int, parcel: Parcel) -> None:
        """``parcel`` went out under this packet id."""
        parcel.sent_s = self._monotonic()
        self._flying[packet] = parcel
        self._flying_bytes += len(parcel.data)
        self.sent_bytes += len(parcel.data)
        if parcel.probe:
            self.holds.probing = True

    # --- answers

    def answered(self, packet: int, code: int) -> Parcel | None:
        """A PUBACK. Returns the parcel if it was not taken, so that somebody can say why."""
        parcel = self._flying.pop(packet, None)
        if parcel is None:
            return None
        self._flying_bytes -= len(parcel.data)
        self._suspects.clear(parcel.ref)
        now = self._monotonic()
        self._room.measured(now - parcel.sent_s, len(parcel.data), now)
        if not parcel.id:
            return self._retained(parcel, code)
        self._busy.discard(parcel.id)
        if parcel.probe:
            self.holds.probing = False
        if code < 0x80 and (code != NO_SUBSCRIBERS or self.mode == "broker"):
            self._taken(parcel)
            return None
        self.refused += 1
        if code in {NO_SUBSCRIBERS, NOT_AUTHORIZED, TOPIC_INVALID}:
            self.holds.add((parcel.stream, parcel.road), parcel.id, now, parcel.probe)
        elif code in {TOO_LARGE, BAD_FORMAT}:
            self._set_aside(parcel.id)
        else:
            if code != ID_IN_USE:
                self._pause.begin(now)
            self._give_back(parcel.id)
        return parcel

    def _retained(self, parcel: Parcel, code: int) -> Parcel | None:
        if parcel.ref and code in {TOO_LARGE, BAD_FORMAT}:
            self._set_aside(parcel.ref)
        else:
            self._denied.answered(parcel.topic, code < 0x80)
        return parcel if code >= 0x80 else None

    def allowed_again(self) -> bool:
        """Does the broker take now what it had refused? Then what is retained is due again; births go by themselves."""
        if not self._denied.retry():
            return False
        self._births.restart(0)
        return True

    def _taken(self, parcel: Parcel) -> None:
        self._recent.add(parcel.id)
        self._pause.taken()
        self.confirmed += 1
        if self.mode != "platform":
            self.delivered.append(parcel.id)
        if parcel.probe:
            # somebody is there again: everything that waited is backlog now
            self._backlog.reopen(self.holds.release())
            self._denied.hope()

    def acknowledged(self) -> None:
        """The platform sent an ack that is ours: it is alive."""
        self._resend_s = RESEND_S

    # --- facts

    @property
    def oldest(self) -> Parcel | None:
        """The parcel that waits longest for its PUBACK."""
        return next(iter(self._flying.values()), None)

    def wait_s(self) -> float:
        """At most how long nothing will change by itself."""
        now = self._monotonic()
        wait = min(1.0, self.holds.wait_s(now), max(0.0, self._resend_at - now))
        if self._pause.until_s > now:
            return min(wait, self._pause.until_s - now)
        return min(wait, self._rate.wait_s or wait) if self._backlog.queue else wait

    @property
    def in_flight(self) -> int:
        """Parcels without a PUBACK."""
        return len(self._flying)

    @property
    def idle(self) -> bool:
        """Nothing in flight and nothing fresh: all that can be sent without the backlog is sent."""
        return not (
            self._flying or self._others or self._fresh or self._spill.queue or self.mailbox or self.mailbox.spilling
        )

    @property
    def waiting(self) -> int:
        """Packs known here that are not confirmed."""
        return len(self._fresh) + len(self._spill.queue) + len(self._backlog.queue) + len(self._flying)

    @property
    def troubled(self) -> bool:
        """Does the broker refuse something at the moment?"""
        return bool(self.holds or self.aside or self._pause or self._denied)

    @property
    def backfilling(self) -> bool:
        """Is there backlog on its way?"""
        return bool(self._backlog.queue) or not self._backlog.dry
