"""A platform that requests packs again gets the identical bytes or a reason; a wrong request costs a log line."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import MQTTErrorCode

import agent.uplink.replay
from agent.outbox import MissingRange, OutboxItem, ReplayPage
from agent.store import Store
from agent.uplink import Uplink
from agent.uplink.replay import DISABLED_S, MAX_JOBS, RESUMES, STRIKES, DailyQuota, ReplayServer
from agent.uplink.wire import MAX_BYTES, MAX_LIST_BYTES, parse_acks, parse_replay_request
from tests.kits.delivery import BASE, PATIENCE_S, Listener, Mosquitto, StoreOutbox, destination, fresh, now_ms, until
from tests.kits.fake_broker import HANG_UP, FakeBroker, Sent, publish
from tests.kits.packs import Maker

Broker = Callable[..., Mosquitto]
Listen = Callable[..., Listener]
Outboxes = Callable[..., StoreOutbox]
Uplinks = Callable[..., Uplink]
Fake = Callable[..., FakeBroker]
STREAM = "park7/gw01/inv1"


def ask(heard: Listener, payload: bytes | None = None, **request: Any) -> None:
    data = payload if payload is not None else json.dumps({"stream": STREAM, **request}).encode()
    assert heard.client.publish(f"{BASE}/replay/request", data, 1).rc == MQTTErrorCode.MQTT_ERR_SUCCESS


def replies(heard: Listener, name: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(m.payload) for m in list(heard.heard) if m.topic == f"{BASE}/replay/reply"]
    return [r for r in found if name in (None, r["id"])]


def verdicts(heard: Listener, name: str) -> list[str]:
    return [r["verdict"] for r in replies(heard, name)]


def arrange(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, count: int, **more: Any) -> Any:
    """A listener, a outbox and a maker with ``count`` packs that were delivered and confirmed."""
    port = broker().port
    heard, at, make = listen(port), outbox(), Maker()
    up = uplink(at, destination(port), **more)
    until(lambda: up.state().connected)
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(count - 1)))
    until(lambda: len(heard.packs("readings")) == count and at.pending() == 0)
    return heard, at, make


def test_a_range_is_sent_again_byte_for_byte(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    """Across several pages, and packs that were confirmed long ago."""
    heard, _, make = arrange(broker, listen, outbox, uplink, 100)
    ask(heard, id="a", first=10, last=90)
    until(lambda: "done" in verdicts(heard, "a"))
    came = [m.payload for m in heard.heard if m.topic == f"{BASE}/inv1/backfill"]
    assert came == [p.data for p in make.made[9:90]]
    assert verdicts(heard, "a") == ["accepted", "done"] and replies(heard, "a")[-1]["reason"] == "81 packs"
    assert not any(m.retain for m in heard.heard if "/replay/" in m.topic)
    ask(heard, id="b", first=95, last=2000)
    until(lambda: "done" in verdicts(heard, "b"))
    assert replies(heard, "b")[-1]["reason"] == "6 packs", (
        "up to the head, without a reply for packs that do not exist yet"
    )
    ask(heard, id="c", first=101, last=102)
    until(lambda: verdicts(heard, "c") == ["accepted", "refused"])
    ask(heard, id="d", first=1, last=2, boot="00000000000000ff")
    until(lambda: verdicts(heard, "d") == ["accepted", "refused"])


def test_packs_that_are_gone_are_expired_or_lost(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks
) -> None:
    """Packs 3 to 8 were delivered to all and have expired; 11 to 15, which one destination waits for, are damaged."""
    heard, at, make = arrange(broker, listen, lambda: outbox("platform", "other"), uplink, 30)
    bad = {pack.data for pack in make.made[10:15]}
    at.confirm("other", range(3, 9))
    assert at.pending("other") == 24

    def forget(store: Store) -> None:
        store.prune(now_ms() + 40 * 86_400_000)
        look = store.start_check(lambda data: data not in bad)
        while look.step():
            pass

    at.call(forget)
    ask(heard, id="a", first=2, last=20)
    until(lambda: "done" in verdicts(heard, "a"))
    said = replies(heard, "a")
    assert [(r["verdict"], r.get("first"), r.get("last")) for r in said] == [
        ("accepted", None, None), ("expired", 3, 8), ("lost", 11, 15), ("done", None, None),
    ]  # fmt: skip
    loss = said[2]["loss"]
    assert (loss["event"], loss["first"], loss["last"], loss["reason"]) == ("loss", 11, 15, "damaged")
    assert loss["hash"] == json.loads(make.made[15].data)["prev"]
    assert sorted(heard.seqs("inv1", "backfill")) == [2, 9, 10, 16, 17, 18, 19, 20]


def test_malformed_and_flooding_requests_cost_a_log_line(
    broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks, caplog: pytest.LogCaptureFixture
) -> None:
    heard, at, make = arrange(broker, listen, outbox, uplink, 5)
    with caplog.at_level(logging.WARNING, "meterhouse.uplink"):
        for bad in (b"", b"{", b"[" * 5000, b"\xff", b'{"id":"x"}', b'{"id":1,"stream":"s","first":1,"last":2}'):
            ask(heard, bad)
        ask(heard, id="x" * 65, first=1, last=2)
        ask(heard, id="foreign", stream="park8/gw01/inv1", first=1, last=2)
        for n in range(60):
            ask(heard, id=f"f{n}", first=1, last=5)
        at.commit(*(fresh(make) for _ in range(20)))
        until(lambda: len(heard.packs("readings")) == 25, "live packs continue")
        until(lambda: at.pending() == 0)
        until(lambda: verdicts(heard, "f0")[-1:] == ["done"])
    lines = [r.getMessage() for r in caplog.records if "replay" in r.getMessage()]
    assert len(lines) == 1, lines
    assert not replies(heard, "foreign")


def test_of_a_flood_of_requests_twenty_are_read_and_then_one_a_second() -> None:
    said, clock = list[str](), [1000.0]
    replay = ReplayServer("x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)["id"]), lambda: None,
                    lambda: clock[0])  # type: ignore[arg-type]  # fmt: skip
    for n in range(400):
        name = str(n)
        replay.on_request(json.dumps({"id": name, "stream": "p/g/inv1", "first": 9, "last": 1}).encode())
        clock[0] += 0.0625
    assert said[:20] == [str(n) for n in range(20)] and len(said) in (43, 44, 45)


def test_a_request_is_refused_while_the_queue_is_full() -> None:
    """One job is served and eight wait; another request gets a reply at once."""
    said = list[dict[str, Any]]()
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0
    )  # type: ignore[arg-type]
    for n in range(MAX_JOBS + 3):
        replay.on_request(
            json.dumps({"id": str(n), "stream": "p/g/inv1", "first": 5 * n + 1, "last": 5 * n + 2}).encode()
        )
    assert [reply["verdict"] for reply in said] == ["accepted"] * (MAX_JOBS + 1) + ["refused"] * 2
    assert {(reply["id"], reply["reason"]) for reply in said[-2:]} == {
        (str(MAX_JOBS + n), "busy: too many requests are waiting") for n in (1, 2)
    }


def test_the_daily_quota_is_not_exceeded(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    heard, _, make = arrange(broker, listen, outbox, uplink, 50, replay_bytes=9_000)
    ask(heard, id="a", first=2, last=50)
    until(lambda: "refused" in verdicts(heard, "a"))
    came = [m.payload for m in heard.heard if m.topic == f"{BASE}/inv1/backfill"]
    assert came == [p.data for p in make.made[1 : 1 + len(came)]] and 8_000 < sum(map(len, came)) <= 9_000
    assert "used up" in replies(heard, "a")[-1]["reason"]


class QuotaStore:
    """The recorded bytes of each day; answers when the test calls ``answer``."""

    def __init__(self) -> None:
        self.days: dict[int, int] = {}
        self.asked: list[Any] = []

    def spend(self, dest: str, day: int, size: int, callback: Callable[[int], None]) -> None:
        def answer() -> None:
            self.days[day] = self.days.get(day, 0) + size
            callback(self.days[day])

        self.asked.append(answer)

    def answer(self) -> None:
        for one in self.asked:
            one()
        self.asked.clear()


@given(st.lists(st.tuples(st.sampled_from(["take", "answer", "restart", "tomorrow", "wait"]), st.integers(1, 40_000)),
                max_size=60))  # fmt: skip
def test_no_day_exceeds_its_quota_however_often_the_agent_restarts(steps: list[tuple[str, int]]) -> None:
    """field pain 47: limits hold when everything else fails."""
    store, quota_bytes, clock, spent = QuotaStore(), 100_000, [86_400.0 * 20_000, 0.0], dict[int, int]()

    def quota() -> DailyQuota:
        return DailyQuota("x", store, quota_bytes, lambda: None, lambda: clock[1], lambda: clock[0])  # type: ignore[arg-type]

    at = quota()
    for step, size in steps:
        match step:
            case "take":
                if at.reserve(size):
                    day = int(clock[0] // 86_400)
                    spent[day] = spent.get(day, 0) + size
            case "answer":
                store.answer()
            case "restart":
                store.asked.clear()  # a kill: requested bytes may or may not be recorded
                at = quota()
            case "tomorrow":
                clock[0] += 86_400
            case "wait":
                clock[1] += 100
    assert all(size <= quota_bytes for size in spent.values())
    at, left = quota(), quota_bytes - store.days.get(int(clock[0] // 86_400), 0)
    store.asked.clear()
    if left > 0:
        for _ in range(3):
            done = at.reserve(left)
            store.answer()
        assert done, "all of the quota that is not recorded can be used"
    else:
        at.refresh()
        store.answer()
    assert at.reserve(1) is False and at.is_spent


def test_a_restart_does_not_renew_the_quota(broker: Broker, listen: Listen, outbox: Outboxes, uplink: Uplinks) -> None:
    heard, at, make = arrange(broker, listen, outbox, uplink, 50, replay_bytes=9_000)
    ask(heard, id="a", first=2, last=10)
    until(lambda: "done" in verdicts(heard, "a"))
    port = heard.client.port
    at.uplinks.pop().stop(PATIENCE_S)
    until(lambda: any(b"offline" in m.payload for m in heard.heard if m.topic == f"{BASE}/status"))
    uplink(at, destination(port), replay_bytes=9_000)
    at.commit(fresh(make))
    until(lambda: len(heard.packs("readings")) == 51)  # so it has subscribed to requests, too
    ask(heard, id="b", first=2, last=10)
    until(lambda: "refused" in verdicts(heard, "b"))
    assert "used up" in replies(heard, "b")[-1]["reason"]


class Shelf:
    """A store that answers at once: packs 1 to 60 of one stream, some of them gone."""

    def spend(self, dest: str, day: int, size: int, callback: Callable[[int], None]) -> None:
        callback(size)

    def __init__(self, gone: set[int]) -> None:
        self.gone, self.questions = gone, 0

    def replay(self, stream: str, boot: object, first: int, last: int, limit: int, size: int, callback: Any) -> None:
        self.questions += 1
        items, lost, at = [], [], first
        while at <= min(last, 60) and len(items) < 5:
            if at in self.gone:
                lost.append(MissingRange(at, at, None))
            else:
                items.append(OutboxItem(at, stream, b"%d" % at, False, 0))
            at += 1
        callback(ReplayPage(items, lost, at if at <= min(last, 60) else 0))


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(0, 12), st.integers(0, 6), st.sampled_from([0, 0, 0, 1, 3, 7])),
        min_size=1,
        max_size=18,
    ),
    st.sets(st.integers(1, 60), max_size=10),
)
def test_each_accepted_request_gets_all_of_its_packs_and_one_final_reply(
    wanted: list[tuple[int, int, int, int]], gone: set[int]
) -> None:
    """Merged jobs omit no pack and report all that are gone, for any overlap and order.

    Connections end meanwhile, and packs in flight then (the last number) do not arrive.
    """
    said: list[dict[str, Any]] = []
    shelf = Shelf(gone)
    arrived = [0]  # so many of ``sent`` certainly did: they were sent before a "done" that arrived

    def reply(data: bytes) -> None:
        said.append(json.loads(data))
        if said[-1]["verdict"] == "done":
            arrived[0] = len(sent)

    replay = ReplayServer("x", shelf, "p/g", reply, lambda: None, lambda: 1.0, in_flight=7)  # type: ignore[arg-type]
    sent: list[int] = []
    since: dict[str, int] = {}

    def turn(times: int) -> None:
        for _ in range(times):
            if (item := replay.next(1 << 20)) is not None:
                sent.append(item.id)
                replay.on_answer(True)

    for n, (first, more, steps, lost) in enumerate(wanted):
        if lost:
            replay.end(by_broker=False)
            gone_astray = min(lost, len(sent) - arrived[0])
            sent[len(sent) - gone_astray :] = [0] * gone_astray
            arrived[0] = len(sent)
            assert replay.begin()
        since[str(n)] = len(sent)
        last = min(60, first + more)
        replay.on_request(json.dumps({"id": str(n), "stream": "p/g/inv1", "first": first, "last": last}).encode())
        turn(steps)
    turn(5000)
    for n, (first, more, *_) in enumerate(wanted):
        mine = [r["verdict"] for r in said if r["id"] == str(n)]
        range_ = set(range(first, min(60, first + more) + 1))
        if mine == ["refused"]:
            assert len(wanted) > MAX_JOBS
            continue
        if mine[-1] == "refused":
            assert sum(cut > 0 for *_, cut in wanted) > RESUMES
            continue
        assert mine[0] == "accepted" and mine.count("done") == 1 and mine[-1] == "done", (n, said)
        assert range_ - gone <= set(sent[since[str(n)] :]), (n, since, sent)
        told = {r["first"] for r in said if r["id"] == str(n) and r["verdict"] == "expired"}
        assert range_ & gone <= told


def test_a_page_that_arrives_after_the_connection_ended_skips_nothing() -> None:
    """It belongs to a position that the job has left."""
    late: list[Callable[[], None]] = []

    class Slow(Shelf):
        def replay(self, *args: Any) -> None:
            *asked, callback = args
            super().replay(*asked, lambda page: late.append(lambda: callback(page)))  # type: ignore[call-arg]

    said: list[dict[str, Any]] = []
    replay = ReplayServer(
        "x", Slow(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0
    )  # type: ignore[arg-type]
    replay.on_request(json.dumps({"id": "a", "stream": "p/g/inv1", "first": 1, "last": 20}).encode())
    assert replay.next(100) is None
    late.pop()()
    first = [item.id for _ in range(20) if (item := replay.next(100))]
    assert first == [1, 2, 3, 4, 5] and late
    replay.end(by_broker=False)  # none of the five has certainly arrived
    late.pop()()
    assert replay.begin()
    sent = []
    for _ in range(40):
        if item := replay.next(100):
            sent.append(item.id)
            replay.on_answer(True)
        if late:
            late.pop()()
    assert sent == list(range(1, 21)) and said[-1]["verdict"] == "done"


def test_overlapping_requests_are_read_from_the_store_once() -> None:
    said: list[dict[str, Any]] = []
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0
    )  # type: ignore[arg-type]
    for n, (first, last) in enumerate([(1, 3), (20, 40), (30, 50), (15, 19)]):
        replay.on_request(json.dumps({"id": str(n), "stream": "p/g/inv1", "first": first, "last": last}).encode())
    sent = []
    for _ in range(200):
        if item := replay.next(100):
            sent.append(item.id)
            replay.on_answer(True)
    assert sent == [1, 2, 3, *range(15, 51)]
    assert [r["id"] for r in said if r["verdict"] == "done"] == ["0", "1", "2", "3"]


def test_done_is_said_once_the_broker_has_accepted_each_pack() -> None:
    """It was said when the last one was sent, whatever the broker then answered."""
    said: list[dict[str, Any]] = []
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0
    )  # type: ignore[arg-type]

    def sent(name: str, count: int, most: int = 100) -> None:
        request = {"id": name, "stream": "p/g/inv1", "first": 58, "last": 57 + count}
        replay.on_request(json.dumps(request).encode())
        assert sum(replay.next(most) is not None for _ in range(10)) == count

    def last() -> tuple[str, str, str | None]:
        return said[-1]["id"], said[-1]["verdict"], said[-1].get("reason")

    sent("a", 3)
    replay.on_answer(True)
    replay.on_answer(False)
    assert replay.next(100) is None and last()[:2] == ("a", "accepted"), "an answer is missing"
    replay.on_answer(True)
    assert replay.next(100) is None and last() == ("a", "refused", "the broker did not accept 1 of 3 packs")
    sent("b", 2)
    replay.on_answer(True)
    replay.on_answer(True)
    assert replay.next(100) is None and last() == ("b", "done", "2 packs")
    sent("c", 1)
    replay.end(by_broker=False)  # it is sent again after a reconnect
    assert replay.begin() and sum(replay.next(100) is not None for _ in range(10)) == 1
    replay.on_answer(True)
    assert replay.next(100) is None and last()[:2] == ("c", "done")


def test_a_refused_pack_that_is_sent_again_after_a_reconnect_counts_once() -> None:
    """All five packs were accepted in the end, and the verdict was "refused: the broker did not accept 1 of 10 packs".

    A refusal before the packs that are sent again still counts.
    """
    said: list[dict[str, Any]] = []
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0, in_flight=5
    )  # type: ignore[arg-type]

    def send(answers: list[bool]) -> None:
        for accepted in answers:
            assert replay.next(100) or replay.next(100), "the first call may only ask the store"
            replay.on_answer(accepted)

    replay.begin()
    replay.on_request(json.dumps({"id": "a", "stream": "p/g/inv1", "first": 1, "last": 5}).encode())
    assert sum(replay.next(100) is not None for _ in range(9)) == 5
    replay.on_answer(False)
    replay.end(by_broker=False)  # four answers are missing
    replay.begin()
    send([True] * 5)
    assert replay.next(100) is None
    assert (said[-1]["verdict"], said[-1]["reason"]) == ("done", "5 packs")

    replay.on_request(json.dumps({"id": "b", "stream": "p/g/inv1", "first": 1, "last": 15}).encode())
    send([True, False, True, True, True])  # the first page
    send([False, True, True, True, True])  # the second page is in doubt
    replay.end(by_broker=False)
    replay.begin()
    send([True] * 10)
    assert replay.next(100) is None
    assert (said[-1]["verdict"], said[-1]["reason"]) == ("refused", "the broker did not accept 1 of 15 packs")


def refused_three_times(clock: list[float], said: list[dict[str, Any]]) -> ReplayServer:
    """A server whose broker ended three connections soon after the subscription; a job waits."""
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: clock[0]
    )  # type: ignore[arg-type]
    for _ in range(STRIKES):
        clock[0] += 60
        assert replay.begin() and not replay.resubscribe()
        replay.on_request(json.dumps({"id": "a", "stream": "p/g/inv1", "first": 1, "last": 5}).encode())
        replay.end(by_broker=True)
    return replay


def test_a_connection_that_lasts_subscribes_again_after_an_hour() -> None:
    """It never did: only the next connection subscribed, perhaps weeks later."""
    clock, said = [1000.0], list[dict[str, Any]]()
    replay = refused_three_times(clock, said)
    clock[0] += 60
    assert not replay.begin()
    clock[0] += DISABLED_S - 61
    assert not replay.resubscribe()
    clock[0] += 2
    assert replay.resubscribe() and not replay.resubscribe()
    replay.end(by_broker=True)
    assert not replay.begin(), "the broker still refuses it"


def test_a_subscription_that_lasts_ends_the_count_of_refusals() -> None:
    """After three refusals the count was never reset, so each later connection was without replay for an hour."""
    clock = [1000.0]
    replay = refused_three_times(clock, [])
    clock[0] += DISABLED_S + 1
    assert replay.begin()
    clock[0] += 600
    replay.end(by_broker=True)
    assert replay.begin()


def test_waiting_jobs_get_a_reply_when_requests_are_not_read_for_an_hour(caplog: pytest.LogCaptureFixture) -> None:
    """They were dropped without one, and the log said nothing."""
    said = list[dict[str, Any]]()
    with caplog.at_level(logging.WARNING, "meterhouse.uplink"):
        replay = refused_three_times([1000.0], said)
    assert [record.getMessage() for record in caplog.records] == [
        "x: the connection was lost 3 times within 3 s of our subscription to replay/request; replay requests are not "
        "read for an hour"
    ]
    assert {one["verdict"] for one in said} == {"accepted"}
    assert not replay.begin()
    assert (said[-1]["verdict"], said[-1]["reason"]) == ("refused", "the connection was lost too often")
    assert replay.next(100) is None


def test_requests_are_read_again_on_the_same_connection(
    fake: Fake, outbox: Outboxes, uplink: Uplinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The uplink asks whether it must subscribe again for as long as a connection lasts."""
    monkeypatch.setattr(agent.uplink.replay, "DISCONNECT_S", 1e6)  # however slow the machine
    refuses = [True]

    def then(sock: socket.socket, version: int) -> None:
        if refuses[0]:
            sock.shutdown(socket.SHUT_RDWR)

    broker = fake(then=then)
    up = uplink(outbox(), destination(broker.port, confirm="broker"))
    until(lambda: len(broker.subscribes) == STRIKES and up.state().connected and up.state().connects > STRIKES)
    refuses[0] = False
    monkeypatch.setattr(agent.uplink.replay, "DISABLED_S", 0.0)
    up.retain("wake", b"{}")
    until(lambda: len(broker.subscribes) == STRIKES + 1)
    assert up.state().connects == STRIKES + 1


