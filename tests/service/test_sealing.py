"""When what is sealed, with a clock that is set at the worst moment."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agent.clock import SteadyClock
from agent.outbox import Ack
from agent.pack import BirthTable, Packer
from agent.service import db_thread as writing
from agent.service.db_thread import DatabaseThread
from agent.service.seal_jobs import SealedSegment, SealJob, Stream
from agent.service.sealing import SealScheduler
from agent.service.status import summary
from agent.store import Store, StoreFull
from agent.verify.signed import payload_hash
from drivers.model import Reason
from ext.ring import Ring
from tests.kits.metered_days import packs

EVERY_MS = 100


class SetClock:
    """A wall clock that a test can set; the monotonic one is the machine's."""

    def __init__(self) -> None:
        self.beside_ns = 0
        self.steady = SteadyClock(lambda: time.time_ns() + self.beside_ns, time.monotonic_ns)


class CountingWriter:
    """Takes a while for each commit, as a card does, and notes up to where each stream was sealed."""

    def __init__(self) -> None:
        self.sealed: list[tuple[str, int]] = []
        self.begun = asyncio.Event()

    async def seal(self, jobs: Sequence[SealJob], whole: bool = False) -> int:
        self.begun.set()
        await asyncio.sleep(0.02)
        self.sealed += [(job.stream.name, job.step_ms or job.to_ms) for job in jobs]
        return len(jobs)


class EmptyRing:
    """A ring that nobody writes."""

    slots, head, tail = 1 << 12, 0, 0


class Gateway(Stream):
    """A stream that always has something to say."""

    def __init__(self, name: str, start_ms: int) -> None:
        super().__init__(name, cast(Packer, None), start_ms)
        self.switch_table(0, cast(BirthTable, None), start_ms, cast(Ring, EmptyRing()))

    def due(self, to_ms: int) -> bool:
        return True

    def job(self, to_ms: int, unknown: Any = None) -> SealJob:
        return SealJob(self, to_ms, [], [])


async def test_a_clock_set_back_while_a_pack_is_committed_does_not_stop_sealing() -> None:
    """It did, for as long as the step was: the pause to the next boundary was counted from the old time."""
    clock, db_thread = SetClock(), CountingWriter()
    sealing = SealScheduler(cast(DatabaseThread, db_thread), clock.steady, EVERY_MS)
    gateway = Gateway("park7/gw01/_gateway", clock.steady.now_ms())
    sealing.open(gateway)
    task = asyncio.create_task(sealing.run())
    try:
        for _ in range(3):
            db_thread.begun.clear()
            await asyncio.wait_for(db_thread.begun.wait(), 60)
        clock.beside_ns -= 3_600_000_000_000  # while this commit is on its way
        step = clock.steady.check_step()
        assert step and step[1] - step[0] < -3_590_000
        waiting = asyncio.create_task(sealing.seal(step[0], [gateway]))  # and another one waits for its turn
        assert await sealing.cut(*step)
        clock.steady.take_step()
        await waiting
        done = len(db_thread.sealed)
        assert db_thread.sealed[-1][1] <= clock.steady.now_ms() + 1, "nothing is sealed up to a time that is not yet"
        async with asyncio.timeout(60):
            while len(db_thread.sealed) < done + 3:  # noqa: ASYNC110 - the fake writer has no event to wait for
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert all(at <= clock.steady.now_ms() + 1 for _, at in db_thread.sealed[done:])


def test_an_event_with_a_later_time_than_the_job_stays_and_no_other_is_sealed_twice() -> None:
    """One that was noted just before the clock was set back: it was forgotten, and the one after it sealed again."""
    stream = Stream("park7/gw01/_gateway", cast(Packer, None), 0)
    stream.switch_table(0, cast(BirthTable, None), 0, cast(Ring, EmptyRing()))
    stream.events = [(5000, {"event": "later"}), (1000, {"event": "b"}), (1500, {"event": "c"}), (2000, {"event": "d"})]
    job = stream.job(2000)
    assert [event["event"] for _, event in job.events] == ["b", "c"]
    stream.done(job)
    assert [event["event"] for _, event in stream.events] == ["later", "d"]


