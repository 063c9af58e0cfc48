"""`check --online`: lines, addresses, login, rights and a subscriber, tried before the agent starts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.online import WORDS, destination_problems, destination_words
from agent.uplink.trial import TrialResult
from tests.cli.conftest import Served, Traces
from tests.kits.broker import Broker, Listener, free_port

UPLINK = """
[[uplink]]
name = "platform"
url = "{url}"
"""
SECOND = """
[[device]]
name = "inv2"
line = "roof"
address = "2"
profile = "test/box"
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    made = Broker(tmp_path)
    made.start()
    yield made
    made.stop()


def test_all_answers(served: Served, park: Callable[..., Path], broker: Broker, mh: Callable[..., Any]) -> None:
    platform = Listener(broker)
    path = park(served.url, UPLINK.format(url=broker.url))
    said = mh("check", "--online", "-c", path)
    assert said.code == 0, said.err
    assert "connected, MQTT 5, may publish its status, has a subscriber" in said.out
    assert "Everything answers." in said.out
    assert "note: platform: not tested: the right to publish meterhouse/v1/park7/gw01/{keys, checkpoint/+, " in said.err
    assert "+/readings" in said.err
    assert "inv1" in said.out.partition("devices, tried now")[2]
    chinese = mh("check", "--online", "--lang", "zh", "-c", path)
    assert chinese.code == 0 and "有订阅方" in chinese.out and "全部有应答" in chinese.out
    platform.close()


def test_a_silent_device_is_named_with_its_address(
    served: Served, park: Callable[..., Path], broker: Broker, mh: Callable[..., Any]
) -> None:
    platform = Listener(broker)
    path = park(served.url, SECOND + UPLINK.format(url=broker.url))
    said = mh("check", "--online", "-c", path)
    assert said.code == 4
    assert "error: device inv2: no answer" in said.err and "unit number 2" in said.err
    assert "inv1" not in said.err
    platform.close()


def test_points_that_are_refused_are_named(served: Served, park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    served.fault("exception=02")
    said = mh("check", "--online", "-c", park(served.url))
    assert said.code == 4 and "device inv1: no value: " in said.err and "meterhouse read inv1" in said.err


def test_a_value_out_of_range_is_not_good(served: Served, park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    """A wrong word order answers every question."""
    served.image.put_words(2, [9999])  # 999.9 V
    said = mh("check", "--online", "-c", park(served.url))
    assert said.code == 4 and "device inv1: values out of range: ac.voltage.l1" in said.err
    assert "meterhouse read inv1" in said.err and "Everything answers" not in said.out


def test_zeros_only_are_doubted_and_a_sample_is_called_one(
    served: Served, park: Callable[..., Path], mh: Callable[..., Any]
) -> None:
    """A profile that is not the device's was "20 of 20 points" and well."""
    path = park(served.url)
    box = path.parent / "profiles" / "test" / "box.toml"
    more = "".join(
        f'[[point]]\nname = "x.spare.n{n}"\naddress = {100 + n}\ntype = "u16"\npace = "slow"\n' for n in range(40)
    )
    box.write_text(box.read_text() + "\n" + more)
    for address in range(200):
        served.image.put_words(address, [0])
    said = mh("check", "--online", "-c", path)
    assert re.search(r"20 of the first 20 of \d\d points", said.out), said.out
    assert "device inv1: all 1" in said.err and "values are zero" in said.err and "Are the profile" in said.err
    assert "Everything answers" not in said.out and said.code == 0
    (device,) = json.loads(mh("check", "--online", "--json", "-c", path).out)["online"]["devices"]
    assert device["points"] == 20 < device["all_points"] and "are zero" in device["hints"][0]
    assert "全部为零" in mh("check", "--online", "--lang", "zh", "-c", path).err
    assert "values are zero" in mh("read", "inv1", "-c", path).err
    adopted = mh("adopt", "inv8", "--line", "roof", "--address", "01", "--profile", "test/box", "--yes", "-c", path)
    assert "values are zero" in adopted.err or adopted.code == 2


def test_points_that_the_variant_of_a_device_lacks_are_not_tried(
    served: Served, park: Callable[..., Path], mh: Callable[..., Any]
) -> None:
    """A healthy one-phase meter failed, because the names of the three-phase profile were looked up in its variant."""
    path = park(served.url)
    box = path.parent / "profiles" / "test" / "box.toml"
    box.write_text(box.read_text().replace('firmware = ">=3"\n', 'firmware = ">=3"\nremove = ["ac.voltage.l1"]\n'))
    served.image.put_words(20, [0x3320])
    said = mh("check", "--online", "-c", path)
    assert said.code == 0 and "Everything answers." in said.out, said.err
    (device,) = json.loads(mh("check", "--online", "--json", "-c", path).out)["online"]["devices"]
    assert device["ok"] and device["points"] == device["all_points"] == len(
        mh("read", "inv1", "--json", "-c", path).lines
    )


def test_nobody_subscribes_and_a_broker_that_is_not_there(
    served: Served, park: Callable[..., Path], broker: Broker, mh: Callable[..., Any]
) -> None:
    said = mh("check", "--online", "-c", park(served.url, UPLINK.format(url=broker.url)))
    assert said.code == 5 and "no client subscribes to meterhouse/v1/park7/gw01/status" in said.err
    gone = f"mqtt://127.0.0.1:{free_port()}"
    said = mh("check", "--online", "--json", "-c", park(served.url, UPLINK.format(url=gone)))
    facts = json.loads(said.out)
    assert said.code == 5 and facts["ok"] is False
    assert facts["online"]["devices"][0]["ok"] and facts["online"]["devices"][0]["points"] > 0
    (destination,) = facts["online"]["destinations"]
    assert destination["mqtt"] is None and "nothing listens" in destination["errors"][0]["what"]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"connected": True, "subscriber": False, "waiting": 78}, "no subscriber for packs at destination platform"),
        (
            {"connected": True, "error": "broker does not allow this client to publish", "set_aside": 3},
            "platform refuses packs",
        ),
        ({"connected": True, "subscriber": True}, ""),
    ],
)  # fmt: skip
def test_what_only_the_running_agent_sees_of_a_destination(
    traces: Traces, park: Callable[..., Path], broker: Broker, mh: Callable[..., Any], facts: dict[str, Any], says: str
) -> None:
    """`Everything answers.` over a destination that refused every pack."""
    traces.write(uplinks={"platform": facts})
    file = park("", UPLINK.format(url=broker.url))
    text = file.read_text()
    file.write_text(text[: text.index("[[line]]")] + text[text.index("[[uplink]]") :])
    said = mh("check", "--online", "-c", file)
    assert (said.code, says in said.err) == (5, True) if says else (0, True), said
    assert ("Everything answers." in said.out) == (not says)
    doctor = mh("doctor", "-c", file, "--json")
    checks = json.loads(doctor.out)["checks"]
    assert any(one["subject"] == "destination" and one["state"] == "good" for one in checks) == (not says), checks
    assert any(says in one["text"] and one["code"] == 5 for one in checks) == bool(says)