def test_packs_that_the_broker_refuses_are_no_retained_messages(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """After the next one that it accepted, all retained messages were published again; the platform was told `done`."""
    asked = publish(
        f"{BASE}/replay/request", json.dumps({"id": "a", "stream": STREAM, "first": 1, "last": 9}).encode(), 5
    )
    said, topics = list[dict[str, Any]](), list[str]()

    def answer(sent: Sent) -> int:
        topics.append(sent.topic.removeprefix(BASE))
        if sent.topic.endswith("replay/reply"):
            said.append(json.loads(sent.payload))
        if said and sent.topic.endswith("backfill") and json.loads(sent.payload)["seq"] in (3, 7):
            return 0x97
        return 0

    broker, at, make = fake(answer=answer), outbox(), Maker()
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(8)))
    up = uplink(at, destination(broker.port, confirm="broker"))
    until(lambda: at.pending() == 0)
    before, count = up.state().refused, len(topics)
    broker.peers[0].sendall(asked)
    until(lambda: len(said) == 2)
    assert [one["verdict"] for one in said] == ["accepted", "refused"], said
    assert said[1]["reason"] == "the broker did not accept 2 of 9 packs"
    assert up.state().refused == before + 2
    at.commit(fresh(make))
    until(lambda: at.pending() == 0)
    assert set(topics[count:]) <= {"/replay/reply", "/inv1/backfill", "/inv1/readings"}, topics[count:]


