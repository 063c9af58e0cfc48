"""The corpus: every stream that holds is verified, every one that does not is refused for the right reason."""

from __future__ import annotations

from functools import cache

import pytest

from agent.verify import Outcome, Report, Verifier
from tests.verify.corpus import CASES, Case, find_cases

find_cases()


@cache
def made(name: str) -> Case:
    return CASES[name]()


def verdict(case: Case) -> Report:
    verifier = Verifier(case.trust)
    for topic, raw in case.objects:
        verifier.feed(raw, topic)
    return verifier.finish()


SEEN_BY_TOPIC = {"cross_topic", "cross_gateway", "page_of_another_gateway"}  # what is wrong there a file cannot show


@pytest.mark.parametrize("name", CASES)
def test_the_verdict_is_the_right_one_for_the_right_reason(name: str) -> None:
    case = made(name)
    report = verdict(case)
    told = [*report.reasons, *(fault.reason for fault in report.faults)]
    assert report.verdict.value == case.verdict, told
    assert report.failures == case.failures, told
    assert any(case.reason in text for text in told) or not case.reason, told
    assert report.packs == case.packs
    assert ("topic" in case.failures) == (name in SEEN_BY_TOPIC)
    if case.readings is not None:
        assert report.readings == case.readings
    if case.verdict == "failed":
        assert report.first_bad is not None and report.first_bad.code in (case.failures or {"conflict": 1, "pin": 1})


@pytest.mark.parametrize("name", [name for name in CASES if name not in SEEN_BY_TOPIC])
def test_files_without_topics_get_the_same_verdict(name: str) -> None:
    case = made(name)
    verifier = Verifier(case.trust)
    for _, raw in case.objects:
        verifier.feed(raw)
    assert verifier.finish().verdict.value == case.verdict


def test_packs_may_come_before_their_keys() -> None:
    case = made("good")
    verifier = Verifier(case.trust)
    announced, *packs = case.objects
    assert {verifier.feed(raw, topic) for topic, raw in packs} == {Outcome.HELD}
    assert verifier.report().verdict.value == "incomplete"
    verifier.feed(announced[1], announced[0])
    assert verifier.finish().ok


def test_what_waits_for_keys_is_bounded() -> None:
    case = made("good")
    verifier = Verifier(case.trust)
    _, (topic, raw), *_ = case.objects
    for _ in range(1500):
        verifier.feed(raw, topic)
    assert verifier.report().held == 1000
    assert verifier.report().failures == {"kid": 500}


def test_topics_without_signed_objects_are_passed_over() -> None:
    verifier = Verifier()
    for topic in ("meterhouse/v1/park7/gw01/status", "meterhouse/v1/park7/gw01/ack", "other/v1/a/b/c/readings", "x"):
        assert verifier.feed(b"garbage", topic) is Outcome.IGNORED
    assert verifier.report().failed == 0


def test_a_retained_birth_teaches_the_table_and_is_no_pack() -> None:
    """A verifier that joins late begins with the first pack it sees and says so."""
    case = made("good")
    (keys_topic, keys), (topic, birth), *packs = case.objects
    verifier = Verifier(case.trust)
    verifier.feed(keys, keys_topic)
    assert verifier.feed(birth, topic.replace("readings", "birth")) is Outcome.TAKEN
    for pack_topic, raw in packs[1:]:
        verifier.feed(raw, pack_topic)
    report = verifier.finish()
    assert report.ok and report.packs == 2
    stream = report.streams["park7/gw01/inv1"]
    assert (stream.first_seq, stream.last_seq, stream.births, stream.redelivered) == (3, 4, 0, 0)


def test_a_retained_birth_that_differs_from_its_pack_is_a_fork() -> None:
    from tests.kits.signed import Stream

    case = made("good")
    verifier = Verifier(case.trust)
    for topic, raw in case.objects:
        verifier.feed(raw, topic)
    other = Stream().make_birth(clock={"synced": None})
    assert verifier.feed(other, "meterhouse/v1/park7/gw01/inv1/birth") is Outcome.FAILED
    assert verifier.finish().failures == {"fork": 1}


def test_equal_times_do_not_overwrite_each_other() -> None:
    """field pain 64: the identity is the sequence, never the time stamp."""
    from tests.kits.signed import Key, Stream, keys

    stream = Stream()
    packs = stream.run(2)
    stream.at -= 10
    event = {"event": "clock_step", "new": stream.at, "old": stream.at + 10, "t": stream.at}
    packs.append(stream.pack(events=[event]))
    verifier = Verifier([Key().kid])
    verifier.feed(keys(Key()))
    for raw in packs:
        verifier.feed(raw)
    report = verifier.finish()
    assert report.ok and report.readings == 10 and report.redelivered == 0


