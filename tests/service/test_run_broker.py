"""Brokers that go, are not there yet, or refuse; and everything absent at once at the start."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.verify.live import Live
from tests.kits.books import BUSY, boots, busy_only, gaps, reasons, settle
from tests.kits.faults.books import came
from tests.kits.house import SECONDLY, Broker, House, Listener, Meter, come_home, free_port, one_meter, until, whole


def last_seq(listener: Listener, device: str) -> int:
    return max((pack["seq"] for pack in listener.packs(device)), default=0)


# --- a broker that was stopped for a while


def play_a_broker_that_was_away(folder: Path, house: House) -> dict[str, Any]:
    """Two destinations; the second is never away, so it shows the bytes that the first has yet to get."""
    (folder / "b").mkdir()
    broker, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    steady = Broker(folder / "b")
    house.at_end(steady.stop)
    steady.start()
    witness = house.listen(steady)
    agent.uplink = f'backfill_rate = 2\n\n[[uplink]]\nname = "steady"\nurl = "{steady.url}"'
    agent.configure()
    live = Live(steady.url, [agent.kid])
    live.start()
    house.at_end(live.stop)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 10, lambda: agent.said)
    broker.stop()
    away = last_seq(witness, "m1")
    until(lambda: last_seq(witness, "m1") >= away + 6, 15, "packs while the first broker is away")
    broker.start()
    back, owed = len(listener.heard), last_seq(witness, "m1")
    until(lambda: listener.packs("m1", "backfill"), 15, lambda: agent.said)
    until(lambda: whole(listener, "m1") and whole(listener, "_gateway"), 20, "the backlog")
    code = come_home(agent, listener, witness)
    bodies = {}
    for message in witness.heard:
        if message.road in ("readings", "backfill"):
            pack = json.loads(message.payload)
            bodies[pack["stream"], pack["seq"]] = message.payload
    return {
        "code": code, "report": settle(listener.heard, agent.kid, {"m1": meter}), "bodies": bodies,
        "witnessed": settle(witness.heard, agent.kid, {"m1": meter}), "live": live.stop(),
        "after": [m for m in listener.heard[back:] if m.road in ("readings", "backfill") and "/m1/" in m.topic],
        "heard": [m for m in listener.heard if m.road in ("readings", "backfill")], "owed": range(away + 1, owed + 1),
    }  # fmt: skip


def test_a_broker_that_was_away(played: dict[str, Any]) -> None:
    """Promise 3: no hole in any stream; the backlog comes on ``backfill``, oldest first, beside fresh packs."""
    # field pains 44, 46 and 55: the store outlives the outage and drains afterwards
    assert played["code"] == 0
    for report in (played["report"], played["witnessed"], played["live"]):
        assert report.ok and busy_only(report, "m1"), (report.reasons, report.streams)
    for message in played["heard"]:
        pack = json.loads(message.payload)
        assert message.payload == played["bodies"][pack["stream"], pack["seq"]], "both destinations get the same bytes"
    after = [(m.road, json.loads(m.payload)["seq"]) for m in played["after"]]
    late = [seq for road, seq in after if road == "backfill" and seq in played["owed"]]
    assert late == sorted(late) and len(late) >= 3
    fresh = [seq for road, seq in after if road == "readings"]
    assert fresh == sorted(fresh) and min(fresh) > late[0]
    assert after.index(("readings", fresh[0])) < after.index(("backfill", late[-1])), "fresh ones do not wait for it"


# --- nothing is there at the start


def play_nothing_is_there_at_the_start(folder: Path, house: House) -> dict[str, Any]:
    broker = house.broker(start=False)
    meters = {"m1": Meter(1), "m2": Meter(2)}
    port = free_port()  # of a device that is not switched on yet
    link = folder / "tty"
    agent = house.agent(
        broker,
        {"roof": f"modbus-tcp://127.0.0.1:{port}", "cabinet": f"serial:{link}"},
        {"m1": ("roof", 1), "m2": ("cabinet", 2)},
        line_more={"cabinet": 'serial = "38400 8N1"'},
    )
    agent.start()
    until(lambda: agent.snapshot()["lines"]["cabinet"]["open_failures"] >= 2, 10)
    until(lambda: agent.snapshot()["lines"]["roof"]["open_failures"] >= 2, 10)
    until(lambda: agent.snapshot()["uplinks"]["platform"]["error"], 10)
    down = agent.snapshot()
    alone = agent.said
    listener = house.listen(broker, connected_s=0)
    broker.start()
    house.field.tcp(meters["m1"], port=port)
    house.field.serial(link, meters["m2"])
    until(lambda: listener.numbers("m1") and listener.numbers("m2"), 30, lambda: agent.said)
    up = until(
        lambda: (s := agent.snapshot())["devices"]["m1"]["life"] == s["devices"]["m2"]["life"] == "alive" and s, 5
    )
    said, ran = agent.said, boots(listener.packs())
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, meters)
    return {"code": code, "report": report, "down": down, "alone": alone, "up": up,
            "said": said, "boots": ran}  # fmt: skip


def test_nothing_is_there_at_the_start(played: dict[str, Any]) -> None:
    """Promise 5: it starts with no broker, no device and no port; all of it may come later, by itself."""
    # field pains 65 and 66: no crash loop, ready all the same, and nothing is recorded as unsupported
    assert played["code"] == 0 and len(played["boots"]) == 1
    assert not played["down"]["uplinks"]["platform"]["connected"] and played["down"]["uplinks"]["platform"]["error"]
    for device in ("m1", "m2"):
        assert played["down"]["devices"][device]["last_answer"] is None
        assert {"absent"} <= set(reasons(played["report"], device)) <= {"absent"} | BUSY
    said = played["alone"]
    assert said.count("cannot open serial:") == 1, "a line that is down is told once"
    assert "Is the adapter plugged in?" in said and "nothing listens on this port" in said
    assert "reopened" in played["said"]


# --- a broker that refuses


def play_a_broker_that_refuses(folder: Path, house: House) -> dict[str, Any]:
    users = folder / "users"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "gw01", "right"], check=True, capture_output=True)
    subprocess.run(["mosquitto_passwd", "-b", str(users), "reader", "reader"], check=True, capture_output=True)
    users.chmod(0o644)
    broker = house.broker("allow_anonymous false", f"password_file {users}")
    secret = folder / "password"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    meter = Meter(1)
    agent = house.agent(
        broker,
        {"roof": house.field.tcp(meter)},
        {"m1": ("roof", 1)},
        uplink=f'username = "gw01"\npassword_file = "{secret}"\nbackfill_rate = 200',
    )
    agent.start()
    refused = until(lambda: (s := agent.snapshot())["uplinks"]["platform"]["error"] and s, 10, lambda: agent.said)
    until(lambda: meter.count - meter.first >= 4, 10, "readings go on")
    listener = house.listen(broker, login=("reader", "reader"))
    secret.write_text("right\n")
    until(lambda: agent.snapshot()["uplinks"]["platform"]["connected"], 20, lambda: agent.said)
    until(lambda: listener.numbers("m1"), 10, lambda: agent.said)
    said = agent.said
    code = come_home(agent, listener)
    report = settle(listener.heard, agent.kid, {"m1": meter})
    return {"code": code, "report": report, "refused": refused["uplinks"]["platform"], "said": said,
            "gaps": gaps(listener.packs("m1"))}  # fmt: skip


def test_a_broker_that_refuses(played: dict[str, Any]) -> None:
    """A wrong password is named with its remedy, costs no reading, and needs no restart once it is right."""
    assert played["code"] == 0 and played["report"].ok and busy_only(played["report"], "m1"), played["gaps"]
    assert played["refused"]["error"] and "password" in played["refused"]["hint"]
    assert played["said"].count("not authorized. Check") == 1, "the same refusal is logged once"
    assert "wrong" not in played["said"], "no secret in the log"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_broker_that_was_away_for_a_minute(tmp_path: Path) -> None:
    """Issue 2: stopped for 60 s and started again, no hole in any stream at the verifier."""
    with House(tmp_path) as house:
        broker, listener, meter, agent = one_meter(tmp_path, house, every=SECONDLY)
        agent.start()
        until(lambda: len(listener.packs("m1")) >= 2, 10, lambda: agent.said)
        broker.stop(kill=True)
        count = meter.count
        until(lambda: meter.count >= count + 60, 90, "a minute")
        away = meter.count
        broker.start()
        until(lambda: came(listener, away), 90, lambda: agent.said)
        assert come_home(agent, listener) == 0
        assert busy_only(settle(listener.heard, agent.kid, {"m1": meter}), "m1")
