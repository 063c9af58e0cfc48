"""`status` and `watch` on what a running agent leaves in its runtime directory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from agent.cli.common import show_age, show_quality
from agent.cli.ring_follower import Follower, show_number, show_short
from agent.cli.watch.frames import FrameJoiner, ShownFrame, frame_json, frame_text
from agent.cli.watch.live_view import LiveView
from agent.config import load_config
from drivers.line.trace import FrameTrace
from drivers.model import Quality, Reason
from ext.ring import Ring
from tests.kits.mutations import ESCAPES, EVERY, mutations


def test_status_of_a_healthy_agent(mh, traces, tmp_path) -> None:
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert (said.code, said.err) == (0, "")
    assert "park7/gw01" in said.out and "inv1" in said.out and "All is well." in said.out
    said = mh("status", "--json", "--runtime-dir", tmp_path / "run")
    facts = json.loads(said.out)
    assert said.code == 0 and facts["ok"] and facts["faults"] == []
    assert 0 <= facts["devices"]["inv1"]["age"] < 60 and "tables" not in facts


def test_status_says_what_is_not_well_and_exits_by_the_worst(mh, traces, tmp_path) -> None:
    run = tmp_path / "run"
    uplinks = {"platform": {"connected": False, "error": "not authorised"}}
    traces.write(uplinks=uplinks)
    said = mh("status", "--runtime-dir", run)
    first, last = said.err.splitlines()
    assert (said.code, first) == (5, "error: destination platform cannot be reached: not authorised")
    assert last.startswith("1 fault; exit code 5. Checked: the readings of 2 devices over the time since the start")
    assert "All is well" not in said.out
    dead = {
        "line": "roof",
        "life": "dead",
        "added": time.time() - 100,
        "last_answer": None,
        "error": "no answer\x1b[2J",
    }
    devices = {"inv1": dead}
    traces.write(devices=devices)
    said = mh("status", "--runtime-dir", run)
    assert said.code == 4
    assert "device inv1 has not answered since the start, 1" in said.err and ": no answer�[2J\n" in said.err
    traces.write(store={"trouble": "disk full"})
    said = mh("status", "--json", "--runtime-dir", run)
    assert said.code == 1
    assert json.loads(said.out)["faults"][0] == "store: disk full" and len(json.loads(said.out)["faults"]) == 3


def test_status_names_a_key_that_others_may_read(mh, traces, tmp_path) -> None:
    """chmod 644 was silent though the key was "looked at"; the next start would have failed."""
    key = tmp_path / "signing.key"
    key.write_text("secret")
    key.chmod(0o600)
    traces.write(key={"file": str(key), "trouble": None})
    assert mh("status", "--runtime-dir", tmp_path / "run").code == 0
    for mode in (0o644, 0o602):
        key.chmod(mode)
        said = mh("status", "--runtime-dir", tmp_path / "run")
        assert said.code == 1 and f"others may read or change it (mode {mode:04o})" in said.err, said
        assert f"chmod 600 {key}" in said.err
    for odd in (7, "/dev/null", "a\0b", str(tmp_path)):
        traces.write(key={"file": odd, "trouble": None})
        assert mh("status", "--runtime-dir", tmp_path / "run").code == 0


def test_status_names_a_key_that_is_gone_before_the_agent_does(mh, traces, tmp_path, monkeypatch) -> None:
    """It was exit code 0 for as long as the snapshot was older; said once when the agent says it, too."""
    key = tmp_path / "signing.key"
    traces.write(key={"file": str(key), "trouble": None})
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and f"signing key: {key}: the key file is missing" in said.err
    assert "Restore the file, mode 0600" in said.err
    assert "密钥文件不存在" in mh("status", "--runtime-dir", tmp_path / "run", "--lang", "zh").err
    traces.write(key={"file": str(key), "trouble": f"{key}: the key file is missing"})
    assert mh("status", "--runtime-dir", tmp_path / "run").err.count("is missing") == 1
    monkeypatch.chdir(tmp_path)
    for unseen in ("/run/not/seen/from/here", "run/of-another-folder.key"):
        traces.write(key={"file": unseen, "trouble": None})
        assert mh("status", "--runtime-dir", tmp_path / "run").code == 0


def test_doctor_does_not_call_a_hung_agent_good(mh, traces, park, tmp_path) -> None:
    """Its process was there, so it "runs" stood above the fault."""
    config = park()
    traces.write(time=time.time() - 60)
    said = mh("doctor", "--offline", "-c", config)
    assert said.code == 1 and "no snapshot for" in said.out and "runs, process" not in said.out
    traces.write(time=time.time())
    said = mh("doctor", "--offline", "-c", config)
    assert "runs, process" in said.out and "no snapshot for" not in said.out
    said = mh("doctor", "--offline", "-c", config, "--lang", "zh")
    traces.write(time=time.time() - 60)
    hung = mh("doctor", "--offline", "-c", config, "--lang", "zh")
    assert "正在运行" in said.out and "正在运行" not in hung.out


def test_status_and_doctor_say_that_files_were_edited_without_a_reload(mh, traces, park, tmp_path) -> None:
    config = park()
    traces.write(config={"hash": load_config(config).hash(), "complaints": []})
    assert "configuration in effect" not in mh("status", "-c", config).out
    assert "configuration in effect" not in mh("doctor", "--offline", "-c", config).out
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/inv9.toml").write_text(
        '[[device]]\nname = "inv9"\nline = "roof"\naddress = "9"\nprofile = "test/box"\n'
    )
    said = mh("status", "-c", config)
    assert said.code == 0 and "differ from the configuration in effect" in said.out + said.err, said
    assert "meterhouse reload" in said.out
    assert "differ from the configuration in effect" in mh("doctor", "--offline", "-c", config).out
    assert "与当前生效的配置不同" in mh("status", "-c", config, "--lang", "zh").out
    assert "in effect" not in mh("status", "--runtime-dir", tmp_path / "run").out, "files of an unknown agent"
    config.write_text("[")
    assert "configuration in effect" not in mh("status", "-c", config).out, "said as invalid already"


def test_status_in_chinese_keeps_its_json_english(mh, traces, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    traces.write(clock={"synced": False, "error_ms": 16_000.0, "behind_store": None})
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and "故障：本网关的时钟未同步\n  处理：" in said.err and "timedatectl" in said.err
    assert "设备" in said.out and "正常" in said.out and said.err.splitlines()[-1].startswith("共 1 个故障；退出码 1。")
    facts = json.loads(mh("status", "--json", "--runtime-dir", tmp_path / "run").out)
    assert facts["faults"] == ["the clock of this gateway is not synchronised"]
    assert facts["findings"][0] | {"advice": ""} == {
        "code": "clock-not-synchronised", "level": "error", "exit_code": 1, "where": "clock",
        "text": facts["faults"][0], "advice": "",
    }  # fmt: skip
    assert "clock synchronised" not in mh("status", "--lang", "en", "--runtime-dir", tmp_path / "run").out


def test_what_intervals_wait_for_is_told_in_both_languages(mh, traces, tmp_path) -> None:
    at = {"compared_from": 1_700_000_000, "packs_from": 1_690_000_000}
    traces.write(intervals={"reading": 1, "repair": {"streams": 12, **at}})
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert "intervals: reading the packs of 1 device\n" in said.out
    assert "intervals: comparing the intervals of 12 devices" in said.out
    said = mh("status", "--runtime-dir", tmp_path / "run", "--lang", "zh")
    assert "时段数据：正在读取 1 台设备的数据包\n" in said.out and "intervals" not in said.out
    assert "已核对到 2023-11-14 22:13 UTC" in said.out and "核对完成后才计算日指标" in said.out


def test_status_tells_a_line_that_is_down_and_lets_inverters_sleep(mh, traces, tmp_path) -> None:
    """# field pain 70: a device that was never reached is not well, though nobody can say that it is silent."""
    for life, error, code in (("unknown", "line roof: cannot open", 4), ("unknown", None, 0), ("asleep", "silent", 0)):
        traces.facts["lines"]["roof"]["open"] = False
        traces.write(devices={"inv1": {"line": "roof", "life": life, "last_answer": None, "error": error}})
        said = mh("status", "--runtime-dir", tmp_path / "run")
        assert said.code == code, life
        assert ("device inv1 cannot be reached: line roof: cannot open" in said.err) is (code == 4)


