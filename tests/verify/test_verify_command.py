"""`meterhouse verify` as people and scripts use it: files, folders, stdin, a broker; exit codes 0, 2, 5, 6."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner, Result

from agent.cli.chinese import translate
from agent.cli.verify import _say_repeated, verify
from agent.recompute import Recomputed
from agent.verify import Verifier, live
from agent.verify.files import find_files, read_lines, read_paths
from agent.verify.live import Live
from drivers.model import BrokerError, UsageError
from tests.kits.delivery import PATIENCE_S, until
from tests.kits.fake_broker import FakeBroker
from tests.kits.signed import Key, Stream, keys
from tests.verify.test_verify_live import Publisher

PIN = Key().kid
ROOT = Path(__file__).resolve().parents[2]


def catches_interrupts(pid: int) -> bool:
    """Has the process the command's handlers in place (SIGTERM is only caught by those)?"""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def run(*args: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(verify, [str(a) for a in args], input=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An export: keys, packs by line, packs as files, some compressed."""
    first, second = Stream("inv1"), Stream("meter")
    (tmp_path / "keys.json").write_bytes(keys(Key()))
    packs = first.run(6)
    (tmp_path / "inv1.jsonl").write_bytes(b"\n".join(packs[:3]) + b"\n\n")
    (tmp_path / "inv1b.jsonl.zst").write_bytes(zstandard.compress(b"\n".join(packs[3:])) + zstandard.compress(b"\n"))
    for n, raw in enumerate(second.run(3)):
        (tmp_path / "more").mkdir(exist_ok=True)
        if n:
            (tmp_path / "more" / f"{n}.json.zst").write_bytes(zstandard.compress(raw))
        else:
            (tmp_path / "more" / f"{n}.json").write_bytes(raw)
    (tmp_path / "README.txt").write_text("not a pack")
    return tmp_path


def test_a_folder(folder: Path) -> None:
    result = run(folder, "--trust", PIN, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert {n: facts[n] for n in ("packs", "verified", "failed", "gaps", "redelivered", "missing")} == {
        "packs": 9, "verified": 9, "failed": 0, "gaps": 0, "redelivered": 0, "missing": 0,
    }  # fmt: skip
    assert sorted(facts["streams"]) == ["park7/gw01/inv1", "park7/gw01/meter"]
    day = facts["streams"]["park7/gw01/inv1"]["days"]["2026-11-24"]
    assert day["due"] == day["got"] == 21
    assert facts["readings"] == 30 and facts["verdict"] == "verified"


def test_the_table_for_people(folder: Path) -> None:
    result = run(folder, "--trust", PIN)
    assert result.exit_code == 0
    assert "park7/gw01/inv1" in result.output and "100 %" in result.output
    assert result.output.splitlines()[-1].startswith("verified: packs: 9, readings: 30, readings in gaps: 0")


def test_the_last_line_is_the_verdict_and_what_to_do_stands_above_it(folder: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    packs = Stream("inv1").run(4)
    (cut / "inv1.jsonl").write_bytes(b"\n".join((keys(Key()), packs[0], packs[1], packs[3])))
    result = run(cut, "--trust", PIN, "--expect-complete")
    said = result.output.splitlines()
    assert result.exit_code == 6 and re.match(
        r"incomplete: packs: 3, .* missing packs: 1, faulty objects: 0$", said[-1]
    ), said
    assert said[-2].startswith("what to do: give all files of the export") and "not verified: " in result.output
    unproven = run(folder).output.splitlines()
    assert unproven[-1].startswith("consistent, origin unproven: packs: 9,") and "keys show" in unproven[-2]


def test_the_report_in_chinese_and_its_json_in_english(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    said = run(folder, "--trust", PIN).output.splitlines()
    assert said[0].split()[0] == "数据流" and said[-1].startswith("验证通过：数据包 9，读数 30"), said
    assert not [line for line in said if "first key" in line or "checkpoint" in line]
    unproven = run(folder).output
    assert "处理：请指定密钥" in unproven and "未通过验证：未指定密钥指纹" in unproven
    assert unproven.splitlines()[-1].startswith("前后一致，来源未证实：")
    assert json.loads(run(folder, "--trust", PIN, "--json").output)["verdict"] == "verified"


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("not complete: park7/gw01/inv1: the gateway reported 96 readings as missing (gaps)",
         "不完整：park7/gw01/inv1：缺数 96 个"),
        ("13 streams: the sequence of each stream's first pack is between 3 and 9",
         "13 个数据流：各数据流首个数据包的序号在 3 至 9 之间"),
        ("park7/gw01: handover of devices at 2026-11-24T00:00:00Z by Li; devices: 5, compared with their displays: 3, "
         "with a difference: 1 (inv1); recorded in the pack with sequence 4 and hash ab",
         "park7/gw01：2026-11-24T00:00:00Z 由 Li 交接设备；设备 5 台，与显示值核对 3 台，不符：1 (inv1)；"
         "记录在序号为 4、哈希为 ab 的数据包中"),
        ("not verified: park7/gw01: page 3 of 5 is missing in checkpoint 9",
         "未通过验证：park7/gw01：检查点 9 缺少第 3 页（共 5 页）"),
    ],
)  # fmt: skip
def test_a_remark_behind_a_label_is_chinese_too(text: str, chinese: str) -> None:
    """A template with more words than the label must not take the label as a part of the stream's name."""
    assert translate(text) == chinese


def test_what_is_missing_and_what_differs_is_told_in_chinese(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    stream = Stream()
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(Key()), *stream.run(2), stream.gap(10, "timeout")]))
    said = run(tmp_path, "--trust", PIN, "--expect-complete").output
    assert "不完整：park7/gw01/inv1：缺数 4 个" in said and "缺数（按原因）：应答超时 4" in said
    with closing(FakeBroker()) as broker:
        listen = ("--broker", f"mqtt://127.0.0.1:{broker.port}", "--trust", PIN, "--for", "1ms", "--wait", "1ms")
        assert "注意：0.001 秒内未收到数据包。请检查 --site" in run(*listen).output
    found = Recomputed()
    found.add("differ", "cabinet of 2026-11-24: v: signed 1, recomputed 2")
    found.add("unknown", "cabinet of 2026-11-25: pack 3 of park7/gw01/inv1 is not here")
    _say_repeated(found)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "不一致：2026-11-24 的 cabinet：v：已签名的为 1，重新计算为 2",
        "未重新计算：2026-11-25 的 cabinet：缺少 park7/gw01/inv1 的数据包 3",
    ]


