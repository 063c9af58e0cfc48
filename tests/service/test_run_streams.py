"""Two destinations that asked for different streams, one of them compressed; agent and brokers are killed meanwhile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.verify import Report, Verifier
from agent.verify.strict import ZSTD_MAGIC, inflate
from tests.kits.broker import Heard
from tests.kits.house import SECONDLY, SITE, Broker, House, Listener, Meter, devices_on, until, whole
from tests.service.test_run_reload import reload

PACKS = ("readings", "backfill")


def judged(heard: Sequence[Heard], kid: str, *streams: str) -> Report:
    verifier = Verifier([kid], streams=streams)
    for message in heard:
        verifier.feed(message.payload, message.topic)
    newest = max(json.loads(inflate(m.payload))["to"] for m in heard if m.road in PACKS)
    return verifier.finish((newest + 3600) * 1000)


def filed(heard: Sequence[Heard], kid: str, *streams: str) -> Report:
    """As somebody keeps it in files, where nothing more will come."""
    verifier = Verifier([kid], streams=streams)
    for message in heard:
        if message.road in (*PACKS, "keys") or "/checkpoint/" in message.topic:
            verifier.feed(message.payload)
    return verifier.finish()


def came(listener: Listener) -> set[str]:
    return {message.topic.split("/")[-2] for message in listener.heard if message.road in (*PACKS, "birth")}


def play_two_destinations(folder: Path, house: House) -> dict[str, Any]:
    """``owner`` asked for m1, later for m2 as well; ``auditor`` for m2 alone, as zstd."""
    (folder / "b").mkdir()
    owner, auditor = house.broker(), Broker(folder / "b")
    house.at_end(auditor.stop)
    auditor.start()
    ears = house.listen(owner), house.listen(auditor)
    meters = [Meter(1), Meter(2)]
    agent = house.agent(owner, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters), every=SECONDLY)
    other = f'\n[[uplink]]\nname = "auditor"\nurl = "{auditor.url}"\nstreams = ["m2"]\ncompress = "zstd"\n'
    agent.uplink = f'streams = ["m1"]\n{other}'
    agent.configure()
    agent.start()
    until(lambda: len(ears[0].packs("m1")) >= 2 and len(ears[1].packs("m2")) >= 2, 30, lambda: agent.said)
    auditor.stop(kill=True)
    seen = len(ears[0].packs("m1"))
    until(lambda: len(ears[0].packs("m1")) >= seen + 3, 30, "packs while the other broker is away")
    agent.kill()
    agent.start()
    until(lambda: len({pack["boot"] for pack in ears[0].packs("m1")}) == 2, 30, lambda: agent.said)
    auditor.start()
    until(lambda: len({pack["boot"] for pack in ears[1].packs("m2")}) == 2, 30, lambda: agent.said)
    until(lambda: whole(ears[1], "m2") and whole(ears[1], "_gateway"), 30, "the backlog of the one that was away")
    until(lambda: all(one["connected"] for one in agent.snapshot()["uplinks"].values()), 30, lambda: agent.said)
    facts = agent.snapshot()["uplinks"]
    before = came(ears[0])
    agent.uplink = f'streams = ["m1", "m2"]\n{other}'
    agent.configure()
    reload(agent)
    until(lambda: ears[0].packs("m2", "readings"), 30, lambda: agent.said)
    agent.stop()
    sealed, owed = agent.sealed()
    for _ in range(5):  # what had no time to leave before the end
        if not owed:
            break
        agent.start()
        until(lambda owed=owed: owed <= ears[0].names() | ears[1].names(), 30, lambda: agent.said)  # type: ignore[misc]
        agent.stop()
        sealed, owed = agent.sealed()
    own = {f"{SITE}/{name}" for name in ("m1", "_gateway")}, {f"{SITE}/{name}" for name in ("m2", "_gateway")}
    for ear, streams in zip(ears, own, strict=True):
        wanted = {name for name in sealed if name[0] in streams}
        until(lambda ear=ear, wanted=wanted: wanted <= ear.names(), 30, lambda: agent.said)  # type: ignore[misc]
    return {
        "owed": owed, "before": before, "came": [came(ear) for ear in ears], "facts": facts, "kid": agent.kid,
        "heard": [list(ear.heard) for ear in ears], "late": [pack["seq"] for pack in ears[0].packs("m2")],
    }  # fmt: skip


def test_two_destinations(played: dict[str, Any]) -> None:
    """Each gets what it asked for, whole, through every outage; nothing of the rest, and nothing waits for it."""
    assert played["owed"] == set() and played["before"] == {"m1", "_gateway"}
    assert played["came"] == [{"m1", "m2", "_gateway"}, {"m2", "_gateway"}]
    assert min(played["late"]) > 1, "a stream that is asked for later goes from then on"
    facts = played["facts"]
    assert (facts["platform"]["streams"], facts["auditor"]["streams"]) == (["m1"], ["m2"])
    assert (facts["platform"]["compress"], facts["auditor"]["compress"]) == (None, "zstd")
    assert all(one["waiting"] < 20 for one in facts.values()), "what was not asked for waits for nobody"
    owner, auditor = played["heard"]
    bodies = {m.topic.split("/")[-2] + str(hash(inflate(m.payload))) for m in owner if m.road in PACKS}
    packs = [m for m in auditor if m.road in PACKS or m.road == "birth"]
    assert packs and all(m.payload.startswith(ZSTD_MAGIC) for m in packs if len(inflate(m.payload)) > 1000)
    gateway = [m for m in packs if m.topic.split("/")[-2] == "_gateway" and m.road in PACKS]
    assert {"_gateway" + str(hash(inflate(m.payload))) for m in gateway} <= bodies, (
        "the identical bytes, compressed or not"
    )


def test_each_side_is_verified_with_its_own_list(played: dict[str, Any]) -> None:
    kid, (owner, auditor) = played["kid"], played["heard"]
    for heard, streams in ((owner, ["m1"]), (owner, ["m1", "m2"]), (auditor, ["m2"]), (auditor, ["m2", "x-*"])):
        report = judged(heard, kid, *streams)
        assert report.ok and not report.failures, (streams, report.reasons)
    foreign = judged(owner, kid, "m1").streams[f"{SITE}/m2"]
    assert not foreign.asked and foreign.packs
    assert not judged(auditor, kid, "m2").streams[f"{SITE}/m1"].asked


def test_what_was_agreed_and_held_back_is_found(played: dict[str, Any]) -> None:
    """A gateway that leaves m1 out, though it was agreed, has named it in its checkpoints."""
    kid, (_, auditor) = played["kid"], played["heard"]
    for streams in (["m1", "m2"], ["m*"], []):
        report = filed(auditor, kid, *streams)
        assert report.verdict.value == "incomplete" and report.withheld == [f"{SITE}/m1"], (streams, report.reasons)
    assert filed(auditor, kid, "m2").ok
    assert judged(auditor, kid, "m2", "m3").unknown == [f"{SITE}/m3"]
    without = [m for m in auditor if "/checkpoint/" not in m.topic]
    assert filed(without, kid, "m1", "m2").unknown == [f"{SITE}/m1"], "nor does it help to hold back the checkpoints"


play_two_destinations.tests = {  # type: ignore[attr-defined]
    "test_two_destinations", "test_each_side_is_verified_with_its_own_list",
    "test_what_was_agreed_and_held_back_is_found",
}  # fmt: skip