class Visits:
    """A device whose visits a test lets end; by its own ticks it is always settled."""

    first_ms, settled_ms = 0, 1 << 62

    def __init__(self, idle: bool) -> None:
        self.idle = idle


async def test_the_answers_of_the_boundary_go_first_and_a_device_that_is_always_busy_holds_up_nothing() -> None:
    clock, db_thread = SetClock(), CountingWriter()
    sealing = SealScheduler(cast(DatabaseThread, db_thread), clock.steady, 1_000_000_000)
    sealing.open(Gateway("park7/gw01/_gateway", 0))
    turns = [Visits(idle=False), Visits(idle=False), Visits(idle=True)]
    for n, visits in enumerate(turns):
        sealing.add(Gateway(f"park7/gw01/d{n}", 0), cast(Any, visits))
    loop = asyncio.get_running_loop()
    waiting = asyncio.create_task(sealing.wait_for_burst(30))
    for visits in turns[:2]:
        await asyncio.wait([waiting], timeout=0.05)
        assert not waiting.done()
        visits.idle = True
        turns[2].idle = False  # its next tick: not of this burst
    await asyncio.wait_for(waiting, 60)
    start = loop.time()
    await asyncio.wait_for(sealing.wait_for_burst(0.05), 60)
    assert loop.time() - start >= 0.05


CLOCK: dict[str, Any] = {"error_ms": None, "kernel_boot": "0" * 36, "mono_ms": 1, "synced": True}
POINTS = [{"n": "ac.power.active", "u": "W", "kind": "gauge", "pace": "fast", "period": 1, "phase": 0, "source": None}]


def narrow_store(path: Path, full_at: int) -> Store:
    """Has no room for one of its commits, whichever the test chooses."""
    store, commits = Store.open(path), count(1)
    commit = store.packs.commit

    def narrow(packs: Any, *more: Any, **rest: Any) -> list[int]:
        if packs and next(commits) == full_at:
            raise StoreFull("no room", where="here")
        return commit(packs, *more, **rest)

    store.packs.commit = narrow  # type: ignore[method-assign]
    return store


@pytest.mark.parametrize("full_at", range(1, 8))
async def test_a_disk_that_fills_up_during_a_step_back_covers_no_stretch_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: int
) -> None:
    """Some streams had taken the step, the others not; the next try then sealed the former up to the old time again."""
    monkeypatch.setattr(writing, "COMMIT_BYTES", 1)  # a transaction a stream
    start = time.time_ns() // 1_000_000 // 1000 * 1000 - 60_000
    db_thread = DatabaseThread(lambda: narrow_store(tmp_path / "store.db", full_at), lambda: CLOCK)
    await db_thread.start()
    clock = SetClock()
    sealing = SealScheduler(db_thread, clock.steady, 1000)
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 8, bytes(32))
    names = [f"park7/gw01/{name}" for name in ("_gateway", "a", "b", "c")]
    try:
        streams: list[Stream] = []
        for name in names:
            table = BirthTable(name, {"config": None, "device": None, "points": POINTS if name[-1] in "abc" else []})
            stream = Stream(name, Packer(name, "0" * 15 + "1", None, lambda payload: "e30..sig", start, 65536), start)
            stream.switch_table(len(streams), table, start, ring)
            streams.append(stream)
        sealing.open(streams[0])
        for stream in streams[1:]:
            sealing.streams[stream.name] = stream

        def record(tick: int) -> None:
            for stream in streams[1:]:
                number = stream.table_version.number
                stream.record(number, [ring.append_values(number, tick, tick * 1_000_000, 1, [(0, 1, 0, 0)])], True)

        for tick in range(start, start + 20_000, 1000):
            record(tick)
        old, new = start + 20_000, start + 5_500
        while not await sealing.cut(old, new):  # the clock is not set until all took the step: one more tick is read
            record(old)
            old, new = old + 1000, new + 1000
        again = range(new + 500, start + 12_000, 1000)
        for tick in again:
            record(tick)
        while not await sealing.seal(start + 12_000, streams):
            pass
        found = await db_thread.call(
            lambda store: {n: [json.loads(p.data) for p in store.packs.after(n, 0, 1 << 30)] for n in names}
        )
        for name, packs in found.items():
            assert sum(covers_twice(packs)) == 0, (name, [(p["from"], p["to"], p.get("events")) for p in packs])
            steps = [e for p in packs for e in p.get("events", ()) if e["event"] == "clock_step"]
            assert len(steps) == 1
            if name[-1] in "abc":
                assert sum(len(p.get("e", ())) for p in packs) == (old - start) // 1000 + len(again)
    finally:
        ring.close()
        await db_thread.stop()


