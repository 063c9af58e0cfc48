"""``make bench``: runs all measurements and prints Markdown, in about 15 minutes.

With names as arguments, only these measurements run, as in ``python -m bench rtu atrest``.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import UTC, datetime

PARTS = {
    "machine": ("agent.cli.main", "bench", "--stages"),
    "kernels": ("bench.kernels",),
    "agent": ("bench.agent",),
    "smallbox": ("bench.smallbox",),
    "parsers": ("bench.parsers",),
    "rtu": ("bench.rtu",),
    "silent": ("bench.silent",),
    "atrest": ("bench.atrest",),
    "compress": ("bench.compress",),
    "intervals": ("bench.intervals",),
    "verify": ("bench.verify",),
    "hostile": ("bench.hostile",),
    "broker": ("bench.hostile_broker",),
    "wear": ("bench.wear",),
    "drain": ("bench.drain", "--rate", "10000"),
    "scan": ("bench.scan", "--quick"),
    "control": ("bench.control",),
    "page": ("bench.page",),
}


def cpu_name() -> str:
    """The name of the CPU, from /proc/cpuinfo."""
    with open("/proc/cpuinfo") as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def main() -> int:
    """Run the measurements named on the command line, or all of them. Returns the highest exit code."""
    wanted = sys.argv[1:] or list(PARTS)
    if unknown := [name for name in wanted if name not in PARTS]:
        print(f"error: no part {unknown[0]!r}; there are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, Python {platform.python_version()}, {platform.release()}\n")
    worst = 0
    for name in wanted:
        print(f"## {name}\n", flush=True)
        worst = max(worst, subprocess.run([sys.executable, "-m", *PARTS[name]], check=False).returncode)
        print(flush=True)
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
