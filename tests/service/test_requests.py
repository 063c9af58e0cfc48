"""Requests by file: answered whole, bounded, and nothing that lies in the folder can harm the agent."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent.cli import requests as tool
from agent.service import desk, requests
from agent.service.desk import Desk
from agent.service.places import taken
from agent.service.requests import FOLDER, Reply
from drivers.model import GatewayError, UsageError


@dataclass
class Config:
    runtime_dir: Path


class Access:
    """No agent behind it: the kinds below need none."""

    service = None

    def __init__(self, folder: Path) -> None:
        self.config: Any = Config(folder)

    async def call(self, function: Callable[[Any], Any]) -> Any:
        return function(None)


async def answer(access: Any, body: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
    """For the tests: ``parts`` parts of ``size`` bytes, after ``wait`` seconds; or an error."""
    if body.get("error") == "usage":
        raise UsageError("wrong", where="there", hint="right")
    if body.get("error") == "bug":
        raise KeyError("a bug")
    await asyncio.sleep(body.get("wait", 0))
    for n in range(body.get("parts", 0)):
        await reply.part(bytes([n % 251]) * body.get("size", 1000))
        reply.progress(n + 1, body["parts"])
    return {"echo": body}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory whose agent runs, as far as the lock says."""
    import sys

    module = ModuleType("requests_for_tests")
    module.answer = answer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(requests, "KINDS", {"test": module.__name__})
    with taken(tmp_path / "state", tmp_path / "run"):
        yield tmp_path / "run"