def test_status_knows_a_dead_and_a_hanging_agent(mh, traces, tmp_path) -> None:
    traces.write(pid=2**22 + 1)
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and "the agent is not running any more (process 4194305)" in said.err
    traces.facts["pid"] = 1
    traces.write()
    old = json.loads((tmp_path / "run/snapshot.json").read_text()) | {"time": time.time() - 100}
    (tmp_path / "run/snapshot.json").write_text(json.dumps(old))
    said = mh("status", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and "the agent has written no snapshot for 100 s: it hangs, or the clock was set" in said.err


@pytest.mark.parametrize("folder", ["from [paths]", "from [paths] of a file that is not TOML", "the default"])
def test_a_running_agent_is_found_while_its_file_is_wrong(mh, traces, tmp_path, monkeypatch, folder) -> None:
    """Monitoring goes on while somebody edits, and says that the next start would fail."""
    path = tmp_path / "agent.toml"
    text = "[site]\nid = 7\n" if "TOML" not in folder else "[site]\nid = “park7”\n"
    if folder == "the default":
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    else:
        text += '[paths]\nstate_dir = "state"\n\nruntime_dir = "run"  # ours\n[pack]\nevery = "10 s"\n'
    path.write_text(text)
    said = mh("status", "--json", "-c", path)
    facts = said.lines[0]
    assert (said.code, said.err, facts["devices"]["inv1"]["life"]) == (3, "", "alive")
    found = {(one["code"], one["exit_code"]) for one in facts["findings"] if one["exit_code"]}
    assert found == {("config-invalid", 3)} and f"would fail: {path}:2: " in str(facts["faults"])
    said = mh("status", "-c", path)
    assert said.code == 3 and f"{path}:2" in said.err.replace("\n", "") and "inv1" in said.out
    said = mh("watch", "--json", "--for", "0.1", "-c", path)
    assert said.code == 0 and f"warning: the next start of the agent would fail: {path}:2: " in said.err
    said = mh("doctor", "--offline", "--json", "-c", path)
    checks = said.lines[0]["checks"]
    assert [c["text"] for c in checks if c["subject"] == "agent" and c["state"] == "good"] == [
        f"runs, process {os.getpid()}"
    ]
    assert any(c["code"] == 3 and f"{path}:2" in c["text"] for c in checks)
    traces.facts["config"] = {"complaints": [text.partition("would fail: ")[2] for text in facts["faults"]]}
    traces.write()
    found = {one["code"] for one in mh("status", "--json", "-c", path).lines[0]["findings"] if one["exit_code"]}
    assert found == {"config-rejected"}, "said once"
    (tmp_path / "run/snapshot.json").unlink()
    assert mh("status", "--json", "-c", path).code == 3


@pytest.mark.parametrize("command", ["status", "watch"])
def test_without_an_agent_it_is_said_where_was_looked(mh, tmp_path, command) -> None:
    said = mh(command, "--runtime-dir", tmp_path)
    assert said.code == 1
    assert said.err.startswith(f"error: {tmp_path}: no agent is running here. Is the agent started?")


@pytest.mark.parametrize(
    ("blob", "why", "chinese"),
    [
        (b"", "the content is not JSON", "内容不是 JSON"),
        (b"\xff\xfe", "the content is not JSON", "内容不是 JSON"),
        (b'{"time":', "the content is not JSON", "内容不是 JSON"),
        (b"[]", "the content is not a JSON object", "内容不是 JSON 对象"),
        (b"{}", "these JSON members are missing: pid, time, ring", "缺少 JSON 成员 pid, time, ring"),
        (b'{"pid": 7, "time": 1.0, "site": "park7"}', "these JSON members are missing: ring", "缺少 JSON 成员 ring"),
        (b'{"pid": "7", "time": 1.0, "ring": "ring.a"}', "the JSON member pid is not valid", "JSON 成员 pid 无效"),
        (b'{"pid": 7, "time": 1.0, "ring": "../a"}', "the JSON member ring is not valid", "JSON 成员 ring 无效"),
        (b'{"pid": 7, "time": 1.0, "ring": "ring.a", "devices": {"a": {"life": 2}}}',
         "the JSON member devices[...].life is not valid", "JSON 成员 devices[...].life 无效"),
        (b'{"pid": 7, "time": 1.0, "ring": "ring.a", "tables": {"x": {"stream": "a", "points": []}}}',
         "the JSON member tables is not valid", "JSON 成员 tables 无效"),
    ],
)  # fmt: skip
def test_what_is_no_snapshot_is_a_sentence(mh, tmp_path, blob, why, chinese) -> None:
    """Of another program, cut short, or of another version of the agent; in no library's words."""
    (tmp_path / "snapshot.json").write_bytes(blob)
    for command in ("status", "watch"):
        said = mh(command, "--runtime-dir", tmp_path)
        text = (
            f"error: {tmp_path}/snapshot.json: this is not a snapshot of an agent. {why}. Do the agent and "
            "this command have"
        )
        assert (said.code, said.out) == (1, "") and said.err.startswith(text), said.err
        said = mh(command, "--runtime-dir", tmp_path, "--lang", "zh")
        assert f"不是采集程序的快照。{chinese}。" in said.err, said.err


def test_every_configured_point_has_an_age(mh, traces, tmp_path) -> None:  # field pain 70
    traces.values(2, (0, 15, -1, 0), ago_s=90)
    traces.gap(3, Reason.TIMEOUT)
    said = mh("status", "--points", "--json", "--runtime-dir", tmp_path / "run")
    points = {(p["device"], p["point"]): p for p in json.loads(said.out)["points"]}
    assert len(points) == 6
    heard, gone = points["inv1", "ac.power.active"], points["inv2", "ac.power.active"]
    assert (heard["value"], heard["quality"]) == (1.5, "good") and 89 < heard["age"] < 120
    assert (gone["value"], gone["quality"], gone["age"]) == (None, "timeout", None)
    assert points["inv1", "device.firmware"]["age"] is None, "never heard, and shown"
    said = mh("status", "--points", "--runtime-dir", tmp_path / "run")
    assert [line.split() for line in said.out.splitlines() if "ac.power.active" in line] == [
        ["inv1", "ac.power.active", "1.5", "W", "90", "s"],
        ["inv2", "ac.power.active", "-", "W", "timeout", "-"],
    ]


def test_watch_prints_the_last_state_into_a_pipe(mh, traces, tmp_path) -> None:
    traces.values(2, (0, 123456789012345678, -3, 0), (1, 7, 2, Quality.SUSPECT))
    traces.text(2, 2, b"V1\x1b[31m")
    said = mh("watch", "inv1", "--runtime-dir", tmp_path / "run")
    rows = [line.split() for line in said.out.splitlines()]
    assert said.code == 0
    assert rows[-3][:4] == ["inv1", "ac.power.active", "123456789012345.678", "W"]
    assert rows[-2][:5] == ["inv1", "ac.energy.import", "700", "kWh", "suspect"]
    assert rows[-1][2] == "V1�[31m" and "inv2" not in said.out


def test_watch_shows_a_float_with_the_digits_it_is_good_for(mh, traces, tmp_path) -> None:
    tables = traces.facts["tables"]
    for point in tables["2"]["points"][:2]:
        point["float"] = True
    tables["2"]["points"][0]["u"] = "Cel"
    traces.write(tables=tables)
    traces.values(2, (0, 22950418, -5, 0), (1, 12345678901, -5, 0))
    rows = [line.split() for line in mh("watch", "inv1", "--runtime-dir", tmp_path / "run").out.splitlines()]
    assert [row[2:4] for row in rows if row[1:2] != ["device.firmware"]][-2:] == [["229.5", "°C"], ["123456.79", "kWh"]]
    said = mh("watch", "inv1", "--json", "--for", "0.3", "--runtime-dir", tmp_path / "run")
    assert all(line["value"] != 229.5 for line in said.lines), "JSON is never rounded"


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        ("229.50418", "gauge", "229.5"), ("0.91810566", "gauge", "0.91811"), ("1234567.8", "gauge", "1234568"),
        ("1E+3", "gauge", "1000"), ("0", "gauge", "0"), ("-0.000012345678", "gauge", "-0.000012346"),
        ("22752.254", "counter", "22752.254"), ("5.3E+36", "gauge", "53" + "0" * 35),
    ],
)  # fmt: skip
def test_digits_of_floats(value: str, kind: str, shown: str) -> None:
    assert show_number(Decimal(value), kind, is_float=True) == shown
    assert show_number(Decimal("229.50418"), kind) == "229.50418", "a register with a scale has the digits it has"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("3.4028234663852886E+38", "3.4028e+38"), ("-3.4028234663852886E+38", "-3.4028e+38"), ("1E-30", "1.0000e-30"),
        ("123456789012.345678901", "123456789012.346"), ("0.00012345678901234567", "0.000123456789012346"),
        ("0.0000123456789012345678", "1.2346e-5"), ("1234567890123456.789012", "1.2346e+15"),
        ("18446744073709551.615", "18446744073709551.615"), ("22752.254", "22752.254"), ("0", "0"),
    ],
)  # fmt: skip
def test_a_long_number_is_short_in_a_table(value: str, shown: str) -> None:
    """Broken words of a float have 39 digits, and a table showed them or cut them, as if the number were smaller."""
    assert show_short(Decimal(value)) == shown and len(shown) <= 21
    assert show_short(None) == "-" and show_short("x" * 30) == "x" * 30


