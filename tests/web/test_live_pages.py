"""The live pages: what they show of the traces of an agent, in both languages, whatever its devices are called."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser

import pytest

from agent.cli.finding_words import FINDINGS
from agent.cli.findings import Finding
from agent.cli.main_points import main_values
from agent.cli.ring_follower import Follower, Latest
from agent.web import live
from agent.web.labels import value_word
from drivers.line.trace import FrameTrace
from drivers.model import GatewayError, Quality, Reason
from tests.kits.mutations import EVERY, mutations

MARKUP = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'&{{7*7}}"


class Tags(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def is_harmless(text: str) -> bool:
    """No script but ours, and nothing that runs."""
    tags = Tags(text).seen
    scripts = [attrs for tag, attrs in tags if tag == "script"]
    running = [name for _, attrs in tags for name in attrs if name.startswith("on")]
    return all((attrs.get("src") or "").startswith("/static/") for attrs in scripts) and not running


def test_values_and_states_are_shown(viewer, traces) -> None:
    traces.values(2, (0, 12345, -1, 0), (1, 7, 0, 0))
    traces.gap(3, Reason.TIMEOUT)
    page = viewer(labels={"inv1": "1#车间屋顶"}).get("/").text
    assert "All is well" in page and "1234.5" in page and "1#车间屋顶" in page
    assert 'href="/device/inv1/ac.power.active"' in page and "no answer in time" in page
    assert page.count("<caption") == 3 and 'scope="row"' in page


def test_the_first_page_shows_no_value_of_a_device_that_is_silent(viewer, traces) -> None:
    traces.values(2, (0, 12345, -1, 0), (1, 7, 0, 0))
    traces.gap(2, Reason.TIMEOUT)
    browser = viewer()
    assert "1234.5" not in browser.get("/").text
    page = browser.get("/device/inv1").text
    assert "1234.5" in page and "no answer in time" in page, (
        "the last value, with its age and why there is no newer one"
    )


def test_the_page_of_a_device_has_all_points_with_quality_and_age(viewer, traces) -> None:
    traces.values(2, (0, 12345, -1, Quality.SUSPECT), (1, 7, 0, 0), ago_s=60)
    traces.text(2, 2, b"v1 <b>")
    page = viewer().get("/device/inv1").text
    assert "suspect" in page and "v1 &lt;b&gt;" in page and "60 s" in page and "device.firmware" in page


def test_a_value_of_39_digits_is_short_with_all_of_them_on_demand(viewer, traces) -> None:
    traces.values(2, (0, 34028234663852886, 22, 0))
    full, browser = "34028234663852886" + "0" * 22, viewer()
    for path in ("/", "/device/inv1"):
        page = browser.get(path).text
        assert re.findall(r">[^<>]*?([\d.]+e\+38)", page) == ["3.4028e+38"], path
        assert re.search(rf'title="[^"]*{full}"', page) and full not in re.sub(r'title="[^"]*"', "", page), path


def test_the_first_page_shows_what_a_device_does_now_with_its_name(viewer, traces) -> None:
    """Never the rated power of a nameplate, which is the first gauge with power in its name."""
    traces.facts["tables"]["2"]["points"] = [
        {"n": "device.power.rated", "u": "W", "kind": "gauge"},
        {"n": "ac.power.active", "u": "W", "kind": "gauge"},
        {"n": "ac.energy.export", "u": "kWh", "kind": "counter"},
    ]
    traces.write()
    traces.values(2, (0, 100000, 0, 0), (1, 2345, 0, 0), (2, 77, 0, 0))
    browser = viewer()
    page = browser.get("/").text
    assert "100000" not in page and "2345" in page and "77" in page
    assert '<span class="name">Active power</span>' in page
    assert '<span class="name">有功功率</span>' in browser.get("/?lang=zh").text


@pytest.mark.parametrize(
    ("points", "shown"),
    [
        ("battery.voltage:gauge battery.power:gauge battery.soc:gauge battery.energy.charge:counter",
         "battery.soc battery.power"),
        ("device.power.max:gauge ac.power.reactive:gauge ac.power.active.l1:gauge ac.power.active:gauge "
         "ac.energy.reactive.import:counter ac.energy.import:counter", "ac.power.active ac.energy.import"),
        ("dc.power:gauge ac.power.generation!:gauge ac.energy.generation:counter", "dc.power ac.energy.generation"),
        ("battery.limit.charge.power:gauge battery.voltage:gauge battery.power!:gauge",
         "battery.power battery.voltage"),
        ("water.volume:counter water.temperature:gauge", "water.volume water.temperature"),
        ("battery.soc:gauge battery.power:gauge dc.power:gauge ac.power.active:gauge ac.energy.generation:counter",
         "ac.power.active battery.soc"),
        ("device.model:text device.power.rated:gauge", ""),
    ],
)  # fmt: skip
def test_the_points_that_tell_most(points: str, shown: str) -> None:
    """With a "!": missing right now."""
    found = [
        (name.rstrip("!"), kind, name.endswith("!")) for name, _, kind in (x.partition(":") for x in points.split())
    ]
    assert main_values(found) == shown.split()


def test_ages_and_values_are_words_of_the_language(viewer, traces) -> None:
    traces.values(2, (0, 1, 0, 0), ago_s=360)
    traces.write(uplinks={"platform": {"connected": True, "confirm": "subscriber"}})
    page = viewer().get("/?lang=zh").text
    assert "运行" in page and not re.search(r"\d (min|s|h|d)\b", page) and "subscriber" not in page
    assert value_word("profile.evidence", "dump", "zh") == "经设备录制数据核对"
    assert [value_word("x", one, "en") for one in ("True", "fast", "v1")] == ["yes", "fast", "v1"]


def test_a_label_in_two_languages_is_shown_in_one(viewer, traces) -> None:
    browser = viewer(labels={"inv1": "并网点 / grid connection", "inv2": "A / B"})
    assert "并网点" not in browser.get("/").text and "grid connection" in browser.get("/").text
    chinese = browser.get("/device/inv1?lang=zh").text
    assert "并网点" in chinese and "grid connection" not in chinese and "A / B" in browser.get("/").text


def test_points_have_names_that_a_parks_staff_reads(viewer, traces) -> None:
    browser = viewer()
    assert "Active energy imported" in browser.get("/device/inv1").text
    assert "正向有功电能" in browser.get("/device/inv1?lang=zh").text


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_refresh_gets_the_content_alone_in_the_same_language(viewer, traces, lang: str) -> None:
    browser = viewer()
    whole = browser.get(f"/?lang={lang}").text
    assert f'<html lang="{"zh-CN" if lang == "zh" else "en"}">' in whole and ("一切正常" in whole) is (lang == "zh")
    part = browser.get("/", headers={"x-refresh": "1"}).text  # the cookie remembers
    assert "<html" not in part and part.strip().split("\n")[0] in whole


def test_the_language_is_asked_for_remembered_or_the_browsers(viewer, traces) -> None:
    browser = viewer()

    def is_chinese(**headers: str) -> bool:
        return "一切正常" in browser.get("/", headers=headers).text

    assert not is_chinese() and is_chinese(**{"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"})
    assert not is_chinese(**{"accept-language": "en-US,en;q=0.9,zh;q=0.8"})
    assert not is_chinese(**{"accept-language": "fr;q=x,zh;q=7,,;;"})
    assert "一切正常" in browser.get("/?lang=zh").text and is_chinese()
    assert "All is well" in browser.get("/?lang=en").text and "All is well" in browser.get("/?lang=xx").text


def test_hostile_names_are_text(viewer, traces) -> None:
    """A device's identity, a line's address, an error: all may come from outside."""
    device = {
        "line": MARKUP, "life": MARKUP, "profile": MARKUP, "variant": MARKUP, "error": MARKUP,
        "last_answer": time.time(),
        "identity": {MARKUP: MARKUP}, "learned": MARKUP,
        "recent": {"from": 1, "to": 2, "complete": 0.5, "missing": {MARKUP: 3}, "marked": {MARKUP: 1}},
    }  # fmt: skip
    point = {"n": MARKUP, "u": MARKUP, "kind": "gauge"}
    traces.write(
        site=MARKUP, gateway=MARKUP, version=MARKUP, boot=MARKUP,
        devices={MARKUP: device},
        lines={MARKUP: {"url": MARKUP, "open": True, "lent": MARKUP}},
        uplinks={MARKUP: {"connected": False, "error": MARKUP, "hint": MARKUP, "confirm": MARKUP}},
        store={"trouble": MARKUP, "path": MARKUP},
        tables={"2": {"stream": f"{MARKUP}", "points": [point]}},
    )  # fmt: skip
    browser = viewer(labels={MARKUP: MARKUP})
    for lang in ("en", "zh"):
        for path in ("/", "/?x=" + "%22%3E%3Cscript%3E", "/nothing/%3Cscript%3E"):
            page = browser.get(path, params={"lang": lang}).text
            assert (is_harmless(page) and "<img" not in page and "{{7" in page) or "nothing" in path
    links = [
        attrs["href"]
        for tag, attrs in Tags(browser.get("/").text).seen
        if tag == "a" and "device" in (attrs["href"] or "")
    ]
    for link in links:
        assert re.fullmatch("[/A-Za-z0-9%._~-]+", link or ""), "nothing of a name escapes into the address"
    assert is_harmless(browser.get(links[0] or "").text)
    traces.text(2, 0, MARKUP.encode())
    assert is_harmless(browser.get(links[0] or "").text)


def test_without_an_agent_the_page_says_so(viewer, tmp_path) -> None:
    (tmp_path / "run").mkdir()
    page = viewer().get("/")
    assert (
        page.status_code == 200 and "The agent is not running" in page.text and "no agent is running here" in page.text
    )
    assert page.text.count("not known") == 3 and "(0" not in page.text
    assert "本机没有运行采集程序" in viewer().get("/?lang=zh").text


def test_an_agent_that_stops_leaves_its_devices_but_no_values(viewer, traces, monkeypatch) -> None:
    """Never an old value as if it were a new one."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    traces.values(2, (0, 12345, -1, 0))
    browser = viewer()
    assert "1234.5" in browser.get("/").text
    (traces.folder / "snapshot.json").unlink()
    page = browser.get("/").text
    assert "The agent is not running" in page and "inv1" in page and "1234.5" not in page
    traces.write()
    assert "1234.5" in browser.get("/").text