def test_two_destinations_of_one_broker_can_be_told_apart(
    served: Served, park: Callable[..., Path], mh: Callable[..., Any]
) -> None:
    gone = f"mqtt://127.0.0.1:{free_port()}"
    both = UPLINK.format(url=gone) + UPLINK.format(url=gone).replace("platform", "office")
    said = mh("check", "--online", "-c", park(served.url, both))
    assert said.code == 5
    for name in ("platform", "office"):
        assert f"error: destination {name}: {gone}: " in said.err
    chinese = mh("check", "--online", "--lang", "zh", "-c", park(served.url, both))
    assert f"错误：上行目标 office：{gone}：" in chinese.err


def test_a_line_that_cannot_be_opened_is_one_fault(park: Callable[..., Path], mh: Callable[..., Any]) -> None:
    said = mh("check", "--online", "-c", park(f"modbus-tcp://127.0.0.1:{free_port()}", SECOND))
    assert said.code == 4 and said.err.count("nothing listens on this port") == 1


@pytest.mark.parametrize(("profile", "code"), [("test/box", 4), ("test/crate", 0)])
def test_one_serial_number_at_two_places_names_both(
    served: Served, park: Callable[..., Path], mh: Callable[..., Any], profile: str, code: int
) -> None:
    """The same device over two urls, as two entries."""
    served.image.put_words(30, [0x5345, 0x5231, 0x3233])
    twin = '[[line]]\nname = "again"\nurl = "{}"\n[[device]]\nname = "copy"\nline = "again"\naddress = "1"\n'
    other = served.url.replace("127.0.0.1", "localhost")
    path = park(served.url, "\n" + twin.format(other) + f'profile = "{profile}"\n')
    folder = path.parent / "profiles" / "test"
    box = (folder / "box.toml").read_text()
    serial = '[[point]]\nname = "device.serial"\naddress = 30\ntype = "str"\ncount = 3\npace = "once"\n\n'
    for name in ("box", "crate"):
        (folder / f"{name}.toml").write_text(box.replace("[[point]]", serial + "[[point]]", 1))
    said = mh("check", "--online", "-c", path)
    assert said.code == code, said.err
    assert f"{'error' if code else 'warning'}: device inv1: inv1 (roof 1), copy (again 1) report the same" in said.err
    assert "serial number SER123" in said.err
    assert "serial SER123" in said.out
    chinese = mh("check", "--online", "--lang", "zh", "-c", path).out
    assert "序列号 SER123，固件版本" in chinese and "serial SER123" not in chinese
    (facts,) = mh("check", "--online", "--json", "-c", path).lines
    assert len(facts["online"]["same_serial"]) == 1 and facts["ok"] is (code == 0)


@pytest.mark.parametrize(("lang", "mark"), [("en", "; "), ("zh", "；")])
def test_the_parts_of_an_answer_are_separated_as_in_the_language(lang: str, mark: str) -> None:
    words = WORDS[lang]
    trial = TrialResult("platform", "mqtt://b", mqtt="5")
    assert destination_words(trial, True, lang) == mark.join((words["connected"].format(mqtt="5"), words["running"]))


@pytest.mark.parametrize(("lang", "says"), [("en", "gw.pem expired 3 days ago"), ("zh", "gw.pem 已过期3天")])
def test_an_expired_certificate_does_not_expire_in_days_below_zero(lang: str, says: str) -> None:
    """It was "expires in -3 days"."""
    trial = TrialResult("platform", "mqtts://b", mqtt="5", certificates={"gw.pem": 1000.0})
    (problem,) = destination_problems(trial, lang, now=1000.0 + 3 * 86_400)
    assert problem.what == says
