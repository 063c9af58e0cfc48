"""Memory of a running agent while a hostile broker sends a message of 256 MiB at each connection.

python -m bench.hostile_broker
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

from bench.rig import agent_config, cost_of, meterhouse, process

MOST_MB = 10.0
MESSAGE = 256 << 20
ROUNDS = 3
TOPIC = b"meterhouse/v1/bench/gw/replay/request"


def send(sock: socket.socket, version: int) -> None:
    """Send a message of the largest size that an MQTT packet can state, which is 256 MiB less one byte.

    Stops when the other side closes the connection.
    """
    body = struct.pack(">H", len(TOPIC)) + TOPIC + (b"\0" if version > 4 else b"")
    with contextlib.suppress(OSError):
        sock.sendall(b"\x30\xff\xff\xff\x7f" + body)
        chunk = b"x" * (1 << 20)
        for _ in range(MESSAGE >> 20):
            sock.sendall(chunk)


def wait(what: str, done: object, seconds: float = 60.0) -> None:
    """Wait until ``done()`` returns True. Raises RuntimeError after ``seconds``."""
    end = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)


def measure(version: int) -> tuple[float, float, int]:
    """Return (resident memory of the agent before the attack in MB, growth of this memory to its peak, number of
    connections).
    """
    from tests.kits.fake_broker import FakeBroker

    attacking = {"is": False}
    broker = FakeBroker(only_v311=version == 4, then=lambda sock, level: send(sock, level) if attacking["is"] else None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = agent_config(folder, 0, 0, broker.port, "1 s")
        subprocess.run(meterhouse("keys", "create", "-c", config), check=True, capture_output=True)
        with process(meterhouse("run", "-c", config), folder / "agent.log") as agent:
            wait("connected", lambda: broker.subscribes)
            time.sleep(15)  # after this time, the agent has released the memory that only its start needed
            Path(f"/proc/{agent.pid}/clear_refs").write_text("5")  # this resets the peak of memory
            before = cost_of(agent.pid).rss_mb
            attacking["is"] = True
            first = len(broker.subscribes)
            for sock in broker._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            # do not wait for more rounds: after three of these messages the agent does not subscribe for an hour
            wait("attacked", lambda: len(broker.subscribes) >= first + ROUNDS, 120)
            time.sleep(2)
            peak, connections = cost_of(agent.pid).peak_mb, len(broker.connects)
    broker.close()
    return before, peak - before, connections


def main() -> int:
    """Print a line for each MQTT version. Returns 1 if the memory grows by more than ``MOST_MB``."""
    worst = 0.0
    print("| MQTT | resident before, MB | more at the peak, MB | messages of 256 MiB |\n|---|---:|---:|---:|")
    for version, name in ((5, "5"), (4, "3.1.1")):
        before, more, _ = measure(version)
        worst = max(worst, more)
        print(f"| {name} | {before:.1f} | {more:.1f} | {ROUNDS} |", flush=True)
    return 1 if worst > MOST_MB else 0


if __name__ == "__main__":
    raise SystemExit(main())
