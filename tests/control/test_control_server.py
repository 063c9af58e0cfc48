"""The control socket: answered whole, bounded, and nothing that a client does can harm the agent or the others."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import random
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.cli.control import ControlClient, NoAgent, NoAnswer, ask
from agent.config import load_config
from agent.service.control import server as server_module
from agent.service.control.frames import MAX_ANSWER, MAX_REQUEST, FrameKind, frame, header
from agent.service.control.peer import AccessRules, Caller, NotAllowed, Peer, Right, login_of, peer_of
from agent.service.control.protocol import Declare, encode_request
from agent.service.control.server import (
    KEPT,
    MAX_CONNECTIONS,
    MAX_OF_USER,
    ConnectionLimits,
    ControlServer,
    ReadThrottle,
    RunningAccess,
)
from agent.service.runtime_dir import instance_lock
from drivers.model import GatewayError, UsageError
from tests.control.test_control_protocol import SAMPLES, mutated
from tests.kits.broker import DEADLINE_S
from tests.kits.control import ASK, Served, answered_by, outcome, rest, service
from tests.kits.exports import CONFIG
from tests.kits.house import until

Answer = Callable[..., Any]


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], None]:
    return lambda answer: answered_by(monkeypatch, answer)


async def echo(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
    return {"asked": type(request).__name__}


def parts(count: int, size: int) -> Answer:
    async def answer(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        for n in range(count):
            await reply.part(bytes([n % 251]) * size)
            reply.progress(n + 1, count)
        return {"parts": count}

    return answer


async def forever(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
    await asyncio.sleep(3600)
    return {}


# --- answering


def test_parts_arrive_in_order_and_nothing_is_left(served: Served, answered: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(server_module, "PROGRESS_S", 0.01)
    answered(parts(40, 100_000))
    result, got = served.ask()
    assert result == {"parts": 40}
    assert [(len(part), part[0]) for part in got] == [(100_000, n) for n in range(40)]
    until(lambda: served.count() == 0)
    assert {path.name for path in served.runtime.iterdir()} == {"control", "agent.lock"}


def test_who_waits_hears_that_the_agent_is_at_it(served: Served, answered: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(server_module, "PROGRESS_S", 0.01)
    seen: list[tuple[int, int]] = []
    enough = threading.Event()

    async def answer(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        reply.progress(3, 40)
        await asyncio.to_thread(enough.wait, 60)
        return {}

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) > 3:
            enough.set()

    answered(answer)
    assert served.ask(progress=progress)[0] == {} and seen[-1] == (3, 40)


def test_the_agents_errors_are_the_tools_errors(
    served: Served, answered: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        raise UsageError("wrong", where="there", hint="right")

    async def bug(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        raise KeyError("a bug")

    answered(wrong)
    with pytest.raises(UsageError, match=r"there: wrong\. right"):
        served.ask()
    answered(bug)
    with pytest.raises(GatewayError, match="internal error: KeyError"):
        served.ask()
    assert "a request on the control socket failed" in caplog.text
    answered(echo)
    assert served.ask()[0] == {"asked": "Export"}, "it goes on"


def test_who_asked_stands_in_the_log(served: Served, answered: Any, caplog: pytest.LogCaptureFixture) -> None:
    """By the kernel's word: a client cannot say who it is."""
    caplog.set_level(logging.INFO, "meterhouse")
    answered(echo)
    served.ask()
    me = Caller(os.getuid(), login_of(os.getuid()))  # in a container the user may have no name
    assert f"uid {os.getuid()}" in str(me) and f"control: export for {me}" in caplog.messages
    assert served.callers == [(me, Right.LOOK)]


