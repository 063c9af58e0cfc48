"""Scenarios: the wall clock steps, the process is stopped for a while, others keep the cores busy."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.kits.books import counted, times
from tests.kits.faketime import Clock, steps
from tests.kits.faults.books import balance, bodies, came, figures
from tests.kits.faults.rows import Row, scenario
from tests.kits.house import SECONDLY, House, come_home, one_meter, until

HOUR, YEAR = 3600, 365 * 86_400


@scenario(rounds=2, about_s=4, long=60, chunk=20)
def clock_steps(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """The wall clock steps by an hour or a year, forward and back, while everything goes on."""
    rng = random.Random(seed)
    clock = Clock(folder)
    # a year that was stepped over is cut into intervals: of an hour where it is about the seams alone
    more = '[interval]\nlength = "1 h"' if rounds <= 2 else ""
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY, env=clock.env, more=more)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    offsets, now = [0.0], 0.0
    for n in range(rounds):
        far = rng.choice((HOUR, YEAR)) if rounds > 2 else YEAR
        now += rng.choice((far, -far)) if rounds > 2 else (far, -far - HOUR)[n % 2]
        if abs(now) > 2 * YEAR:
            now = 0.0
        offsets.append(now)
        clock.set(now)
        until(lambda n=n: len(steps(listener, "m1")) == n + 1, 30, lambda: agent.said)
        count = meter.count + rng.randint(1, 3)
        until(lambda count=count: came(listener, count), 30, lambda: (agent.said, agent.snapshot()))
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter}, offsets)
    # by their sequence: on a busy machine some come late, as backlog
    packs = sorted((p for p in bodies(listener.heard) if p["stream"].endswith("/m1")), key=lambda pack: pack["seq"])
    monos: dict[str, int] = {}
    for pack in packs:
        clock_says = pack["clock"]
        assert set(clock_says) == {"error_ms", "kernel_boot", "mono_ms", "synced"}
        assert clock_says["mono_ms"] >= monos.get(pack["boot"], 0), "the monotonic clock does not step"
        monos[pack["boot"]] = clock_says["mono_ms"]
        for record, at in zip(counted(pack), times(pack), strict=True):
            beside = at - meter.served[record["v"]] / 1e9
            late = [beside - offset for offset in offsets]
            assert any(-0.05 < s < HOUR / 4 for s in late), f"{record}: read at {at}, {beside} s beside us"
    longest_s = max(pack["to"] - pack["from"] for pack in packs)
    said = len(steps(listener, "m1"))
    return figures(report, code=code, steps=said, steps_not_stated=rounds - said, longest_pack_s=longest_s,
                   most_log_lines=len(agent.said.splitlines()))  # fmt: skip


@scenario(rounds=1, about_s=7, long=20)
def pauses_of_the_process(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """SIGSTOP for seconds up to a minute, SIGCONT; the broker believes the agent dead and says so."""
    rng = random.Random(seed)
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY, uplink='keepalive = "5 s"')
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    longest = 0.0
    for n in range(rounds):
        pause_s = 3.0 if rounds == 1 else 65.0 if n == 0 else rng.uniform(2, 30)
        longest = max(longest, pause_s)
        agent.send(signal.SIGSTOP)
        threading.Event().wait(pause_s)  # the pause itself
        agent.send(signal.SIGCONT)
        count = meter.count + 2
        until(lambda count=count: came(listener, count), 40, lambda: agent.said)
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    missing = report.streams["park7/gw01/m1"].gap_reasons
    return figures(report, code=code, longest_pause_s=longest, overloads=missing.get("overload", 0))


@scenario(rounds=1, about_s=8, long=5)
def busy_cores(folder: Path, house: House, rounds: int, seed: int) -> Row:
    """Every core is kept busy by somebody else: two loops for each."""
    rng = random.Random(seed)
    _, listener, meter, agent = one_meter(folder, house, every=SECONDLY)
    agent.start()
    until(lambda: len(listener.packs("m1")) >= 2, 30, lambda: agent.said)
    asked = 0
    for _ in range(rounds):
        loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 2))]
        try:
            count = meter.count + (2 if rounds == 1 else rng.randint(20, 60))
            asked += count - meter.count
            until(lambda count=count: came(listener, count), 120, lambda: agent.said)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
    code = come_home(agent, listener)
    report = balance(listener.heard, agent.kid, {"m1": meter})
    missing = report.streams["park7/gw01/m1"].gap_reasons
    return figures(report, code=code, answers_under_load=asked, overloads=missing.get("overload", 0))
