"""`meterhouse handover` with a real agent, offline: what it signs, what a stranger finds, what it refuses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.cli.control import ask_running
from agent.service.control.attest import compare
from agent.service.control.protocol import ComparedDevice, Handover
from drivers.model import UsageError
from tests.kits.house import Agent, House, Meter, until

pytestmark = pytest.mark.process

Mh = Callable[..., tuple[int, str, str]]
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "pack.schema.json").read_bytes())
REMARKS = "key <b>at</b> the gate, 钥匙"


class Still(Meter):
    """A meter whose counter stands at a number."""

    def __init__(self, unit: int, counter: int) -> None:
        super().__init__(unit)
        self.image.put_words(0, [counter >> 16, counter & 0xFFFF])

    def _count(self, function: int, address: int, count: int) -> None:
        pass


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with House(tmp_path) as made:
        yield made


def packs_of(folder: Path, stream: str) -> list[dict[str, Any]]:
    """All packs of a stream in an export."""
    (path,) = folder.rglob(f"{stream}*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_record_is_signed_and_found_by_a_stranger(tmp_path: Path, house: House, mh: Mh) -> None:
    roof = house.field.tcp(Still(1, 12345), Still(3, 700))
    devices = {"m1": ("roof", 1), "m2": ("yard", 2), "m3": ("roof", 3)}
    agent = house.agent(None, {"roof": roof, "yard": "modbus-tcp://127.0.0.1:1"}, devices)
    agent.start()
    until(lambda: all(agent.life(name) == "alive" for name in ("m1", "m3")), what=lambda: agent.said)
    until(lambda: counters_seen(mh, agent) == 2)
    (tmp_path / "shown.csv").write_text(
        "device,display,remark\nm1,12 345 000 Wh,\nm3,699.5,behind glass\n", "utf-8-sig"
    )
    args = ["handover", "--who", "李伟", "--remarks", REMARKS, "--csv", tmp_path / "shown.csv", "-c", agent.config]
    code, out, err = mh(*args, "--yes", "--json", "--html", tmp_path / "h.html")
    assert code == 4, err  # a device without a reading
    record = json.loads(out)
    found = {entry["device"]: entry for entry in record["devices"]}
    assert (found["m1"]["display"], found["m1"]["difference"], found["m1"]["agrees"]) == ("12345.000", "0", True)
    assert (found["m3"]["difference"], found["m3"]["agrees"], found["m3"]["remark"]) == ("0.5", True, "behind glass")
    assert "reading" not in found["m2"] and found["m2"]["state"] != "alive"
    assert found["m1"]["identity"] == {"firmware": "2"} and found["m1"]["address"] == "1"
    assert record["counts"] == {"agree": 2, "differ": 0, "open": 1, "silent": 0} and "wrote" in err

    lie = ComparedDevice(device="m1", n="ac.energy.import", t_ms=round(found["m1"]["reading"]["t"] * 1000), v="9")
    what = r"m1: the agent has recorded no reading ac\.energy\.import = 9 at the time that the handover record states"
    with pytest.raises(UsageError, match=what):
        ask_running(agent.runtime, Handover(who="x", devices=[lie]))
    assert agent.stop() == 0  # then all that was read is sealed
    assert mh("export", tmp_path / "given", "-c", agent.config)[0] == 0
    code, out, err = mh("verify", tmp_path / "given", "--trust", record["trust"])
    assert code == 0, out + err
    (line,) = [line for line in out.splitlines() if ": handover of devices at " in line]
    assert "by 李伟; devices: 3, compared with their displays: 2, with a difference: 0;" in line
    assert record["packs"][0]["hash"] in line
    code, out, _ = mh("verify", tmp_path / "given", "--trust", record["trust"], "--json")
    (listed,) = json.loads(out)["streams"]["park7/gw01/_gateway"]["handovers"]
    assert {name: listed[name] for name in ("boot", "seq", "hash")} == {
        name: record["packs"][0][name] for name in ("boot", "seq", "hash")
    }
    (pack,) = [pack for pack in packs_of(tmp_path / "given", "_gateway") if pack["seq"] == listed["seq"]]
    jsonschema.Draft202012Validator(SCHEMA).validate(pack)
    (event,) = [event for event in pack["events"] if event["event"] == "handover"]
    assert event["devices"] == record["devices"] and event["remarks"] == REMARKS
    reading = found["m1"]["reading"]
    assert (reading["n"], reading["v"], reading["u"]) == ("ac.energy.import", "12345", "kWh")
    assert reading["t"] in times_of(packs_of(tmp_path / "given", "m1"), reading["n"]), "the stream holds it as well"

    page = (tmp_path / "h.html").read_text()
    assert record["packs"][0]["hash"] in page and record["thumbprint"] in page and "<svg" in page
    assert (
        "key &lt;b&gt;at&lt;/b&gt;" in page
        and "<script" not in page
        and "http" not in re.sub(r'xmlns="[^"]*"', "", page)
    )

    code, _, err = mh(*args, "--yes")
    assert code == 1 and "no agent is running here" in err


def counters_seen(mh: Mh, agent: Agent) -> int:
    out = mh("watch", "--json", "--for", "1ms", "--point", "ac.energy.import", "-c", agent.config)[1]
    return sum(json.loads(line)["value"] is not None for line in out.splitlines())


def times_of(packs: list[dict[str, Any]], name: str) -> set[float]:
    found, base = set(), Decimal(0)
    for record in (record for pack in packs for record in pack.get("e", ())):
        base = Decimal(str(record.get("bt", base)))
        if record["n"] == name:
            found.add(float(base + Decimal(str(record.get("t", 0)))))
    return found


def test_a_large_park_is_recorded_in_parts(tmp_path: Path, house: House, mh: Mh) -> None:
    """Each part is an event in a pack of its own, which brokers take; together they are one record."""
    units = range(1, 53)
    roof = house.field.tcp(*(Still(unit, unit) for unit in units))
    every = '{ fast = "5 s", normal = "5 s", slow = "5 s" }'
    agent = house.agent(None, {"roof": roof}, {f"m{unit}": ("roof", unit) for unit in units}, every=every)
    agent.start()
    until(lambda: counters_seen(mh, agent) == len(units), what=lambda: agent.said)
    code, out, err = mh("handover", "--who", "x", "--yes", "--json", "-c", agent.config)
    record = json.loads(out)
    assert code == 0 and len(record["devices"]) == 52 and len(record["packs"]) == 2, err
    assert agent.stop() == 0 and mh("export", tmp_path / "given", "-c", agent.config)[0] == 0
    code, out, _ = mh("verify", tmp_path / "given", "--trust", record["trust"], "--json")
    listed = json.loads(out)["streams"]["park7/gw01/_gateway"]["handovers"]
    assert [(one["id"], one["devices"]) for one in listed] == [(record["id"], 50), (record["id"], 2)]
    for pack in packs_of(tmp_path / "given", "_gateway"):
        jsonschema.Draft202012Validator(SCHEMA).validate(pack)


class Terminal(io.StringIO):
    """Typed lines."""

    def isatty(self) -> bool:
        return True


def test_a_person_is_asked_for_each_display(
    tmp_path: Path, house: House, mh: Mh, monkeypatch: pytest.MonkeyPatch
) -> None:
    roof = house.field.tcp(Still(1, 12345), Still(2, 700), Still(3, 5))
    agent = house.agent(None, {"roof": roof}, {f"m{n}": ("roof", n) for n in (1, 2, 3)})
    agent.start()
    until(lambda: counters_seen(mh, agent) == 3)
    for last, code in (("n", 130), ("y", 4)):
        answers = ["Li Wei", "12345", "about 7", "7000", "", last]
        monkeypatch.setattr("sys.stdin", Terminal("\n".join(answers) + "\n"))
        got, out, err = mh("handover", "-c", agent.config, "--html", tmp_path / "h.html", "--lang", "zh")
        assert got == code, err
        assert "m1：ac.energy.import = 12345 kWh，表计显示" in err and "'about 7' 不是数字" in err
        assert (tmp_path / "h.html").exists() == (code == 4)
        table, question = err.index("m2 "), err.index("是否签名并记录？")
        before = [line.split() for line in err[err.index("m1 ") : question].splitlines()]
        assert table < question and before == [
            ["m1", "ac.energy.import", "12345", "kWh", "12345", "0", "一致"],
            ["m2", "ac.energy.import", "700", "kWh", "7000", "-6300", "不一致"],
            ["m3", "ac.energy.import", "5", "kWh", "-", "-", "未比对"],
        ], err
        assert ("未签名：未发送任何内容" in err) == (code == 130)
    assert "共3台设备：1台与表计显示一致，1台不一致，1台未比对" in out and "已写入" in out
    page = (tmp_path / "h.html").read_text()
    assert "交接记录" in page and "不一致" in page and "-6300" in page
    agent.stop()


@pytest.mark.parametrize(
    ("reading", "display", "difference", "agrees"),
    [
        ("12345.67", "12345.6", "0.07", True),
        ("12345.67", "12345.5", "0.17", False),
        ("12345", "12345.99", "-0.99", True),
        ("12345", "12346.01", "-1.01", False),
        ("12345.670", "12345.669", "0.001", True),
        ("12345.670", "12345.668", "0.002", False),
        ("-5", "5", "-10", False),
    ],
)
def test_a_display_agrees_within_the_last_digit_of_the_coarser(
    reading: str, display: str, difference: str, agrees: bool
) -> None:
    assert compare(reading, display) == (difference, agrees)


@pytest.mark.parametrize(
    ("reading", "resolution", "agrees"), [("12345.6", "10", True), ("12350.1", "10", False), ("12345.6", "", False)]
)
def test_a_display_in_a_larger_unit_agrees_within_its_own_last_digit(
    reading: str, resolution: str, agrees: bool
) -> None:
    """12.34 MWh are 12340 kWh, of which the meter shows only the tens."""
    assert compare(reading, "12340", resolution)[1] is agrees