def test_the_complete_state_has_another_number_than_the_one_while_the_ring_is_read(traces, monkeypatch) -> None:
    """Pages are kept by this number: viewers still got the incomplete page after the ring was read."""
    traces.values(2, (0, 12345, -1, 0))
    data, seen = live.LiveData(traces.folder), []
    follow = Follower.follow

    def watched(follower: Follower) -> Iterator[Latest]:
        seen.append(data.moment)
        return follow(follower)

    monkeypatch.setattr(Follower, "follow", watched)
    try:
        whole = asyncio.run(data.now())
    finally:
        data.close()
    assert [one.catching_up for one in seen] == [True] and not whole.catching_up
    assert whole.number > seen[0].number and "inv1" in whole.points


def test_a_snapshot_that_may_not_be_read_is_not_an_agent_that_stopped(viewer, traces, monkeypatch) -> None:
    def denied(_folder: object) -> None:
        raise GatewayError("cannot be read: Permission denied", where="run/snapshot.json")

    monkeypatch.setattr("agent.web.live.read_snapshot", denied)
    page = viewer().get("/").text
    assert "The agent cannot be seen from here" in page and "Permission denied" in page and "not running" not in page


def test_values_older_than_three_periods_are_marked(viewer, traces) -> None:
    """As of an agent that hangs: its last values stay in the ring."""
    for ago_s in (9, 8):
        traces.values(2, (0, 12345, -1, 0), ago_s=ago_s)
    for ago_s in (28, 8):  # every 20 s
        traces.values(2, (1, 7, 0, 0), ago_s=ago_s)
    browser = viewer()
    page = browser.get("/").text
    assert page.count('class="old-mark"') == 1
    assert re.search(r'class="value old"[^>]*><span class="name">[^<]*</span> 1234\.5', page)
    assert "已过时" in browser.get("/?lang=zh").text