def test_watch_json_tells_every_reading(mh, traces, tmp_path) -> None:
    traces.values(2, (0, 1, 0, 0))
    traces.values(2, (0, 2, 0, 0))
    stop = threading.Event()

    def agent() -> None:
        for n in range(3, 8):
            traces.values(2, (0, n, 0, 0), (1, n, 0, 0))
            traces.gap(3, Reason.CRC)
            stop.wait(0.02)

    thread = threading.Thread(target=agent)
    thread.start()
    said = mh("watch", "--json", "--for", "2s", "--point", "ac.power.*", "--runtime-dir", tmp_path / "run")
    thread.join()
    values = [line["value"] for line in said.lines if line["device"] == "inv1"]
    assert said.code == 0
    assert values == list(range(values[0], 8)), "the newest of what was there, then each one"
    gaps = [line for line in said.lines if line["device"] == "inv2"]
    assert gaps and all((line["value"], line["quality"]) == (None, "crc") for line in gaps)


def test_watch_follows_an_agent_that_starts_anew(traces, tmp_path) -> None:
    traces.values(2, (0, 1, 0, 0))
    watched = LiveView(tmp_path / "run", [], [], snapshot_every_s=0.0)  # look for it each time
    assert len(list(watched.news())) == 1
    fresh = Ring.create(str(tmp_path / "run/ring.new"), 1 << 16, 8, 9, bytes(32))
    traces.write(ring="ring.new")
    fresh.append_values(3, 1, 1, 1, [(0, 42, 0, 0)])
    assert [(latest.point.device, latest.value) for latest in watched.news()] == [("inv2", 42)]
    watched.close()
    fresh.close()