def test_without_a_pin_the_origin_is_unproven(folder: Path) -> None:
    result = run(folder)
    assert result.exit_code == 6
    assert "consistent, origin unproven" in result.output and "no thumbprint was pinned" in result.output


def test_another_pin_proves_nothing(folder: Path) -> None:
    result = run(folder, "--trust", Key(9).kid)
    assert result.exit_code == 6
    assert "unknown key chain" in result.output and f"first key is {PIN}" in result.output


def test_a_fault_names_file_and_line(folder: Path) -> None:
    lines = (folder / "inv1.jsonl").read_bytes().replace(b'"v":2', b'"v":9', 1)
    (folder / "inv1.jsonl").write_bytes(lines)
    result = run(folder, "--trust", PIN)
    assert result.exit_code == 6
    assert "first fault: park7/gw01/inv1 seq 2" in result.output and "inv1.jsonl:2" in result.output
    assert "packs 2 to 2 are missing (1 pack, in which 5 readings were due)" in result.output


def test_stdin(folder: Path) -> None:
    stdin = keys(Key()) + b"\n" + (folder / "inv1.jsonl").read_bytes()
    assert run("-", "--trust", PIN, stdin=stdin).exit_code == 0


def test_nothing_is_not_verified(tmp_path: Path) -> None:
    result = run(tmp_path, "--trust", PIN)
    assert result.exit_code == 6 and "nothing to verify" in result.output


def test_expect_complete(tmp_path: Path) -> None:
    """Gaps that are stated are no fault; who expects everything asks for more."""
    stream = Stream()
    packs = [*stream.run(2), stream.gap(10, "timeout"), stream.gap(10, "asleep")]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(Key()), *packs]))
    plain = run(tmp_path, "--trust", PIN)
    assert plain.exit_code == 0 and "by reason: timeout 4, asleep 4" in plain.output.replace(
        "asleep 4, timeout 4", "timeout 4, asleep 4"
    )
    result = run(tmp_path, "--trust", PIN, "--expect-complete", "--json")
    assert result.exit_code == 6
    facts = json.loads(result.output)
    assert (
        facts["shortfalls"] == ["park7/gw01/inv1: the gateway reported 4 readings as missing (gaps)"]
        and facts["verdict"] == "verified"
    )
    assert (facts["gaps"], facts["asleep"]) == (8, 4)


def test_completeness_is_never_rounded_up() -> None:
    from agent.verify import Day, StreamReport
    from agent.verify.report_text import completeness

    made = StreamReport("s", days={"2026-11-24": Day(due=1_000_000, got=999_999, gaps=1)})
    assert completeness(made) == "99.99 %"
    made.days["2026-11-24"] = Day(due=10, got=4, asleep=6)
    assert completeness(made) == "100 %"


