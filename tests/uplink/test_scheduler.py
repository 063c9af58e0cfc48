"""What goes next, by hand-made time: no order of events loses a pack, sends one twice at once, or fills the memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.outbox import Ack, OutboxItem
from agent.uplink.scheduler import BACKFILL, READINGS, Parcel, Traffic

STREAMS = ("park7/gw01/inv1", "park7/gw01/inv2")
EVERY_S = 10.0


class Books:
    """An outbox whose answers come when the test says so."""

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
        raise AssertionError("the engine's business")

    def acknowledge(self, dest: str, ack: Ack, callback: Callable[[str | None], None]) -> None:
        raise AssertionError("the engine's business")

    def serve(self) -> None:
        if self.asked:
            self.asked.popleft()()


class Rig:
    """A Traffic with its clock and its outbox."""

    def __init__(self, window: int = 3, fresh_bytes: int = 400, rate: float = 50.0) -> None:
        self.now, self.wall_ms = 1000.0, 1_795_500_000_000
        self.books = Books()
        self.traffic = Traffic(
            "platform", self.books, "m/v1/park7/gw01", window, rate, EVERY_S, fresh_bytes,
            monotonic=lambda: self.now, wall_ms=lambda: self.wall_ms,
        )  # fmt: skip
        self.next_id, self.next_packet = 1, 1
        self.flying: dict[int, Parcel] = {}
        self.log: list[tuple[str, int]] = []  # road, id of everything sent
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
            self.books.open[item.id] = item
            self.next_id += 1
            items.append(item)
        self.traffic.mailbox.offer(items)
        return [i.id for i in items]

    def connect(self, mode: str = "", receive_maximum: int = 65_535, max_packet: int = 1 << 30) -> None:
        self.mode = mode or self.mode
        self.traffic.begin(self.mode, receive_maximum, max_packet)
        self.connected = True

    def cut(self, by_broker: bool = False) -> None:
        self.traffic.end(by_broker)
        self.connected, self.flying = False, {}
        self._confirm()

    def send(self) -> int:
        self.traffic.collect()
        count = 0
        while (parcel := self.traffic.next()) is not None:
            busy = [p.id for p in self.flying.values() if p.id]
            assert parcel.id not in busy, "one pack twice in flight"
            self.flying[self.next_packet] = parcel
            self.traffic.sent(self.next_packet, parcel)
            self.next_packet += 1
            self.log.append((parcel.road, parcel.id))
            count += 1
            assert count < 10_000
        return count

    def answer(self, code: int = 0, which: int = 0) -> None:
        packet = list(self.flying)[which % len(self.flying)]
        parcel = self.flying.pop(packet)
        self.traffic.answered(packet, code)
        if code == 0 and parcel.id:
            self.at_platform.add(parcel.id)
        self._confirm()

    def platform_acks(self, up_to: int) -> None:
        """The platform acknowledges what it got."""
        for number in sorted(self.at_platform)[:up_to]:
            self.at_platform.discard(number)
            if self.books.open.pop(number, None):
                self.delivered.append(number)
        self.traffic.acknowledged()

    def _confirm(self) -> None:
        for number in self.traffic.delivered:
            assert number in self.books.open, "delivered twice"
            del self.books.open[number]
            self.delivered.append(number)
        self.traffic.delivered.clear()

    def settle(self, code: Callable[[Parcel], int] = lambda parcel: 0, rounds: int = 3000) -> None:
        """Let everything that can happen happen."""
        for _ in range(rounds):
            while self.books.asked:
                self.books.serve()
            sent = self.send()
            while self.flying:
                self.answer(code(next(iter(self.flying.values()))))
            if self.acks:
                self.platform_acks(99)
            if not sent and not self.books.asked:
                if not self.books.open:
                    return
                self.tick(0.5)

    def sent(self, road: str) -> list[int]:
        return [number for r, number in self.log if r == road]


def test_fresh_packs_go_from_memory_and_the_store_is_not_asked() -> None:
    rig = Rig(fresh_bytes=10_000)
    rig.connect()
    rig.settle(rounds=5)
    while rig.books.asked:
        rig.books.serve()
    for _ in range(50):
        ids = rig.commit(3)
        rig.send()
        while rig.flying:
            rig.answer()
        assert rig.delivered[-3:] == ids
        assert not rig.books.asked, "no fetch in the steady state"
    assert rig.sent(READINGS) == list(range(1, 151))


def test_after_an_outage_old_goes_by_backfill_and_young_by_readings() -> None:
    rig = Rig(fresh_bytes=10_000)
    rig.connect()
    rig.settle()
    rig.cut()
    rig.commit(5, age_s=0)
    rig.tick(60)  # six intervals
    young = rig.commit(3)
    rig.connect()
    rig.settle()
    assert sorted(rig.sent(READINGS)) == young
    assert rig.sent(BACKFILL) == [1, 2, 3, 4, 5]


def test_what_was_in_flight_at_a_disconnect_goes_by_backfill() -> None:
    rig = Rig(fresh_bytes=10_000)
    rig.connect()
    rig.settle()
    rig.commit(3)
    assert rig.send() == 3
    rig.cut()
    later = rig.commit(2)
    rig.connect()
    rig.settle()
    assert rig.sent(READINGS) == [1, 2, 3, *later] and rig.sent(BACKFILL) == [1, 2, 3]
    assert sorted(rig.delivered) == [1, 2, 3, 4, 5]


def test_more_than_fits_is_read_back_in_order_and_stays_fresh() -> None:
    rig = Rig(fresh_bytes=200, window=2)
    rig.connect()
    rig.settle()
    for _ in range(40):
        rig.commit(5)
        rig.books.serve()
        if rig.send():
            rig.answer()
        assert rig.traffic.mailbox.held_bytes <= 200
    rig.settle()
    assert rig.sent(READINGS) == list(range(1, 201)) and not rig.sent(BACKFILL)
    # and back to memory
    while rig.books.asked:
        rig.books.serve()
    rig.traffic.collect()
    rig.commit(2)
    rig.send()
    assert rig.sent(READINGS)[-2:] == [201, 202] and not rig.books.asked


def test_the_backlog_keeps_its_rate() -> None:
    rig = Rig(rate=10.0, window=50)
    rig.commit(300, age_s=3600)
    rig.tick(3600)
    rig.connect()
    begin = rig.now
    while rig.books.open:
        while rig.books.asked:
            rig.books.serve()
        rig.send()
        while rig.flying:
            rig.answer()
        rig.tick(0.1)
        assert len(rig.sent(BACKFILL)) <= (rig.now - begin) * 10 + 6
    assert 25 <= rig.now - begin <= 35 and rig.sent(BACKFILL) == list(range(1, 301))


def test_a_quota_stops_everything_for_a_while_that_doubles() -> None:
    rig = Rig(fresh_bytes=10_000)
    rig.connect()
    rig.settle(rounds=3)
    rig.commit(10)
    for pause_s in (1.0, 2.0, 4.0):
        assert rig.send() == 3
        while rig.flying:
            rig.answer(0x97)
        rig.tick(pause_s - 0.01)
        assert rig.send() == 0 and 0 < rig.traffic.wait_s() <= 0.0101
        rig.tick(0.02)
    rig.settle()
    assert sorted(rig.delivered) == list(range(1, 11)) and not rig.traffic.troubled


def test_an_end_sends_what_is_fresh_and_no_backlog() -> None:
    rig = Rig(fresh_bytes=10_000)
    rig.commit(20, age_s=3600)
    rig.connect()
    rig.settle(rounds=3)
    before = rig.sent(BACKFILL)
    assert 0 < len(before) < 20
    young = rig.commit(10)
    rig.traffic.draining = True
    rig.settle(rounds=200)
    assert rig.sent(READINGS) == young and rig.sent(BACKFILL) == before and rig.traffic.idle


def test_nobody_there_costs_one_pack_in_a_while_whatever_waits() -> None:
    rig = Rig(fresh_bytes=100_000, window=5)
    rig.commit(5000, age_s=3600)
    rig.connect()
    nobody = lambda parcel: 0x10  # noqa: E731
    begin = rig.now
    while rig.now - begin < 600:
        while rig.books.asked:
            rig.books.serve()
        rig.send()
        while rig.flying:
            rig.answer(nobody(next(iter(rig.flying.values()))))
        rig.commit(1)
        rig.tick(1.0)
    assert len(rig.log) < 40, "ten minutes at one probe a minute, after a quick beginning"
    assert not rig.delivered
    rig.settle()
    assert not rig.books.open and len(set(rig.delivered)) == rig.next_id - 1


def test_a_platform_that_does_not_acknowledge_hears_it_again_but_not_at_once() -> None:
    rig = Rig(fresh_bytes=10_000, window=10)
    rig.connect("platform")
    rig.settle(rounds=3)
    rig.commit(4)
    rig.settle(rounds=20)
    assert rig.sent(READINGS) == [1, 2, 3, 4] and rig.traffic.delivered == []
    for _ in range(50):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert not rig.sent(BACKFILL), "a platform may take its time"
    del rig.books.open[1]  # the platform acknowledged this one
    for _ in range(120):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert rig.sent(BACKFILL)[:3] == [2, 3, 4]
    seen = len(rig.sent(BACKFILL))
    for _ in range(60):
        rig.tick(1.0)
        rig.settle(rounds=2)
    assert len(rig.sent(BACKFILL)) <= seen + 3, "and less and less often"


def test_a_pack_above_the_brokers_size_waits_aside() -> None:
    rig = Rig(fresh_bytes=100_000)
    rig.connect(max_packet=1000)
    rig.settle(rounds=3)
    large = rig.commit(1, size=2000)
    rig.commit(3)
    rig.settle(rounds=50)
    assert sorted(rig.delivered) == [2, 3, 4] and list(rig.traffic.aside) == large


class AnyOrder(RuleBasedStateMachine):
    """Commits, cuts, refusals, slow store, time: in any order."""

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

    @precondition(lambda self: self.rig.flying)
    @rule(code=st.sampled_from([0, 0, 0, 0, 0x10, 0x87, 0x97, 0x91, 0x80]), which=st.integers(0, 9))
    def answer(self, code: int, which: int) -> None:
        self.rig.answer(code, which)

    @rule()
    def serve(self) -> None:
        self.rig.books.serve()

    @rule(seconds=st.sampled_from([0.01, 1.0, 40.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.rig.tick(seconds)

    @precondition(lambda self: hasattr(self, "rig"))
    @invariant()
    def bounded(self) -> None:
        rig = self.rig
        assert rig.traffic.in_flight == len(rig.flying) <= rig.window
        assert rig.traffic.mailbox.held_bytes <= rig.traffic.mailbox.max_bytes
        fresh = rig.sent(READINGS)
        assert fresh == sorted(set(fresh)), "the fresh road keeps the order and takes a pack once"
        assert rig.traffic.wait_s() >= 0

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        rig = self.rig
        if rig.connected:
            rig.cut()
        rig.traffic.aside.clear()  # packs that were alone in flight at three cuts
        rig.connect()
        rig.settle()
        assert not rig.books.open, "everything arrives in the end"
        assert sorted(rig.delivered) == list(range(1, rig.next_id)), "and is confirmed once"


AnyOrder.TestCase.settings = settings(stateful_step_count=40)
TestAnyOrder: Any = AnyOrder.TestCase
