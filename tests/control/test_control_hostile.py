"""An agent that was taken over: whatever it answers is refused in words, or shown without harm."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import control, output_files
from agent.cli.report.answer import check_page
from agent.cli.report.command import FIGURE_HEADS, _figure_row, _hours, _show, _trace_row, _write_csv
from agent.cli.report.html import page as html
from agent.service.control import server
from agent.service.control.export import COLUMNS
from drivers.model import GatewayError
from tests.indicators.test_report_page import made
from tests.kits.broker import until
from tests.kits.control import Served, answered_by
from tests.kits.mutations import ESCAPES, EVERY, mutations

Mh = Callable[..., tuple[int, str, str]]
HARM = frozenset("\x1b\x07\x9b\u202e")
ENTRY = {
    "id": "5f0c2a91d3e47b68", "n": "declared.certificates", "v": "90", "u": "MWh", "who": "Li Wei", "at": 1.5,
    "from": 1, "to": 2, "document": "GEC", "by": {"login": "li", "uid": 61004}, "in_force": True,
}  # fmt: skip
RELOADED = {"ok": True, "config": "abc", "changed": "nothing", "complaints": [], "fault": False, "left_out": 0}
DECLARE = ("declare", "certificates", "90", "MWh", "--from", "2026-11-01", "--to", "2026-12-01", "--who", "Li Wei")


@pytest.fixture
def hostile(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mh: Mh) -> Iterator[Any]:
    """Run a command while the agent answers with these parts and this end."""
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n'
        f'[paths]\nstate_dir = "{served.state}"\nruntime_dir = "{served.runtime}"\n'
    )
    said: dict[str, Any] = {}

    async def answer(access: Any, request: Any, reply: Any) -> Any:
        for part in said["parts"]:
            await reply.part(part)
        return said["end"]

    answered_by(monkeypatch, answer)

    def run(*words: object, parts: tuple[bytes, ...] = (), end: Any = None) -> tuple[int, str, str]:
        said.update(parts=parts, end=end)
        code, out, err = mh(*words, "-c", config)
        assert "internal error" not in err and "a fault of ours" not in err, err
        assert not HARM & set(out + err), out + err
        return code, out, err

    return run


@EVERY
@pytest.mark.parametrize(
    ("words", "end"),
    [
        (("reload",), RELOADED),
        (("reload",), RELOADED | {"ok": False, "complaints": ["line 3"], "left_out": 2}),
        (("declare",), {"entries": [ENTRY]}),
        (DECLARE, {"entry": ENTRY}),
    ],
    ids=["reload", "reload rejected", "declarations", "declare"],
)
def test_each_wrong_member_is_refused_or_harmless(
    hostile: Any, words: tuple[str, ...], end: dict[str, Any], every: int
) -> None:
    code = hostile(*words, end=end)[0]
    assert code == (3 if end.get("complaints") else 0)
    for what, wrong in mutations(end, every):
        if isinstance(wrong, dict):  # whatever else is refused by the frames themselves
            code, _, err = hostile(*words, end=wrong)
            assert code in (0, 1, 3), (what, err)


@pytest.mark.parametrize("end", [{}, {"ok": True}, RELOADED | {"complaints": ["no"]}, RELOADED | {"ok": False},
                                 RELOADED | {"fault": True}])  # fmt: skip
def test_a_reload_that_says_nothing_clear_is_no_success(hostile: Any, end: dict[str, Any]) -> None:
    code, out, err = hostile("reload", end=end)
    assert (code, out) == (1, "") and "is not a valid outcome of a reload" in err, err


def test_reload_with_json_prints_its_object_if_the_answer_is_invalid(hostile: Any) -> None:
    code, out, err = hostile("reload", "--json", end={"ok": True})
    found = json.loads(out)
    assert code == 1 and "is not a valid outcome of a reload" in err, err
    assert not found["ok"] and "is not a valid outcome of a reload" in found["complaints"][0]


def test_how_many_complaints_were_left_out_is_a_number(hostile: Any) -> None:
    end = RELOADED | {"ok": False, "complaints": ["line 3"], "left_out": ESCAPES}
    code, _, err = hostile("reload", end=end)
    assert code == 1 and "is not a valid outcome of a reload" in err, err


@pytest.mark.parametrize(
    "end", [{}, {"packs": 0}, {"packs": "1", "streams": [], "warnings": []},
            {"packs": 9, "streams": [], "warnings": []},
            {"packs": 0, "streams": [7], "warnings": []}, {"packs": 0, "streams": [], "warnings": "x"}],
    ids=str,
)  # fmt: skip
def test_an_export_that_ends_with_nonsense_leaves_nothing(hostile: Any, tmp_path: Path, end: dict[str, Any]) -> None:
    code, _, err = hostile("export", tmp_path / "out", "--csv", tmp_path / "out.csv", end=end)
    assert code == 1 and ("the answer" in err or "the agent's answer" in err), err
    assert not list(tmp_path.glob("*out*"))


def test_readings_in_csv_hold_nothing_that_a_terminal_obeys(hostile: Any, tmp_path: Path) -> None:
    """Names, units and qualities come out of packs that nobody has verified."""
    records = [{"n": ESCAPES, "u": ESCAPES, "q": ESCAPES, "bt": 1, "v": 1}, {"n": "x", "vs": ESCAPES, "t": 1}]
    pack = json.dumps({"stream": f"park7/gw01/{ESCAPES}", "from": 1, "to": 2, "e": records}).encode()
    part = json.dumps({"file": "packs/m1.packs.jsonl", "packs": 1}).encode() + b"\n" + pack
    end = {"packs": 1, "streams": ["m1"], "warnings": [ESCAPES]}
    code, _, err = hostile("export", "--csv", tmp_path / "out.csv", parts=(part,), end=end)
    assert code == 0, err
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 3 and not HARM & set("".join(lines)), lines


@pytest.mark.parametrize("kind", ["--intervals", "--intervals-flat"])
def test_each_wrong_row_of_intervals_is_refused_or_harmless(hostile: Any, tmp_path: Path, kind: str) -> None:
    row: list[Any] = [f"c{n}" for n in range(len(COLUMNS))]
    wrong: list[Any] = [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b"[NaN]", json.dumps([*row, "x"]).encode()]
    wrong += [json.dumps([bad, *row[1:]]).encode() for bad in (None, 7, ESCAPES, [], {}, 1.5, True)]
    for line in (json.dumps(row).encode(), *wrong):
        code, _, err = hostile("export", kind, tmp_path / "rows.csv", parts=(line,), end={"rows": 1})
        assert code in (0, 1), err
        if code:
            assert "is not a valid row of intervals" in err and not (tmp_path / "rows.csv").exists(), err
        else:
            text = (tmp_path / "rows.csv").read_text()
            assert len(text.splitlines()) == 2 and not HARM & set(text)
            (tmp_path / "rows.csv").unlink()


def whole_page() -> dict[str, Any]:
    """A page with all that one may have."""
    page = made()
    judged = {"residual": "1", "allowed": "2", "verdict": "within", "unknown": ["m2"]}
    node = {"n": "m1", "against": "children", "u": "kWh", "own": "3", "others": "4", **judged}
    flows = [{"n": "grid.import", "v": "960"}]
    balance = {"u": "kWh", "given": "5", "trend": [{"label": "00:00", "v": "1"}, {"label": "00:15", "v": "2"}],
               "counts": {"within": 2}, "inputs": flows, "outputs": flows, "nodes": [node], **judged}  # fmt: skip
    derived = [{"id": "hall", "v": "5", "u": "kWh", "completeness": "1"}, {"id": "roof", "missing": ["m1/x"]}]
    return json.loads(json.dumps(page | {"balance": balance, "derived": derived}))  # type: ignore[no-any-return]


def shown(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """All that is made of a page, in all forms."""
    page = check_page(data)
    _show(page, "en", 0.0, 900)
    _write_csv(tmp_path / "f.csv", FIGURE_HEADS, [_figure_row(figure, page, "en") for figure in page["figures"]])
    _write_csv(
        tmp_path / "t.csv", FIGURE_HEADS, [_trace_row(hour, page["timezone"], "en") for hour in _hours(page["trace"])]
    )
    csvs = [(tmp_path / name).read_text() for name in ("f.csv", "t.csv")]
    assert len(csvs[0].splitlines()) == len(page["figures"]) + 1
    return "".join((html(page, "en"), *csvs, capsys.readouterr().out))


@EVERY
def test_each_wrong_member_of_a_report_is_refused_or_harmless(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int
) -> None:
    whole = whole_page()
    figures = whole["figures"]
    rich = next(one for one in figures if {"denominator", "worst"} <= one.keys() and one["drags"])
    whole["figures"] = [rich]
    del whole["trace"]["hours"][1:]
    assert "hall" in shown(json.dumps(whole).encode(), tmp_path, capsys)
    refused = 0
    for what, wrong in mutations(whole, every):
        try:
            text = shown(json.dumps(wrong).encode(), tmp_path, capsys)
        except GatewayError as error:
            refused += 1
            assert "the agent's answer is not a valid report" in str(error) and not HARM & set(str(error))
        except Exception as error:
            raise AssertionError(what) from error
        else:
            assert not HARM & set(text), what
    assert refused > 1000 // every


@pytest.mark.parametrize("kind", ["--html", "--csv", "--trace"])
def test_a_report_is_written_over_a_file_and_nothing_else(hostile: Any, tmp_path: Path, kind: str) -> None:
    """Root may name a file in a folder of somebody else, who put a link there. All of it appears, or nothing."""
    page, victim, out = json.dumps(whole_page()).encode(), tmp_path / "victim", tmp_path / "out"
    victim.write_text("root's own")
    out.symlink_to(victim)
    code, _, err = hostile("report", kind, out, parts=(page,), end={"bytes": 1})
    assert code == 2 and "not a regular file" in err and victim.read_text() == "root's own", err
    out.unlink()
    os.mkfifo(out)
    code, _, err = hostile("report", kind, out, parts=(page,), end={"bytes": 1})
    assert code == 2 and "not a regular file" in err, err
    out.unlink()
    out.write_text("an older one")
    code, _, err = hostile("report", kind, out, parts=(page,), end={"bytes": 1})
    assert code == 0 and "older" not in out.read_text() and out.stat().st_size > 100, err
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("data", [b"", b"\xff", b"[" * 100_000, b'{"figures":NaN}', b"null", b'{"a":1' + b"0" * 9000])
def test_what_is_no_page_at_all_is_refused(hostile: Any, data: bytes) -> None:
    code, out, err = hostile("report", parts=(data,) if data else (), end={"bytes": len(data)})
    assert (code, out) == (1, "") and "the agent's answer is not a valid report" in err, err


def test_a_forged_key_is_shown_without_harm(hostile: Any, tmp_path: Path, served: Served) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(config.read_text() + '[key]\nfile = "signing.key"\n')
    served.state.mkdir(exist_ok=True)
    (served.state / "store.db").write_bytes(b"")
    for kid in (ESCAPES, 7, "x" * 65, {}):
        code, _, err = hostile("keys", "create", end={"kid": kid})
        assert code in (1, 2), err
        assert not (tmp_path / "signing.key").exists()
    code, _, err = hostile("keys", "create", end={})
    assert code == 1 and "is not a valid key" in err, err


def test_an_error_that_nobody_expected_brings_no_escapes(
    monkeypatch: pytest.MonkeyPatch, mh: Mh, tmp_path: Path
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError(ESCAPES)

    monkeypatch.setattr("agent.cli.status.read_snapshot", fail)
    code, _, err = mh("status")
    assert code == 1 and "internal error: RuntimeError: " in err and not HARM & set(err), err


# --- answers without end


@pytest.fixture
def endless(hostile: Any, served: Served, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The agent goes on for ever: with parts, or only by saying that it is at it."""

    def begin(part: bytes | None) -> Any:
        async def answer(access: Any, request: Any, reply: Any) -> Any:
            done = 0
            while True:
                done += 1
                reply.progress(done, 0)
                if part is not None:
                    await reply.part(part)
                await asyncio.sleep(0.001)

        monkeypatch.setattr(server, "PROGRESS_S", 0.02)
        answered_by(monkeypatch, answer)
        return hostile

    return begin