def test_states_say_how_old_they_are_and_are_not_those_of_now_once_the_agent_hangs(viewer, traces, monkeypatch) -> None:
    """A snapshot of 12 s ago is usual with hundreds of devices, one of 20 s ago is the last of an agent that hangs."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    browser, lines = viewer(), {"roof": {"url": "x", "open": True}}
    for ago_s, states, age in ((4, 2, r"[4-9]\.\d s"), (12, 2, r"1\d s"), (3000, 0, "50 min")):
        traces.write(lines=lines)
        traces.write(time=time.time() - ago_s)
        page = browser.get("/").text
        assert page.count('class="state alive">answers') == states, ago_s
        assert ('class="state alive">open' in page) == ("hangs" not in page) == bool(states)
        assert ("states as of 50 min ago" in page) == (not states) and ("states as of 1" in page) == (ago_s == 12)
        device = browser.get("/device/inv1").text
        assert ('class="state alive"' in device) == bool(states)
        assert all(re.search(rf"As of [\d-]+ [\d:]+, {age} before", one) for one in (page, device))
    assert "50 分钟前的状态" in browser.get("/?lang=zh").text


def test_warnings_are_called_so_and_counted(viewer, traces, monkeypatch) -> None:
    warning = next(code for code, words in FINDINGS.items() if words.warns)
    found = [Finding("agent-gone", "agent", {"pid": 1, "age": "1 s"}), Finding("x", "x")]
    monkeypatch.setattr("agent.web.live.find", lambda *_: found)
    monkeypatch.setitem(FINDINGS, "x", FINDINGS[warning]._replace(found=("w", "w"), advice=("", "")))
    page = viewer().get("/").text
    assert "1 fault, 1 warning" in page and 'class="finding warning"' in page and ">warning</b>" in page
    assert "1 个故障，1 个警告" in viewer().get("/?lang=zh").text


def test_a_configuration_that_the_next_start_would_refuse_is_a_finding(viewer, traces, tmp_path) -> None:
    (tmp_path / "agent.toml").write_text('[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Nowhere"\n')
    page = viewer(file=tmp_path / "agent.toml").get("/").text
    assert "1 fault" in page and "Nowhere" in page and "agent.toml:4" in page


def test_labels_are_those_of_the_configuration_in_effect(viewer, traces, tmp_path, monkeypatch) -> None:
    """A reload may rename a device; files that are wrong change nothing."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    file, new = tmp_path / "agent.toml", tmp_path / "new"
    file.write_text('[[device]]\nname = "inv1"\nlabel = "old roof"\n')
    traces.write(config={"loaded": 1.0, "complaints": []})
    browser = viewer(file=file, labels={"inv1": "old roof"})
    for loaded, text, shown in (
        (1.0, '[[device]]\nname = "inv1"\nlabel = "old roof"\n', "old roof"),
        (2.0, '[[device]]\nname = "inv1"\nlabel = "new roof"\n', "new roof"),
        (3.0, "[[device", "new roof"),
    ):
        new.write_text(text)
        new.replace(file)  # at once: the page looks now and then
        traces.write(config={"loaded": loaded, "complaints": []})
        for path in ("/", "/device/inv1"):
            assert shown in browser.get(path).text, (loaded, path)