def test_an_answer_takes_no_more_memory_than_the_socket(served: Served, answered: Any) -> None:
    """A client that is slow, or hangs, fills nothing: what it does not take is not made."""
    made = 0

    async def answer(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        nonlocal made
        for n in range(300):
            made += 1
            await reply.part(bytes([n % 251]) * 50_000)
        return {}

    answered(answer)
    with served.client() as client:
        client.send(ASK)
        until(lambda: made > 1)
        for _ in range(200):
            served.do(asyncio.sleep(0))
        assert made * 50_000 < 1 << 20
        got = [client.receive(60) for _ in range(300)]
        assert [data[0] for kind, data in got if kind is FrameKind.PART] == [n % 251 for n in range(300)]


def test_the_work_for_a_client_that_leaves_ends(served: Served, answered: Any) -> None:
    ended = threading.Event()

    async def answer(access: Any, request: Any, reply: Any) -> Mapping[str, Any]:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()
        return {}

    answered(answer)
    client = served.client()
    client.send(ASK)
    until(lambda: served.callers)
    client.close()
    assert ended.wait(60)
    until(lambda: served.count() == 0)


def test_stopping_the_agent_tells_who_waits(tmp_path: Path, answered: Any) -> None:
    answered(forever)
    with Served(tmp_path) as served, served.client() as client, served.raw() as idle:
        client.send(ASK)
        until(lambda: served.callers and served.count() == 2)
        served.stop()
        with pytest.raises(GatewayError, match="the agent was stopped"):
            while True:
                if client.receive(60)[0] is FrameKind.FAILED:
                    raise GatewayError("the agent was stopped", where="")
        assert outcome(idle) is FrameKind.FAILED
    assert not (served.runtime / "control").exists()
    with pytest.raises(NoAgent, match="no agent is running here"):
        served.client()


def test_no_answer_is_an_error_and_not_a_wait_for_ever(tmp_path: Path) -> None:
    """field pain 73: somebody listens, and nobody takes the connection (an agent that hangs)."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "control"))
        door.listen(1)
        with ControlClient.connect(tmp_path) as client, pytest.raises(NoAnswer, match="does not answer"):
            client.ask(ASK, lambda part: None, lambda done, total: None, pick_up_s=0.2)


@pytest.mark.process
def test_an_agent_that_starts_is_waited_for(tmp_path: Path) -> None:
    """Its lock is held and it does not listen yet: its database is not opened either."""
    (tmp_path / "agent.toml").write_text(CONFIG)
    config = load_config(tmp_path / "agent.toml")
    with instance_lock(config.state_dir, config.runtime_dir), pytest.raises(NoAnswer, match="starting or stopping"):
        ask(config, ASK, pick_up_s=0.2)
    with pytest.raises(GatewayError, match="there is no database"):
        ask(config, ASK)


# --- the socket


def test_the_socket_is_the_groups_whatever_the_umask(tmp_path: Path) -> None:
    for n, mask in enumerate((0o000, 0o027, 0o077)):
        before = os.umask(mask)
        try:
            with Served(tmp_path / str(n)) as served:
                assert stat.S_IMODE((served.runtime / "control").stat().st_mode) == 0o660
        finally:
            os.umask(before)


def test_a_path_longer_than_an_address_of_a_socket(tmp_path: Path, answered: Any) -> None:
    answered(echo)
    deep = tmp_path.joinpath(*["folder-with-a-long-name"] * 8)
    with Served(deep) as served:
        assert len(str(served.runtime / "control")) > 108
        assert served.ask()[0] == {"asked": "Export"}


def test_an_agent_that_nobody_asked_has_not_loaded_what_decodes_requests() -> None:
    """A megabyte that most agents never need."""
    code = (
        "import sys, agent.cli.run, agent.uplink.uplink\n"
        "print([m for m in sys.modules if m.startswith('msgspec') or m.startswith('agent.service.control')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    loaded = {"agent.service.control", *(f"agent.service.control.{m}" for m in ("frames", "peer", "server"))}
    assert set(ast.literal_eval(done.stdout)) == loaded


def test_what_was_left_there_is_removed(tmp_path: Path, answered: Any) -> None:
    answered(echo)
    (tmp_path / "run").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("kept")
    for leave in (lambda path: path.symlink_to(precious), lambda path: path.write_text("x"), listening):
        leave(tmp_path / "run" / "control")
        with Served(tmp_path) as served:
            assert served.ask()[0] == {"asked": "Export"}
    assert precious.read_text() == "kept"


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))


def test_without_a_socket_the_agent_works_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run" / "control" / "in the way").mkdir(parents=True)

    async def run() -> None:
        with instance_lock(tmp_path / "state", tmp_path / "run"), ControlServer(None, tmp_path / "run", str) as server:  # type: ignore[arg-type]
            await asyncio.wait_for(server.run(), 60)

    asyncio.run(run())
    assert "control socket not available" in caplog.text and (tmp_path / "run" / "control").is_dir()


def test_a_second_agent_does_not_take_the_socket_of_the_first(served: Served, tmp_path: Path, answered: Any) -> None:
    answered(echo)
    with pytest.raises(AssertionError, match="another agent is running"), Served(tmp_path):
        pass
    assert served.ask()[0] == {"asked": "Export"}


def test_reload_without_an_agent_says_so(tmp_path: Path, mh: Any) -> None:
    (tmp_path / "agent.toml").write_text(CONFIG)
    code, out, err = mh("reload", "-c", tmp_path / "agent.toml")
    assert (code, out) == (1, "") and "no agent is running here" in err


def test_reload_with_json_prints_its_object_if_no_agent_runs(tmp_path: Path, mh: Any) -> None:
    (tmp_path / "agent.toml").write_text(CONFIG)
    code, out, err = mh("reload", "-c", tmp_path / "agent.toml", "--json")
    found = json.loads(out)
    assert code == 1 and "no agent is running here" in err
    assert (found["ok"], found["config"], found["changes"], found["warnings"]) == (False, None, [], [])
    assert len(found["complaints"]) == 1 and "no agent is running here" in found["complaints"][0]


# --- clients that behave as nobody should


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for everybody, however busy the machine is."""
    monkeypatch.setattr(server_module, "REQUEST_S", 600.0)
    monkeypatch.setattr(server_module, "SEND_S", 600.0)


@pytest.fixture
def quick(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that a test can wait for."""
    monkeypatch.setattr(server_module, "REQUEST_S", 0.3)
    monkeypatch.setattr(server_module, "SEND_S", 0.3)


def still_serves(served: Served, answered: Any) -> None:
    """As before; also where its deadlines are so short that a busy machine misses some."""
    until(lambda: served.count() == 0)
    answered(echo)

    def asked() -> bool:
        with suppress(GatewayError, OSError):
            return served.ask()[0] == {"asked": "Export"}
        return False

    until(asked)


def test_who_says_nothing_is_dropped(
    served: Served, quick: None, answered: Any, caplog: pytest.LogCaptureFixture
) -> None:
    whole = encode_request(ASK)
    with ExitStack() as stack:
        socks = [stack.enter_context(served.raw()) for _ in range(4)]
        for sock, said in zip(socks, (b"", whole[:3], whole[:5], whole[:-1]), strict=True):
            sock.sendall(said)
        assert [rest(sock) for sock in socks] == [b""] * 4
    still_serves(served, answered)
    assert len([r for r in caplog.records if "sent no complete request" in r.getMessage()]) == 1


def test_who_trickles_has_no_more_time_than_the_others(served: Served, quick: None, answered: Any) -> None:
    with served.raw() as sock:
        sock.sendall(header(FrameKind.REQUEST, MAX_REQUEST))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                sock.sendall(b" ")
    still_serves(served, answered)


def test_who_takes_nothing_is_dropped(served: Served, quick: None, answered: Any) -> None:
    answered(parts(100, 100_000))
    with served.raw() as sock:
        sock.sendall(encode_request(ASK))
        until(lambda: served.callers)
        until(lambda: served.count() == 0)
    still_serves(served, answered)


def test_more_than_one_request_ends_the_connection(served: Served, answered: Any) -> None:
    answered(forever)
    with served.raw() as sock:
        sock.sendall(encode_request(ASK) * 2)
        assert b"more than one request" in rest(sock)
    still_serves(served, answered)


@pytest.mark.parametrize(
    "data",
    [header(FrameKind.REQUEST, MAX_REQUEST + 1), header(FrameKind.PART, 3) + b"abc", b"GET / HTTP/1.1\r\n\r\n",
     b"\0" * 64, frame(FrameKind.REQUEST, b""), frame(FrameKind.REQUEST, b"[" * 60_000),
     frame(FrameKind.REQUEST, b'{"kind":"tea"}')],
    ids=["too large", "no request", "http", "zeros", "empty", "deep", "unknown"],
)  # fmt: skip
def test_what_is_no_request_is_refused_and_costs_a_line(
    served: Served, answered: Any, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with served.raw() as sock:
            sock.sendall(data)
            assert outcome(sock) is FrameKind.FAILED
    still_serves(served, answered)
    assert len(caplog.records) == 1 and caplog.messages[0].startswith("control: uid ")


def test_200_connections_at_once(served: Served, answered: Any, caplog: pytest.LogCaptureFixture) -> None:
    """So many are served, all others are told at once; then everything is as before."""
    with ExitStack() as stack:
        socks = [stack.enter_context(served.raw()) for _ in range(200)]
        for sock in socks[MAX_CONNECTIONS:]:
            assert b"too many connections" in rest(sock)
        assert served.count() == MAX_CONNECTIONS, "root or the agent's own user: the four a user are not theirs"
    still_serves(served, answered)
    assert len(caplog.records) == 1


def test_a_flood_lets_the_loop_go_after_each_connection(served: Served, answered: Any, monkeypatch: Any) -> None:
    """What bounds the time for which the pollers wait: one connection, or one piece of a request, a turn."""
    turns, at = 0, list[int]()

    def counted(sock: socket.socket) -> Peer:
        at.append(turns)
        return peer_of(sock)

    monkeypatch.setattr(server_module, "peer_of", counted)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    ticking = asyncio.run_coroutine_threadsafe(count(), served.loop)
    until(lambda: turns)
    for _ in range(50):
        with ExitStack() as stack:
            for _ in range(20):
                sock = stack.enter_context(served.raw())
                with suppress(BrokenPipeError):  # refused already
                    sock.send(b"\x01\0\0\0\x02{")
    until(lambda: len(at) == 1000)
    ticking.cancel()
    assert len(set(at)) == len(at)
    still_serves(served, answered)


def test_random_and_mutated_frames_raise_nothing(
    served: Served, answered: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Three hundred connections here; a hundred thousand in the bench."""
    choose = random.Random(7)
    answered(echo)
    good = [encode_request(one) for one in SAMPLES]
    for _ in range(300):
        data = (
            choose.randbytes(choose.randrange(300)) if choose.random() < 0.2 else mutated(choose, choose.choice(good))
        )
        with served.raw() as sock:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            rest(sock)
    still_serves(served, answered)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(caplog.records) <= 1


def test_what_cannot_be_read_as_a_frame_is_no_answer(tmp_path: Path) -> None:
    """The tool's side: whoever listens there, each frame and each wait is bounded."""
    answers = {
        "unexpected frame kind 1": frame(FrameKind.REQUEST, b"{}"),
        "unexpected frame kind 99": b"\x63\0\0\0\0",
        f"a frame of {MAX_ANSWER + 1} bytes": header(FrameKind.PART, MAX_ANSWER + 1),
        "Expecting value": frame(FrameKind.DONE, b""),
        "answer: ": frame(FrameKind.DONE, b"[" * 9000),  # too deep, or cut off, as the version of Python sees it
        "not a JSON object": frame(FrameKind.DONE, b"[]"),
        "closed the connection": header(FrameKind.PART, 100) + b"half",
        "root# ": frame(FrameKind.FAILED, b'{"what":"\\u001b[2Jroot# ","where":7,"hint":null}'),
    }
    for says, data in answers.items():
        with hostile(tmp_path, data), ControlClient.connect(tmp_path) as client:
            with pytest.raises(GatewayError) as caught:
                client.ask(ASK, lambda part: None, lambda done, total: None, 60, 60)
            assert says in str(caught.value) and "\x1b" not in str(caught.value), says


class hostile:
    """Somebody who listens in a runtime directory and answers one connection with these bytes."""

    def __init__(self, folder: Path, data: bytes) -> None:
        self._path, self._data = folder / "control", data

    def __enter__(self) -> None:
        self._path.unlink(missing_ok=True)
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self._path))
        self._door.listen(1)
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    def _answer(self) -> None:
        sock, _ = self._door.accept()
        with sock:
            sock.recv(1 << 16)
            sock.sendall(self._data)

    def __exit__(self, *what: object) -> None:
        self._thread.join(60)
        self._door.close()


