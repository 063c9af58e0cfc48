"""The agent with an additional task in its event loop, for ``bench.control``. The task measures how long the loop is
blocked.

``python -m bench.watched_agent FILE run -c agent.toml`` writes a line of JSON to FILE every quarter of a second. The
line contains two values: the longest delay of the loop since the previous line (wall clock), and the most CPU time that
the loop's thread used during one sleep of the task.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agent.cli import run as command
from agent.cli.main import main
from agent.config import Config

STEP_S = 0.002
serve = command.serve


async def watch(path: Path) -> None:
    """Sleep for ``STEP_S`` repeatedly, and write how much longer than that the sleeps took."""
    with path.open("w", buffering=1) as out:
        while True:
            end, wall, cpu = time.monotonic() + 0.25, 0.0, 0.0
            while time.monotonic() < end:
                began, used = time.monotonic(), time.thread_time()
                await asyncio.sleep(STEP_S)
                wall = max(wall, time.monotonic() - began - STEP_S)
                cpu = max(cpu, time.thread_time() - used)
            out.write(json.dumps({"at": time.time(), "wall_ms": wall * 1000, "cpu_ms": cpu * 1000}) + "\n")


async def watched(config: Config, load: Callable[[], Config]) -> None:
    """Run ``agent.cli.run.serve`` with the additional task ``watch``."""
    task = asyncio.create_task(watch(Path(sys.argv[1])))
    try:
        await serve(config, load)
    finally:
        task.cancel()


if __name__ == "__main__":
    command.serve = watched  # type: ignore[assignment]
    main(sys.argv[2:])