def test_what_is_not_known_yet_is_no_wrong_address(viewer, traces) -> None:
    """The page was started before the agent."""
    (traces.folder / "snapshot.json").unlink()
    browser = viewer()
    for path in ("/device/inv1", "/frames/roof"):
        page = browser.get(path)
        assert page.status_code == 503 and "no agent is running here" in page.text, path


def test_the_last_error_of_a_device_is_in_the_language(viewer, traces) -> None:
    text = "no answer within 0.5 s"
    traces.write(devices={"inv1": {"line": "roof", "life": "dead", "error": text}})
    assert text in viewer().get("/device/inv1").text
    page = viewer().get("/device/inv1?lang=zh").text
    assert text not in page and "0.5 秒内无应答" in page


def test_a_point_that_was_never_read_is_neither_good_nor_old(viewer, traces) -> None:
    page = viewer().get("/device/inv1").text
    assert page.count("not read yet") == 3 and ">good<" not in page
    assert "尚未读取" in viewer().get("/device/inv1?lang=zh").text


def test_a_value_that_is_read_once_a_day_is_not_old_minutes_after_a_reload(viewer, traces) -> None:
    """Read again at the reload, its period looked like the time since its first reading."""
    points = traces.facts["tables"]["2"]["points"]
    points[0]["daily"] = True
    traces.write()
    for ago_s in (1260, 1200):
        traces.values(2, (0, 1, 0, 0), (1, 7, 0, 0), ago_s=ago_s)
    page = viewer().get("/device/inv1").text
    assert page.count("old</span>") == 1, "the other one, every minute, is"


