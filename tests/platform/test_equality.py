"""The tables and the verifier come to the same verdict, in whatever order, over however many workers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from agent.verify import Verifier
from receiver.database import connect
from receiver.keeper import Keeper
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import KINDS, Broken, Feed, Sent, make

STREAMS = 300


class Impatient:
    """A clock on which everything has waited long enough."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def judged_by_tables(dsn: str, fleet: Sequence[Broken], sent: Sequence[Sent], workers: int, rng: random.Random) -> None:
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in fleet])
    clock = Impatient()
    feeds = [Feed(sent[number::workers]) for number in range(workers)]
    crew = [Worker(feed, [Store(dsn)], clock) for feed in feeds]
    keeper = Keeper(dsn)
    busy = True
    while busy:
        for worker in rng.sample(crew, len(crew)):
            worker.step(0)
        if rng.random() < 0.5:
            keeper.step()
        busy = any(feed.left for feed in feeds)
    for _ in range(3):  # what waits for another worker's commit
        clock.now += 10.0
        for worker in crew:
            worker.step(0)
    clock.now = 1000.0  # a birth that never comes
    for worker in crew:
        worker.step(0)
    assert [worker.waiting for worker in crew] == [0] * workers
    assert all(len(feed.acknowledged) == len(sent[number::workers]) for number, feed in enumerate(feeds))
    late = Keeper(dsn)
    while late.step():
        pass
    Keeper(dsn).step()


def by_tables(dsn: str) -> dict[str, dict[str, Any]]:
    with connect(dsn) as connection:
        names = dict(connection.execute("SELECT id, name FROM streams").fetchall())
        made: dict[str, dict[str, Any]] = {
            name: {"codes": Counter(), "lost": 0, "missing": 0} for name in names.values()
        }
        for stream, packs in connection.execute("SELECT stream, count(*) FROM packs GROUP BY 1"):
            made[names[stream]]["packs"] = packs
        for stream, readings, gaps in connection.execute(
            "SELECT stream, sum(readings), sum(gaps) FROM days GROUP BY 1"
        ):
            made[names[stream]] |= {"readings": int(readings), "gaps": int(gaps)}
        for stream, code, count in connection.execute("SELECT stream, code, count(*) FROM all_findings GROUP BY 1, 2"):
            made[names[stream]]["codes"][code] = count
        holes = (
            "SELECT stream, coalesce(sum((SELECT sum(upper(r) - lower(r)) FROM unnest(missing) r)), 0), "
            "coalesce(sum((SELECT sum(upper(r) - lower(r)) FROM unnest(lost) r)), 0) FROM holes GROUP BY 1"
        )
        for stream, missing, lost in connection.execute(holes):
            made[names[stream]] |= {"missing": int(missing), "lost": int(lost)}
        for (stream,) in connection.execute("SELECT DISTINCT stream FROM packs WHERE due IS NULL"):
            made[names[stream]]["unsettled"] = True
        refused = connection.execute("SELECT code, count(*) FROM refused GROUP BY 1").fetchall()
        made["refused"] = dict(refused)
    return made


def by_verifier(fleet: Sequence[Broken]) -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    refused: Counter[str] = Counter()
    for b in fleet:
        verifier = Verifier([b.gateway.signer.kid])
        for raw in b.keys:
            verifier.feed(raw)
        for topic, raw in b.sent:
            verifier.feed(raw, topic)
        for raw in b.late_keys:
            verifier.feed(raw)
        report = verifier.finish()
        for name, stream in report.streams.items():
            codes = Counter(stream.faults.by_code)
            if any("revoked later" in text for text in stream.conflicts):
                codes["revoked"] = 1
            if any("revoked later" not in text for text in stream.conflicts):
                codes["conflict"] = 1
            made[name] = {
                "codes": codes, "gaps": stream.gaps, "lost": stream.lost_packs, "missing": stream.missing_packs,
                "packs": stream.packs, "readings": stream.readings, **({"unsettled": True} if stream.unchecked else {}),
            }  # fmt: skip
        refused.update({code: count for code, count in report.failures.items() if code in ("signature", "topic")})
    made["refused"] = dict(refused)
    return made


def test_three_hundred_streams_shuffled_and_doubled(dsn: str) -> None:
    """Field pain 24: a platform that trusts order or a single consumer; here neither matters."""
    kinds = sorted(KINDS)
    fleet = [make(kinds[number % len(kinds)], number) for number in range(STREAMS)]
    rng = random.Random(11)
    sent = [message for b in fleet for message in b.sent]
    twice = sent + rng.sample(sent, len(sent) // 5)
    rng.shuffle(twice)
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", raw) for b in fleet for raw in b.keys]
    late = [(f"meterhouse/v1/{b.gateway.name}/keys", raw) for b in fleet for raw in b.late_keys]
    judged_by_tables(dsn, fleet, keys + twice, rng.randrange(1, 5), rng)
    judged_by_tables(dsn, fleet, late, 1, rng)
    tables, verifier = by_tables(dsn), by_verifier(fleet)
    assert tables.pop("refused") == verifier.pop("refused")
    differ = {
        (b.kind, b.stream.name): (tables.get(b.stream.name), verifier.get(b.stream.name)) for b in fleet
        if _shown(tables[b.stream.name]) != _shown(verifier[b.stream.name])
    }  # fmt: skip
    assert not differ, "\n".join(f"{key}\n  {a}\n  {b}" for key, (a, b) in sorted(differ.items()))


def _shown(state: dict[str, Any]) -> dict[str, Any]:
    """What both must agree on.

    Of conflicts and revocations only whether there is one: a report lists them as sentences. Readings where all is
    settled: of a pack that does not fit its neighbours the verifier counts them or not, by the order of arrival, and it
    counts parts whose tick is not whole.
    """
    codes = {
        code: min(count, 1) if code in ("conflict", "revoked") else count for code, count in state["codes"].items()
    }
    shown = {"readings": 0, "gaps": 0, **state, "codes": codes}
    if "chain" in codes or "revoked" in codes or "unsettled" in state:
        del shown["readings"]
    return shown


@pytest.mark.parametrize("workers", [1, 4])
def test_each_kind_in_every_order(dsn: str, workers: int) -> None:
    """The same fleet in three orders: the tables end in the same state."""
    fleet = [make(kind, 500 + number) for number, kind in enumerate(sorted(KINDS))]
    sent = [message for b in fleet for message in b.sent]
    rng = random.Random(workers)
    rng.shuffle(sent)
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", raw) for b in fleet for raw in (*b.keys, *b.late_keys[:0])]
    judged_by_tables(dsn, fleet, keys + sent, workers, rng)
    tables = by_tables(dsn)
    verifier = by_verifier([b for b in fleet if not b.late_keys])
    for b in fleet:
        if not b.late_keys:
            assert _shown(tables[b.stream.name]) == _shown(verifier[b.stream.name]), b.kind