def test_days_that_are_not_complete_are_named(tmp_path: Path) -> None:
    """UTC days; START is 04:15 on 2026-11-24."""
    stream = Stream()
    packs = [*stream.run(2), stream.gap(86_400, "absent"), stream.pack()]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([keys(Key()), *packs]))
    text = run(tmp_path, "--trust", PIN).output
    first, second = (f"park7/gw01/inv1: 2026-11-{day} " for day in (24, 25))
    assert first in text and second in text
    facts = json.loads(run(tmp_path, "--trust", PIN, "--json").output)["streams"][stream.stream]["days"]
    assert sum(day["gaps"] for day in facts.values()) == 2 * 17_280 + 1_440
    assert [day["due"] - day["got"] - day["gaps"] for day in facts.values()] == [0, 0]


@pytest.mark.process
@pytest.mark.broker
def test_ctrl_c_ends_with_a_verdict(broker: Any) -> None:
    """An interrupt is the usual way to end a verifier without --for."""
    line = "from agent.cli.main import main; main()"
    command = [sys.executable, "-c", line, "verify", "--broker", broker.url, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    try:
        until(lambda: process.poll() is not None or catches_interrupts(process.pid))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 6, err
    assert json.loads(out)["verdict"] == "nothing to verify"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "give either --broker, PATHs or --db"),
        (("a", "--broker", "mqtt://127.0.0.1"), "give either --broker, PATHs or --db"),
        (("/no/such/place",), "no such file or folder"),
        (("-", "--trust", "short"), "43 characters"),
    ],
)
def test_wrong_usage(args: tuple[str, ...], text: str) -> None:
    result = run(*args)
    assert isinstance(result.exception, UsageError) and text in str(result.exception)


def test_no_broker() -> None:
    with socket.socket() as quiet:  # its port is taken, and nobody listens on it
        quiet.bind(("127.0.0.1", 0))
        result = run("--broker", f"mqtt://127.0.0.1:{quiet.getsockname()[1]}", "--for", "1s")
    assert isinstance(result.exception, BrokerError) and result.exception.exit_code == 5
    assert "Check that the broker runs" in str(result.exception)