def test_what_a_silent_device_lacks_is_not_said_to_be_unknown_to_it(viewer, traces) -> None:
    recent = {"from": 1.0, "to": 2.0, "settled": True, "complete": 0.1, "missing": {"absent": 258}, "marked": {}}
    silent = {"line": "roof", "life": "dead", "last_answer": time.time() - 50, "recent": recent}
    for more, words, zh in (
        ({}, "not asked while it is silent", "无应答期间未询问"),
        ({"line_down": True}, "its line is not open", "线路未打开"),
        ({"life": "alive"}, "no such value, or not asked", "无数据或未询问"),
    ):
        traces.write(devices={"inv1": silent | more})
        browser = viewer()
        assert words in browser.get("/").text and zh in browser.get("/?lang=zh").text, more


def test_frames_of_an_agent_that_hangs_are_old(viewer, traces) -> None:
    trace = FrameTrace(traces.folder / "frames.roof")
    trace.put(0, b"\x01", time.time_ns())
    trace.close()
    page = viewer().get("/frames/roof").text
    assert "As of" in page and "The agent has stopped reporting" not in page
    traces.write()
    traces.write(time=time.time() - 3000)
    for path in ("/frames/roof", "/device/inv1"):
        page = viewer().get(path).text
        assert "As of" in page and "The agent has stopped reporting" in page, path
    assert "The agent has stopped reporting" not in viewer().get("/").text, "its own finding says so"


def test_a_killed_agent_is_a_finding(viewer, traces) -> None:
    traces.write(pid=2**22 + 1)
    page = viewer().get("/").text
    assert (
        "1 fault" in page
        and "the agent is not running any more" in page
        and "<code>systemctl start meterhouse</code>" in page
    )


