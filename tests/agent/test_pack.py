"""Sealing: whatever happened at the ticks, the packs say all of it exactly once, and an independent verifier agrees."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.keys import Signer, create_key, key_records, load_key
from agent.pack import BirthTable, Head, Packer, SealedPack, seconds, seconds_json, ticks
from agent.verify import Verifier
from drivers.model import PACES, Reason
from ext.canon import RawJson, dumps
from ext.ring import Ring

T0 = 1_795_500_000_000
STREAM = "park7/gw01/inv1"
BOOT = "3f2a9c41d07be815"
CLOCK = {"error_ms": 1.2, "kernel_boot": "0b6f3c0e-8a5e-4c1f-9d53-0c2f8f1a7e11", "mono_ms": 86400123, "synced": True}
ALL = Reason.TIMEOUT, Reason.CRC, Reason.ABSENT


def document(*points: tuple[str, str, str, float | None]) -> dict[str, Any]:
    """A birth's table of (name, kind, pace, period)."""
    return {
        "config": None,
        "device": None,
        "points": [
            {"n": n, "u": "W", "kind": kind, "pace": pace, "period": period, "phase": 0}
            for n, kind, pace, period in points
        ],
    }


TABLE = document(
    ("ac.power.active", "gauge", "fast", 1),
    ("ac.energy.import", "counter", "normal", 5),
    ("ac.voltage", "gauge", "fast", 1),
    ("device.state", "state", "fast", 1),
)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    path = tmp_path_factory.mktemp("key") / "signing.key"
    create_key(path, 1_795_000_000)
    return load_key(path)


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    ring = Ring.create(str(tmp_path / "ring"), 1 << 20, 77, 2, bytes(32))
    yield ring
    ring.close()


def packer(signer: Signer, head: Head | None = None, max_bytes: int = 1 << 16, boot: str = BOOT) -> Packer:
    made = Packer(STREAM, boot, head, signer.signer("mh-pack"), T0, max_bytes)
    made.use(BirthTable(STREAM, TABLE))
    return made


def verdict(signer: Signer, packs: list[SealedPack]) -> Any:
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, "park7/gw01"), "meterhouse/v1/park7/gw01/keys")
    for pack in packs:
        verifier.feed(pack.data, f"meterhouse/v1/{STREAM}/readings")
    return verifier.report()


def objects(packs: list[SealedPack]) -> list[dict[str, Any]]:
    return [json.loads(pack.data) for pack in packs]


def record(ring: Ring, tick: int, *values: tuple[int, int]) -> int:
    return ring.append_values(0, tick, tick * 1_000_000 + 40_000_000, 1, [(p, v, -1, 0) for p, v in values])


def test_the_first_pack_is_a_birth_that_covers_nothing_and_carries_the_table(signer, ring) -> None:
    packs = packer(signer).seal(ring, array("Q", [record(ring, T0, (0, 5), (1, 7), (2, 9), (3, 1))]), T0 + 1000, CLOCK)
    birth, first = objects(packs)
    assert birth["table"] == TABLE and birth["from"] == birth["to"] == T0 // 1000
    assert birth["prev"] is None and birth["prev_boot"] is None and birth["seq"] == 1 and "birth" not in birth
    assert first["seq"] == 2 and "prev_boot" not in first and "gaps" not in first
    assert {r["n"]: r["v"] for r in first["e"]} == {
        "ac.power.active": 0.5, "ac.energy.import": 0.7, "ac.voltage": 0.9, "device.state": 0.1,
    }  # fmt: skip
    report = verdict(signer, packs)
    assert report.ok and report.failed == 0 and report.readings >= 3 and report.gaps == 0


def test_only_the_birth_of_an_identified_device_states_its_identity(signer, ring) -> None:
    """The birth of a device that has not answered yet must not erase what the store knows of it."""
    known = {"identity": {"serial": "A-1"}, "profile": "sun2000"}
    for device, stated in ((known, True), ({**known, "profile": None}, False), ({"profile": "sun2000"}, False)):
        one = Packer(STREAM, BOOT, None, signer.signer("mh-pack"), T0, 1 << 16)
        one.use(BirthTable(STREAM, {**TABLE, "device": device}))
        packs = one.seal(ring, array("Q", [record(ring, T0, (0, 5), (1, 7), (2, 9), (3, 1))]), T0 + 1000, CLOCK)
        assert [pack.facts is not None for pack in packs] == [stated, False]