def test_clock_doubts_are_counted_and_do_not_fail() -> None:
    """field pain 63: readings from before the clock was trusted say so."""
    from tests.kits.signed import Key, Stream, keys

    stream = Stream()
    packs = [
        stream.make_birth(clock={"synced": False}),
        stream.pack(clock={"synced": None}),
        stream.pack(clock={"kernel_boot": "k", "mono_ms": 5000, "synced": True}),
        stream.pack(clock={"kernel_boot": "k", "mono_ms": 4000, "synced": True}),
    ]
    e = stream.fields()["e"]
    e[0]["bt"] -= 3600
    packs.append(stream.pack(e=e))
    verifier = Verifier([Key().kid])
    for raw in (keys(Key()), *packs):
        verifier.feed(raw)
    report = verifier.finish()
    s = report.streams[stream.stream]
    assert report.ok
    assert (s.clock_unsynced, s.clock_unknown, s.clock_backward) == (1, 1, 1)
    assert s.early > 0  # field pain 61: a read time far from its pack shows


def test_a_pin_of_one_gateway_is_not_believed_for_another() -> None:
    """Two owners, one verifier: whoever holds the key of gw02 cannot sign in the name of gw01."""
    from tests.kits.signed import Key, Stream, keys

    mine, theirs = Key(1), Key(2)
    forged = Stream(key=theirs)  # park7/gw01/inv1
    objects = [keys(theirs), *forged.run(2)]
    bare, bound = [mine.kid, theirs.kid], [f"park7/gw01={mine.kid}", f"park7/gw02={theirs.kid}"]
    for trust, verdict in ((bare, "verified"), (bound, "failed")):
        verifier = Verifier(trust)
        for raw in objects:
            verifier.feed(raw)
        assert verifier.finish().verdict.value == verdict
    verifier = Verifier(bound)
    own, other = Stream(key=mine), Stream(key=theirs, gateway="park7/gw02")
    for raw in (keys(mine), *own.run(2), keys(theirs, gateway="park7/gw02"), *other.run(2)):
        verifier.feed(raw)
    assert verifier.finish().ok
    verifier = Verifier(bound[:1])
    for raw in (keys(theirs, gateway="park7/gw02"), *Stream(key=theirs, gateway="park7/gw02").run(2)):
        verifier.feed(raw)
    assert verifier.finish().failures == {"key-chain": 1, "kid": 2}, "a pin of another gateway is not no pin at all"


@pytest.mark.parametrize("start", [-(10**11), -62_135_596_850, -50, 2**42, 86_400 * 10**6 - 50])
def test_a_clock_that_is_out_of_all_years_ends_no_report(start: int) -> None:
    from tests.kits.signed import Key, Stream, keys

    stream = Stream(start=start)
    verifier = Verifier([Key().kid])
    packs = [stream.make_birth(), stream.gap(3 * 86_400), stream.pack(), stream.pack(), stream.pack()]
    for raw in (keys(Key()), *packs[:3], packs[4]):
        verifier.feed(raw)
    report = verifier.finish()
    assert (report.verdict.value, report.missing) == ("incomplete", 1)
    days = report.as_dict()["streams"][stream.stream]["days"]
    assert 3 * (2 * 17_280 + 1440) < sum(day["due"] for day in days.values()) < 3 * (2 * 17_280 + 1440) + 20


@pytest.mark.parametrize(
    ("away_s", "shown"), [(0.25, "0.25"), (60, "60"), (1_234_567, "1234567"), (1234567.5, "1234567.5")]
)
def test_a_hole_between_two_packs_is_told_in_full_seconds(away_s: float, shown: str) -> None:
    """Holes of more than eleven days were `1.23457e+06 s`."""
    from tests.kits.signed import Key, Stream, keys

    key, stream = Key(), Stream()
    verifier = Verifier([key.kid])
    verifier.feed(keys(key), "meterhouse/v1/park7/gw01/keys")
    raws = stream.run(2)
    stream.at += away_s
    for raw in [*raws, stream.pack()]:
        verifier.feed(raw, stream.topic())
    first = verifier.finish().first_bad
    assert first is not None and f"begins {shown} s after the previous pack ends" in first.reason