class Agent:
    """A desk in a loop of its own thread."""

    def __init__(self, runtime: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._work: Coroutine[Any, Any, None] = Desk(Access(runtime), runtime / FOLDER).run()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._task = self.loop.create_task(self._work)
        with suppress(asyncio.CancelledError):
            self.loop.run_until_complete(self._task)
        self.loop.close()

    def __enter__(self) -> Agent:
        self._thread.start()
        return self

    def __exit__(self, *what: object) -> None:
        self.stop()
        self._thread.join(10)

    def stop(self) -> None:
        with suppress(RuntimeError):  # it ended already
            self.loop.call_soon_threadsafe(self._task.cancel)


@pytest.fixture
def agent(runtime: Path) -> Iterator[Agent]:
    with Agent(runtime) as running:
        yield running


def ask(runtime: Path, body: Mapping[str, Any], kind: str = "test", **more: Any) -> tuple[dict[str, Any], list[bytes]]:
    parts: list[bytes] = []
    config: Any = Config(runtime)
    return tool.ask(config, kind, body, parts.append, **more), parts


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def test_parts_arrive_in_order_and_nothing_is_left(runtime: Path, agent: Agent) -> None:
    seen: list[tuple[int, int]] = []
    result, parts = ask(
        runtime, {"parts": 40, "size": 100_000, "x": "ü"}, progress=lambda done, total: seen.append((done, total))
    )
    assert result == {"echo": {"parts": 40, "size": 100_000, "x": "ü"}}
    assert [(len(part), part[0]) for part in parts] == [(100_000, n) for n in range(40)]
    assert seen == sorted(seen) and seen[-1] == (40, 40)
    until(lambda: not list((runtime / FOLDER).iterdir()))


def test_the_agents_errors_are_the_tools_errors(runtime: Path, agent: Agent, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"there: wrong\. right"):
        ask(runtime, {"error": "usage"})
    with pytest.raises(GatewayError, match="a fault of ours: KeyError"):
        ask(runtime, {"error": "bug"})
    assert "a request for test failed" in caplog.text
    with pytest.raises(GatewayError, match="nothing answers to 'tea'"):
        ask(runtime, {}, kind="tea")
    assert ask(runtime, {})[0] == {"echo": {}}, "it goes on"


def test_an_answer_takes_no_more_memory_than_two_parts(runtime: Path, agent: Agent) -> None:
    """The runtime directory is memory: a tool that is slow, or hangs, fills none of it."""
    with tool.Question(runtime, "test", {"parts": 50, "size": 1000}) as question:
        folder = runtime / FOLDER
        until(lambda: len(list(folder.glob("*.[0-9]*"))) == 2)
        threading.Event().wait(0.2)
        assert len([p for p in folder.iterdir() if not p.name.endswith(".draft")]) == 4, "ask, said, two parts"
        parts: list[bytes] = []
        assert question.answer(parts.append, lambda done, total: None, 10) and len(parts) == 50


def test_a_tool_that_dies_takes_its_request_with_it(runtime: Path, agent: Agent) -> None:
    """The lock goes with the process; here with the file."""
    question = tool.Question(runtime, "test", {"parts": 50})
    question.__enter__()
    until(lambda: len(list((runtime / FOLDER).glob("*.[0-9]*"))) == 2)
    os.close(question._fd)
    question._fd = -1
    until(lambda: not list((runtime / FOLDER).iterdir()))
    assert ask(runtime, {"parts": 2})[1]


def test_more_requests_than_are_served_at_once_wait_and_then_are_refused(runtime: Path, agent: Agent) -> None:
    questions = [tool.Question(runtime, "test", {"wait": 1}) for _ in range(desk.MAX_JOBS + desk.MAX_WAITING + 1)]
    try:
        for question in questions[:-1]:
            question.__enter__()
        until(lambda: len(list((runtime / FOLDER).glob("*.said"))) == len(questions) - 1)
        questions[-1].__enter__()
        ends = []
        for question in reversed(questions):
            try:
                ends.append(question.answer(lambda part: None, lambda done, total: None, 20))
            except GatewayError as error:
                ends.append({"refused": str(error)})
        assert "too many requests wait" in ends[0]["refused"]
        assert ends[1:] == [{"echo": {"wait": 1}}] * (len(questions) - 1)
    finally:
        for question in questions:
            question.__exit__()


def test_stopping_the_agent_tells_who_waits(runtime: Path) -> None:
    with Agent(runtime) as running:
        question = tool.Question(runtime, "test", {"wait": 60})
        question.__enter__()
        until(lambda: b"working" in b"".join(p.read_bytes() for p in (runtime / FOLDER).glob("*.said")))
        running.stop()
        with pytest.raises(GatewayError, match="the agent was stopped"):
            question.answer(lambda part: None, lambda done, total: None, 5)
        question.__exit__()


def test_no_answer_is_an_error_and_not_a_wait_for_ever(runtime: Path) -> None:
    """field pain 73: the lock is held, but nobody looks into the folder (an agent that hangs)."""
    desk.prepare(runtime / FOLDER)
    with pytest.raises(GatewayError, match="does not answer"):
        ask(runtime, {}, pick_up_s=0.3)
    assert not list((runtime / FOLDER).iterdir())


def test_a_start_clears_what_was_left_and_serves_who_waits(runtime: Path) -> None:
    folder = runtime / FOLDER
    desk.prepare(folder)
    for name in ("0123456789abcdef.ask", "0123456789abcdef.said", "0123456789abcdef.7", "x", ".said.draft"):
        (folder / name).write_bytes(b"old")
    question = tool.Question(runtime, "test", {"parts": 1})
    with question, Agent(runtime):
        parts: list[bytes] = []
        assert question.answer(parts.append, lambda done, total: None, 10) and parts
        assert not (folder / "0123456789abcdef.ask").exists() and not (folder / "x").exists()


HOSTILE = ["symlink", "hardlink", "fifo", "folder", "socket", "large", "binary", "deep", "list", "kind", "version",
           "body", "world", "empty", "unlocked", "locked by us"]  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_request_is_removed_and_costs_a_line(
    runtime: Path, tmp_path: Path, agent: Agent, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "meterhouse")
    folder = runtime / FOLDER
    until(folder.exists)
    precious = tmp_path / "precious"
    precious.write_text(json.dumps({"v": 1, "kind": "test", "body": {}}))
    path = folder / "0123456789abcdef.ask"
    texts = {
        "large": b" " * (desk.MAX_BYTES + 1), "binary": bytes(range(256)), "deep": b"[" * 60_000, "list": b"[]",
        "kind": b'{"v":1,"kind":7,"body":{}}', "version": b'{"v":2,"kind":"test","body":{}}',
        "body": b'{"v":1,"kind":"test","body":[]}', "world": precious.read_bytes(), "empty": b"",
        "unlocked": precious.read_bytes(), "locked by us": b"{}",
    }  # fmt: skip
    fd = -1
    match what:
        case "symlink":
            path.symlink_to(precious)
        case "hardlink":
            fd = os.open(precious, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            os.link(precious, path)
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as door:
                door.bind(str(path))
        case _:
            draft = folder / "0123456789abcdef.new"
            draft.write_bytes(texts[what])
            draft.chmod(0o666 if what == "world" else 0o640)
            fd = os.open(draft, os.O_RDONLY)
            if what != "unlocked":
                fcntl.flock(fd, fcntl.LOCK_EX)
            draft.rename(path)
    try:
        until(lambda: not os.path.lexists(path))
        assert precious.read_text(), "what a link leads to is not touched"
        if what != "unlocked":
            until(lambda: [r for r in caplog.records if "requests: 0123456789abcdef.ask" in r.getMessage()])
        assert ask(runtime, {"parts": 1})[1], "others are served"
        assert len(caplog.records) <= 1
    finally:
        if fd >= 0:
            os.close(fd)


def test_a_flood_of_rubbish_is_cleared_and_costs_one_line(
    runtime: Path, agent: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    folder = runtime / FOLDER
    until(folder.exists)
    for n in range(700):
        (folder / f"{n:016x}.ask").write_bytes(b"rubbish")
        (folder / f"junk{n}").symlink_to("/etc/passwd")
    assert ask(runtime, {"parts": 1}, pick_up_s=60)[1]
    until(lambda: not list(folder.iterdir()), 60)
    assert len(caplog.records) <= 1


def test_a_folder_that_is_not_ours_serves_nobody(
    runtime: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (runtime / FOLDER).symlink_to(tmp_path / "elsewhere")
    asyncio.run(asyncio.wait_for(Desk(Access(runtime), runtime / FOLDER).run(), 5))
    assert (tmp_path / "elsewhere" / "kept").exists() and "no requests of local tools are served" in caplog.text