def test_once_the_agent_was_killed_every_page_says_so_and_no_device_answers(viewer, traces, monkeypatch) -> None:
    """Its snapshot and its ring stay: nothing of them may look like now, not even for the seconds until it is old."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    recent = {"from": 1.0, "to": 2.0, "settled": True, "complete": 1.0, "missing": {}, "marked": {"suspect": 3}}
    inv1 = {"line": "roof", "life": "alive", "last_answer": time.time(), "recent": recent}
    traces.write(devices={"inv1": inv1})
    traces.values(2, (0, 12345, -1, 0))
    browser = viewer()
    paths = ("/", "/device/inv1", "/frames/roof", "/day", "/figures", "/pack/inv1/1", "/nothing")
    for path in ("/", "/device/inv1"):
        page = browser.get(path).text
        assert "1234.5" in page and '<span class="state alive">answers' in page and "100 %" in page
    traces.write(pid=2**22 + 1)
    for path in paths:
        for headers in ({}, {"x-refresh": "1"}):
            page = browser.get(path, headers=headers).text
            assert page.count("The agent is not running. The data shown were kept while it ran.") == 1, path
            assert "1234.5" not in page and "state alive" not in page and ">good<" not in page, path
            assert "100 %" not in page and "running agent of" not in page, path
    assert "采集程序未运行" in browser.get("/frames/roof?lang=zh").text
    traces.write(pid=os.getpid())
    for path in paths:
        assert "采集程序未运行，以下为" not in browser.get(path).text, path
    assert "1234.5" in browser.get("/").text, "the ring is followed again"


@pytest.mark.parametrize("data", ["{}", '{"site": "park7"}', "[]", ""])
def test_a_snapshot_that_says_nothing_is_a_plain_sentence(viewer, traces, data: str) -> None:
    (traces.folder / "snapshot.json").write_text(data)
    page = viewer().get("/")
    assert page.status_code == 200 and "this is not a snapshot of an agent" in page.text
    assert "The agent cannot be seen from here" in page.text
    assert "None" not in page.text and not re.search(r"\d+ d\b", page.text)
    assert "不是采集程序" in viewer().get("/?lang=zh").text


@EVERY
def test_whatever_is_in_the_snapshot_the_page_is_one(viewer, traces, monkeypatch, every: int) -> None:
    """The agent's user may be compromised: no request ends with an internal error."""
    monkeypatch.setattr("agent.web.live.FRESH_S", 0.0)
    facts = dict(traces.facts)
    full = {
        "line": "roof",
        "life": "dead",
        "profile": "x/y",
        "identity": {"a": "b"},
        "learned": "x",
        "last_answer": 1.0,
    }
    full["recent"] = {"from": 1.0, "to": 2.0, "settled": True, "complete": 0.5, "missing": {"timeout": 1}, "marked": {}}
    facts["devices"] = {"inv1": full}
    facts["lines"] = {
        "roof": {"url": "x", "open": True, "busy_share": 0.1, "sent": {"3": 4}, "answers": 4, "timeouts": 1}
    }
    facts["uplinks"] = {
        "platform": {"connected": True, "waiting": 1, "confirmed": 2, "refused": 0, "confirm": "broker"}
    }
    facts["store"] = {"size_bytes": 1, "limit_bytes": 2, "disk_free_bytes": 3}
    facts["key"] = {"thumbprint": "abc"}
    browser = viewer()
    for data in [b"", b"[]", b"\xff\xfe", *(json.dumps(wrong).encode() for _, wrong in mutations(facts, every))]:
        (traces.folder / "snapshot.json").write_bytes(data)
        answers = {path: browser.get(path).status_code for path in ("/", "/device/inv1", "/frames/roof")}
        assert answers["/"] == 200 and set(answers.values()) <= {200, 404, 503}, (answers, data)


def test_frames_are_shown_newest_first(viewer, traces) -> None:
    trace = FrameTrace(traces.folder / "frames.roof")
    for n in range(3):
        trace.put(0, bytes([n, 0xAB]), time.time_ns() + n * 10**9)
    trace.close()
    page = html.unescape(viewer().get("/frames/roof").text)
    assert page.index("02 AB") < page.index("01 AB") < page.index("00 AB")
    assert viewer().get("/frames").headers["location"] == "/frames/roof"


def test_a_line_without_frames_is_no_error(viewer, traces) -> None:
    page = viewer().get("/frames/roof")
    assert page.status_code == 200 and "No frames yet" in page.text
    os.symlink("/etc/passwd", traces.folder / "frames.roof")
    assert "root:" not in viewer().get("/frames/roof").text


def test_what_one_viewer_asks_for_is_not_in_the_page_of_another(viewer, traces) -> None:
    """A page of a moment is made once; the first viewer's query must not be in it."""
    browser = viewer()
    assert "planted" not in browser.get("/?x=planted").text
    assert "planted" not in browser.get("/").text


def test_many_viewers_cost_one_look(viewer, traces, monkeypatch) -> None:
    monkeypatch.setattr("agent.web.live.FRESH_S", 1e9)
    looks = []
    real = live.read_snapshot
    monkeypatch.setattr("agent.web.live.read_snapshot", lambda folder: looks.append(1) or real(folder))
    browser = viewer()
    for _ in range(20):
        assert browser.get("/").status_code == 200
    assert len(looks) == 1