def test_a_job_resumes_after_a_reconnect(fake: Fake, outbox: Outboxes, uplink: Uplinks) -> None:
    """Packs in flight are sent twice, none is omitted, and a request repeated meanwhile gets one final reply."""
    request = json.dumps({"id": "a", "stream": STREAM, "first": 1, "last": 150}).encode()
    asked = publish(f"{BASE}/replay/request", request, 5)
    seqs, said = list[int](), list[str]()

    def answer(sent: Sent) -> int:
        if sent.topic.endswith("replay/reply"):
            said.append(json.loads(sent.payload)["verdict"])
        if not said or not sent.topic.endswith("backfill"):
            return 0
        seqs.append(json.loads(sent.payload)["seq"])
        return HANG_UP if seqs[-1] == 60 and seqs.count(60) == 1 else 0

    def ask_again(sock: socket.socket, version: int) -> None:
        if len(broker.subscribes) == 2:
            sock.sendall(asked)

    broker, at, make = fake(answer=answer, then=ask_again), outbox(), Maker()
    at.commit(fresh(make, birth=True), *(fresh(make) for _ in range(149)))
    uplink(at, destination(broker.port, confirm="broker"))
    until(lambda: at.pending() == 0)
    broker.peers[0].sendall(asked)
    until(lambda: "done" in said)
    assert len(broker.subscribes) == 2 and said == ["accepted", "accepted", "done"]
    again = seqs.index(60) + 1
    assert seqs[:again] == list(range(1, 61)) and seqs[again:] == list(range(seqs[again], 151))
    assert 1 < seqs[again] <= 60, "it resumes where all earlier packs have certainly arrived"


