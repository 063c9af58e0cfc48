"""Scenarios: brokers that are away, slow, full, deaf, strict or torn, one at a time and all at once."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path
from typing import Any

from tests.kits.fake_broker import FakeBroker, Sent
from tests.kits.faults.books import balance, bodies, came, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.faults.tap import Tap
from tests.kits.house import SECONDLY, Agent, Broker, Heard, House, Listener, Meter, come_home, until, whole

QUOTA = 0x97
TROUBLES = {  # what the agent says of each destination while it is in trouble; of two nothing is said
    "dead": "nothing listens", "unread": "no subscriber", "strict": "does not allow this client to publish",
    "quota": "quota", "tight": "too large", "good": "None", "slow": "None",
}  # fmt: skip


def uplinks(urls: dict[str, str], more: str = "") -> str:
    """[[uplink]] tables."""
    return "\n".join(f'[[uplink]]\nname = "{name}"\nurl = "{url}"\n{more}' for name, url in urls.items())


def broker_at(house: House, name: str, *lines: str, start: bool = True) -> Broker:
    folder = house.folder / name
    folder.mkdir()
    broker = Broker(folder, *lines)
    house.at_end(broker.stop)
    if start:
        broker.start()
    return broker


def tap_to(house: House, broker: Broker, **more: Any) -> Tap:
    tap = Tap(house.field, broker.port, **more)
    house.at_end(tap.close)
    return tap


class Grudging:
    """A broker of its own making that says ``quota exceeded`` until it is told otherwise."""

    def __init__(self, house: House) -> None:
        self.full = True
        self.heard: list[Heard] = []  # what it took
        self.fake = FakeBroker(answer=self._answer)
        house.at_end(self.fake.close)

    def _answer(self, sent: Sent) -> int:
        if self.full and sent.topic.endswith(("/readings", "/backfill")):
            return QUOTA
        self.heard.append(Heard(time.monotonic(), sent.topic, sent.payload, sent.retain))
        return 0

    # as far as a Listener is needed
    packs = Listener.packs
    names = Listener.names
    numbers = Listener.numbers
    events = Listener.events


def state(agent: Agent, uplink: str) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = agent.snapshot()["uplinks"][uplink]
        return found
    return {"connected": False, "error": None, "set_aside": 0}


def live_packs_sent_as_backlog(ear: Listener) -> int:
    """Packs that came as backlog although they were fresh: what a busy machine seals or sends late is not."""
    utc_s, seen, found = time.time() - time.monotonic(), set(), 0
    for message in ear.heard:
        if message.road in ("readings", "backfill") and message.payload not in seen:
            seen.add(message.payload)
            age_s = message.at + utc_s - json.loads(message.payload)["to"]
            found += message.road == "backfill" and age_s < 3  # pack intervals, of a second
    return found


@scenario(about_s=15, long=10, chunk=1)
def brokers_of_all_kinds(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """One good destination and eight troubled ones beside it; then all of them get well."""
    rng = random.Random(seed)
    acl = folder / "acl"
    acl.write_text("topic read #\n")
    good, torn, slow, stalled = (broker_at(house, name) for name in ("good", "torn", "slow", "stalled"))
    dead, unread = broker_at(house, "dead", start=False), broker_at(house, "unread")
    strict = broker_at(house, "strict", f"acl_file {acl}", start=False)
    # mosquitto 2.0.21 without that limit hangs up ("Quota exceeded") where it should only refuse
    strict.conf.write_text(strict.conf.read_text().replace("max_queued_messages 0", "max_queued_messages 100000"))
    strict.start()
    tight = broker_at(house, "tight", "max_packet_size 900")
    quota = Grudging(house)
    tear = tap_to(house, torn, tears=3)
    stall, thin = tap_to(house, stalled), tap_to(house, slow, rate=6_000)
    meter = Meter(1)
    ways = {
        "good": good.url, "dead": dead.url, "unread": unread.url, "strict": strict.url, "tight": tight.url,
        "quota": f"mqtt://127.0.0.1:{quota.fake.port}", "torn": tear.url, "stalled": stall.url, "slow": thin.url,
    }  # fmt: skip
    agent = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY, more=uplinks(ways))
    ears: dict[str, Any] = {
        name: house.listen(broker)
        for name, broker in (("good", good), ("strict", strict), ("tight", tight), ("torn", torn),
                             ("stalled", stalled), ("slow", slow))
    }  # fmt: skip
    ears["dead"], ears["quota"] = house.listen(dead, connected_s=0), quota
    agent.start()
    until(lambda: len(ears["good"].packs("m1")) >= 2, 30, lambda: agent.said)
    until(lambda: ears["stalled"].packs("m1"), 30, lambda: agent.said)
    stall.mode = "hold"
    until(lambda: tear.tears == 0, 30, lambda: agent.said)
    until(lambda: state(agent, "tight")["set_aside"], 30, lambda: agent.said)
    for name, error in TROUBLES.items():
        until(lambda name=name, error=error: error in str(state(agent, name)["error"]), 30,
              lambda name=name: (name, state(agent, name), agent.said))  # fmt: skip
    count = meter.count + rng.randint(1, 2)
    until(lambda: came(ears["good"], count), 30, lambda: agent.said)
    dead.start()
    ears["unread"] = house.listen(unread)
    acl.write_text("topic readwrite #\n")
    strict.reload()
    quota.full = False
    stall.mode = "pass"
    for name, ear in ears.items():
        if name != "tight":
            until(lambda ear=ear: whole(ear, "m1") and whole(ear, "_gateway") and came(ear, count), 30,
                  lambda name=name: (name, agent.said, state(agent, name)))  # fmt: skip
    code = agent.stop()
    before = agent.said
    tight.stop()
    tight.conf.write_text(tight.conf.read_text().replace("max_packet_size 900", ""))
    tight.start()
    agent.start()
    for name, ear in ears.items():
        until(lambda ear=ear: whole(ear, "m1") and whole(ear, "_gateway"), 30, lambda name=name: (name, agent.said))
    codes = (code, come_home(agent, *ears.values()))
    reports = {name: balance(ear.heard, agent.kid, {"m1": meter}) for name, ear in ears.items()}
    same = {(p["stream"], p["seq"]): p["sig"] for p in bodies(ears["good"].heard)}
    for name, ear in ears.items():
        assert {(p["stream"], p["seq"]): p["sig"] for p in bodies(ear.heard)} == same, f"{name} got the same packs"
    return figures(reports["good"], codes=codes, said=before,
                   live_packs_sent_as_backlog=live_packs_sent_as_backlog(ears["good"]),
                   redeliveries={name: report.redelivered for name, report in reports.items()})  # fmt: skip
