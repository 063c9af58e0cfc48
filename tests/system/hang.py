"""The agent as it is, but SIGUSR1 hangs the thread of its loop for ever: run inside the machine instead of it."""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType


def hang(number: int, frame: FrameType | None) -> None:
    """A call that never comes back, such as a driver of somebody else may make."""
    while True:
        time.sleep(3600)


sys.path.insert(0, "/usr/lib/meterhouse")
sys.argv[0] = "meterhouse"
signal.signal(signal.SIGUSR1, hang)
from agent.cli.main import main  # noqa: E402

main()