@pytest.mark.parametrize(
    "boot", ["3f2a9c41d07be815\n", "\n3f2a9c41d07be815", "3f2a9c41d07be815 ", "3F2A9C41D07BE815", ""]
)
def test_a_boot_is_sixteen_digits_and_nothing_else(boot: str) -> None:
    """A pattern that ends in $ accepts a trailing line feed."""
    both = {"stream": STREAM, "boot": boot, "first": 1, "last": 2, "id": "7", "hash": "A" * 43}
    for parse in (lambda *given: parse_acks(*given)[0], parse_replay_request):
        with pytest.raises(ValueError, match=r"boot"):
            parse(json.dumps(both).encode(), "park7/gw01")
        assert parse(json.dumps(both | {"boot": "3f2a9c41d07be815"}).encode(), "park7/gw01").boot == "3f2a9c41d07be815"


def test_an_ack_of_more_than_4096_bytes_is_rejected() -> None:
    ack = json.dumps({"stream": STREAM, "boot": "3f2a9c41d07be815", "first": 1, "last": 2, "hash": "A" * 43}).encode()
    assert parse_acks(ack.ljust(MAX_BYTES), "park7/gw01") == parse_acks(ack, "park7/gw01")
    with pytest.raises(ValueError, match=r"the message has 4097 bytes, but at most 4096 are accepted"):
        parse_acks(ack.ljust(MAX_BYTES + 1), "park7/gw01")


