"""`meterhouse demo`: runs simulated meters, broker, agent and verifier on this machine."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.common import as_complaint, as_line, say
from agent.cli.config_files import check_writable, make_folder
from agent.cli.options import FOLDER, Duration, json_option, lang_option
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from agent.cli.demo_screen import DemoScreen, LatestFigures
    from agent.verify import Report
    from agent.verify.live import Live

BROKER_CONFIG = """id = 0
[router]
id = 0
max_connections = 100
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v5.1]
name = "v5"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 8388608
max_inflight_count = 100
dynamic_filters = true
"""
PACK_S = 2
# Seconds from the end of an interval until its figures arrive: two periods of the slowest counter, plus the time for
# delivery.
GRACE_S = 26.0
START_S = 30.0


@dataclass(slots=True)
class RunningDemo:
    """The parts of the running demo, and the data that they have delivered."""

    folder: Path
    thumbprint: str
    devices: dict[str, dict[str, Any]]
    simulator: subprocess.Popen[bytes]
    agent: subprocess.Popen[bytes]
    live: Live
    figures: LatestFigures


@click.command()
@click.option(
    "--for",
    "seconds",
    metavar="TIME",
    type=Duration(),
    help="Run for this time after the first pack, such as 20s; by default, run until Ctrl-C.",
)
@click.option("--dir", "folder", type=FOLDER, help="Keep configuration, key, database and logs in this folder.")
@click.option("--seed", default=1, show_default=True, help="Random seed of the simulated day.")
@click.option("--speed", default=60.0, show_default=True, help="Simulated seconds in one real second.")
@click.option(
    "--fault",
    "faults",
    multiple=True,
    metavar='"DEVICE FAULT"',
    help='Simulate this fault, such as "inv2 silence"; see `meterhouse simulate`.',
)
@lang_option
@json_option
def demo(
    seconds: float | None,
    folder: Path | None,
    seed: int,
    speed: float,
    faults: tuple[str, ...],
    lang: str,
    as_json: bool,
) -> None:
    """Show live how the readings of a simulated park are taken, sealed, stored, published and verified.

    Starts a broker on loopback, simulated devices of five protocols, the agent, and behind the broker a verifier that
    knows only the thumbprint of the gateway's key. Does not touch anything outside this machine; everything stops with
    the demo. The demo uses intervals of one minute, so the first figures of the park appear after one to three minutes.

    \b
    Examples:
      meterhouse demo
      meterhouse demo --for 20s --json
      meterhouse demo --fault "inv2 silence"

    \b
    Exit codes: 0 every pack arrived and was verified, 1 something did not start, 6 something was not verified.
    """
    from agent.cli.demo_screen import DemoScreen, end_text

    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meterhouse-demo-")))
        elif os.path.exists(folder / "agent.toml"):
            raise UsageError("agent.toml already exists", where=str(folder), hint="Give an empty folder")
        check_writable(folder)
        make_folder(folder)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGHUP arrives when the terminal is closed
            before = signal.signal(number, lambda *_: stop.set())
            stack.callback(signal.signal, number, before)
        began = time.monotonic()
        run = _start_demo(stack, folder.absolute(), seed, speed, faults)
        live = run.live
        screen = DemoScreen(run.devices, run.figures, run.thumbprint, run.folder, speed, GRACE_S, lang)
        _show(run, screen, stop, seconds, as_json)
        _end(run.agent)
        report = _final_report(live)
        took = time.monotonic() - began
        sealed, waiting = _count_sealed(run.folder / "state" / "store.db")
        crashed = run.agent.returncode
    facts = {
        "devices": len(run.devices),
        "readings": report.readings,
        "packs": report.packs,
        "verified": report.verified,
        "failed": report.failed,
        "gaps": report.gaps,
        "redelivered": report.redelivered,
        "seconds": round(took, 1),
        "figures": run.figures.total,
    }
    # With a fault, a device may be silent, and its last pack is then sealed too late to be sent. So the verifier is not
    # expected to get the packs that are still in the outbox.
    due = sealed - waiting if faults else sealed
    good = report.ok and report.verified == report.packs == due and crashed == 0
    if as_json:
        click.echo(as_line(facts))
    else:
        click.echo(end_text(facts, lang))
    if not good:
        reasons = [*report.reasons]
        if crashed:
            reasons.append(f"the agent ended with exit code {crashed}")
        if report.packs != due:
            reasons.append(f"{sealed} packs were sealed, {report.packs} arrived")
        click.echo(as_complaint("error", "; ".join(reasons or ["not every pack was verified"])), err=True)
    raise SystemExit(0 if good else 6)


def _start_demo(
    stack: contextlib.ExitStack, folder: Path, seed: int, speed: float, faults: tuple[str, ...]
) -> RunningDemo:
    """Start broker, devices, key, verifier and agent in this order. Each is started when the previous one is ready.

    The verifier must subscribe before the first pack is sent, because this broker acknowledges messages for which
    there is no subscriber, and drops them.
    """
    from agent.cli.demo_screen import LatestFigures
    from agent.keys import create_key
    from agent.verify.live import Live

    port = stack.enter_context(_broker(folder))
    words = ["simulate", "--park", str(folder), "--seed", str(seed), "--speed", str(speed), "--json"]
    for fault in faults:
        words += ["--fault", fault]
    simulator = stack.enter_context(_child(folder, "simulator", words, subprocess.PIPE))
    devices: dict[str, dict[str, Any]] = {}
    assert simulator.stdout is not None
    for line in simulator.stdout:
        facts = json.loads(line)
        if "config" in facts:
            break
        devices[facts["device"]] = facts
    else:
        raise GatewayError(
            "the simulated park did not start",
            where=str(folder / "simulator.log"),
            hint=_tail(folder / "simulator.log"),
        )
    thumbprint = create_key(folder / "signing.key", int(time.time())).kid
    url = f"mqtt://127.0.0.1:{port}"
    config = folder / "agent.toml"
    text = config.read_text(encoding="utf-8").replace("mqtt://127.0.0.1:1883", url)
    config.write_text(text + f'\n[key]\nfile = "signing.key"\n\n[pack]\nevery = "{PACK_S} s"\n', encoding="utf-8")
    figures = LatestFigures(folder / "indicators.toml", "Asia/Shanghai")
    live = Live(url, [thumbprint], on_verified=figures.on_verified)
    live.start()
    stack.callback(live.stop)
    agent = stack.enter_context(_child(folder, "agent", ["run", "-c", str(config)]))
    deadline = time.monotonic() + START_S
    while not (folder / "run" / "snapshot.json").exists():
        if agent.poll() is not None or time.monotonic() > deadline:
            raise GatewayError(
                "the agent did not start", where=str(folder / "agent.log"), hint=_tail(folder / "agent.log")
            )
        time.sleep(0.02)
    return RunningDemo(folder, thumbprint, devices, simulator, agent, live, figures)


@contextlib.contextmanager
def _broker(folder: Path) -> Iterator[int]:
    """Run a broker in this process while the context is open. Yields its loopback port."""
    try:
        from iotcore import Broker
    except ImportError:
        raise GatewayError(
            "the demo's broker is not installed", where="demo", hint="Install meterhouse[demo], or run `make demo`"
        ) from None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    path = folder / "broker.toml"
    path.write_text(BROKER_CONFIG.format(port=port))
    broker = Broker(config_path=str(path))
    broker.start()
    try:
        yield port
    finally:
        broker.stop()


@contextlib.contextmanager
def _child(folder: Path, name: str, words: list[str], stdout: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of our own commands as a child process while the context is open. Its log is NAME.log."""
    with (folder / f"{name}.log").open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "agent.cli.main", *words],
            stdin=subprocess.DEVNULL,
            stdout=log if stdout is None else stdout,
            stderr=log,
            # a new session, so that Ctrl-C reaches only this process, which then stops the children in order
            start_new_session=True,
        )
        try:
            yield child
        finally:
            _end(child)
            if child.stdout is not None:
                child.stdout.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _tail(path: Path) -> str:
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return " | ".join(lines[-3:])