def test_a_stream_is_quiet_after_a_pack_without_readings_and_not_after_its_birth(signer, ring) -> None:
    """A quiet stream is sealed less often."""
    one, heard = packer(signer), list[tuple[int, bool]]()

    for n, values in enumerate([(), ((0, 5), (2, 9), (3, 1)), ()]):
        positions = array("Q", [record(ring, T0 + 1000 * n, *values)] if values else [])
        packs = one.seal(ring, positions, T0 + 1000 * (n + 1), CLOCK)
        heard.append((len(packs), one.quiet))

    assert heard == [(2, True), (1, False), (1, True)]


def test_a_later_boot_continues_the_chain_and_names_the_boot_before(signer, ring) -> None:
    one = packer(signer)
    packs = one.seal(ring, array("Q"), T0 + 10_000, CLOCK)
    last = packs[-1]
    head = Head(BOOT, last.seq, json.loads(packer_next_prev(one, ring)), T0 + 10_000)
    two = packer(signer, head, boot="00000000000000aa")
    more = two.absent(ring, T0 + 60_000, Reason.STOPPED, CLOCK)
    more += two.seal(ring, array("Q"), T0 + 70_000, CLOCK)
    assert objects(more)[0]["prev_boot"] == BOOT
    report = verdict(signer, packs + more)
    assert report.failed == 0 and report.missing == 0
    assert report.gaps == 2 * 70 + 14, "what was due while we were away is all stated"


def packer_next_prev(one: Packer, ring: Ring) -> str:
    """The hash that the packer would name as ``prev`` next, as JSON."""
    mark = one.savepoint()
    (pack,) = one.seal(ring, array("Q"), one.from_ms + 1000, CLOCK)
    one.restore(mark)
    return json.dumps(json.loads(pack.data)["prev"])


def test_a_failed_commit_leaves_no_trace(signer, ring) -> None:
    """What was sealed but not stored never existed: the same sequence is used again, and the states come again."""
    one = packer(signer)
    one.seal(ring, array("Q"), T0 + 1000, CLOCK)
    mark = one.savepoint()
    positions = array("Q", [record(ring, T0 + 1000, (0, 5), (2, 9), (3, 1))])
    lost = one.seal(ring, positions[:], T0 + 2000, CLOCK)
    one.restore(mark)
    again = one.seal(ring, positions[:], T0 + 2000, CLOCK)
    assert [p.seq for p in lost] == [p.seq for p in again]
    assert [p.hash for p in lost] == [p.hash for p in again]