async def test_a_stop_while_a_pack_is_committed_seals_no_reading_twice(tmp_path: Path) -> None:
    """The sealer was cancelled before it could note what was sealed; the last seal then took all of it once more."""

    began = threading.Event()

    def slow_store() -> Store:
        store = Store.open(tmp_path / "store.db")
        commit = store.packs.commit

        def slow(*args: Any, **more: Any) -> list[int]:
            began.set()
            time.sleep(0.2)  # as a card does; in the database thread
            return commit(*args, **more)

        store.packs.commit = slow  # type: ignore[method-assign]
        return store

    start = time.time_ns() // 1_000_000 // 1000 * 1000 - 10_000
    db_thread = DatabaseThread(slow_store, lambda: CLOCK)
    await db_thread.start()
    sealing = SealScheduler(db_thread, SetClock().steady, 1000)
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 8, bytes(32))
    table = BirthTable("park7/gw01/a", {"config": None, "device": None, "points": POINTS})
    stream = Stream(table.stream, Packer(table.stream, "0" * 16, None, lambda payload: "e30..sig", start, 65536), start)
    stream.switch_table(0, table, start, ring)
    sealing.open(stream)
    try:
        for tick in range(start, start + 8000, 1000):
            stream.record(0, [ring.append_values(0, tick, tick * 1_000_000, 1, [(0, 1, 0, 0)])], True)
        task = asyncio.create_task(sealing.seal(start + 8000, [stream]))
        async with asyncio.timeout(60):
            while not began.is_set():  # noqa: ASYNC110 - it is set in another thread
                await asyncio.sleep(0.005)
        task.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert await sealing.close()
        packs = [
            json.loads(p.data) for p in await db_thread.call(lambda store: store.packs.after(table.stream, 0, 1 << 30))
        ]
        assert sum(len(pack.get("e", ())) for pack in packs) == 8
        assert [e["event"] for pack in packs for e in pack.get("events", ())] == ["stop"]
        assert all(before["to"] == after["from"] for before, after in pairwise(packs))
    finally:
        ring.close()
        await db_thread.stop()