def test_a_list_of_acks_counts_as_a_whole_or_not_at_all() -> None:
    one = {"stream": STREAM, "boot": "3f2a9c41d07be815", "first": 1, "last": 2, "hash": "A" * 43}
    listed = json.dumps({"acks": [one, one | {"first": 2}]}).encode()
    assert [ack.first for ack in parse_acks(listed, "park7/gw01")] == [1, 2]
    assert len(parse_acks(listed.ljust(MAX_LIST_BYTES), "park7/gw01")) == 2
    for wrong in (
        listed.ljust(MAX_LIST_BYTES + 1), b'{"acks":[]}', b'{"acks":{}}', b'{"acks":' + b"[" * 3000,
        json.dumps({"acks": [one, one | {"stream": "park8/gw01/inv1"}]}).encode(),
        json.dumps({"acks": [one, one | {"first": 3}]}).encode(), json.dumps({"acks": [one, {"acks": [one]}]}).encode(),
    ):  # fmt: skip
        with pytest.raises(ValueError):
            parse_acks(wrong, "park7/gw01")


def test_a_requested_pack_that_is_larger_than_the_broker_accepts_is_refused_and_the_next_one_sent() -> None:
    said: list[dict[str, Any]] = []
    replay = ReplayServer(
        "x", Shelf(set()), "p/g", lambda data: said.append(json.loads(data)), lambda: None, lambda: 1.0
    )  # type: ignore[arg-type]
    replay.on_request(json.dumps({"id": "a", "stream": "p/g/inv1", "first": 20, "last": 20}).encode())
    replay.on_request(json.dumps({"id": "b", "stream": "p/g/inv1", "first": 9, "last": 9}).encode())

    sent = [item.id for _ in range(10) if (item := replay.next(1)) is not None]  # the pack 20 has two bytes

    assert sent == [9]
    refused = [(reply["id"], reply["reason"]) for reply in said if reply["verdict"] == "refused"]
    assert refused == [("a", "a pack is larger than this broker accepts")]