# --- who may


ROOT, AGENT, ANNA, NOBODY = 0, 61001, 1002, 65534
DOOR, CHANGERS = 48_611, 700


@pytest.mark.parametrize(
    ("uid", "groups", "look", "change"),
    [
        (ROOT, (0,), True, True),
        (AGENT, (9,), True, True),
        (ANNA, (100, DOOR), True, False),
        (ANNA, (DOOR,), True, False),
        (ANNA, (100, DOOR, CHANGERS), True, True),
        (ANNA, (100, CHANGERS), True, True),
        (ANNA, (100,), False, False),
        (NOBODY, (NOBODY,), True, False),
        (NOBODY, (DOOR, CHANGERS), True, False),
    ],
)
def test_the_rules(uid: int, groups: tuple[int, ...], look: bool, change: bool) -> None:
    """A number that the sandbox cannot map (65534) came through the door, and is a stranger all the same."""
    rules = AccessRules(DOOR, (ROOT, AGENT))
    for right, wanted in ((Right.LOOK, look), (Right.CHANGE, change)):
        try:
            rules.check(Peer(1, uid, frozenset(groups)), Caller(uid, "anna"), right, "meterhouse-control", CHANGERS)
            allowed = True
        except NotAllowed as error:
            allowed = False
            assert "sudo" in error.hint
        assert allowed is wanted, right