async def test_an_event_that_is_found_in_the_last_packs_of_a_run_is_sealed_before_the_stop_ends(tmp_path: Path) -> None:
    """A counter reset is found in sealed readings only, so its event waited for a pack that never came."""
    start = time.time_ns() // 1_000_000 // 1000 * 1000 - 10_000
    db_thread = DatabaseThread(lambda: Store.open(tmp_path / "store.db"), lambda: CLOCK)
    await db_thread.start()
    sealing = SealScheduler(db_thread, SetClock().steady, 1000)
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 7, 8, bytes(32))
    streams = []
    for number, name in enumerate(("park7/gw01/_gateway", "park7/gw01/a")):
        table = BirthTable(name, {"config": None, "device": None, "points": POINTS if number else []})
        stream = Stream(name, Packer(name, "0" * 16, None, lambda payload: "e30..sig", start, 65536), start)
        stream.switch_table(number, table, start, ring)
        streams.append(stream)
    sealing.open(streams[0])
    sealing.streams[streams[1].name] = streams[1]
    loop = asyncio.get_running_loop()

    def find(store: Store, segments: Sequence[SealedSegment]) -> None:
        if any(segment.positions for segment in segments):
            loop.call_soon_threadsafe(sealing.add_event, streams[1], {"event": "counter", "kind": "reset"})

    db_thread.on_committed = find
    try:
        streams[1].record(1, [ring.append_values(1, start, start * 1_000_000, 1, [(0, 1, 0, 0)])], True)
        assert await sealing.close()
        packs = [
            json.loads(p.data)
            for p in await db_thread.call(lambda store: store.packs.after(streams[1].name, 0, 1 << 30))
        ]
        assert sum(len(pack.get("e", ())) for pack in packs) == 1
        assert [e["event"] for pack in packs for e in pack.get("events", ())] == ["counter"]
        assert all(before["to"] == after["from"] for before, after in pairwise(packs))
    finally:
        ring.close()
        await db_thread.stop()


async def test_the_reason_why_nothing_is_sealed_tells_the_key_from_the_store() -> None:
    """`status` called a key that cannot sign an error of the store."""
    sealing = SealScheduler(cast(Any, CountingWriter()), SetClock().steady, EVERY_MS)
    service = cast(Any, SimpleNamespace(
        clock=SetClock().steady, devices=[], uplinks=[], complaints=[], sealing=sealing
    ))  # fmt: skip
    for why, reason, told in (
        ("token: failed", (Reason.STOPPED,), "signing key: token: failed"),
        ("the disk is full", (), "store error: the disk is full"),
    ):
        sealing.set_trouble(why, *reason)
        assert sealing.key_trouble == (why if reason else None)
        assert summary(service).endswith(told)
    sealing.set_trouble(None)
    assert sealing.key_trouble is None and "error" not in summary(service)


def covers_twice(packs: Sequence[Mapping[str, Any]]) -> list[bool]:
    """For each pack: does it say of ticks that they are missing which an earlier one has readings of?"""
    read: set[int] = set()
    found = []
    for pack in packs:
        ticks = range(-int(-pack["from"] // 1), -int(-pack["to"] // 1))
        gaps = {t for gap in pack.get("gaps", ()) for t in ticks if gap["from"] <= t < gap["to"]}
        found.append(bool(gaps & read))
        base = 0.0
        for record in pack.get("e", ()):
            base = record.get("bt", base)
            read.add(int(base + record.get("t", 0)))
    return found


async def test_acknowledgements_that_keep_coming_are_durable_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each one put off the commit of all before: while sealing is paused, they never became durable."""
    path, clock = tmp_path / "store.db", SimpleNamespace(now=0.0)
    with closing(Store.open(path, destinations=["platform"])) as store:
        store.packs.commit(packs(1_795_780_800_000, 60))
        items = store.packs.pending("platform", limit=20)
    monkeypatch.setattr(writing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    db_thread = DatabaseThread(lambda: Store.open(path, destinations=["platform"]), dict)
    await db_thread.start()
    try:
        answers: list[tuple[int, str | None]] = []
        for number, item in enumerate(items[:12], 1):
            body = json.loads(item.data)
            ack = Ack(item.stream, body["boot"], body["seq"], body["seq"], payload_hash(item.data))
            db_thread.acknowledge("platform", [ack], lambda *answer: answers.append(answer))
            await db_thread.call(lambda store: None)
            assert answers == [(1, None)] * number
            clock.now += 0.3
            left = await db_thread.call(lambda store: store.packs.pending("platform", limit=20))
            assert len(items) - len(left) >= number - 4, "acknowledged more than a second ago"
    finally:
        await db_thread.stop()
