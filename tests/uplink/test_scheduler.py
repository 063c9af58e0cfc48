"""What is sent next. No order of events loses a pack, sends one twice at once, or fills the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.outbox import Ack, OutboxItem
from agent.uplink.messages import BACKFILL, LIVE, OutgoingMessage
from agent.uplink.queues import InboundQueue, OutboxCursor
from agent.uplink.scheduler import REFRESH_S, SendScheduler

STREAMS = ("park7/gw01/inv1", "park7/gw01/inv2")
EVERY_S = 10.0


class ManualOutbox:
    """An outbox that answers when the test calls ``serve``."""

    def __init__(self) -> None:
        self.open: dict[int, OutboxItem] = {}
        self.asked: deque[Callable[[], None]] = deque()

    def fetch(self, dest: str, after: int, limit: int, max_bytes: int, callback: Callable[..., None]) -> None:
        self.asked.append(lambda: callback(self._page(sorted(n for n in self.open if n > after), limit, max_bytes)))

    def _page(self, numbers: Sequence[int], limit: int, max_bytes: int) -> list[OutboxItem]:
        found: list[OutboxItem] = []
        for number in numbers[:limit]:
            if found and sum(len(i.data) for i in found) + len(self.open[number].data) > max_bytes:
                break
            found.append(self.open[number])
        return found

    def births(self, after: str, limit: int, max_bytes: int, callback: Callable[..., None]) -> None:
        self.asked.append(lambda: callback([]))

    def confirm(self, dest: str, ids: Sequence[int]) -> None:
        raise AssertionError("called by the uplink only")

    def acknowledge(self, dest: str, acks: Sequence[Ack], callback: Callable[[int, str | None], None]) -> None:
        raise AssertionError("called by the uplink only")

    def serve(self) -> None:
        if self.asked:
            self.asked.popleft()()


class Rig:
    """A SendScheduler with its clock and outbox."""

    def __init__(
        self,
        window: int = 3,
        live_bytes: int = 400,
        rate: float = 50.0,
        replay: Callable[[int], OutboxItem | None] = lambda max_bytes: None,
    ) -> None:
        self.now, self.wall_ms = 1000.0, 1_795_500_000_000
        self.outbox = ManualOutbox()
        self.scheduler = SendScheduler(
            "platform", self.outbox, "m/v1/park7/gw01", window, rate, EVERY_S, replay, live_bytes,
            monotonic=lambda: self.now, wall_ms=lambda: self.wall_ms,
        )  # fmt: skip
        self.next_id, self.next_packet = 1, 1
        self.in_flight: dict[int, OutgoingMessage] = {}
        self.log: list[tuple[str, int]] = []  # kind and id of each message sent
        self.delivered: list[int] = []
        self.connected = False
        self.window = window
        self.mode = "subscriber"
        self.at_platform: set[int] = set()
        self.acks = False  # the platform acknowledges what it gets while all settles

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.wall_ms += int(seconds * 1000)

    def commit(self, count: int, size: int = 50, age_s: float = 0.0, stream: int = 0) -> list[int]:
        items = []
        for n in range(count):
            name = STREAMS[(stream + n) % len(STREAMS)]
            item = OutboxItem(self.next_id, name, b"x" * size, False, self.wall_ms - int(age_s * 1000))
            self.outbox.open[item.id] = item
            self.next_id += 1
            items.append(item)
        self.scheduler.inbound.offer(items)
        return [i.id for i in items]

    def connect(self, mode: str = "", receive_maximum: int = 65_535, max_packet: int = 1 << 30) -> None:
        self.mode = mode or self.mode
        self.scheduler.begin(self.mode, receive_maximum, max_packet)
        self.connected = True

    def cut(self, by_broker: bool = False) -> None:
        self.scheduler.end(by_broker)
        self.connected, self.in_flight = False, {}
        self._confirm()

    def send(self) -> int:
        self.scheduler.collect()
        count = 0
        while (message := self.scheduler.next()) is not None:
            busy = [p.id for p in self.in_flight.values() if p.id]
            assert message.id not in busy, "one pack twice in flight"
            self.in_flight[self.next_packet] = message
            self.scheduler.sent(self.next_packet, message)
            self.next_packet += 1
            self.log.append((message.kind, message.id))
            count += 1
            assert count < 10_000
        return count

    def answer(self, code: int = 0, which: int = 0) -> None:
        packet = list(self.in_flight)[which % len(self.in_flight)]
        message = self.in_flight.pop(packet)
        self.scheduler.on_puback(packet, code)
        if code == 0 and message.id:
            self.at_platform.add(message.id)
        self._confirm()

    def platform_acks(self, up_to: int) -> None:
        """The platform acknowledges what it got."""
        for number in sorted(self.at_platform)[:up_to]:
            self.at_platform.discard(number)
            if self.outbox.open.pop(number, None):
                self.delivered.append(number)
        self.scheduler.on_platform_ack()

    def _confirm(self) -> None:
        for number in self.scheduler.delivered:
            assert number in self.outbox.open, "delivered twice"
            del self.outbox.open[number]
            self.delivered.append(number)
        self.scheduler.delivered.clear()

    def turn(self) -> None:
        """A tenth of a second, in which all that is asked and sent is answered."""
        while self.outbox.asked:
            self.outbox.serve()
        self.send()
        while self.in_flight:
            self.answer()
        self.tick(0.1)

    def settle(self, code: Callable[[OutgoingMessage], int] = lambda message: 0, rounds: int = 3000) -> None:
        """Let everything that can happen happen."""
        for _ in range(rounds):
            while self.outbox.asked:
                self.outbox.serve()
            sent = self.send()
            while self.in_flight:
                self.answer(code(next(iter(self.in_flight.values()))))
            if self.acks:
                self.platform_acks(99)
            if not sent and not self.outbox.asked:
                if not self.outbox.open:
                    return
                self.tick(0.5)

    def sent(self, kind: str) -> list[int]:
        return [number for r, number in self.log if r == kind]


def test_live_packs_are_sent_from_memory_without_reading_the_store() -> None:
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.settle(rounds=5)
    while rig.outbox.asked:
        rig.outbox.serve()
    for _ in range(50):
        ids = rig.commit(3)
        rig.send()
        while rig.in_flight:
            rig.answer()
        assert rig.delivered[-3:] == ids
        assert not rig.outbox.asked, "no fetch in the steady state"
    assert rig.sent(LIVE) == list(range(1, 151))


def test_after_an_outage_old_packs_are_backfill_and_recent_ones_live() -> None:
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.settle()
    rig.cut()
    rig.commit(5, age_s=0)
    rig.tick(60)  # six intervals
    recent = rig.commit(3)
    rig.connect()
    rig.settle()
    assert sorted(rig.sent(LIVE)) == recent
    assert rig.sent(BACKFILL) == [1, 2, 3, 4, 5]


def test_packs_in_flight_at_a_disconnect_are_sent_as_backfill() -> None:
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.settle()
    rig.commit(3)
    assert rig.send() == 3
    rig.cut()
    later = rig.commit(2)
    rig.connect()
    rig.settle()
    assert rig.sent(LIVE) == [1, 2, 3, *later] and rig.sent(BACKFILL) == [1, 2, 3]
    assert sorted(rig.delivered) == [1, 2, 3, 4, 5]


def test_packs_that_overflow_memory_are_read_back_in_order_and_stay_live() -> None:
    rig = Rig(live_bytes=200, window=2)
    rig.connect()
    rig.settle()
    for _ in range(40):
        rig.commit(5)
        rig.outbox.serve()
        if rig.send():
            rig.answer()
        assert rig.scheduler.inbound.held_bytes <= 200
    rig.settle()
    assert rig.sent(LIVE) == list(range(1, 201)) and not rig.sent(BACKFILL)
    # caught up: new packs are kept in memory again
    while rig.outbox.asked:
        rig.outbox.serve()
    rig.scheduler.collect()
    rig.commit(2)
    rig.send()
    assert rig.sent(LIVE)[-2:] == [201, 202] and not rig.outbox.asked


def test_the_backlog_keeps_its_rate() -> None:
    rig = Rig(rate=10.0, window=50)
    rig.commit(300, age_s=3600)
    rig.tick(3600)
    rig.connect()
    begin = rig.now
    while rig.outbox.open:
        rig.turn()
        assert len(rig.sent(BACKFILL)) <= (rig.now - begin) * 10 + 6
    assert 25 <= rig.now - begin <= 35 and rig.sent(BACKFILL) == list(range(1, 301))


def test_another_rate_and_another_pack_interval_apply_at_once() -> None:
    """A reload changes them, and the destination stays connected with the packs that wait."""
    rig = Rig(rate=10.0, window=50)
    rig.commit(300, age_s=3600)
    rig.tick(3600)
    rig.connect()
    rig.scheduler.change_rates(100.0, 100 * EVERY_S)
    begin = rig.now
    while rig.outbox.open:
        rig.turn()
    assert 2 <= rig.now - begin <= 4 and rig.sent(BACKFILL) == list(range(1, 301))
    (number,) = rig.commit(1, age_s=50 * EVERY_S)
    rig.settle()
    assert rig.sent(LIVE) == [number], "not late with the longer interval"


def test_a_quota_pauses_everything_with_exponential_backoff() -> None:
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.settle(rounds=3)
    rig.commit(10)
    for pause_s in (1.0, 2.0, 4.0):
        assert rig.send() == 3
        while rig.in_flight:
            rig.answer(0x97)
        rig.tick(pause_s - 0.01)
        assert rig.send() == 0 and 0 < rig.scheduler.wait_s() <= 0.0101
        rig.tick(0.02)
    rig.settle()
    assert sorted(rig.delivered) == list(range(1, 11)) and not rig.scheduler.has_fault


def test_draining_sends_live_packs_and_no_backlog() -> None:
    rig = Rig(live_bytes=10_000)
    rig.commit(20, age_s=3600)
    rig.connect()
    rig.settle(rounds=3)
    before = rig.sent(BACKFILL)
    assert 0 < len(before) < 20
    recent = rig.commit(10)
    rig.scheduler.draining = True
    rig.settle(rounds=200)
    assert rig.sent(LIVE) == recent and rig.sent(BACKFILL) == before and rig.scheduler.idle


def test_draining_sends_packs_committed_while_it_drains_however_old_they_are() -> None:
    """Packs that a short life recovered are sealed when it ends: the backlog would keep them until the next start."""
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.settle(rounds=3)
    rig.scheduler.draining = True
    old, recent = rig.commit(5, age_s=3600), rig.commit(2)
    rig.settle(rounds=200)
    assert rig.sent(BACKFILL) == old and rig.sent(LIVE) == recent and rig.scheduler.idle
    assert sorted(rig.delivered) == old + recent


@pytest.mark.parametrize(("code", "most_s"), [(0x10, 10), (0x87, 60)], ids=["no subscriber", "not authorized"])
def test_a_topic_that_is_refused_has_one_probe_in_a_while_however_large_the_backlog(code: int, most_s: int) -> None:
    """Somebody who subscribes hears the gateway in ten seconds (it was up to a minute)."""
    rig = Rig(live_bytes=100_000, window=5)
    rig.commit(5000, age_s=3600)
    rig.connect()

    def second(answer: int) -> None:
        while rig.outbox.asked:
            rig.outbox.serve()
        rig.send()
        while rig.in_flight:
            rig.answer(answer)
        rig.commit(1)
        rig.tick(1.0)

    begin = rig.now
    while rig.now - begin < 600:
        second(code)
    assert len(rig.log) < 600 / most_s + 20, "in ten minutes: some at the beginning, then one in a while"
    assert not rig.delivered
    came = rig.now
    while not rig.delivered and rig.now - came < 600:
        second(0)
    assert rig.now - came <= most_s + 2
    rig.settle()
    assert not rig.outbox.open and len(set(rig.delivered)) == rig.next_id - 1


@pytest.mark.parametrize(("stream", "kind"), [(STREAMS[0], ""), ("", BACKFILL)], ids=["a device", "the backlog"])
@pytest.mark.parametrize("code", [0x10, 0x87])
def test_a_topic_that_is_refused_for_good_leaves_the_other_topics_their_probes(
    stream: str, kind: str, code: int
) -> None:
    """It got every probe: after a restart of the platform, which blocked all topics for a moment, nothing came."""
    rig = Rig(live_bytes=100_000, window=5)
    rig.connect()

    def seconds(count: int, others: int) -> None:
        for n in range(count):
            if n % 10 == 0:
                rig.commit(2)
            for _ in range(3):
                rig.outbox.serve()
                rig.send()
                while rig.in_flight:
                    message = next(iter(rig.in_flight.values()))
                    forbidden = stream in {message.stream, ""} and kind in {message.kind, ""}
                    rig.answer(code if forbidden else others)
            rig.tick(1.0)

    seconds(120, others=0)
    seconds(120, others=0x10)
    seconds(240, others=0)
    owed = len(rig.outbox.open)
    newest = rig.commit(1, stream=1)
    seconds(30, others=0)
    assert newest[0] in rig.delivered
    assert owed <= (26 + 48 if kind == "" else 48), "all packs of the topics that are not refused"


@pytest.mark.parametrize(("reconnects", "most_s"), [(False, 340), (True, 30)], ids=["connected", "reconnects"])
def test_a_stream_without_new_packs_does_not_end_the_probes_of_live_topics(reconnects: bool, most_s: int) -> None:
    """Of the live topics, each had its probe but that of a removed device: no live pack was ever sent again."""
    rig = Rig(live_bytes=100_000, window=5)
    rig.connect()

    def seconds(count: int, live: int) -> None:
        for n in range(count):
            if n % 10 == 0:
                rig.commit(1, stream=0)
            for _ in range(3):
                rig.outbox.serve()
                rig.send()
                while rig.in_flight:
                    message = next(iter(rig.in_flight.values()))
                    rig.answer(0x10 if message.kind == BACKFILL else live)
            rig.tick(1.0)

    rig.commit(1, stream=1)  # its last pack
    seconds(120, live=0x10)
    assert not rig.delivered
    if reconnects:
        rig.cut()
        rig.connect()
    seconds(most_s, live=0)
    assert rig.delivered, "the subscriber of the live topics is back"


def test_whether_somebody_subscribes_is_known_from_the_answers() -> None:
    """One topic that nobody reads is enough to say no; with MQTT 3.1.1 a success tells nothing."""
    rig = Rig(live_bytes=100_000)
    rig.connect("subscriber")
    assert rig.scheduler.subscriber is None, "nothing was sent yet"
    rig.commit(1, stream=0)
    rig.send()
    rig.answer()
    assert rig.scheduler.subscriber is True
    rig.commit(1, stream=1)
    rig.send()
    rig.answer(0x10)
    assert rig.scheduler.subscriber is False
    assert rig.scheduler.refused == 0, "nobody was there; the broker refused nothing"
    rig.settle()
    rig.tick(61)
    rig.commit(1, stream=1)
    rig.settle()
    assert rig.scheduler.subscriber is True, "the probe was accepted"
    rig.cut()
    rig.connect("broker")
    rig.commit(1)
    rig.settle()
    assert rig.scheduler.subscriber is None


def test_blocked_topics_whose_packs_are_gone_do_not_keep_the_store_busy() -> None:
    """The backlog was read again and again for a probe, without a pause, until a new pack of the topic came."""
    rig = Rig(live_bytes=10_000)
    rig.connect()
    rig.commit(3)
    rig.settle(lambda message: 0x10, rounds=20)
    rig.outbox.open.clear()  # dropped at the store's size limit
    reads = 0
    for _ in range(1000):
        rig.send()
        reads += len(rig.outbox.asked)
        rig.outbox.serve()
        rig.tick(0.1)
    assert reads < 20, "a hundred seconds with exponential backoff"
    rig.commit(1)
    rig.settle()
    assert rig.delivered == [4] and not rig.scheduler.has_fault


def test_a_pack_refused_while_the_backlog_is_read_for_a_probe_waits_for_the_next_one() -> None:
    rig = Rig(window=20, live_bytes=10_000, rate=1e6)
    rig.connect()
    rig.settle(rounds=3)
    rig.commit(3)
    rig.send()
    while rig.in_flight:
        rig.answer(0x10)
    rig.tick(1.1)  # a probe is due
    assert rig.send() == 0
    rig.outbox.serve()
    assert rig.send() == 3 and rig.log[-1] == (BACKFILL, 3)
    rig.answer(0x10)
    rig.outbox.serve()  # there is no more
    rig.settle()
    assert sorted(rig.delivered) == [1, 2, 3]


def test_only_the_page_of_the_last_request_counts() -> None:
    """After 30 s without an answer the store is asked again; both answers came, and packs between them were lost."""
    now, requests = [1000.0], list[int]()
    woken = list[float]()
    inbound = InboundQueue(1000, lambda: now[0], lambda: woken.append(now[0]))
    cursor = OutboxCursor(lambda cursor, *_: requests.append(cursor.request_number), lambda: now[0])
    page = [OutboxItem(6, STREAMS[0], b"x", False, 0)]
    inbound.open(0.0)
    cursor.restart(5)
    assert not cursor.ready
    now[0] += 31
    inbound.put_page(cursor, requests[0], page)
    assert not cursor.ready and len(requests) == 2
    assert inbound.take() is None, "it arrived just before the second request"
    inbound.put_page(cursor, requests[0], page)
    assert inbound.take() is None
    woken.clear()
    inbound.put_page(cursor, requests[1], page)
    assert woken, "the thread that sends hears of it"
    assert inbound.take() == (cursor, page, 0.0)


def test_packs_that_the_platform_does_not_acknowledge_are_resent_with_backoff() -> None:
    rig = Rig(live_bytes=10_000, window=10)
    rig.connect("platform")
    rig.settle(rounds=3)
    rig.commit(4)
    rig.settle(rounds=20)
    assert rig.sent(LIVE) == [1, 2, 3, 4] and rig.scheduler.delivered == []
    for _ in range(50):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert not rig.sent(BACKFILL), "not within the first minute"
    del rig.outbox.open[1]  # the platform acknowledged this one
    for _ in range(120):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert rig.sent(BACKFILL)[:3] == [2, 3, 4]
    seen = len(rig.sent(BACKFILL))
    for _ in range(60):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert len(rig.sent(BACKFILL)) <= seen + 3, "with exponential backoff"


def test_packs_are_resent_within_a_minute_after_the_platform_acknowledges_again() -> None:
    """An ack reset the backoff, but packs of the outage waited up to an hour for the resend that was planned before."""
    rig = Rig(live_bytes=10_000, window=10)
    rig.connect("platform")
    rig.settle(rounds=3)
    rig.commit(2)
    for _ in range(2 * 3600):
        rig.tick(1.0)
        rig.settle(rounds=1)
    assert len(rig.sent(BACKFILL)) <= 2 * 7, "the delays have grown to more than half an hour"
    rig.at_platform.clear()  # the platform lost them in its outage
    rig.commit(1)
    rig.settle(rounds=1)
    rig.platform_acks(1)
    seen = len(rig.sent(BACKFILL))
    for _ in range(62):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert rig.delivered == [3] and rig.sent(BACKFILL)[seen:] == [1, 2]


@pytest.mark.parametrize("why", ["window full", "paused", "draining"])
def test_a_resend_that_must_wait_does_not_keep_the_uplink_awake(why: str) -> None:
    """The wait was 0 from the moment at which a resend was due, and the thread took a whole processor."""
    rig = Rig(live_bytes=10_000, window=2)
    rig.connect("platform")
    rig.settle(rounds=3)
    rig.commit(2)
    rig.send()
    rig.tick(59.5)
    if why == "paused":
        rig.answer(0x97)  # for a second
    if why == "draining":
        rig.answer()
        rig.scheduler.draining = True
    rig.tick(0.6)
    assert rig.send() == 0 and rig.scheduler.wait_s() > 0.05


class DyingBroker:
    """Answers all packs but those for which ``dies`` is true: at these it closes the connection.

    The uplink is connected again a second later.
    """

    def __init__(self, rig: Rig, dies: Callable[[OutgoingMessage], bool]) -> None:
        self.rig, self.dies = rig, dies
        self.disconnects: list[float] = []
        self.came: list[tuple[float, OutgoingMessage]] = []

    def tenth(self) -> None:
        """Let a tenth of a second pass, in which all that is sent is answered in its order."""
        rig = self.rig
        if not rig.connected and rig.now >= self.disconnects[-1] + 1.0:
            rig.connect()
        while rig.connected and (rig.outbox.asked or rig.send() or rig.in_flight):
            rig.outbox.serve()
            if not rig.in_flight:
                continue
            message = next(iter(rig.in_flight.values()))
            if self.dies(message):
                self.disconnects.append(rig.now)
                rig.cut(by_broker=True)
                break
            self.came.append((rig.now, message))
            rig.answer()
        rig.tick(0.1)

    def seconds(self, count: int, sizes: Sequence[int]) -> None:
        """Let seconds pass, in each of which every stream seals a pack of its size."""
        for _ in range(count):
            for stream, size in enumerate(sizes):
                self.rig.commit(1, size=size, stream=stream)
            for _ in range(10):
                self.tenth()


def test_a_broker_that_disconnects_at_each_large_pack_delays_no_other_stream() -> None:
    """Each large pack cost four connections with delays of up to a minute, and all streams waited for them."""
    rig = Rig(live_bytes=100_000, window=20)
    rig.connect()
    broker = DyingBroker(rig, lambda message: len(message.data) > 1000)

    broker.seconds(120, sizes=(2000, 50))
    small = [at for at, message in broker.came if message.stream == STREAMS[1]]
    whole_s, broker.dies = rig.now, lambda message: False
    broker.seconds(30, sizes=(2000, 50))

    assert max(b - a for a, b in pairwise(small)) <= 3.0, "at most two disconnects in succession"
    assert len(broker.disconnects) <= 120 / 8 + 5, "one each time that a large pack is tried again"
    large = [at for at, message in broker.came if message.stream == STREAMS[0]]
    assert large[0] - whole_s <= 8.5
    left = set(rig.outbox.open)
    assert left == rig.scheduler.quarantined and 0 < len(left) <= 10, "tried three times each, kept for the next start"
    assert sorted([*rig.delivered, *left]) == list(range(1, rig.next_id)), "nothing lost, nothing confirmed twice"


def test_after_ten_minutes_a_broker_that_disconnects_at_a_pack_is_tried_once_a_minute() -> None:
    rig = Rig(live_bytes=100_000, window=20)
    rig.connect()
    broker = DyingBroker(rig, lambda message: len(message.data) > 1000)

    broker.seconds(1800, sizes=(2000, 50))

    late = [at for at in broker.disconnects if at >= 1000.0 + 700]
    assert 15 <= len(late) <= 20 and min(b - a for a, b in pairwise(late)) >= 55.0


def test_one_pack_that_makes_the_broker_disconnect_holds_back_its_stream_for_seconds() -> None:
    """The other packs of its stream arrive as soon as it is set aside, after three disconnects at this pack alone."""
    rig = Rig(live_bytes=100_000, window=20)
    rig.connect()
    broker = DyingBroker(rig, lambda message: message.id == 5)

    broker.seconds(30, sizes=(50, 50))

    assert rig.scheduler.quarantined == {5} == set(rig.outbox.open) and len(broker.disconnects) <= 5
    assert not rig.scheduler.blocked
    assert broker.disconnects[-1] - broker.disconnects[0] <= 15.0


def test_a_pack_larger_than_the_broker_accepts_is_quarantined() -> None:
    rig = Rig(live_bytes=100_000)
    rig.connect(max_packet=1000)
    rig.settle(rounds=3)
    large = rig.commit(1, size=2000)
    rig.commit(3)
    rig.settle(rounds=50)
    assert sorted(rig.delivered) == [2, 3, 4] and list(rig.scheduler.quarantined) == large


def test_a_replay_wakes_the_uplink_only_when_a_pack_may_be_sent() -> None:
    """It woke up 20 times a second as long as there was a job, also while that job waited for the store."""
    packs = deque[OutboxItem]()
    rig = Rig(window=50, rate=10.0, replay=lambda max_bytes: packs.popleft() if packs else None)
    rig.connect()
    rig.settle(rounds=3)
    assert rig.send() == 0 and rig.scheduler.wait_s() == REFRESH_S, "the job waits for the store, which wakes it"
    packs.extend(OutboxItem(n, STREAMS[0], b"x", False, 0) for n in range(1, 100))
    assert rig.send() == 5, "a burst of half a second"
    assert rig.scheduler.wait_s() == pytest.approx(0.1), "until the next pack may be sent"
    rig.tick(0.1001)
    assert rig.send() == 1
    rig.scheduler.publish("m/v1/park7/gw01/replay/reply", b"{}", retain=False)
    assert rig.scheduler.wait_s() == 0.0, "a reply does not wait"


def test_a_reply_that_waits_for_the_window_does_not_keep_the_uplink_awake() -> None:
    rig = Rig(window=2, live_bytes=10_000)
    rig.connect()
    rig.settle(rounds=3)
    rig.commit(5)
    assert rig.send() == 2
    rig.scheduler.publish("m/v1/park7/gw01/replay/reply", b"{}", retain=False)
    assert rig.scheduler.wait_s() > 0.1, "a PUBACK wakes it"
    rig.answer()
    assert rig.scheduler.wait_s() == 0.0


class AnyOrder(RuleBasedStateMachine):
    """Commits, disconnects, refusals, a slow store, time: in any order."""

    @initialize(
        window=st.integers(1, 5),
        fresh=st.sampled_from([0, 120, 100_000]),
        rate=st.sampled_from([2.0, 20.0, 1e6]),
        mode=st.sampled_from(["subscriber", "broker", "platform"]),
    )
    def setup(self, window: int, fresh: int, rate: float, mode: str) -> None:
        self.rig = Rig(window, fresh, rate)
        self.rig.mode = mode
        self.rig.acks = mode == "platform"

    @precondition(lambda self: self.rig.mode == "platform")
    @rule(count=st.integers(1, 5))
    def ack(self, count: int) -> None:
        self.rig.platform_acks(count)

    @rule(count=st.integers(1, 8), size=st.integers(1, 90), age=st.sampled_from([0.0, 0.0, 20.0, 500.0]))
    def commit(self, count: int, size: int, age: float) -> None:
        self.rig.commit(count, size, age)

    @precondition(lambda self: not self.rig.connected)
    @rule(maximum=st.sampled_from([1, 2, 65_535]))
    def connect(self, maximum: int) -> None:
        self.rig.connect(receive_maximum=maximum)

    @precondition(lambda self: self.rig.connected)
    @rule(by_broker=st.booleans())
    def cut(self, by_broker: bool) -> None:
        self.rig.cut(by_broker)

    @precondition(lambda self: self.rig.connected)
    @rule()
    def send(self) -> None:
        self.rig.send()

    @precondition(lambda self: self.rig.in_flight)
    @rule(code=st.sampled_from([0, 0, 0, 0, 0x10, 0x87, 0x97, 0x91, 0x80]), which=st.integers(0, 9))
    def answer(self, code: int, which: int) -> None:
        self.rig.answer(code, which)

    @rule()
    def serve(self) -> None:
        self.rig.outbox.serve()

    @rule(seconds=st.sampled_from([0.01, 1.0, 40.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.rig.tick(seconds)

    @precondition(lambda self: hasattr(self, "rig"))
    @invariant()
    def bounded(self) -> None:
        rig = self.rig
        assert rig.scheduler.in_flight == len(rig.in_flight) <= rig.window
        assert rig.scheduler.inbound.held_bytes <= rig.scheduler.inbound.max_bytes
        fresh = rig.sent(LIVE)
        assert fresh == sorted(set(fresh)), "live packs are sent in order, each once"
        assert rig.scheduler.wait_s() >= 0

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        if rig.connected:
            rig.settle()
            left = set(rig.outbox.open) - rig.scheduler.quarantined
            assert not left, f"{left} wait for a reconnect"
            rig.cut()
        rig.scheduler.quarantined.clear()  # packs that were alone in flight at three disconnects
        rig.connect()
        rig.settle()
        assert not rig.outbox.open, "everything arrives in the end"
        assert sorted(rig.delivered) == list(range(1, rig.next_id)), "and is confirmed once"


AnyOrder.TestCase.settings = settings(stateful_step_count=40)
TestAnyOrder: Any = AnyOrder.TestCase


def test_the_backlog_ends_before_the_first_pack_that_was_offered_however_many_follow() -> None:
    inbound = InboundQueue(1 << 20, lambda: 0.0, lambda: None)

    for numbers in ((4, 5), (6,), (7, 8)):
        inbound.offer([OutboxItem(number, STREAMS[0], b"x", False, 0) for number in numbers])

    assert (inbound.first_offered, inbound.last_offered) == (4, 8)
