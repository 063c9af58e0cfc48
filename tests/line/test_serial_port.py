"""What a serial line does to its port."""

from __future__ import annotations

import fcntl
import os

from tests.kits.lines import Ports, ask, sim_device

TIOCGEXCL = 0x80045440  # asm-generic/ioctls.h; Python has no name for it


async def test_a_pseudo_terminal_is_free_after_a_crash(ports: Ports) -> None:
    """The kernel's exclusive mode would stay as long as the other side is open, and only root could open it again."""
    sim = await ports.pty(sim_device())
    line = ports.line(sim)
    await line.exchange(ask(0, 2))
    port = os.open(sim.link, os.O_RDWR | os.O_NOCTTY)
    try:
        exclusive = fcntl.ioctl(port, TIOCGEXCL, bytes(4))
    finally:
        os.close(port)
    assert not any(exclusive)