def test_who_says_for_ever_that_he_is_at_it_is_given_up(endless: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ANSWER_S", 0.5)
    code, _, err = endless(None)("reload")
    assert code == 1 and "the running agent does not answer" in err, err


def test_a_frame_that_comes_byte_by_byte_for_ever_is_given_up(tmp_path: Path) -> None:
    """Each byte comes in time, the frame never whole."""
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            theirs.sendall(b"\x04\x00\x01\x00\x00")
            while not stop.wait(0.01):
                theirs.send(b" ")

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with ours, theirs, control.ControlClient(ours, tmp_path) as client, pytest.raises(control.NoAnswer):
            client.receive(0.5)
    finally:
        stop.set()
        dripping.join()


def part_of(size: int) -> bytes:
    return b'{"file":"packs/m1.packs.jsonl","packs":0}\n' + b"x" * size


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a small disk (run as root)")
def test_an_export_without_end_leaves_room_on_the_disk(endless: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", disk], check=False).returncode:
        pytest.skip("no file system can be mounted here (in a container: --privileged)")
    try:
        code, _, err = endless(part_of(300_000))("export", disk / "out")
        assert code == 1 and "not enough space on the disk" in err, err
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_export_of_ever_more_files_is_given_up(
    hostile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_files, "MAX_FILES", 20)
    parts = tuple(part_of(1).replace(b"m1", b"m%d" % n) for n in range(30))
    code, _, err = hostile("export", tmp_path / "out", parts=parts, end={})
    assert code == 1 and "more than 20 files" in err and not list(tmp_path.glob("*out*")), err


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_export_that_is_ended_by_a_signal_leaves_nothing(
    endless: Any, served: Served, tmp_path: Path, number: signal.Signals
) -> None:
    endless(part_of(1000))
    words = ("export", tmp_path / "out", "--csv", tmp_path / "out.csv", "-c", tmp_path / "agent.toml")
    tool = subprocess.Popen(
        [sys.executable, "-m", "agent.cli.main", *map(str, words)], stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: list(tmp_path.glob(".out.*/packs/*")), what="the export begins")
        tool.send_signal(number)
        _, err = tool.communicate(timeout=60)
    finally:
        tool.kill()
        tool.wait()
    assert tool.returncode == (130 if number == signal.SIGINT else 128 + number), err
    assert "Traceback" not in err and not list(tmp_path.glob("*out*")), err
