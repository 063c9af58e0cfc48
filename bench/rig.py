"""Helpers for measurements: simulated devices in C, a real broker, the agent as a process, and values from /proc."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port() -> int:
    """A port that was free a moment ago. It lies below the range that the kernel uses for outgoing connections."""
    while True:
        port = random.randrange(12_000, 20_000)  # these numbers lie below the ports that ``free_ports`` returns
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


def free_ports(count: int) -> int:
    """The first of ``count`` consecutive ports that were free a moment ago."""
    for base in range(21000, 32000, 500):
        with contextlib.ExitStack() as stack:
            try:
                for n in range(count):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", base + n))
            except OSError:
                continue
            return base
    raise RuntimeError(f"no {count} neighbouring ports are free")


def wait_port(port: int, seconds: float = 10.0) -> None:
    """Wait until a program accepts connections on a port. Raises RuntimeError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.02)
    raise RuntimeError(f"nothing answers on port {port}")


def build_simulator(folder: Path) -> Path:
    """Compile the simulator of devices. It is written in C so that it can serve thousands of devices, at 19 us per
    request.
    """
    return compile_c(folder / "modsim", "gcc", "-lm")


def compile_c(binary: Path, packages: str, *flags: str, libraries: Sequence[str] = ()) -> Path:
    """Compile ``src/NAME.c`` to ``binary``, which ends in NAME.

    Args:
        packages: Debian packages that provide everything it needs; the message names them if it cannot be compiled.
        libraries: names of libraries as pkg-config knows them.
    """
    source = HERE / "src" / f"{binary.name}.c"
    try:
        if libraries:
            found = subprocess.run(
                ["pkg-config", "--cflags", "--libs", *libraries], check=True, capture_output=True, text=True
            )
            flags += tuple(found.stdout.split())
        subprocess.run(["cc", "-O2", "-o", binary, source, *flags], check=True, stderr=subprocess.PIPE, text=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or error
        raise SystemExit(f"{said}\n{source.name} cannot be compiled. Debian: apt install {packages}") from None
    return binary


@contextlib.contextmanager
def process(argv: list[str | Path], log: Path | None = None, **more: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a child process while the context is active. At the end it gets SIGTERM, and SIGKILL after another 15 s.

    The child also ends if this process gets SIGTERM.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
        child = subprocess.Popen([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=out, **more)  # type: ignore[call-overload]
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(15)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[int]:
    """Run mosquitto on a free port of loopback, without persistence. Yields the port."""
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n"
        "set_tcp_nodelay true\n"
    )
    binary = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with process([binary, "-c", config], folder / "mosquitto.log"):
        wait_port(port)
        yield port


@dataclass(frozen=True, slots=True)
class Cost:
    """The CPU seconds of a process until one moment, and its resident memory at that moment."""

    cpu_s: float
    rss_mb: float
    peak_mb: float


def cost_of(pid: int) -> Cost:
    """The CPU time and the memory of a process until now, from /proc. Threads that have ended are not counted.

    ``schedstat`` counts nanoseconds. The times in ``stat`` have steps of 10 ms, which is 5 % of what the minimal C
    program takes in 20 s.
    """
    spent = [int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    status = Path(f"/proc/{pid}/status").read_text()

    def kib(name: str) -> float:
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024

    return Cost(sum(spent) / 1e9, kib("VmRSS"), kib("VmHWM"))


def pid_of(argument: str) -> int:
    """The PID of the process whose command line contains this argument. Raises LookupError if there is no such
    process.
    """
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and argument.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                return int(entry.name)
    raise LookupError(argument)


@contextlib.contextmanager
def runtime_folder() -> Iterator[Path]:
    """A runtime directory. It is in memory, like /run, if the machine has /dev/shm; otherwise it is on disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mh-bench-", dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


def ring_mb(runtime_dir: Path) -> float:
    """The size of the ring in MiB. The ring is a file in the runtime directory, so it is not in the memory of the
    process.
    """
    return sum(file.stat().st_size for file in runtime_dir.glob("ring.*")) / 2**20


def agent_config(
    folder: Path,
    base_port: int,
    devices: int,
    mqtt_port: int,
    pack_every: str,
    more: str = "",
    runtime: Path | None = None,
) -> Path:
    """Write agent.toml with ``devices`` devices. Each has 100 float32 points at 1 Hz, and its own connection."""
    parts = [
        '[site]\nid = "bench"\ngateway = "gw"\ntimezone = "UTC"\n',
        f'[key]\nfile = "{folder}/signing.key"\n',
        f'[paths]\nstate_dir = "{folder}/state"\nruntime_dir = "{runtime or folder / "run"}"\n',
        f'[pack]\nevery = "{pack_every}"\n',
        f'[[uplink]]\nname = "platform"\nurl = "mqtt://127.0.0.1:{mqtt_port}"\n',
        more,
    ]
    for n in range(devices):
        parts.append(
            f'[[line]]\nname = "l{n}"\nurl = "modbus-tcp://127.0.0.1:{base_port + n}"\n'
            f'[[device]]\nname = "d{n}"\nline = "l{n}"\naddress = "1"\nprofile = "generic/float100"\n'
            'every = { fast = "1 s" }\n'
        )
    path = folder / "agent.toml"
    path.write_text("\n".join(parts))
    return path


def meterhouse(*words: str | Path) -> list[str | Path]:
    """The command line that runs a command of this project in this environment."""
    return [sys.executable, "-m", "agent.cli.main", *words]
