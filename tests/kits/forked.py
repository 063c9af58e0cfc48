"""Forks agents for tests from a process that has already imported the agent. A fork takes a tenth of a start's time.

Each agent is a process with its own environment, folder and log, and ends as ``python -m agent.cli.main`` would. If
something must exist before Python starts (LD_PRELOAD, another interpreter, another network namespace), the agent needs
a real start. The server has only one thread, so that no lock is held during a fork. The tests may have many threads.
"""

from __future__ import annotations

import array
import contextlib
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ("agent.cli.main", "agent.cli.run", "agent.service.app", "agent.uplink", "drivers.modbus", "uvloop")
_SERVER = "import sys; from tests.kits.forked import serve; serve(int(sys.argv[1]))"
_REQUEST = 1 << 20  # largest request in bytes; no environment is larger


class Forked:
    """A forked agent, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, channel: socket.socket, server: ForkServer) -> None:
        self._channel, self._server = channel, server
        self._lock = threading.Lock()
        self.pid = int(_message(channel))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("agent", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int | None:
        with self._lock:
            if self.returncode is None:
                self._channel.settimeout(timeout)
                with contextlib.suppress(BlockingIOError, TimeoutError):
                    told = json.loads(_message(self._channel))
                    self._channel.close()
                    self.returncode = int(told["code"])
                    self._server.used_s += told["cpu_s"]
            return self.returncode


class ForkServer:
    """Starts agents for this process. The server itself starts with the first agent."""

    def __init__(self) -> None:
        self.used_s = 0.0  # processor time of the agents that have ended, in seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, arguments: Sequence[str], env: Mapping[str, str], log: int) -> Forked:
        """Run ``meterhouse ARGUMENTS`` in the checkout's folder; both its outputs go to the descriptor ``log``."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            handed = array.array("i", [theirs.fileno(), log])
            request = json.dumps({"arguments": list(arguments), "env": dict(env)}).encode()
            (self._control or self._launch()).sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handed)])
        return Forked(ours, self)

    def stop(self) -> None:
        """End the server and the agents that still run."""
        with self._lock:
            if self._process and self._control:
                self._control.close()
                self._process.wait()
            self._process = self._control = None

    def _launch(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(theirs.fileno())],
                cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._control = ours
        return ours


SERVER = ForkServer()


def _message(channel: socket.socket) -> bytes:
    said = channel.recv(256)
    assert said, "the server of forked agents has ended"
    return said


# --- the server's side


def serve(control: int) -> None:
    """Fork an agent for each request, until no process is left that could send one."""
    for name in PRELOADED:
        importlib.import_module(name)
    channel = socket.socket(fileno=control)
    wake, woken = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is wake:
                    wake.recv(4096)
                    _reap(running)
                    continue
                request, handed, _, _ = socket.recv_fds(channel, _REQUEST, 2)
                if not request:
                    _end(running)
                    return
                teller, log = socket.socket(fileno=handed[0]), handed[1]
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    for one in (channel, wake, woken, teller, *running.values()):
                        one.close()
                    _become(json.loads(request), log)
                    return
                os.close(log)
                running[pid] = teller
                teller.sendall(b"%d" % pid)


def _become(request: dict[str, Any], log: int) -> None:
    from agent.cli.main import main

    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.argv = ["meterhouse", *request["arguments"]]
    main()


def _reap(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if not pid:
            return
        with running.pop(pid) as teller, contextlib.suppress(OSError):
            told = {"code": os.waitstatus_to_exitcode(status), "cpu_s": usage.ru_utime + usage.ru_stime}
            teller.sendall(json.dumps(told).encode())


def _end(running: dict[int, socket.socket]) -> None:
    for pid in running:
        os.kill(pid, signal.SIGKILL)
    while running:
        pid, _, _ = os.wait4(-1, 0)
        running.pop(pid).close()