def test_a_user_whom_the_sandbox_does_not_know_is_not_called_nobody() -> None:
    caller = Caller(NOBODY, login_of(NOBODY))
    assert str(caller) == "a user that the agent's sandbox cannot identify" and caller.as_dict() == {"uid": NOBODY}


def test_a_refusal_names_the_group_and_what_to_do() -> None:
    rules, anna = AccessRules(DOOR, (ROOT,)), Peer(1, ANNA, frozenset((DOOR,)))
    caller = Caller(ANNA, "anna")
    with pytest.raises(NotAllowed, match=r"anna \(uid 1002\) may query.*`sudo adduser anna meterhouse-control`"):
        rules.check(anna, caller, Right.CHANGE, "meterhouse-control", CHANGERS)
    with pytest.raises(NotAllowed, match="Group meterhouse-control does not exist"):
        rules.check(anna, caller, Right.CHANGE, "meterhouse-control", None)
    with pytest.raises(NotAllowed, match=r"may not query this agent.*group 48611"):
        rules.check(Peer(1, ANNA, frozenset((1,))), caller, Right.LOOK, "meterhouse-control", None)
    assert str(Caller(7777, "")) == "uid 7777" and Caller(7777, "").as_dict() == {"uid": 7777}


def test_the_kernel_says_who_it_is() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        found = peer_of(theirs)
    assert (found.pid, found.uid) == (os.getpid(), os.geteuid())
    assert found.groups == {os.getegid(), *os.getgroups()}