@pytest.mark.broker
def test_live(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs that come while it listens; then an interrupt ends it."""
    stream, listening, before = Stream(), list[Live](), signal.getsignal(signal.SIGINT)

    class Watched(Live):
        def start(self, timeout_s: float = PATIENCE_S) -> None:
            super().start(timeout_s)
            listening.append(self)

    monkeypatch.setattr(live, "Live", Watched)

    def play() -> None:
        until(lambda: listening and signal.getsignal(signal.SIGINT) is not before)
        with closing(Publisher(broker.port)) as publisher:
            publisher.send("meterhouse/v1/park7/gw01/keys", keys(Key()), retain=True)
            for raw in stream.run(6):
                publisher.send(stream.topic(), raw)
        until(lambda: listening[0].counts()[0] == 6)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=play)
    thread.start()
    result = run("--broker", broker.url, "--site", "park7", "--trust", PIN, "--for", "1h", "--json")
    thread.join()
    facts = json.loads(result.output)
    assert (facts["packs"], facts["failed"], facts["missing"], result.exit_code) == (6, 0, 0, 0)


@pytest.mark.broker
def test_it_ends_by_itself_when_its_time_is_over(broker: Any) -> None:
    result = run("--broker", broker.url, "--trust", PIN, "--for", "0.2s", "--wait", "0.2s", "--json")
    assert result.exit_code == 6 and json.loads(result.stdout)["verdict"] == "nothing to verify"
    assert "no pack arrived within 0.2 s" in result.stderr


@pytest.mark.broker
def test_with_a_wrong_pin_only_that_is_said(broker: Any) -> None:
    """What was missing is trust, whatever came."""
    with closing(Publisher(broker.port)) as publisher:
        publisher.send("meterhouse/v1/park7/gw01/keys", keys(Key()), retain=True)
    result = run("--broker", broker.url, "--trust", Key(9).kid, "--for", "0.2s", "--wait", "1s")
    assert result.exit_code == 6 and f"first key is {PIN}" in result.output
    assert "no pack arrived" not in result.output + result.stderr


@pytest.mark.broker
def test_its_time_begins_with_the_first_pack(broker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that had no subscriber sends its first pack some seconds after there is one (D7)."""
    stream, listening, waited = Stream(), list[Live](), threading.Event()

    class Watched(Live):
        def start(self, timeout_s: float = PATIENCE_S) -> None:
            super().start(timeout_s)
            listening.append(self)

        def counts(self) -> tuple[int, int, int]:
            if not any(found := super().counts()):
                waited.set()  # it has looked, and longer than --for there is nothing
            return found

    monkeypatch.setattr(live, "Live", Watched)

    def play() -> None:
        assert waited.wait(PATIENCE_S)
        with closing(Publisher(broker.port)) as publisher:
            publisher.send("meterhouse/v1/park7/gw01/keys", keys(Key()), retain=True)
            for raw in stream.run(3):
                publisher.send(stream.topic(), raw)

    thread = threading.Thread(target=play)
    thread.start()
    result = run("--broker", broker.url, "--trust", PIN, "--for", "1ms", "--wait", f"{PATIENCE_S}s", "--json")
    thread.join()
    assert json.loads(result.stdout)["packs"] >= 1 and not result.stderr


@pytest.mark.parametrize("options", [(), ("--for", "1h", "--wait", "1h")])
@pytest.mark.parametrize("what", ["connack", "suback"])
def test_a_broker_that_refuses_to_be_connected_again_is_reported(
    what: str, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took the user's rights away: it would listen for ever, and say nothing."""
    listening, before = list[Live](), signal.getsignal(signal.SIGINT)

    class Watched(Live):
        def start(self, timeout_s: float = PATIENCE_S) -> None:
            super().start(timeout_s)
            listening.append(self)

    monkeypatch.setattr(live, "Live", Watched)
    with closing(FakeBroker()) as broker:

        def play() -> None:
            until(lambda: listening and signal.getsignal(signal.SIGINT) is not before)
            setattr(broker, what, 0x87)
            broker.peers[0].shutdown(socket.SHUT_RDWR)
            until(lambda: listening[0].refusal)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=play)
        thread.start()
        result = run("--broker", f"mqtt://127.0.0.1:{broker.port}", "--trust", PIN, *options)
        thread.join()
    (said,) = result.stderr.splitlines()
    assert result.exit_code == 6 and said.startswith("warning: verify: ") and "Not authorized" in said, said
    assert "access rules" in said


def test_remarks_are_grouped_by_kind() -> None:
    """Thirty streams with an unset clock are one remark; what is said of a single stream names it."""
    from agent.verify.report import Report, StreamReport, Verdict
    from agent.verify.report_text import as_text

    streams = {f"p/g/d{n}": StreamReport(f"p/g/d{n}", packs=9, clock_unsynced=9, first_seq=n + 1) for n in range(30)}
    streams["p/g/d7"].gap_reasons = {"timeout": 4}
    streams["p/g/d8"].reordered = 2
    lines = as_text(Report(Verdict.VERIFIED, [], {}, streams)).splitlines()
    assert "30 streams: the clock was not synchronised in 270 packs" in lines
    assert "29 streams: the sequence of each stream's first pack is between 2 and 30" in lines
    assert "p/g/d7: readings that the gateway reported as missing (gaps), by reason: timeout 4" in lines
    assert "p/g/d8: 2 packs arrived out of order" in lines
    assert not any("further remarks" in line for line in lines)


def test_a_monstrous_line_is_cut_and_refused(tmp_path: Path) -> None:
    from agent.verify.strict import MAX_PACK_BYTES

    path = tmp_path / "a.jsonl"
    path.write_bytes(b"x" * (2 * MAX_PACK_BYTES) + b"\n" + keys(Key()) + b"\n")
    with path.open("rb") as file:
        got = list(read_lines(file, "a"))
    assert len(got) == 2 and len(got[0][0]) <= MAX_PACK_BYTES + 2 and got[1] == (keys(Key()), "a:2")
    verifier = Verifier()
    read_paths(verifier, [tmp_path])
    assert verifier.report().failures == {"size": 1}


def test_a_damaged_compressed_file_is_a_fault_and_the_others_are_read(folder: Path) -> None:
    whole = (folder / "inv1b.jsonl.zst").read_bytes()
    (folder / "inv1b.jsonl.zst").write_bytes(whole[:5] + b"\xff" * 60 + whole[65:])
    result = run(folder, "--trust", PIN, "--json")
    facts = json.loads(result.output)
    assert result.exit_code == 6 and facts["failures"] == {"zstd": 1} and facts["packs"] == 6


def test_keys_come_first(folder: Path) -> None:
    assert find_files([folder])[0].name == "keys.json"


def test_text_from_packs_cannot_play_with_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"stream":"\\u001b[2Jpark7/gw01/inv1"}\n')
    result = run(tmp_path)
    assert result.exit_code == 6 and "\x1b" not in result.output


def test_keys_are_read_first_whatever_their_file_is_called(tmp_path: Path) -> None:
    """`keys record` goes where people put it; only so many packs can wait for it."""
    stream = Stream(points=[("ac.power.active", "gauge", "W", 5)])
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(stream.run(1100, 5)))
    (tmp_path / "records.json").write_bytes(keys(Key()))
    assert [path.name for path in find_files([tmp_path])] == ["records.json", "all.jsonl"]
    result = run(tmp_path, "--trust", PIN)
    assert result.exit_code == 0 and "verified: packs: 1100," in result.output, result.output