def test_a_silent_device_is_one_gap_for_all_points(signer, ring) -> None:
    one = packer(signer)
    positions = array("Q", (ring.append_gap(0, Reason.TIMEOUT, T0 + 1000 * k, 1, 1) for k in range(10)))
    packs = one.seal(ring, positions, T0 + 10_000, CLOCK)
    assert objects(packs)[-1]["gaps"] == [
        {"from": T0 // 1000, "points": "*", "reason": "timeout", "to": T0 // 1000 + 10}
    ]
    assert verdict(signer, packs).gaps == 2 * 10 + 2


def test_one_missing_block_names_its_points_only(signer, ring) -> None:
    one = packer(signer)
    positions = array("Q")
    for k in range(5):
        tick = T0 + 1000 * k
        positions.append(record(ring, tick, (0, k), *([(1, 1)] if k == 0 else [])))
        positions.append(
            ring.append_gap(0, Reason.CRC, tick, 1, 1, array("H", [2])) if k in (2, 3) else record(ring, tick, (2, k))
        )
    packs = one.seal(ring, positions, T0 + 5000, CLOCK)
    s = T0 // 1000
    assert objects(packs)[-1]["gaps"] == [{"from": s + 2, "points": ["ac.voltage"], "reason": "crc", "to": s + 4}]
    report = verdict(signer, packs)
    assert report.failed == 0 and report.gaps == 2


def test_a_clock_step_cuts_the_pack_and_says_so(signer, ring) -> None:
    one = packer(signer)
    packs = one.seal(ring, array("Q"), T0 + 10_000, CLOCK)
    for new in (T0 - 3_600_000, T0 + 86_400_000):
        event = one.step(new)
        packs += one.seal(ring, array("Q"), new + 10_000, CLOCK, [event])
    report = verdict(signer, packs)
    assert report.failed == 0 and report.missing == 0


def test_a_large_pack_is_cut_on_ticks_and_a_large_tick_into_parts(signer, ring) -> None:
    many = document(*((f"x.p{n}", "gauge", "fast", 1) for n in range(400)))
    made = Packer(STREAM, BOOT, None, signer.signer("mh-pack"), T0, 8192)
    made.use(BirthTable(STREAM, many))
    positions = array("Q")
    for k in range(3):
        positions.append(record(ring, T0 + 1000 * k, *((n, 1000 * n + k) for n in range(400) if n != 399 or k != 1)))
    packs = made.seal(ring, positions, T0 + 3000, CLOCK)
    assert all(len(p.data) <= 8192 for p in packs if not p.is_birth)
    parts = [o["part"] for o in objects(packs) if "part" in o]
    assert parts and parts[0][0] == 1 and parts[-1][0] == parts[-1][1]
    assert not positions, "all is sealed"
    report = verdict(signer, packs)
    assert report.failed == 0 and report.readings == 3 * 400 - 1 and report.gaps == 1


@given(st.data())
def test_every_due_tick_is_a_reading_or_a_gap(signer: Signer, tmp_path_factory: Any, data: st.DataObject) -> None:
    """Random rounds: answered, refused in part, silent, never asked; sealed at random borders, in random sizes."""
    path = tmp_path_factory.mktemp("ring") / "ring"
    ring = Ring.create(str(path), 1 << 20, 7, 2, bytes(32))
    one = packer(signer, max_bytes=data.draw(st.sampled_from([4096, 1 << 16])))
    rounds = data.draw(st.integers(1, 30))
    readings = gaps = 0
    positions, packs = array("Q"), []
    for k in range(rounds):
        tick = T0 + 1000 * k
        due = [0, 2] + ([1] if tick % 5000 == 0 else [])
        fate = data.draw(st.sampled_from(["all", "some", "silent", "nothing"]))
        answered = [p for p in due if fate == "all" or (fate == "some" and data.draw(st.booleans()))]
        readings += len(answered)
        gaps += len(due) - len(answered)
        if answered:
            positions.append(record(ring, tick, *((p, data.draw(st.integers(-(2**50), 2**50))) for p in answered)))
        missed = [p for p in due if p not in answered]
        if missed and fate != "nothing":
            positions.append(ring.append_gap(0, data.draw(st.sampled_from(ALL)), tick, 1, 1, array("H", missed)))
        if data.draw(st.integers(0, 4)) == 0:
            packs += one.seal(ring, positions, tick + data.draw(st.integers(1, 1000)), CLOCK)
    packs += one.seal(ring, positions, T0 + 1000 * rounds, CLOCK)
    ring.close()
    report = verdict(signer, packs)
    assert report.failed == 0, report.faults
    assert (report.readings, report.gaps) == (readings, gaps)
    assert sum(p.records for p in packs) == readings and sum(p.gap_readings for p in packs) == gaps
    tally = sum((Counter(p.tally) for p in packs), Counter())
    assert tally[0] == readings and tally.total() - tally[0] == gaps and -1 not in tally


@given(
    st.integers(0, 10**7), st.integers(0, 10**6), st.sampled_from([1, 250, 1000, 5000, 60_000]), st.integers(0, 5000)
)
def test_ticks_are_those_of_the_grid(start: int, length: int, period: int, phase: int) -> None:
    found = list(ticks(start, start + length % (50 * period), period, phase))
    assert found == [t for t in range(start, start + length % (50 * period)) if (t - phase) % period == 0][: len(found)]
    assert all((t - phase) % period == 0 for t in found)


def test_seconds_have_at_most_three_decimals() -> None:
    assert seconds(1_795_500_900_250) == 1_795_500_900.25 and seconds(5000) == 5 and isinstance(seconds(5000), int)


@given(st.integers(-(10**17), 10**17) | st.integers(0, 3000) | st.integers(10**15 - 9, 10**15 + 9))
def test_seconds_are_written_like_any_other_number(ms: int) -> None:
    try:
        wanted = dumps(seconds(ms))
    except ValueError:  # an integer that a double does not hold exactly
        with pytest.raises(ValueError, match="beyond"):
            seconds_json(ms)
    else:
        assert seconds_json(ms) == wanted


def test_the_clock_of_many_packs_may_be_written_already(signer: Signer, ring: Ring) -> None:
    made = [packer(signer).seal(ring, array("Q"), T0 + 5000, clock) for clock in (CLOCK, RawJson(dumps(CLOCK)))]
    assert [pack.data for pack in made[0]] == [pack.data for pack in made[1]]


def test_the_paces_have_a_number_each() -> None:
    assert PACES.index("fast") == 0 and PACES[-1] == "once"