def test_how_many_connections_of_whom() -> None:
    limits = ConnectionLimits()
    for _ in range(MAX_OF_USER):
        assert not limits.refusal(1001, False)
        limits.enter(1001, False)
    assert "this user has 4" in limits.refusal(1001, False)
    others = 0
    while not limits.refusal(2000 + others, False):
        limits.enter(2000 + others, False)
        others += 1
    assert MAX_OF_USER + others == MAX_CONNECTIONS - KEPT == 12
    for _ in range(KEPT):
        assert not limits.refusal(0, True), "root and the agent's user, past what a user may have"
        limits.enter(0, True)
    assert "all 16 connections are in use" in limits.refusal(0, True) == limits.refusal(3000, False)
    limits.leave(0, True)
    assert not limits.refusal(0, True) and limits.refusal(3000, False)
    for _ in range(MAX_OF_USER):
        limits.leave(1001, False)
    assert not limits.refusal(1001, False) and limits.connections == MAX_CONNECTIONS - 1 - MAX_OF_USER


def test_a_directory_service_that_hangs_costs_one_thread(
    served: Served, answered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(echo)
    monkeypatch.setattr(server_module, "NAMES_S", 0.1)
    release, asked = threading.Event(), list[int]()

    def hangs(uid: int) -> str:
        asked.append(uid)
        release.wait(600)
        return "late"

    monkeypatch.setattr(server_module, "login_of", hangs)
    try:
        for _ in range(5):
            served.ask()
        assert len(asked) == 1 and {str(caller) for caller, _ in served.callers} == {f"uid {os.getuid()}"}
    finally:
        release.set()
    monkeypatch.setattr(server_module, "login_of", lambda uid: "anna")
    until(lambda: served.ask() and served.callers[-1][0].login == "anna")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything (run the tests as another user)")
def test_the_own_user_may_everything(served: Served, answered: Any) -> None:
    answered(echo)
    assert served.ask(Declare(n="declared.x", v="1", u="t", who="x", from_=0.0))[0] == {"asked": "Declare"}


async def test_who_looks_shares_one_turn_at_the_store() -> None:
    """However many ask: one slice at a time, and as long for others after it."""
    slices, now, most = ReadThrottle(), 0, 0

    async def work() -> int:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return most

    assert await asyncio.gather(*(slices.run(work) for _ in range(20))) == [1] * 20


async def test_who_leaves_gives_up_the_turn_when_the_thread_has_ended() -> None:
    """Else clients that come and go would fill all threads."""
    access = RunningAccess(service(), Caller(1000, "anna"), None, ReadThrottle())
    began, go_on, order = threading.Event(), threading.Event(), list[str]()

    def slow() -> None:
        began.set()
        assert go_on.wait(DEADLINE_S)
        order.append("slow")

    first = asyncio.create_task(access.compute(slow))
    await asyncio.to_thread(began.wait, DEADLINE_S)
    second = asyncio.create_task(access.compute(lambda: order.append("next")))
    first.cancel()
    await asyncio.sleep(0)
    assert not first.done() and not second.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    await second
    assert order == ["slow", "next"]


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    """What was opened for a client is closed."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    until(lambda: len(set(os.listdir("/proc/self/fd"))) <= len(before), 5, lambda: os.listdir("/proc/self/fd"))


def test_a_caller_whose_groups_cannot_be_read_counts_by_its_first() -> None:
    """Neither the 256 that Python reads nor more."""

    class Many(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> Any:  # type: ignore[override]
            if option == 59:
                raise OSError(34, "Numerical result out of range")
            return struct.pack("iII", 5, 1002, 100)

    with Many(socket.AF_UNIX) as sock:
        assert peer_of(sock) == Peer(5, 1002, frozenset((100,)))
