"""Findings: what follows from a snapshot, and what must not. field pain 70"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.cli.common import learned_maps, singular
from agent.cli.finding_words import BECAUSE, FINDINGS, REASONS, reason_words
from agent.cli.findings import BY_GATEWAY, Finding, exit_code_of, find
from agent.cli.reading_words import line_trouble
from agent.cli.status_screen import StatusScreen
from agent.service.recent_readings import EXCUSED
from agent.web.live import Moment
from agent.web.views import now_view
from drivers.model import Reason

NOW = 1_795_500_000.0
GB = 10**9


def recent(
    missing: Mapping[str, int] | None = None,
    due: int = 1000,
    marked: Mapping[str, int] | None = None,
    settled: bool = True,
    minutes: float = 10,
) -> dict[str, Any]:
    """As the agent writes it: ``complete`` leaves out what is excused."""
    gone, excused = dict(missing or {}), {reason.name.lower() for reason in EXCUSED}
    readings, expected = due - sum(gone.values()), due - sum(n for reason, n in gone.items() if reason in excused)
    return {
        "from": NOW - 60 * minutes,
        "to": NOW - 5,
        "settled": settled,
        "due": due,
        "readings": readings,
        "complete": round(readings / expected, 4) if expected else None,
        "missing": gone,
        "marked": dict(marked or {}),
    }


def device(**facts: Any) -> dict[str, Any]:
    healthy = {
        "line": "bus", "life": "alive", "added": NOW - 9000, "last_answer": NOW - 1, "answering_since": NOW - 9000,
        "dead_after": 10.0, "error": None, "recent": recent(), "swapped": None,
    }  # fmt: skip
    return healthy | facts


def answers(sound: int, broken: int = 0, mismatches: int = 0) -> dict[str, Any]:
    count = sound + broken + mismatches
    share = round((broken + mismatches) / count, 4)
    return {"sound": sound, "broken": broken, "mismatches": mismatches, "broken_share": share}


def certificate(days: float | None, error: str | None = None) -> dict[str, Any]:
    ends = None if days is None else NOW + days * 86_400
    return {"certificates": [{"file": "/etc/ca.pem", "what": "the CA certificate", "ends": ends, "error": error}]}


JUMP = {"t": NOW - 90, "counter": "ac.energy.import", "u": "kWh", "from": "8197.79", "to": "3397.85"}
HEALTHY: dict[str, Any] = {
    "time": NOW - 1, "started": NOW - 9000, "pid": 7, "site": "park7", "gateway": "gw01", "version": "0.1", "boot": "b",
    "devices": {"m1": device(), "m2": device()},
    "lines": {"bus": {"url": "serial:/dev/ttyS0", "open": True, "lent": None, "busy_share": 0.5, "sent": {"3": 9}}},
    "uplinks": {"platform": {
        "connected": True, "subscriber": True, "waiting": 3, "set_aside": 0, "error": None, "hint": None,
        "certificates": [],
    }},
    "store": {
        "trouble": None, "path": "/var/lib/meterhouse/store.db", "size_bytes": GB, "unused_bytes": 0,
        "limit_bytes": 8 * GB, "disk_free_bytes": 20 * GB, "packs": 1000, "pending": {"platform": 3}, "lost_packs": 0,
        "lost_at": None,
    },
    "clock": {"synced": True, "error_ms": 3.0, "behind_store": None},
    "key": {"thumbprint": "k", "trouble": None},
    "config": {"complaints": []},
    "intervals": {},
}  # fmt: skip


def changed(path: str, facts: Any) -> dict[str, Any]:
    """The healthy snapshot with one member changed; members of a dict are merged."""
    snapshot = deepcopy(HEALTHY)
    at = snapshot
    *folders, last = path.split("/")
    for name in folders:
        at = at[name]
    at[last] = at[last] | facts if isinstance(at.get(last), dict) and isinstance(facts, dict) else facts
    return snapshot


def seen(snapshot: dict[str, Any], agent_lives: bool = True) -> tuple[int, list[str]]:
    found = find(snapshot, NOW, agent_lives)
    for language in ("en", "zh"):
        for one in found:
            assert "{" not in one.text(language) + one.advice(language), one
    return exit_code_of(found), [one.code for one in found]


ALMOST = {"missing": {"timeout": 100}}  # 0.9 is good enough
CASES: list[tuple[str, str, Any, int, list[str]]] = [
    ("all is well", "clock", {}, 0, []),
    # --- the gateway
    ("an old snapshot", "time", NOW - 16, 1, ["agent-hangs"]),
    ("a store that cannot commit", "store", {"trouble": "the disk is full"}, 1, ["store-trouble"]),
    ("a disk with 99 MB left", "store", {"disk_free_bytes": 99_000_000}, 1, ["disk-nearly-full"]),
    ("a small disk for a small store", "store",
     {"disk_free_bytes": 40_000_000, "limit_bytes": 64 << 20, "size_bytes": 8 << 20}, 0, []),
    ("a store full of delivered packs", "store", {"size_bytes": 8 * GB}, 0, []),
    ("a store full of owed packs", "store",
     {"size_bytes": 8 * GB, "pending": {"other": 990, "platform": 3}}, 1, ["store-nearly-full"]),
    ("mostly free pages", "store",
     {"size_bytes": 8 * GB, "unused_bytes": 7 * GB, "pending": {"platform": 990}}, 0, []),
    ("packs lost an hour ago", "store", {"lost_packs": 5, "lost_at": NOW - 3600}, 1, ["packs-lost"]),
    ("packs lost the day before yesterday", "store", {"lost_packs": 5, "lost_at": NOW - 200_000}, 0, []),
    ("before the first look at the store", "store",
     {name: None for name in ("size_bytes", "limit_bytes", "disk_free_bytes", "packs")}, 0, []),
    ("a damaged database with declarations", "store",
     {"set_aside": {"at": NOW - 3600, "file": "store.db.damaged-20261125T011159Z", "declarations": 3, "devices": None}},
     0, ["database-set-aside"]),
    ("a database that was damaged the day before yesterday", "store",
     {"set_aside": {"at": NOW - 200_000, "file": "store.db.damaged-1", "declarations": 3, "devices": 2}}, 0, []),
    ("a sound database", "store", {"set_aside": None}, 0, []),
    ("a store in memory", "store", {"warnings": ["/var/lib is a tmpfs: everything is lost at a power cut"]}, 1,
     ["store-warning"]),
    ("no NTP", "clock", {"synced": False}, 1, ["clock-not-synchronised"]),
    ("a kernel that does not say", "clock", {"synced": None, "error_ms": None}, 0, []),
    ("a year back", "clock", {"synced": False, "behind_store": 3e7}, 1, ["clock-not-synchronised", "clock-behind"]),
    ("packs of a wrong clock that is right now", "clock", {"behind_store": 3e7}, 0, []),
    ("a missing key", "key", {"trouble": "signing.key: the key file is missing"}, 1, ["key-trouble"]),
    ("a certificate for 31 days", "uplinks/platform", certificate(31), 0, []),
    ("a certificate for 29 days", "uplinks/platform", certificate(29), 1, ["certificate-expires"]),
    ("a certificate of yesterday", "uplinks/platform", certificate(-1), 1, ["certificate-expired"]),
    ("a certificate that cannot be read", "uplinks/platform", certificate(None, "denied"), 1,
     ["certificate-unreadable"]),
    ("a broker's certificate for 31 days", "uplinks/platform", {"broker_certificate_ends": NOW + 31 * 86_400}, 0, []),
    ("a broker's certificate for 12 days", "uplinks/platform", {"broker_certificate_ends": NOW + 12 * 86_400}, 1,
     ["broker-certificate-expires"]),
    ("a broker's certificate of yesterday", "uplinks/platform", {"broker_certificate_ends": NOW - 86_400}, 1,
     ["broker-certificate-expired"]),
    ("a rejected reload", "config", {"complaints": ["a", "b"]}, 3, ["config-rejected", "config-rejected"]),
    ("devices that no figure counts", "config", {"roleless": ["m1"]}, 0, ["devices-without-role"]),
    # --- devices
    ("exactly 0.9", "devices/m1", device(recent=recent({"timeout": 100})), 0, []),
    ("below 0.9", "devices/m1", device(recent=recent({"timeout": 60, "crc": 41})), 4, ["device-incomplete"]),
    ("not settled yet", "devices/m1", device(recent=recent({"timeout": 900}, settled=False)), 0, ["device-early"]),
    ("sensors without a value from the start", "devices/m1",
     device(answering_since=NOW - 57, recent=recent({"absent": 400}, settled=False, minutes=1)), 0,
     ["device-lacks-values"]),
    ("suspect values in the first minute", "devices/m1",
     device(recent=recent(marked={"suspect": 500}, settled=False)), 0, ["device-early"]),
    ("nothing due yet, as with every = 15min", "devices/m1", device(recent=None), 0, []),
    ("a night", "devices/m1", device(life="asleep", error="no answer", recent=recent({"asleep": 1000})), 0, []),
    ("the morning after", "devices/m1", device(recent=recent({"asleep": 900})), 0, []),
    ("a lent line", "devices/m1", device(recent=recent({"lent": 700, "timeout": 10})), 0, ["readings-excused"]),
    ("a clock step and a restart", "devices/m1", device(recent=recent({"clock": 300, "stopped": 400})), 0,
     ["readings-excused", "readings-excused"]),
    ("a counter that is refused every time", "devices/m1",
     device(recent=recent({"exception": 60}), refused=["ac.energy.import"]), 0, ["device-refuses"]),
    ("refused every time, by an exception that says nothing of the point", "devices/m1",
     device(recent=recent({"exception": 60})), 0, ["device-refuses"]),
    ("busy once", "devices/m1", device(recent=recent({"exception": 2})), 0, []),
    ("most is refused", "devices/m1", device(recent=recent({"exception": 600}), refused=["ac.energy.import"]), 4,
     ["device-incomplete"]),
    ("2 % broken answers", "devices/m1", device(answers=answers(588, broken=12)), 0, ["device-broken-answers"]),
    ("two of ten", "devices/m1", device(answers=answers(8, broken=2)), 0, []),
    ("3 in 600", "devices/m1", device(answers=answers(600, broken=2, mismatches=1)), 0, []),
    ("values that stand still", "devices/m1",
     device(still={"since": NOW - 660, "values": 9, "zero": False}), 0, ["device-still"]),
    ("nothing but zeros", "devices/m1", device(still={"since": NOW - 660, "values": 9, "zero": True}), 0,
     ["device-all-zero"]),
    ("a counter that stands still beside its power", "devices/m1",
     device(idle_counter={"since": NOW - 660, "counter": "ac.energy.import", "power": "ac.power.active",
                          "least_w": 1500.0}), 0, ["device-counter-still"]),
    ("a counter that went on from another level", "devices/m1",
     device(counter_jump=JUMP),
     0, ["device-counter-jumped"]),
    ("the same of a device that was exchanged", "devices/m1",
     device(counter_jump=JUMP,
            swapped={"t": NOW - 90, "what": "x"}), 4, ["device-swapped"]),
    ("a dead one's noise", "devices/m1", device(life="dead", answers=answers(0, broken=30)), 4, ["device-dead"]),
    ("a wrong CRC each time", "devices/m1",
     device(life="dead", garbled=True, last_answer=None, answers=answers(0, broken=30, mismatches=2)), 4,
     ["device-garbled"]),
    ("garbled, at an unknown place", "devices/m1",
     device(life="dead", garbled=True, may_sleep=True, answers=answers(9, broken=30)), 4, ["device-garbled"]),
    ("sound frames that contradict each other", "devices/m1",
     device(life="dead", garbled=True, answers=answers(9)), 4, ["device-dead"]),
    ("a serial server that answers 04h, after broken answers", "devices/m1",
     device(life="dead", garbled=True, gateway_answers=True, answers=answers(9, broken=30)), 4,
     ["device-dead-behind-gateway"]),
    ("pulled from a serial server", "devices/m1", device(life="dead", gateway_answers=True), 4,
     ["device-dead-behind-gateway"]),
    ("sensors without a value", "devices/m1", device(recent=recent({"sentinel": 300, "absent": 100})), 0,
     ["device-lacks-values"]),
    ("without any value", "devices/m1", device(recent=recent({"sentinel": 1000})), 4, ["device-without-values"]),
    ("without any value any more", "devices/m1",
     device(recent=recent({"sentinel": 300}) | {"valueless_since": NOW - 66}), 4, ["device-without-values"]),
    ("without a value for half a minute", "devices/m1",
     device(recent=recent({"sentinel": 30}) | {"valueless_since": NOW - 35}), 0, ["device-lacks-values"]),
    ("absent because it was silent", "devices/m1", device(recent=recent({"absent": 300}), answering_since=NOW - 60), 4,
     ["device-incomplete"]),
    ("absent in a short silence", "devices/m1",
     device(recent=recent({"absent": 310, "timeout": 40}) | {"not_asked": 310}), 4, ["device-incomplete"]),
    ("a short silence of a device that lacks points", "devices/m1",
     device(recent=recent({"absent": 310}) | {"not_asked": 10}), 0, ["device-lacks-values"]),
    ("nothing but silence", "devices/m1", device(recent=recent({"absent": 1000}) | {"not_asked": 1000}), 4,
     ["device-incomplete"]),
    ("all values suspect", "devices/m1", device(recent=recent(marked={"suspect": 1000})), 4, ["device-suspect"]),
    ("zeros out of range", "devices/m1", device(recent=recent(marked={"range": 60, "frozen": 60})), 4,
     ["device-doubtful"]),
    ("one doubtful value", "devices/m1", device(recent=recent(marked={"suspect": 1})), 0, ["device-some-doubtful"]),
    ("estimated values", "devices/m1", device(recent=recent(marked={"estimated": 1000})), 0, []),
    ("readings that the store lost", "devices/m1", device(recent=recent({"disk": 500})), 1, ["readings-lost"]),
    ("dead", "devices/m1", device(life="dead", recent=recent({"absent": 900})), 4, ["device-dead"]),
    ("dead, or asleep at an unknown place", "devices/m1", device(life="dead", may_sleep=True), 4,
     ["device-dead-or-asleep"]),
    ("never answered", "devices/m1", device(life="dead", last_answer=None), 4, ["device-never-answered"]),
    ("a line that has just gone down", "devices/m1", device(life="unknown", error="no port"), 0, []),
    ("a line that came back, its device not asked yet", "devices/m1",
     device(life="unknown", error="no port", last_answer=NOW - 11), 0, ["device-not-asked"]),
    ("a line that is down", "devices/m1",
     device(line="other", life="unknown", error="no port", last_answer=NOW - 11), 4, ["device-unreachable"]),
    ("added by a reload, not asked yet", "devices/m1",
     device(life="unknown", last_answer=None, added=NOW - 1, recent=None), 0, ["device-not-heard"]),
    ("swapped", "devices/m1", device(swapped={"t": NOW - 60, "what": "serial B instead of A"}), 4, ["device-swapped"]),
    # --- destinations
    ("no connection", "uplinks/platform", {"connected": False, "error": "refused", "subscriber": None}, 5,
     ["uplink-down"]),
    ("nobody subscribes", "uplinks/platform", {"subscriber": False, "error": "no subscriber for the agent's packs"}, 5,
     ["uplink-no-subscriber"]),
    ("MQTT 3.1.1 cannot tell", "uplinks/platform", {"subscriber": None}, 0, []),
    ("no right to publish", "uplinks/platform", {"error": "broker does not allow this client to publish"}, 5,
     ["uplink-refusing"]),
    ("packs set aside", "uplinks/platform", {"set_aside": 2}, 5, ["uplink-refusing"]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "facts", "code", "codes"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_what_follows_from_a_snapshot(path: str, facts: Any, code: int, codes: list[str]) -> None:
    assert seen(changed(path, facts)) == (code, codes)


def test_a_damaged_database_with_one_device_is_good_english() -> None:
    aside = {"at": NOW - 60, "file": "store.db.damaged-1", "declarations": 3, "devices": 1}
    (one,) = find(changed("store", {"set_aside": aside}), NOW, True)
    assert one.text().endswith(". Only that file has its declarations (3) and its facts about devices (1)")


def test_a_recent_step_of_the_clock_is_a_warning_and_an_old_one_is_not_shown() -> None:
    (one,) = find(changed("clock", {"set": {"by": 1800.0, "age": 300.0}}), NOW, True)
    assert (one.code, one.level, one.exit_code) == ("clock-set-forward", "warning", 0)
    assert "set forward by 30 min, 5 min ago" in one.text() and "拨快 30 分钟" in one.text("zh")
    (one,) = find(changed("clock", {"set": {"by": -1200.0, "age": 300.0}}), NOW, True)
    assert one.code == "clock-set-back" and "20 min" in one.text()
    assert not find(changed("clock", {"set": {"by": 1800.0, "age": 90_000.0}}), NOW, True)


def test_a_silence_is_as_long_as_the_monotonic_clock_says() -> None:
    silent = {"life": "dead", "last_answer": NOW - 2100, "silent_for": 300.0}
    (one,) = find(changed("devices/inv1", silent), NOW, True)
    assert "5 min" in one.text() and "35 min" not in one.text()


def test_a_clock_that_begins_in_1970_makes_no_damaged_database() -> None:
    """A box without a battery has such a clock before its first synchronisation."""
    snapshot = changed("store", {"set_aside": None})
    assert "database-set-aside" not in [one.code for one in find(snapshot, 3600.0, True)]


def test_a_key_that_cannot_sign_is_not_called_an_error_of_the_store() -> None:
    """The readings wait in either case, but free space on the disk does not help a token without power."""
    what = "token: the token failed to sign"
    snapshot = changed("key", {"cannot_sign": what})
    snapshot["store"]["trouble"] = what
    assert seen(snapshot) == (1, ["key-cannot-sign"])
    (one,) = find(snapshot, NOW, True)
    assert one.text() == f"the signing key cannot sign: {what}" and "disk" not in one.advice()


def test_the_first_exit_code_that_holds_wins() -> None:
    snapshot = changed("uplinks/platform", {"connected": False})
    assert seen(snapshot)[0] == 5
    snapshot["devices"]["m1"]["life"] = "dead"
    assert seen(snapshot)[0] == 4
    snapshot["config"]["complaints"] = ["x"]
    assert seen(snapshot)[0] == 3
    snapshot["store"]["lost_packs"], snapshot["store"]["lost_at"] = 1, NOW
    assert seen(snapshot) == (1, ["packs-lost", "config-rejected", "device-dead", "uplink-down"])
    assert seen(snapshot, agent_lives=False)[1][0] == "agent-gone"


def test_points_that_a_device_lacks_are_told_from_its_silence() -> None:
    """It was advised to leave out 310 of 1000 readings, all of them good points in a silence of the bus."""
    snapshot = changed("devices/m1", device(recent=recent({"absent": 310}) | {"not_asked": 290}))
    incomplete, lacking = find(snapshot, NOW, True)
    assert (
        "290 of 1000 are missing (not asked while it was silent)" in incomplete.text()
        and "did not answer" in incomplete.advice()
    )
    assert "no value for 20 of 1000" in lacking.text() and "`points`" in lacking.advice()


def test_a_refused_counter_is_named_and_all_is_not_well() -> None:
    """94 % complete was "All is well", with an energy counter that was never read."""
    snapshot = changed("devices/m1", device(recent=recent({"exception": 60}), refused=["ac.energy.import"]))
    (one,) = find(snapshot, NOW, True)
    assert (one.level, one.exit_code) == ("warning", 0) and "meterhouse read m1" in one.advice()
    assert one.text() == "device m1 refuses 60 of 1000 readings in 10 min: ac.energy.import"
    assert one.text("zh") == "设备 m1 在 10 分钟内 1000 个读数中拒绝了 60 个：ac.energy.import"
    assert "All is well" not in StatusScreen(snapshot, "en", NOW).verdict([one], 0)


def test_broken_answers_warn_and_name_the_device_and_the_wire() -> None:
    snapshot = changed("devices/m1", device(answers=answers(577, broken=20, mismatches=3)))
    (one,) = find(snapshot, NOW, True)
    assert (one.level, one.exit_code) == ("warning", 0)
    what, kinds = "device m1: 23 of its last 600 answers", "20 broken answers, 3 answers that do not match the request"
    assert one.text() == f"{what} were unusable and requested again (3.8%: {kinds})"
    for word in ("termination", "shield", "polarity", "length", "another master", "watch --frames bus"):
        assert word in one.advice()
    assert "20 应答校验错误" in one.text("zh") and "终端电阻" in one.advice("zh")
    screen = StatusScreen(snapshot, "en", NOW)
    assert screen.lines_of([one])[0].startswith("warning: device m1")
    assert screen.verdict([one], 0).startswith("No faults, 1 warning. Checked")
    assert StatusScreen(snapshot, "zh", NOW).verdict([one], 0).startswith("无故障，有 1 个警告。检查范围")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("agent.toml: valid, 1 lines, 1 devices", "agent.toml: valid, 1 line, 1 device"),
        ("1 faults; exit code 4.", "1 fault; exit code 4."),
        ("1 exceptions, 11 timeouts", "1 exception, 11 timeouts"),
        ("1 of 1 devices answer", "1 of 1 devices answer"),
        ("12 packs from 1 streams of 1 gateways", "12 packs from 1 stream of 1 gateway"),
        ("1 gateways are no longer trusted", "1 gateway is no longer trusted"),
        ("21 packs, 0.1 values, 1,001 readings, gw-1 packs", "21 packs, 0.1 values, 1,001 readings, gw-1 packs"),
    ],
)
def test_one_of_a_kind_is_in_the_singular(text: str, shown: str) -> None:
    assert singular(text) == shown


def test_the_errors_of_a_line_are_counted_in_the_singular() -> None:
    line = {"timeouts": 2, "broken": 0, "exceptions": 1}
    assert line_trouble(line, "en") == "2 timeouts, 1 exception" and line_trouble(line, "zh") == "2 超时, 1 拒绝"


def test_what_a_lease_cost_is_said_apart_from_what_is_missing() -> None:
    snapshot = changed("devices/m1", device(recent=recent({"lent": 40, "timeout": 7})))
    snapshot["devices"]["m2"]["recent"] = recent({"lent": 2})
    (one,) = find(snapshot, NOW, True)
    assert one.text() == "not counted as missing: 42 readings of m1, m2 (the line was lent to a tool)"
    table = StatusScreen(snapshot, "en", NOW).device_table()
    (column,) = (column for column in table.columns if column.header == "missing by")
    assert list(column.cells) == ["timeout (7)", ""]


def test_late_readings_of_a_line_that_has_time_left_are_not_blamed_on_the_line() -> None:
    """The agent was stopped for 25 s, and the lines were 2 % busy."""
    snapshot = changed("devices/m1", device(recent=recent({"overload": 300})))
    snapshot["lines"][snapshot["devices"]["m1"]["line"]]["busy_share"] = 0.02
    (incomplete,) = find(snapshot, NOW, True)
    assert "paused" in incomplete.text() and "suspended" in incomplete.advice()
    assert "曾停顿" in incomplete.text("zh") and "every" not in incomplete.advice("zh")


def test_the_words_of_late_readings_blame_neither_the_line_nor_the_agent() -> None:
    """What the record keeps is told on days and in reports for years, and nobody knows then which of the two it was."""
    assert reason_words("overload") == (
        "not asked in time: line busy, or the agent was paused",
        "未及时询问：线路忙或程序停顿",
    )
    text = (Path(__file__).parents[2] / "docs" / "pack-format.md").read_text(encoding="utf-8")
    (row,) = (line for line in text.splitlines() if line.startswith("| `overload` |"))
    assert "was paused" in row


def test_who_confirms_and_what_was_learned_are_told_in_chinese() -> None:
    snapshot = changed("uplinks/platform", {"confirm": "subscriber"})
    (column,) = (one for one in StatusScreen(snapshot, "zh", NOW).uplink_table().columns if one.header == "确认方式")
    assert list(column.cells) == ["接收方"]
    learned = "reads are split at 2 address(es): 37001, 37003; the device has no registers 37000; "
    learned += "a read returns at most 20 registers"
    snapshot = changed("devices/m1", {"learned": learned})
    chinese = "读请求在 2 个地址处拆分：37001, 37003；设备没有寄存器 37000；一次最多读 20 个寄存器"
    assert (learned_maps(snapshot), learned_maps(snapshot, "zh")) == ({"m1": learned}, {"m1": chinese})
    assert now_view(Moment(time=NOW, snapshot=snapshot), "zh", {})["learned"] == {"m1": chinese}


def test_a_reason_is_told_in_words_in_both_languages() -> None:
    """`其中 291 个因 overload（...）缺失`: the code stood in the sentence, and in the column of the table."""
    snapshot = changed("devices/m1", device(recent=recent({"timeout": 300})))
    (incomplete,) = find(snapshot, NOW, True)
    assert "are missing (no answer in time)" in incomplete.text()
    assert "其中 300 个缺失（应答超时）" in incomplete.text("zh")
    (column,) = (one for one in StatusScreen(snapshot, "zh", NOW).device_table().columns if one.header == "缺失原因")
    assert next(iter(column.cells)) == "应答超时 (300)"


def test_the_time_since_the_last_answer_is_told_in_chinese() -> None:
    """`6.6 s` stood beside "14 秒" of the sentences."""
    table = StatusScreen(changed("devices/m1", device(last_answer=NOW - 6.6)), "zh", NOW).device_table()
    (column,) = (one for one in table.columns if one.header == "上次应答")
    assert next(iter(column.cells)) == "6.6 秒"


def test_a_lent_line_names_the_tool_and_its_user_in_chinese() -> None:
    for lent, shown in (("scan by li (uid 1000)", "借给 li (uid 1000) 的 scan"), ("a tool", "借给 a tool")):
        table = StatusScreen(changed("lines/bus", {"lent": lent}), "zh", NOW).line_table(Console())
        (column,) = (one for one in table.columns if one.header == "状态")
        assert next(iter(column.cells)) == shown


def test_all_that_is_missing_is_counted_with_each_reason() -> None:
    """`86 of 700 are missing` of a device that lacked 123."""
    (one,) = find(changed("devices/m1", device(recent=recent({"timeout": 300, "crc": 37}))), NOW, True)
    assert "337 of 1000 are missing (no answer in time: 300; " in one.text() and one.text().endswith(": 37)")
    assert "其中 337 个缺失（应答超时 300；" in one.text("zh")


def test_a_device_that_was_repaired_is_said_to_answer_again() -> None:
    """Its last ten minutes are still bad; who has just plugged it in wants to know that it worked."""
    for since, en, zh in ((NOW - 90, "; it has answered again for 90 s", "；90 秒前已恢复应答"), (NOW - 9000, "", "")):
        lacking = device(recent=recent({"timeout": 340}), answering_since=since)
        (one,) = find(changed("devices/m1", lacking), NOW, True)
        assert (
            one.code == "device-incomplete" and one.text("en").endswith(f"){en}") and one.text("zh").endswith(f"）{zh}")
        )


def test_an_overloaded_line_is_named_with_its_devices_and_what_to_do() -> None:
    snapshot = changed("devices/m1", device(recent=recent({"overload": 700})))
    assert seen(snapshot) == (4, ["device-incomplete"]), "late polls on a line with time left have another cause"
    snapshot["lines"]["bus"]["busy_share"] = 0.98
    (incomplete, line) = find(snapshot, NOW, True)
    assert (incomplete.code, line.code) == ("device-incomplete", "line-overloaded")
    assert "delivered 30%" in incomplete.text() and "not asked in time: line busy" in incomplete.text()
    assert line.text() == "line bus is 98% busy: readings of m1 are late or missing"
    assert "`every`" in line.advice() and "baud" in line.advice() and "波特率" in line.advice("zh")
    snapshot["devices"]["m1"]["recent"] = recent({"overload": 50})
    assert seen(snapshot) == (4, ["line-overloaded"]), "before a device falls below 0.9"
    snapshot["devices"]["m1"]["recent"] = recent({"overload": 50}, settled=False)
    assert seen(snapshot) == (0, []), "the first round after a start is always late"
    snapshot["devices"]["m1"]["recent"] = recent()
    assert seen(snapshot) == (0, []), "a busy line that loses nothing"


def test_a_line_on_which_nobody_answers_is_one_finding() -> None:
    dead = device(life="dead", error="no answer within 1 s")
    snapshot = changed("devices", {"m1": dead, "m2": dead | {"last_answer": None}, "pv": device(life="asleep")})
    (finding,) = find(snapshot, NOW, True)
    assert (finding.code, finding.where, finding.exit_code) == ("line-silent", "line bus", 4)
    assert finding.text() == "no device on line bus answers: m1, m2: no answer within 1 s"
    snapshot["devices"]["m3"] = device()
    assert seen(snapshot) == (4, ["device-dead", "device-never-answered"]), "somebody answers: it is not the cable"
    snapshot["devices"] = {"m1": dead | {"line": "other"}, "m2": dead}
    assert seen(snapshot) == (4, ["device-dead", "device-dead"]), "each alone on its line"


def test_a_device_that_answers_garbage_is_not_called_silent() -> None:
    garbled = device(life="dead", garbled=True, error="wrong CRC", last_answer=NOW - 70, answers=answers(0, 40, 2))
    snapshot = changed("devices", {"m1": garbled, "m2": device()})
    (finding,) = find(snapshot, NOW, True)
    how_many = "in ten minutes 40 broken answers, 2 answers that do not match the request"
    assert finding.text() == f"device m1 answers, but no frame has been valid for 70 s; {how_many}: wrong CRC"
    assert "有应答" in finding.text("zh") and "40 应答校验错误" in finding.text("zh")
    for word in ("baud", "parity", "share an address", "termination", "--frames bus"):
        assert word in finding.advice()
    snapshot["devices"]["m2"] = garbled
    (finding,) = find(snapshot, NOW, True)
    text = "devices on line bus answer, but no frame is valid: m1, m2: wrong CRC"
    assert (finding.code, finding.where, finding.exit_code, finding.text()) == ("line-garbled", "line bus", 4, text)
    snapshot["devices"]["m2"] = device(life="dead", error="no answer within 1 s")
    assert seen(snapshot) == (4, ["device-garbled", "device-dead"])


def test_a_line_that_is_down_is_one_finding_for_its_devices() -> None:
    down = device(life="unknown", error="cannot open", last_answer=NOW - 60)
    snapshot = changed("devices", {"m1": down, "m2": down, "m3": device(line="other")})
    assert seen(snapshot) == (0, ["device-not-asked", "device-not-asked"]), "the line is open again"
    snapshot["lines"]["bus"]["open"] = False
    (finding,) = find(snapshot, NOW, True)
    text = "line bus cannot be opened: 2 devices are not read (m1, m2): cannot open"
    assert finding.text() == text and finding.exit_code == 4


def test_on_a_line_that_cannot_be_opened_all_devices_are_named() -> None:
    """Seven of one bus, of which one is polled each second and one was dead before; a cabinet without power."""
    down = device(life="dead", line_down=True, error="cannot open", last_answer=NOW - 30)
    rare = device(life="unknown", error="cannot open", last_answer=NOW - 30, dead_after=45.0)
    rarer = device(last_answer=NOW - 30, dead_after=180.0)
    before = device(life="dead", error="no answer within 1 s", last_answer=NOW - 900)
    others = {f"m{n}": one for n, one in enumerate((before, rare, rare, rarer, rarer, rarer), 2)}
    snapshot = changed("devices", {"m1": down, **others, "pv": device(life="asleep"), "o": device(line="other")})
    snapshot["lines"]["bus"]["open"] = False
    (finding,) = find(snapshot, NOW, True)
    names = ", ".join(f"m{n}" for n in range(1, 8))
    assert finding.text() == f"line bus cannot be opened: 7 devices are not read ({names}): cannot open"
    assert (finding.where, finding.exit_code) == ("line bus", 4) and "adapter" in finding.advice()
    snapshot["devices"] = {"m1": down}
    assert seen(snapshot) == (4, ["device-unreachable"]), "alone on its line"


SAME = {"device.serial": "HV2230123456", "device.model": "X"}


@pytest.mark.parametrize(
    ("others", "code", "codes"),
    [
        ({"line": "other", "address": "1", "profile": "a/b", "identity": SAME}, 4, ["device-read-twice"]),
        ({"line": "bus", "address": "2", "profile": "a/b", "identity": SAME | {"device.serial": " hv2230123456 "}}, 4,
         ["device-read-twice"]),
        ({"line": "bus", "address": "2", "profile": "a/c", "identity": SAME}, 0, ["devices-same-serial"]),
        ({"line": "bus", "address": "1", "profile": "a/c", "identity": SAME}, 0, []),  # two profiles of one device
        ({"line": "bus", "address": "2", "profile": "a/b", "identity": {"device.serial": None}}, 0, []),
        ({"line": "bus", "address": "2", "profile": "a/b", "identity": None}, 0, []),
    ],
)  # fmt: skip
def test_one_serial_number_at_two_places_names_both(others: dict[str, Any], code: int, codes: list[str]) -> None:
    first = device(address="1", profile="a/b", identity=SAME)
    snapshot = changed("devices", {"m1": first, "m2": device(**others)})
    assert seen(snapshot) == (code, codes)
    for finding in find(snapshot, NOW, True):
        assert f"m1 (bus 1), m2 ({others['line']} {others['address']})" in finding.text()
        assert "HV2230123456" in finding.text() and "HV2230123456" in finding.text("zh")


@pytest.mark.parametrize("serial", ["0", "123", "0000000000", "    "])
def test_a_serial_number_that_was_never_set_is_nobodys(serial: str) -> None:
    same = device(address="1", profile="a/b", identity={"device.serial": serial})
    assert seen(changed("devices", {"m1": same, "m2": same | {"address": "2"}})) == (0, [])


def test_a_destination_that_was_not_tried_yet_is_given_a_moment() -> None:
    facts = {"connected": False, "subscriber": None, "since": NOW - 1}
    assert seen(changed("uplinks/platform", facts)) == (0, [])
    assert seen(changed("uplinks/platform", facts | {"since": NOW - 11})) == (5, ["uplink-down"])
    assert seen(changed("uplinks/platform", facts | {"error": "refused"})) == (5, ["uplink-down"])


def test_readings_lost_by_the_gateway_are_one_finding_for_all_devices() -> None:
    snapshot = changed("devices/m1", device(recent=recent({"ring": 500})))
    snapshot["devices"]["m2"] = device(recent=recent({"disk": 500, "timeout": 20}))
    (finding,) = find(snapshot, NOW, True)
    assert finding.code == "readings-lost" and "m1, m2" in finding.text()


def test_each_kind_has_words_in_both_languages_and_says_what_to_do() -> None:
    for code, words in FINDINGS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", code) and words.exit_code in (0, 1, 3, 4, 5)
        for texts in words.found, words.advice:
            fields = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in texts]
            assert bool(texts[0]) == bool(texts[1]), code
            assert fields[1] <= fields[0], code
        assert words.advice[0] or not words.exit_code, f"{code}: what is to be done?"
    assert {reason.name.lower() for reason in Reason} == REASONS.keys()
    needed = {r.name.lower() for r in Reason} - {r.name.lower() for r in EXCUSED}
    assert needed <= BECAUSE.keys() and set(BY_GATEWAY) < needed


def test_texts_of_a_broker_are_not_taken_for_templates() -> None:
    (finding,) = find(changed("uplinks/platform", {"error": "{0.__class__}", "hint": "{name}"}), NOW, True)
    assert "{0.__class__}" in finding.text("zh") and finding.advice() == "{name}"


def test_what_the_agent_wrote_in_english_is_shown_in_chinese() -> None:
    """The causes in a snapshot are English; where a word is not known it stays so."""
    dead = device(life="dead", error="m1 (line bus unit 3): no answer within 1 s")
    (finding,) = find(changed("devices/m1", dead), NOW, True)
    assert "：1 秒内无应答" in finding.text("zh") and ": m1 (line bus unit 3): no answer within 1 s" in finding.text()
    (finding,) = find(changed("key", {"trouble": "/x: the key file is missing"}), NOW, True)
    assert "密钥文件不存在" in finding.text("zh")
    (finding,) = find(changed("devices/m1", device(swapped={"t": NOW, "what": "serial B instead of A"})), NOW, True)
    assert "serial B（原为 A）" in finding.text("zh")
    (finding,) = find(changed("uplinks/platform", {"connected": False, "error": "never seen words"}), NOW, True)
    assert "：never seen words" in finding.text("zh")


def test_the_last_line_says_over_which_time_it_was_looked() -> None:
    def last(snapshot: dict[str, Any], language: str = "en") -> str:
        found = find(snapshot, NOW, True)
        return StatusScreen(snapshot, language, NOW).verdict(found, exit_code_of(found))

    assert last(HEALTHY).startswith("All is well. Checked: the readings of 2 devices over the last 10 min;")
    assert last(HEALTHY, "zh").startswith("一切正常。检查范围：2 台设备最近 10 分钟的读数")
    young = changed("started", NOW - 240)
    for one in young["devices"].values():
        one["recent"] = recent(minutes=3)
    assert "over the time since the start 4 min ago" in last(young)
    early = changed("devices/m1", device(recent=recent({"overload": 700}, settled=False, minutes=0.5)))
    assert last(early).startswith("No fault so far, but it is too early to say that all is well.")
    mute = changed("devices/m1", device(life="unknown", added=NOW - 75, last_answer=None, dead_after=2700.0))
    (finding,) = find(mute, NOW, True)
    assert finding.text() == "device m1 has not answered yet, 75 s after its start"
    assert last(mute).startswith("No fault so far, but it is too early to say that all is well.")
    assert last(changed("key", {"trouble": "x"})).startswith("1 fault; exit code 1. Checked")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_tables_fit_80_columns(language: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """With long names and every column filled; a Chinese character takes two."""
    from rich.cells import cell_len

    monkeypatch.setattr("agent.cli.console_tables.PIPE_WIDTH", 80)
    worst = device(recent=recent({"stale_source": 123_456}, due=10**6, marked={"range": 99_999}), last_answer=NOW - 5e6)
    snapshot = HEALTHY | {"devices": {"heat-pump-02": worst | {"swapped": {"t": NOW, "what": "x"}}}}
    snapshot["devices"]["inv1"] = device(life="dead", line="cabinet-2")
    screen = StatusScreen(snapshot, language, NOW)
    screen.show((), ())
    shown = capsys.readouterr().out
    assert max(cell_len(line.rstrip()) for line in shown.splitlines()) <= 80
    assert "serial:/dev" not in shown and "heat-pump-02" in shown and "cabinet-2" in shown


def test_a_finding_as_json_is_english_and_complete() -> None:
    finding = Finding("clock-not-synchronised", "clock")
    assert finding.to_json().keys() == {"code", "level", "exit_code", "where", "text", "advice"}
    assert finding.to_json()["text"] == "the clock of this gateway is not synchronised"


def test_an_agent_in_the_foreground_has_no_journal() -> None:
    """`journalctl -u meterhouse` shows nothing of an agent that a person started."""
    for words in FINDINGS.values():
        for english, chinese in (words.found, words.advice):
            assert "journalctl" not in english or "where systemd runs it" in english, english
            assert "journalctl" not in chinese or "由 systemd 运行时" in chinese
