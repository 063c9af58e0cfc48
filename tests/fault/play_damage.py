"""Scenarios: a database that is damaged at the start, an older copy put back, and two boxes with one key."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.store.errors import StoreDamaged, add_suspicion
from agent.verify import Report, Verdict
from tests.fault.play_kill import pause
from tests.kits.books import report_of
from tests.kits.faults.books import bodies, figures
from tests.kits.faults.rest import AtRest
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.tally import Ledger, Tally
from tests.kits.house import (
    DEADLINE_S,
    Agent,
    Broker,
    Heard,
    House,
    Listener,
    Name,
    come_home,
    devices_on,
    patience,
    until,
)

PERIOD_MS = 250
EVERY = f'{{ fast = "{PERIOD_MS} ms", normal = "1 s", slow = "5 s" }}'
PAGE = 4096


# --- what a bad card does to a file


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def pages(path: Path, rng: random.Random, count: int, first: int = 0) -> None:
    """Overwrite whole pages by random bytes."""
    there = max(path.stat().st_size // PAGE, 1)
    for page in rng.sample(range(min(first, there - 1), there), min(count, there - first)):
        overwrite(path, page * PAGE, rng.randbytes(PAGE))


def a_page(db: Path, wal: Path, rng: random.Random) -> None:
    pages(db, rng, 1)


def a_tenth_of_its_pages(db: Path, wal: Path, rng: random.Random) -> None:
    pages(db, rng, max(2, db.stat().st_size // PAGE // 10), first=1)


def zeros(db: Path, wal: Path, rng: random.Random) -> None:
    overwrite(db, rng.randrange(max(1, db.stat().st_size // PAGE)) * PAGE, bytes(PAGE))


def a_bit(db: Path, wal: Path, rng: random.Random) -> None:
    raw = bytearray(db.read_bytes())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    db.write_bytes(raw)


def cut_short(db: Path, wal: Path, rng: random.Random) -> None:
    with db.open("r+b") as file:
        file.truncate(rng.randrange(1, db.stat().st_size))


def the_header(db: Path, wal: Path, rng: random.Random) -> None:
    overwrite(db, 0, bytes(100))


def in_the_wal(db: Path, wal: Path, rng: random.Random) -> None:
    if wal.exists() and wal.stat().st_size > PAGE:
        overwrite(wal, rng.randrange(wal.stat().st_size - PAGE), rng.randbytes(rng.randrange(1, PAGE)))


def wal_cut_short(db: Path, wal: Path, rng: random.Random) -> None:
    if wal.exists() and wal.stat().st_size > PAGE:
        with wal.open("r+b") as file:
            file.truncate(rng.randrange(wal.stat().st_size))


DAMAGE: Sequence[Callable[[Path, Path, random.Random], None]] = (
    a_page, a_tenth_of_its_pages, zeros, a_bit, cut_short, the_header, in_the_wal, wal_cut_short,
)  # fmt: skip


@dataclass
class Park:
    """An arrangement with a past, to be copied and maltreated."""

    broker: Broker
    listener: Listener
    meters: dict[str, Tally]
    agent: Agent

    @property
    def state(self) -> Path:
        return self.agent.folder / self.agent.state

    def since(self, mark: int) -> list[Heard]:
        return list(self.listener.heard[mark:])


def a_park(house: House, devices: int = 6) -> Park:
    broker = house.broker()
    listener = house.listen(broker)
    meters = {f"m{n}": Tally(n) for n in range(1, devices + 1)}
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(*meters.values())},
        devices_on("roof", list(meters.values())),
        every=EVERY,
        more='[store]\nmax_size = "16 MiB"\n[ring]\nsize = "1 MiB"',
    )
    return Park(broker, listener, meters, agent)


def served_again(agent: Agent, most: int = 6) -> int:
    """Start it, and start it again when it ends by itself, as systemd does. Returns how often it ended."""
    for ended in range(most):
        agent.start(serving=False)
        began = time.monotonic()
        while time.monotonic() - began < DEADLINE_S * patience():
            assert agent.process
            if agent.process.poll() is not None:
                assert agent.wait() in (0, 1), agent.said
                break
            if "serving" in agent.said:
                return ended
            pause(0.02)
    raise AssertionError(f"it does not come up: {agent.said}")


def lives_on(park: Park) -> int:
    """Until a reading of each device has come that was served since. Returns how often the agent was restarted."""
    ended = served_again(park.agent)
    counts = {name: meter.count for name, meter in park.meters.items()}
    began = time.monotonic()
    while not all(max(park.listener.numbers(n), default=0) > count for n, count in counts.items()):
        assert park.agent.process and time.monotonic() - began < DEADLINE_S * patience(), park.agent.said
        if park.agent.process.poll() is not None:
            assert park.agent.wait() == 1, "ended by itself for a reason that it gave"
            ended += 1 + served_again(park.agent)
        pause(0.05)
    return ended


def end_well(park: Park, already: set[Name]) -> int:
    """Stop the agent when all has come that it sealed. Returns how often it was started for that."""
    restarts = 0
    try:
        code = come_home(park.agent, park.listener, already=already)
    except StoreDamaged:  # where nothing was read in the meantime: the daily check finds it, here the next start
        add_suspicion(park.state / "store.db")
        restarts = 1 + lives_on(park)
        code = come_home(park.agent, park.listener, already=already)
    assert code == 0, park.agent.said
    return restarts


def lineage(packs: Sequence[dict[str, Any]], heads: Collection[Name]) -> dict[str, set[str]]:
    """How each stream goes on from boot to boot, by what the packs themselves say: follows, anew, forked.

    Forked is also what a checkpoint had as the head and nobody got as a pack, where another pack has its sequence now.
    """
    found: dict[str, set[str]] = {}
    for pack in packs:
        if "prev_boot" not in pack:
            continue
        # by their time: on a busy machine the first may come after others, as backlog
        same = sorted(
            (other for other in packs if other["stream"] == pack["stream"]), key=lambda p: (p["from"], p["seq"])
        )
        kinds = found.setdefault(pack["stream"], set())
        if pack["prev"] is None:
            kinds.add("first" if pack is same[0] else "anew")
        else:
            kinds.add("forked" if sum(other["prev"] == pack["prev"] for other in same) > 1 else "follows")
    came = {(pack["stream"], pack["boot"], pack["seq"]) for pack in packs}
    for stream, boot, seq in heads:
        others = {one for name, one, number in came if (name, number) == (stream, seq)}
        if others and boot not in others:
            found.setdefault(stream, set()).add("forked")
    return found


def heads_in(heard: Sequence[Heard]) -> set[Name]:
    """What the checkpoints among the messages name as heads."""
    pages = [json.loads(m.payload) for m in heard if m.topic.split("/")[-2] == "checkpoint"]
    return {(head["stream"], head["boot"], head["seq"]) for page in pages for head in page["heads"]}


def judged_right(report: Report, packs: Sequence[dict[str, Any]], heads: Collection[Name]) -> Counter[str]:
    """Assert that the verifier says of each stream what its packs say themselves."""
    counts: Counter[str] = Counter()
    for stream, kinds in lineage(packs, heads).items():
        said = report.streams[stream]
        assert bool(said.conflicts) == ("forked" in kinds), (stream, kinds, said.conflicts)
        assert bool(said.restarts) == ("anew" in kinds), (stream, kinds, said.restarts)
        counts.update(kinds - {"first"})
    conflicts = any(stream.conflicts for stream in report.streams.values())
    open_ = report.missing or any(stream.restarts or stream.unchecked for stream in report.streams.values())
    wanted = Verdict.FAILED if conflicts else Verdict.INCOMPLETE if open_ else Verdict.VERIFIED
    assert report.verdict is wanted, (report.verdict, report.reasons)
    other = [fault for fault in report.faults if not (conflicts and "/checkpoint/" in fault.where)]  # they fork too
    assert not other, other[:5]
    return counts


@scenario(rounds=2, about_s=5, long=120, chunk=30, section="processes")
def damaged_databases(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Whatever the file is, the agent starts, keeps it, takes over what can be read, and the verifier judges it right.

    An even seed leaves a backlog: what is damaged then was never delivered. With an odd one all of it was.
    """
    rng = random.Random(seed)
    park = a_park(house)
    agent, listener, meters = park.agent, park.listener, park.meters
    agent.start()
    until(lambda: all(len(listener.packs(name)) >= 4 for name in meters), 30, lambda: agent.said)
    if seed % 2 == 0:
        park.broker.stop()
    pause(2.5)
    agent.kill()
    stored, owed = agent.sealed()
    until(lambda: stored - owed <= listener.names(), what="what the broker had taken")
    listener.close()
    before = [m for m in listener.heard if not m.retained]
    past = folder / "past"
    keep(park, past)
    undelivered = owed - names(before)
    if seed % 2 == 0:
        park.broker.start()
    # where the database is lost, checkpoints count on from the millisecond: one of the very next would seem to follow
    newest = max((json.loads(m.payload)["counter"] for m in before if "/checkpoint/" in m.topic), default=0)
    until(lambda: time.time() * 1000 > newest + 2, what="the millisecond after the last checkpoint is over")
    kinds: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for n in range(rounds):
        damage = DAMAGE[(seed // 2 + n) % len(DAMAGE)]
        put_back(park, past)
        if rng.random() < 0.3:  # the ring is gone too
            shutil.rmtree(agent.runtime)
        db = park.state / "store.db"
        damage(db, db.with_name("store.db-wal"), rng)
        park.listener = listener = house.listen(park.broker)
        sums["restarts"] += lives_on(park)
        sums["restarts"] += end_well(park, names(before))
        listener.close()
        heard = before + [m for m in listener.heard if not m.retained]
        report, packs = report_of(heard, agent.kid), bodies(heard)
        counts = judged_right(report, packs, heads_in(heard))
        kinds.update(counts)
        came = names(heard)
        sums["undelivered"] += len(undelivered)
        sums["delivered_later"] += len(undelivered & came)
        sums["stated_lost"] += report.lost
        sums["not_stated"] += report.missing
        if not counts["anew"]:
            assert not report.missing, f"{damage.__name__}: {report.reasons}: the heads were known"
        sums["set_aside"] += bool(list(park.state.glob("store.db.damaged-*Z")))
        for name in meters:
            book = Ledger(name, meters[name], PERIOD_MS)
            book.take(packs)
            # what the ring still holds is sealed again where the damage took the packs: in a history told as another
            told = counts["forked"] or counts["anew"]
            assert not book.twice or told, f"{damage.__name__}: {name}: {book.twice} twice in one history"
    return figures(
        report,
        **sums,
        streams_continued=kinds["follows"],
        streams_restarted=kinds["anew"],
        streams_forked=kinds["forked"],
    )


def keep(park: Park, past: Path) -> None:
    """Copy all that the agent has; its chains hold, or this raises."""
    shutil.copytree(park.state, past / "state")
    shutil.copytree(park.agent.runtime, past / "run", ignore=shutil.ignore_patterns("control"))  # not its socket
    AtRest(past / "rest", park.agent.kid).look(past / "state")


def put_back(park: Park, past: Path) -> None:
    for part, where in (("state", park.state), ("run", park.agent.runtime)):
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(past / part, where)


def names(heard: Sequence[Heard]) -> set[tuple[str, str, int]]:
    packs = [json.loads(m.payload) for m in heard if m.road in ("readings", "backfill")]
    return {(pack["stream"], pack["boot"], pack["seq"]) for pack in packs}


@scenario(rounds=1, about_s=8, long=20, chunk=5, section="processes")
def restored_copies(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """An older copy of the database is put back: nothing is taken for a redelivery, and the rollback is reported."""
    rng = random.Random(seed)
    park = a_park(house, 2)
    agent, listener, meters = park.agent, park.listener, park.meters
    old = folder / "old"
    agent.start()
    for n in range(rounds):
        until(lambda n=n: all(len(set(boots_of(listener, name))) > n for name in meters), 30, lambda: agent.said)
        pause(rng.uniform(1.0, 2.0))
        assert agent.stop() == 0
        shutil.rmtree(old, ignore_errors=True)
        shutil.copytree(park.state, old)
        ran = boots_by_stream(listener, meters)
        agent.start()
        until(lambda ran=ran: all(now - ran[n] for n, now in boots_by_stream(listener, meters).items()), 30,
              lambda: agent.said)  # fmt: skip
        pause(rng.uniform(0.0, 2.0))
        if rng.random() < 0.5:
            assert agent.stop() == 0
        else:
            agent.kill()
            shutil.rmtree(agent.runtime, ignore_errors=True)
        shutil.rmtree(park.state)
        shutil.copytree(old, park.state)
        agent.start()
    counts = {name: meter.count for name, meter in meters.items()}
    for name in meters:
        until(lambda name=name: max(listener.numbers(name)) > counts[name], 30, lambda: agent.said)
    assert come_home(agent, listener) == 0
    report, packs = report_of(listener.heard, agent.kid), bodies(listener.heard)
    kinds = judged_right(report, packs, heads_in(listener.heard))
    assert report.verdict is Verdict.FAILED and kinds["forked"] == len(meters) + 1
    assert report.packs == len(packs), "both histories are kept, pack by pack"
    twice = 0
    for name in meters:
        book = Ledger(name, meters[name], PERIOD_MS)
        book.take(packs)
        twice += len(book.twice)
    assert not twice, "the time between is a gap of the second history: no reading is in both"
    conflicts = [text for stream in report.streams.values() for text in stream.conflicts]
    return figures(report, conflicts=conflicts, streams_forked=kinds["forked"])


def boots_by_stream(listener: Listener, meters: Collection[str]) -> dict[str, set[str]]:
    """Of each stream, the gateway's too."""
    return {name: set(boots_of(listener, name)) for name in (*meters, "_gateway")}


def boots_of(listener: Listener, name: str) -> list[str]:
    return [pack["boot"] for pack in listener.packs(name)]