def test_a_reader_that_is_overtaken_goes_on_where_it_is_safe(traces, tmp_path) -> None:
    follower = Follower.open(tmp_path / "run", traces.facts)
    for n in range(30_000):  # the ring holds some 5,000 of these
        traces.values(2, (0, n, 0, 0))
    seen = [latest.value for latest in follower.follow()]
    assert seen[-1] == 29_999 and follower.lost == 1
    assert follower.position == traces.ring.head
    assert list(follower.follow()) == []
    follower.ring.close()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pnv1"], 'error: watch: the running agent has no device "pnv1". Did you mean "inv1"?'),
        (["--point", "dc.*"], 'error: watch: no point matches "dc.*". `meterhouse status --points` lists the points'),
        (["--frames", "rof"], 'error: watch: the running agent has no line "rof". Did you mean "roof"?'),
    ],
)
def test_watch_says_what_there_is(mh, traces, tmp_path, args, says) -> None:
    said = mh("watch", *args, "--runtime-dir", tmp_path / "run")
    assert (said.code, said.err.strip()) == (2, says)


def test_a_ring_that_is_gone_or_none_is_a_sentence(mh, traces, tmp_path) -> None:
    traces.write(ring="ring.gone")
    said = mh("watch", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and "ring.gone: cannot be read: No such file or directory" in said.err
    (tmp_path / "run/ring.bad").write_bytes(b"x" * 100_000)
    traces.write(ring="ring.bad")
    said = mh("watch", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and said.err.startswith("error: ")


def test_frames_are_shown_as_they_went_over_the_wire(mh, traces, tmp_path) -> None:
    run = tmp_path / "run"
    said = mh("watch", "--frames", "roof", "--runtime-dir", run)
    assert said.code == 1 and "line roof: has no frames yet" in said.err
    trace = FrameTrace(run / "frames.roof", 50)
    trace.put(0, bytes.fromhex("01030000000ac5cd"), 1_764_033_000_123_000_000)
    trace.put(1, bytes.fromhex("018302c0f1"), 1_764_033_000_223_000_000)
    trace.put(2, b"\x00", 1_764_033_000_323_000_000)
    said = mh("watch", "--frames", "roof", "--for", "1ms", "--runtime-dir", run)
    assert said.code == 0
    assert [line[8:] for line in said.out.splitlines()] == [
        ".123 -> 01 03 00 00 00 0A C5 CD",
        ".223 <- 01 83 02 C0 F1",
        ".323 ?? 00",
    ]
    said = mh("watch", "--frames", "roof", "--for", "1ms", "--json", "--runtime-dir", run)
    assert [line["direction"] for line in said.lines] == ["sent", "received", "noise"]
    assert said.lines[1] == {"number": 2, "time": 1764033000.223, "direction": "received", "hex": "018302c0f1"}
    trace.close()


def test_a_missing_reading_is_never_rounded_away(mh, traces, tmp_path) -> None:
    """99.96 % was shown as 100 %, beside the number of readings that were missing."""
    run = tmp_path / "run"
    recent = {"from": 1.0, "to": time.time(), "settled": True, "due": 2500, "readings": 2499, "complete": 0.9996,
              "missing": {"crc": 1}, "marked": {}}  # fmt: skip
    traces.facts["devices"]["inv1"]["recent"] = recent
    traces.write()
    said = mh("status", "--runtime-dir", run)
    assert "99.9 %" in said.out and "100 %" not in said.out, said.out


def test_frames_go_on_after_a_restart_of_the_agent(mh, traces, tmp_path, monkeypatch) -> None:
    """The new agent counts its frames from 1 in a new file; they were left out until there were as many as before."""
    run = tmp_path / "run"
    traces.facts["lines"] = {"roof": {}}
    at = 1_764_033_000_000_000_000

    def start(*frames: bytes) -> FrameTrace:
        trace = FrameTrace(run / "frames.roof", 50)
        for frame in frames:
            trace.put(0, frame, at)
        return trace

    def restart(*_: object) -> Iterator[None]:
        traces.write()
        first = start(b"\1", b"\2", b"\3")
        yield
        for name in ("snapshot.json", "frames.roof"):
            (run / name).unlink()
        yield
        again = start(b"\4")
        yield
        again.put(0, b"\5", at)
        yield
        traces.write()
        (run / "frames.roof").unlink()
        yield  # the line is not open yet
        del traces.facts["lines"]["roof"]
        traces.write()
        first.close()
        again.close()
        yield

    monkeypatch.setattr("agent.cli.watch.command.until", restart)
    traces.write()
    said = mh("watch", "--frames", "roof", "--json", "--runtime-dir", run)
    assert [line["hex"] for line in said.lines] == ["01", "02", "03", "04", "05"]
    assert said.code == 2 and 'the running agent has no line "roof"' in said.err


def test_frames_have_the_time_of_the_site_where_a_configuration_says_it(mh, traces, tmp_path, park) -> None:
    config = park()
    trace = FrameTrace(tmp_path / "run/frames.roof", 50)
    trace.put(0, b"\1\3", 1_764_001_800_123_000_000)  # 2025-11-24 16:30 UTC
    trace.close()
    said = mh("watch", "--frames", "roof", "--for", "1ms", "-c", config)
    assert (said.code, said.err, said.out) == (
        0,
        "All times are in the time zone Asia/Shanghai\n",
        "00:30:00.123 -> 01 03\n",
    )
    config.write_text("no = valid [configuration")
    said = mh("watch", "--frames", "roof", "--for", "1ms", "-c", config, "--runtime-dir", tmp_path / "run")
    assert said.code == 0 and said.err.startswith("All times are in the time zone of this machine\n"), said


def test_pieces_of_one_answer_are_one_line() -> None:
    from drivers.line.trace import TracedFrame

    ms = 1_000_000
    sent, answer = ShownFrame(1, 0, 0, b"\x01\x03"), [TracedFrame(n, n * ms, 1, bytes([n])) for n in range(2, 6)]
    noise, later = ShownFrame(6, 6 * ms, 2, b"\xff"), ShownFrame(7, 900 * ms, 2, b"\xfe")
    pieces = FrameJoiner()
    assert list(pieces.join([TracedFrame(*sent[:4]), *answer[:2]], 4 * ms)) == [sent], "more of the answer may come"
    assert list(pieces.join([*answer[2:], TracedFrame(*noise[:4])], 7 * ms)) == [
        ShownFrame(2, 2 * ms, 1, b"\x02\x03\x04\x05")
    ]
    assert list(pieces.join([TracedFrame(*later[:4])], 901 * ms)) == [noise]
    assert list(pieces.join([], 1000 * ms)) == [later] and list(pieces.rest()) == []
    assert pieces.last == 7


def test_a_broken_answer_is_marked_with_its_reason() -> None:
    from drivers.line.trace import BROKEN, RECEIVED, TracedFrame

    ms, why = 1_000_000, "the answer of 9 bytes has a wrong CRC"
    broken = TracedFrame(1, 0, RECEIVED, b"\x01\x03")
    mark = TracedFrame(2, 110 * ms, BROKEN, why.encode())
    pieces = FrameJoiner()
    assert list(pieces.join([broken], 60 * ms)) == [], "its reason may come"
    (shown,) = pieces.join([mark], 120 * ms)
    assert frame_text(shown).endswith(f" <- 01 03  !! {why}")
    assert json.loads(frame_json(shown)) == {
        "number": 1, "time": 0.0, "direction": "received", "hex": "0103", "broken": why
    }  # fmt: skip
    assert list(pieces.join([TracedFrame(3, 200 * ms, RECEIVED, b"\x05")], 900 * ms)) == [
        ShownFrame(3, 200 * ms, RECEIVED, b"\x05")
    ]
    late = TracedFrame(4, 1200 * ms, BROKEN, b"received 1 bytes\x1b[2J, but no frame from unit 1")
    (row,) = pieces.join([late], 1201 * ms)
    assert frame_text(row).endswith(":01.200 !! received 1 byte\ufffd[2J, but no frame from unit 1"), frame_text(row)
    assert json.loads(frame_json(row))["direction"] == "broken" and "broken" not in json.loads(
        frame_json(ShownFrame(3, 0, RECEIVED, b""))
    )


def test_nothing_of_the_agent_is_touched(mh, traces, tmp_path) -> None:
    before = {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "run").iterdir()}
    mh("status", "--points", "--runtime-dir", tmp_path / "run")
    mh("watch", "--for", "1ms", "--json", "--runtime-dir", tmp_path / "run")
    assert {
        path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in (tmp_path / "run").iterdir()
    } == before


def test_words_for_qualities_and_ages() -> None:
    assert [show_quality(code) for code in (0, 1, 2, 128, 141, 99, 250)] == [
        "", "suspect", "range", "timeout", "clock", "quality 99", "reason 250",
    ]  # fmt: skip
    assert [show_age(age) for age in (None, -1, 0.24, 12, 119, 125, 7300, 200_000)] == [
        "-", "0.0 s", "0.2 s", "12 s", "119 s", "2 min", "2 h", "2 d",
    ]  # fmt: skip


# --- an agent that was taken over: its user writes snapshot, ring and frames


@EVERY
def test_each_wrong_member_of_a_snapshot_is_a_sentence_or_harmless(mh, traces, tmp_path, every: int) -> None:
    """Whatever it holds: no fault of ours, and nothing that a terminal would obey."""
    traces.values(2, (0, 15, -1, 0))
    traces.text(2, 2, ESCAPES.encode())
    traces.facts["config"] = {"complaints": ["line 3"]}
    repair = {"compared_from": 1, "packs_from": 1, "streams": 2}
    traces.facts["intervals"] = {"reading": 1, "repair": repair, "stopped": ["inv1"], "waits": "the disk"}
    traces.facts["lines"]["roof"] |= {"sent": {"3": 4}, "answers": 5, "timeouts": 1}
    recent = {
        "from": 1.0, "to": time.time(), "settled": True, "due": 9, "readings": 5, "complete": 0.6,
        "missing": {"crc": 3, "sentinel": 1}, "marked": {"suspect": 2},
    }  # fmt: skip
    traces.facts["devices"]["inv1"] |= {
        "added": 1.0, "answering_since": 2.0, "dead_after": 10.0, "recent": recent, "swapped": {"t": 3.0, "what": "x"},
    }  # fmt: skip
    traces.facts["uplinks"]["platform"] |= {
        "subscriber": False, "waiting": 3, "set_aside": 1, "error": "e", "hint": "h",
        "certificates": [{"file": "f", "what": "w", "ends": 5.0, "error": None}],
    }  # fmt: skip
    traces.facts["store"] |= {
        "size_bytes": 9, "limit_bytes": 10, "disk_free_bytes": 1, "unused_bytes": 0, "packs": 5,
        "pending": {"platform": 5}, "lost_packs": 2, "lost_at": 4.0, "warnings": ["w"],
    }  # fmt: skip
    traces.facts["clock"] = {"synced": False, "error_ms": 1.5, "behind_store": 100.0}
    traces.facts["key"] = {"thumbprint": "k", "trouble": "t"}
    traces.facts["tables"] = {"2": traces.facts["tables"]["2"]}
    traces.facts["devices"].pop("inv2")
    harm, refused = set("\x1b\x07\x9b\u202e"), 0
    for n, (what, wrong) in enumerate(mutations(traces.facts | {"time": time.time()}, every)):
        (tmp_path / "run/snapshot.json").write_text(json.dumps(wrong))
        words = [
            ("status", "--points"),
            ("watch",),
            ("status", "--points", "--json"),
            ("watch", "--json", "--for", "0"),
        ]
        said = mh(*words[n % 4], "--runtime-dir", tmp_path / "run")
        assert "a fault of ours" not in said.err, (what, said.err)
        assert not harm & set(said.out + said.err), what
        refused += "this is not a snapshot of an agent" in said.err
    assert refused > 300 // every


@pytest.mark.parametrize("name", ["../other", "/dev/zero", "", "ring/../../x", "snapshot.json"])
def test_a_ring_is_only_looked_for_in_the_runtime_directory(mh, traces, tmp_path, name) -> None:
    traces.write(ring=name)
    said = mh("watch", "--runtime-dir", tmp_path / "run")
    assert said.code == 1 and "this is not a snapshot of an agent" in said.err, said.err


@pytest.mark.parametrize("leads", ["fifo", "link", "folder"])
@pytest.mark.parametrize("words", [("watch",), ("status", "--points"), ("watch", "--frames", "roof")])
def test_what_is_no_plain_file_is_not_waited_for(mh, traces, tmp_path, words, leads) -> None:
    """A pipe at the place of ring or frames would never open."""
    run = tmp_path / "run"
    for name in (f"ring.{traces.facts['boot']}", "frames.roof"):
        (run / name).unlink(missing_ok=True)
        if leads == "fifo":
            os.mkfifo(run / name)
        elif leads == "link":
            (run / name).symlink_to("/dev/zero")
        else:
            (run / name).mkdir()
    said = mh(*words, "--runtime-dir", run)
    assert said.code == 1 and "a fault of ours" not in said.err, said.err


def test_forged_frames_are_a_sentence(mh, traces, tmp_path) -> None:
    """No slots, more than there are, more than there can be."""
    for slots in (0, 7, 1 << 63):
        head = b"mhframes" + slots.to_bytes(8, "little") + ((1 << 64) - 1).to_bytes(8, "little")
        (tmp_path / "run/frames.roof").write_bytes(head.ljust(4096 + 288, b"\0"))
        said = mh("watch", "--frames", "roof", "--runtime-dir", tmp_path / "run")
        assert said.code == 1 and "cannot be read" in said.err and "a fault of ours" not in said.err, said.err


def test_a_damaged_ring_is_a_sentence(mh, traces, tmp_path) -> None:
    traces.values(2, (0, 15, -1, 0))
    path = tmp_path / f"run/ring.{traces.facts['boot']}"
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 64] = b"\xee" * 64
    path.write_bytes(data)
    for words in (("watch",), ("status", "--points")):
        said = mh(*words, "--runtime-dir", tmp_path / "run")
        assert "a fault of ours" not in said.err, said.err


