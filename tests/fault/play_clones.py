"""Scenario: a second box runs with the name, the key and the state of the first."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

from tests.fault.play_brokers import broker_at, state, tap_to, uplinks
from tests.kits.books import boots, report_of
from tests.kits.faults.books import balance, came, ended, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, Agent, House, Meter, until

SHORTEST_AWAY_S = 30.0  # who was thrown out stays away for a minute, or as little as half of that by chance


@scenario(rounds=1, about_s=9, long=2)
def two_agents_with_one_name(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The clone takes the first one's session; neither fights for it, and the books at the broker show two histories.

    ``rounds`` above 1: watched for a minute and a half, so that both have come back at least once.
    """
    broker, private = broker_at(house, "shared"), broker_at(house, "private")
    listener, witness = house.listen(broker), house.listen(private)
    taps = [tap_to(house, broker), tap_to(house, broker)]
    meters = [Meter(1), Meter(2)]
    lines = [house.field.tcp(meter) for meter in meters]
    first = house.agent(None, {"roof": lines[0]}, {"m1": ("roof", 1)}, every=SECONDLY,
                        more=uplinks({"platform": taps[0].url, "private": private.url}))  # fmt: skip
    first.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: first.said)
    assert first.stop() == 0
    (folder / "clone").mkdir()
    shutil.copytree(folder / "state", folder / "clone" / "state")
    clone = Agent(folder / "clone", None, {"roof": lines[1]}, {"m1": ("roof", 2)}, every=SECONDLY,
                  more=uplinks({"platform": taps[1].url}))  # fmt: skip
    house.at_end(clone.close)
    first.start()
    until(lambda: len(boots(listener.packs("m1"))) == 2, 30, lambda: first.said)
    began = time.monotonic()
    clone.start()
    until(lambda: "took over" in str(state(first, "platform")["error"]), 30, lambda: first.said)
    until(lambda: [e for e in witness.events("_gateway") if e["event"] == "taken_over"], 30, lambda: first.said)
    count = meters[1].count + 1
    until(lambda: came(listener, count), 30, lambda: clone.said)
    watched_s = 3.0 if rounds == 1 else 90.0
    threading.Event().wait(max(0.0, began + watched_s - time.monotonic()))  # a war would be fought in this time
    connects = [len([at for at in tap.connects if at >= began]) for tap in taps]
    most = 1 + int((time.monotonic() - began) / SHORTEST_AWAY_S)  # on a slow machine all this takes longer than that
    codes = (first.stop(), clone.stop())
    until(lambda: ended(witness, 2), 30, lambda: first.said)
    events = [event for event in witness.events("_gateway") if event["event"] == "taken_over"]
    report = report_of(listener.heard, first.kid)
    mine = balance(witness.heard, first.kid, {"m1": meters[0]})
    return figures(mine, codes=codes, connects=connects, most_connects=most,
                   longest_watched_s=watched_s, events=events, said=first.said,
                   at_the_broker=report.verdict.value, reasons=report.reasons,
                   conflicts=[text for stream in report.streams.values() for text in stream.conflicts])  # fmt: skip