def _final_report(live: Live) -> Report:
    """Wait until no more packs arrive, then stop the verifier and return its report."""
    seen, quiet = -1, 0
    while quiet < 5:
        packs = live.counts()[0]
        quiet = quiet + 1 if packs == seen else 0
        seen = packs
        time.sleep(0.1)
    return live.stop()


def _count_sealed(path: Path) -> tuple[int, int]:
    """Return the numbers of packs in the database and in the outbox. Call this only after the agent has stopped."""
    from agent.store import Store

    store = Store.open(path, destinations=["platform"])
    try:
        usage = store.usage()
        return usage.packs, usage.pending["platform"]
    finally:
        store.close()


def _show(run: RunningDemo, screen: DemoScreen, stop: threading.Event, seconds: float | None, as_json: bool) -> None:
    """Show a live table, or a line every 2 s, until Ctrl-C or until ``seconds`` after the first pack."""
    end: float | None = None
    first_by = time.monotonic() + START_S

    def over() -> bool:
        nonlocal end
        now = time.monotonic()
        if end is None and seconds is not None and (run.live.counts()[0] or now >= first_by):
            end = now + seconds
        return stop.is_set() or run.agent.poll() is not None or (end is not None and now >= end)

    if sys.stdout.isatty() and not as_json:
        _show_live(run, screen, over)
        return
    shown: object = None
    while not over():
        stop.wait(2.0 if end is None else max(0.0, min(2.0, end - time.monotonic())))
        if as_json:
            continue
        packs, readings, failed = run.live.counts()
        click.echo(say(f"{packs} packs verified, {readings:,} readings, {failed} failed"))
        if run.figures.newest and run.figures.newest is not shown:
            shown = run.figures.newest
            click.echo(run.figures.line(screen.language))


def _show_live(run: RunningDemo, screen: DemoScreen, over: Callable[[], bool]) -> None:
    from rich.console import Console
    from rich.live import Live as Moving

    from agent.cli.common import read_snapshot
    from agent.cli.ring_follower import Follower

    runtime = run.folder / "run"
    follower = Follower.open(runtime, read_snapshot(runtime))
    console = Console(highlight=False)
    with Moving(console=console, refresh_per_second=4, transient=False) as moving:
        learned = time.monotonic()
        while True:
            if time.monotonic() - learned > 2 and (runtime / "snapshot.json").exists():
                with contextlib.suppress(GatewayError):
                    follower.learn(read_snapshot(runtime))
                learned = time.monotonic()
            for _ in follower.follow():
                pass
            moving.update(screen.picture(follower, run.live.report(), console))
            if over():
                return
            time.sleep(0.25)
