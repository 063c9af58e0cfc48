"""What `status` says of a real agent: nothing is well that is not. field pain 70"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import ext.clock
from agent.cli.common import NoAgent, read_snapshot
from agent.cli.findings import Finding, exit_code_of, find
from agent.service.runtime_dir import instance_lock, note_end
from drivers.model import GatewayError
from tests.kits.authority import Authority
from tests.kits.faketime import LIBRARIES, Clock
from tests.kits.house import SECONDLY, Agent, House, Listener, Meter, devices_on, free_port, one_meter, until

YEAR_S = 365 * 86_400


def named(meter: Meter, serial: str) -> None:
    """The meter gives this serial number, from its next answer on."""
    raw = serial.ljust(8).encode()
    meter.image.put_words(104, [int.from_bytes(raw[n : n + 2], "big") for n in range(0, 8, 2)])


def findings(snapshot: dict[str, Any], *, settled: bool = False) -> list[Finding]:
    """Those of a snapshot, without the clock of this machine. ``settled``: as if the first minute were over."""
    for device in snapshot["devices"].values():
        if settled and device["recent"]:
            device["recent"]["settled"] = True
    return [one for one in find(snapshot, snapshot["time"], True) if one.where != "clock"]


def codes(found: Sequence[Finding]) -> set[tuple[str, str]]:
    return {(one.code, one.where) for one in found}


def told(agent: Agent, *more: str) -> tuple[int, str]:
    """The command `meterhouse status` itself."""
    words = [sys.executable, "-m", "agent.cli.main", "status", "--runtime-dir", str(agent.runtime), *more]
    done = subprocess.run(
        words, check=False, capture_output=True, text=True, timeout=240, env=os.environ | {"LANG": "C"}
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


def recent(agent: Agent, device: str) -> dict[str, Any]:
    return agent.snapshot()["devices"][device]["recent"] or {"missing": {}, "marked": {}, "complete": None, "due": 0}


# --- D1a: a line that is asked for more than it can carry


def play_an_overloaded_line(folder: Path, house: House) -> dict[str, Any]:
    meters = [Meter(unit) for unit in range(1, 7)]
    line = house.field.serial(folder / "tty", *meters, baud=2400)
    agent = house.agent(None, {"bus": line}, devices_on("bus", meters))
    agent.start()
    until(
        lambda: (
            all(recent(agent, f"m{n}")["missing"].get("overload", 0) > 20 for n in range(1, 7))
            and agent.snapshot()["lines"]["bus"]["busy_share"] > 0.9
        ),
        40,
        agent.snapshot,
    )
    snapshot, status = agent.snapshot(), told(agent)
    return {"snapshot": snapshot, "status": status, "code": agent.stop()}


def test_an_overloaded_line(played: dict[str, Any]) -> None:
    assert played["code"] == 0
    snapshot, (code, text) = played["snapshot"], played["status"]
    assert not {one.code for one in findings(snapshot)} - {"device-early", "no-destination"}, (
        "in the first minute it may still be the start"
    )
    assert "All is well" not in text
    assert code == 1 or (code == 0 and "it is too early to say" in text), "1: the clock of this machine"
    found = findings(snapshot, settled=True)
    assert exit_code_of(found) == 4
    assert ("line-overloaded", "line bus") in codes(found)
    slow = {where for kind, where in codes(found) if kind == "device-incomplete"}
    assert slow == {f"device m{n}" for n in range(1, 7) if snapshot["devices"][f"m{n}"]["recent"]["complete"] < 0.9}
    assert slow and all(one.values["worst"] == "overload" for one in found if one.code == "device-incomplete")


def play_an_overloaded_line_after_the_first_minute(folder: Path, house: House) -> dict[str, Any]:
    meters = [Meter(unit) for unit in range(1, 7)]
    line = house.field.serial(folder / "tty", *meters, baud=2400)
    agent = house.agent(None, {"bus": line}, devices_on("bus", meters))
    agent.start()
    until(lambda: all(recent(agent, f"m{n}").get("settled") for n in range(1, 7)), 150, agent.snapshot)
    snapshot = agent.snapshot()
    return {"snapshot": snapshot, "status": told(agent), "code": agent.stop()}


@pytest.mark.slow
def test_an_overloaded_line_after_the_first_minute(played: dict[str, Any]) -> None:
    """The same without help from the test: from then on it counts."""
    assert played["code"] == 0
    found, (code, text) = findings(played["snapshot"]), played["status"]
    assert ("line-overloaded", "line bus") in codes(found) and exit_code_of(found) == 4
    assert code in (1, 4) and "line bus is" in text and "All is well" not in text
    begins = [device["recent"]["from"] for device in played["snapshot"]["devices"].values()]
    assert min(begins) >= played["snapshot"]["started"] + 50, "the first minute does not count"


# --- the first status of a run


def play_the_first_status_of_a_run_has_the_sizes_of_the_store(folder: Path, house: House) -> dict[str, Any]:
    _, _, _, agent = one_meter(folder, house, every=SECONDLY)
    agent.config.write_text(agent.config.read_text().replace('every = "1 s"', 'every = "1 min"', 1))
    agent.start()
    first, (_, text) = agent.snapshot(), told(agent, "--json")
    return {"first": first, "told": json.loads(text), "code": agent.stop()}


def test_the_first_status_of_a_run_has_the_sizes_of_the_store(played: dict[str, Any]) -> None:
    for facts in (played["first"], played["told"]):
        store = facts["store"]
        assert store["size_bytes"] > 0 and store["limit_bytes"] > store["size_bytes"] and store["disk_free_bytes"] > 0
        assert set(store["pending"]) == {"platform"} and store["lost_packs"] == 0


# --- D1b: a device that answers zeros


def play_a_device_that_answers_zeros(folder: Path, house: House) -> dict[str, Any]:
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 15, lambda: agent.said)
    good = findings(agent.snapshot(), settled=True)
    meter.fault("zero")
    until(
        lambda: 5 * recent(agent, "m1")["marked"].get("suspect", 0) > recent(agent, "m1")["due"] > 0,
        30,
        lambda: agent.snapshot()["devices"],
    )
    return {"good": good, "snapshot": agent.snapshot(), "code": agent.stop()}


def test_a_device_that_answers_zeros(played: dict[str, Any]) -> None:
    assert played["code"] == 0 and played["good"] == []
    found = findings(played["snapshot"], settled=True)
    assert codes(found) == {("device-suspect", "device m1")} and exit_code_of(found) == 4
    assert "suspect" in found[0].text() and "read m1" in found[0].advice()


# --- D1c: nobody subscribes


def play_nobody_subscribes(folder: Path, house: House) -> dict[str, Any]:
    broker, meter = house.broker(), Meter(1)
    agent = house.agent(broker, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=SECONDLY)
    agent.start()
    until(lambda: agent.snapshot()["uplinks"]["platform"]["waiting"] >= 14, 40, lambda: agent.snapshot()["uplinks"])
    alone, status = agent.snapshot(), told(agent, "--json")
    listener = house.listen(broker)
    until(lambda: agent.snapshot()["uplinks"]["platform"]["subscriber"] is True, 90, agent.snapshot)
    until(lambda: not findings(agent.snapshot()), 90, lambda: agent.snapshot()["uplinks"])
    return {
        "alone": alone,
        "status": status,
        "after": agent.snapshot(),
        "code": agent.stop(),
        "packs": listener.packs("m1"),
    }


def test_nobody_subscribes(played: dict[str, Any]) -> None:
    assert played["code"] == 0
    uplink = played["alone"]["uplinks"]["platform"]
    assert uplink["connected"] and uplink["subscriber"] is False and uplink["confirmed"] == 0
    (finding,) = findings(played["alone"])
    assert (finding.code, finding.exit_code) == ("uplink-no-subscriber", 5)
    assert f"{uplink['waiting']} packs are waiting" in finding.text(), "those in the store, too"
    code, text = played["status"]
    facts = json.loads(text)
    assert code in (1, 5) and not facts["ok"] and finding.to_json()["text"].split(":")[0] in text
    assert played["packs"] and played["after"]["uplinks"]["platform"]["subscriber"] is True


# --- D1d: the clock of this machine, whatever it is


def play_the_clock_of_this_machine(folder: Path, house: House) -> dict[str, Any]:
    _, listener, _, agent = one_meter(folder, house, every=SECONDLY)
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 2, 15, lambda: agent.said)
    before = ext.clock.state().synced
    until(lambda: agent.snapshot()["uplinks"]["platform"]["subscriber"] is True, 15, agent.snapshot)
    status, snapshot = told(agent), agent.snapshot()
    steady = before == snapshot["clock"]["synced"] == ext.clock.state().synced
    return {"status": status, "synced": before, "steady": steady, "code": agent.stop()}


def test_the_clock_of_this_machine(played: dict[str, Any]) -> None:
    """What the packs say of the clock, `status` says too; and of nothing else, as everything else is well."""
    (code, text), synced = played["status"], played["synced"]
    if not played["steady"]:
        pytest.skip("the clock of this machine was synchronised, or lost it, during the test")
    assert code == (1 if synced is False else 0), text
    assert ("is not synchronised" in text) is (synced is False) and ("All is well." in text) is (synced is not False)
    assert "since the start" in text


# --- D1e: a device is pulled


def play_a_device_is_pulled(folder: Path, house: House) -> dict[str, Any]:
    meters = [Meter(1), Meter(2)]
    line = house.field.serial(folder / "tty", *meters)
    agent = house.agent(None, {"bus": line}, devices_on("bus", meters), every=SECONDLY)
    agent.start()
    until(lambda: agent.life("m1") == agent.life("m2") == "alive", 15, lambda: agent.said)
    meters[0].fault("silence")
    until(lambda: agent.life("m1") == "dead", 40, lambda: agent.snapshot()["devices"])
    pulled, status = agent.snapshot(), told(agent)
    meters[0].well()
    until(lambda: agent.life("m1") == "alive", 90, lambda: agent.said)
    until(lambda: recent(agent, "m1")["missing"], 40, lambda: agent.snapshot()["devices"])
    return {"pulled": pulled, "status": status, "back": agent.snapshot(), "code": agent.stop()}


def test_a_device_is_pulled(played: dict[str, Any]) -> None:
    """It is named, and the other one on its line is not blamed; after its return what it missed is said for a while."""
    assert played["code"] == 0
    pulled, (code, text) = played["pulled"], played["status"]
    assert codes(findings(pulled)) - {("device-early", "device m2")} == {
        ("device-dead", "device m1"), ("no-destination", "store"),
    }  # fmt: skip
    assert exit_code_of(findings(pulled)) == 4
    assert code in (1, 4) and "device m1 has not answered for" in text and "error: device m2" not in text
    assert pulled["devices"]["m2"]["life"] == "alive"
    back = played["back"]["devices"]["m1"]
    assert back["answering_since"] > pulled["devices"]["m1"]["last_answer"]
    assert set(back["recent"]["missing"]) <= {"timeout", "absent", "overload"}
    for one in (back, pulled["devices"]["m1"]):  # it lacks no point
        assert one["recent"]["not_asked"] == one["recent"]["missing"].get("absent", 0)


# --- devices that answer, but not in sound frames


def play_garbled_devices(folder: Path, house: House) -> dict[str, Any]:
    meters = [Meter(unit) for unit in range(1, 5)]
    line = house.field.serial(folder / "tty", *meters)
    agent = house.agent(None, {"bus": line}, devices_on("bus", meters), every=SECONDLY)
    for meter, fault in zip(meters, ("crc", "unit=9", "cut"), strict=False):
        meter.fault(fault)
    agent.start()
    until(lambda: [agent.life(f"m{n}") for n in range(1, 5)] == ["dead"] * 3 + ["alive"], 60, lambda: agent.said)
    status = told(agent)
    return {"snapshot": agent.snapshot(), "status": status, "code": agent.stop()}


def test_garbled_devices(played: dict[str, Any]) -> None:
    """Wrong CRC, the address of another device, cut short: none of it is silence."""
    found = {one.where: one for one in findings(played["snapshot"])}
    assert [found[f"device m{n}"].code for n in (1, 2, 3)] == ["device-garbled"] * 3
    assert "device m2 answers, but no frame has been valid for" in played["status"][1] and played["code"] == 0


# --- devices behind a serial server, which answers in their place


def play_devices_behind_a_gateway(folder: Path, house: House) -> dict[str, Any]:
    meters = [Meter(unit) for unit in range(1, 6)]
    agent = house.agent(None, {"bus": house.field.tcp(*meters)}, devices_on("bus", meters), every=SECONDLY)
    agent.start()
    until(lambda: all(agent.life(f"m{n}") == "alive" for n in range(1, 6)), 15, lambda: agent.said)
    for meter, fault in zip(meters, ("gateway", "gateway=0A", "exception=04", "exception=02"), strict=False):
        meter.fault(fault)
    until(
        lambda: (
            all(agent.life(f"m{n}") == "dead" for n in (1, 2, 3))
            and recent(agent, "m4")["missing"].get("exception", 0) > recent(agent, "m4")["due"] / 5
        ),
        60,
        lambda: agent.snapshot()["devices"],
    )
    pulled = agent.snapshot()
    meters[2].well()
    until(lambda: agent.life("m3") == "alive", 90, lambda: agent.said)
    return {"pulled": pulled, "code": agent.stop()}


def test_devices_behind_a_gateway(played: dict[str, Any]) -> None:
    """Pulled ones are dead, whatever their serial server answers; one that refuses what it is asked is alive."""
    assert played["code"] == 0
    pulled = played["pulled"]
    assert [pulled["devices"][f"m{n}"]["life"] for n in range(1, 6)] == ["dead", "dead", "dead", "alive", "alive"]
    found = {one.where: one for one in findings(pulled, settled=True)}
    for n in (1, 2, 3):
        one = found[f"device m{n}"]
        assert (one.code, one.exit_code) == ("device-dead-behind-gateway", 4)
        assert "the cable to the serial server" in one.advice() and "profile" not in one.advice()
    assert found["device m4"].code == "device-incomplete" and "another profile" in found["device m4"].advice()
    assert "device m5" not in found


# --- D9: a device is exchanged while its line stays up


def with_a_name(folder: Path, house: House) -> tuple[Listener, Meter, Agent]:
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    agent.config.write_text(agent.config.read_text().replace("test/tally", "test/named"))
    named(meter, "A-1")
    agent.start()
    until(lambda: len(listener.numbers("m1")) >= 3, 15, lambda: agent.said)
    assert findings(agent.snapshot()) == []
    return listener, meter, agent


def swapped(agent: Agent) -> dict[str, Any]:
    return agent.snapshot()["devices"]["m1"]["swapped"] or {}


def identities(listener: Listener) -> list[dict[str, Any]]:
    return [event for event in listener.events("m1") if event["event"] == "identity"]


def play_a_swap_behind_a_steady_line(folder: Path, house: House) -> dict[str, Any]:
    listener, meter, agent = with_a_name(folder, house)
    named(meter, "B-2")
    meter.count = 47  # the other meter's counter is far behind; nobody asks for names before tomorrow
    until(lambda: swapped(agent), 30, lambda: (agent.said, agent.snapshot()["devices"]))
    snapshot, said = agent.snapshot(), agent.said
    until(lambda: identities(listener), 30, lambda: agent.said)
    agent.send(signal.SIGHUP)
    until(lambda: not swapped(agent), 30, lambda: agent.said)
    return {
        "snapshot": snapshot,
        "said": said,
        "events": identities(listener),
        "after": agent.snapshot(),
        "code": agent.stop(),
        "log": agent.said,
    }


def test_a_swap_behind_a_steady_line(played: dict[str, Any]) -> None:
    """The counter that fell gives it away; the log has a sentence, `status` a finding until somebody reloads."""
    # field pain 18
    assert played["code"] == 0 and len(played["events"]) == 1
    sentence = "m1: another device answers: serial B-2 instead of A-1. Its counters begin a new epoch"
    assert sentence in played["said"]
    (finding,) = [one for one in findings(played["snapshot"]) if one.code == "device-swapped"]
    assert finding.exit_code == 4 and "serial B-2 instead of A-1" in finding.text() and "reload" in finding.advice()
    assert "device-swapped" not in {one.code for one in findings(played["after"])}
    assert "reload: device m1 accepted: serial B-2 instead of A-1" in played["log"], "whoever confirms it is told"


def play_a_swap_with_a_reconnect(folder: Path, house: House) -> dict[str, Any]:
    _, meter, agent = with_a_name(folder, house)
    opened = agent.snapshot()["lines"]["roof"]["opened"]
    named(meter, "B-2")  # its counter happens to go on
    meter.fault("close*1")
    until(lambda: swapped(agent), 30, lambda: (agent.said, agent.snapshot()["devices"]))
    return {"opened": agent.snapshot()["lines"]["roof"]["opened"] - opened, "code": agent.stop()}


def test_a_swap_with_a_reconnect(played: dict[str, Any]) -> None:
    assert played == {"opened": 1, "code": 0}


# --- what the next start, or next month, would bring


def play_a_missing_key_and_an_old_certificate(folder: Path, house: House) -> dict[str, Any]:
    Authority(folder, "ca").issue("gw01", 10)
    uplink = f'[[uplink]]\nname = "platform"\nurl = "mqtts://127.0.0.1:{free_port()}"\nca_file = "ca.pem"\n'
    more = f'{uplink}cert_file = "gw01.crt"\nkey_file = "gw01.key"\n'
    agent = house.agent(None, {"roof": house.field.tcp(Meter(1))}, {"m1": ("roof", 1)}, every=SECONDLY, more=more)
    agent.start()
    until(lambda: agent.snapshot()["uplinks"]["platform"]["certificates"], 15, agent.snapshot)
    before = findings(agent.snapshot())
    key = folder / "state" / "signing.key"
    key.rename(folder / "aside")
    until(lambda: agent.snapshot()["key"]["trouble"], 15, lambda: agent.said)
    without = findings(agent.snapshot())
    (folder / "aside").rename(key)
    key.chmod(0o644)
    until(lambda: "key file is missing" not in (agent.snapshot()["key"]["trouble"] or "key file is missing"), 15)
    readable = agent.snapshot()["key"]["trouble"]
    key.chmod(0o600)
    until(lambda: not agent.snapshot()["key"]["trouble"], 15, lambda: agent.said)
    return {"before": before, "without": without, "readable": readable, "code": agent.stop()}


def test_a_missing_key_and_an_old_certificate(played: dict[str, Any]) -> None:
    """Both are said while the agent still runs well; the CA certificate, good for ten years, is not."""
    assert played["code"] == 0
    ours = [one for one in played["before"] if one.code.startswith("certificate")]
    assert [one.code for one in ours] == ["certificate-expires"] and "gw01.crt expires in 10 days" in ours[0].text()
    (key,) = [one for one in played["without"] if one.code == "key-trouble"]
    assert key.exit_code == 1 and "signing.key: the key file is missing" in key.text()
    assert "others" in played["readable"] and "0644" in played["readable"], played["readable"]


# --- D14: a state directory that cannot be used


@pytest.mark.parametrize("more", [(), ("--create-key",)])
def test_an_unusable_state_directory_is_a_plain_error_that_status_repeats(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    (tmp_path / "run").mkdir()
    config = tmp_path / "agent.toml"
    config.write_text(
        '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Pacific/Kiritimati"\n'
        '[paths]\nstate_dir = "/dev/null/x"\nruntime_dir = "run"\n'
    )
    words = [sys.executable, "-m", "agent.cli.main"]
    before = int(time.time())
    run = subprocess.run([*words, "run", "-c", config, *more], check=False, capture_output=True, text=True, timeout=240)
    assert run.returncode == 1
    why = "/dev/null/x: cannot be created: Not a directory. Set another directory under [paths] in agent.toml"
    assert run.stderr.splitlines()[-1] == f"error: {why}"
    status = subprocess.run([*words, "status", "-c", config], check=False, capture_output=True, text=True, timeout=240)
    assert status.returncode == 1 and "no agent is running here. The agent's previous run ended at 20" in status.stderr
    assert why in status.stderr
    (ended,) = re.findall(r"The agent's previous run ended at ([-0-9]+ [:0-9]+): ", status.stderr)
    moment = datetime.fromisoformat(ended).replace(tzinfo=ZoneInfo("Pacific/Kiritimati"))
    assert before <= moment.timestamp() <= time.time(), "the site's time, as everywhere"


def test_a_failed_start_is_visible_although_a_killed_agent_left_its_snapshot(tmp_path: Path) -> None:
    """Tools read the snapshot first, so they would show the state of the killed agent instead of the error."""
    for name in ("snapshot.json", "metrics.prom"):
        (tmp_path / name).write_text("{}")
    note_end(tmp_path, GatewayError("the store is broken", where="store.db"), "UTC")
    with pytest.raises(NoAgent, match=r"The agent's previous run ended at .*store\.db: the store is broken"):
        read_snapshot(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last-error"]


def test_a_second_agent_that_is_refused_leaves_the_files_of_the_first(tmp_path: Path) -> None:
    """The first agent runs on, so its snapshot is true, and nothing has ended."""
    with instance_lock(tmp_path / "state", tmp_path / "run"):
        (tmp_path / "run" / "snapshot.json").write_text("{}")
        note_end(tmp_path / "run", GatewayError("another agent is running", where="run"), "UTC")
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["agent.lock", "snapshot.json"]


# --- D15: a clock that is a year back


def play_a_clock_a_year_back(folder: Path, house: House) -> dict[str, Any]:
    clock = Clock(folder)
    _, listener, _, agent = one_meter(folder, house, every=SECONDLY, env=clock.env)
    agent.start()
    until(lambda: listener.packs("m1"), 15, lambda: agent.said)
    first = [agent.stop()]
    clock.set(-YEAR_S)
    agent.start()
    until((agent.runtime / "snapshot.json").exists, 15, lambda: agent.said)
    return {"said": agent.said, "snapshot": agent.snapshot(), "codes": [*first, agent.stop()]}


@pytest.mark.skipif(not LIBRARIES, reason="libfaketime is not installed (apt: faketime)")
def test_a_clock_a_year_back(played: dict[str, Any]) -> None:
    """The start warns, and `status` goes on saying it until the clock is synchronised."""
    assert played["codes"] == [0, 0]
    (line,) = [line for line in played["said"].splitlines() if "the store has packs up to" in line]
    assert "WARNING" in line and "one of the two is wrong" in line
    snapshot = played["snapshot"]
    assert YEAR_S - 3600 < snapshot["clock"]["behind_store"] <= YEAR_S + 3600
    snapshot["clock"]["synced"] = False
    assert "clock-behind" in {one.code for one in find(snapshot, snapshot["time"], True)}