def test_intervals_that_stand_still_are_not_well(mh, traces, tmp_path) -> None:
    """They stopped for good after one bit of damage, and all was said to be well."""
    names = [f"inv{n}" for n in range(7)]
    for facts, what in (
        ({"waits": "the database refuses"}, "intervals are delayed: the database refuses"),
        ({"stopped": names}, "intervals of inv0, inv1, inv2, inv3, inv4, ... stopped by an error in the agent"),
    ):
        traces.facts["intervals"] = facts
        (tmp_path / "run/snapshot.json").write_text(json.dumps(traces.facts | {"time": time.time()}))
        said = mh("status", "--runtime-dir", tmp_path / "run")
        assert said.code == 1 and f"error: {what}" in said.err and "All is well" not in said.out


def test_status_json_is_an_object_where_there_is_nothing_to_show(mh, park, tmp_path) -> None:
    """A script that reads it must not meet an empty output."""
    broken = park(more="profle = 1\naddress2 = 3\n")
    said = mh("status", "--json", "-c", broken)
    (facts,) = said.lines
    assert (said.code, said.err, facts["ok"]) == (3, "", False)
    assert [(one["code"], one["exit_code"], one["text"]) for one in facts["findings"]] == [
        ("config-invalid", 3, "unknown key"), ("config-invalid", 3, "unknown key"),
    ]  # fmt: skip
    assert facts["faults"][0].endswith("device.inv1.profle: unknown key") and facts["findings"][0]["advice"]
    for args, code, kind in ((("-c", tmp_path / "none.toml"), 3, "config-invalid"),
                             (("--runtime-dir", tmp_path / "none"), 1, "no-agent")):  # fmt: skip
        said = mh("status", "--json", *args)
        (facts,) = said.lines
        assert (said.code, said.err, [one["code"] for one in facts["findings"]]) == (code, "", [kind])
