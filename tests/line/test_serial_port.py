"""What a serial line does to its port."""

from __future__ import annotations

import errno
import fcntl
import os
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serial.serialposix

from agent.cli.lease import is_same
from drivers.line import SerialSetting
from drivers.line.config import LineConfig, target
from drivers.line.port import open_port
from drivers.model import LineDown
from tests.kits.lines import Ports, ask, ask_while, sim_device, words

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


@pytest.mark.parametrize("queue", [termios.TCIFLUSH, termios.TCIOFLUSH], ids=["within pyserial", "after it"])
async def test_an_adapter_that_fails_while_it_is_opened_is_a_line_that_is_down(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, queue: int
) -> None:
    """``termios.error`` is no OSError: it would end the task of the line, and keep the port open and locked."""
    sim = await ports.pty(sim_device())
    line = ports.line(sim)
    flush = termios.tcflush

    def failing(fd: int, which: int) -> None:
        if which == queue:
            raise termios.error(errno.EIO, os.strerror(errno.EIO))
        flush(fd, which)

    with monkeypatch.context() as patch:
        patch.setattr(termios, "tcflush", failing)
        with pytest.raises(LineDown, match="Input/output error") as caught:
            await line.exchange(ask(0, 2))
    assert "unplugged" in caught.value.hint
    assert (await ask_while(line, ask(3, 1), LineDown)).payload == words(3)


async def test_an_adapter_that_fails_while_its_speed_changes_is_a_line_that_is_down(
    ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check whether the port is a pseudo-terminal can fail as well as the change itself."""
    line = ports.line(await ports.pty(sim_device()))
    await line.exchange(ask(0, 2))
    assert line._link is not None

    def unplugged(*_: object) -> None:
        monkeypatch.setattr(termios, "tcgetattr", unplugged)  # pyserial reads the old state before the change
        raise termios.error(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(termios, "tcsetattr", unplugged)
    with pytest.raises(OSError, match="Invalid argument"):
        line._link.port.apply(SerialSetting(9600, 8, "N", 1))


def without_custom_speeds(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """Speeds that have no constant in termios fail, as with an adapter that does not support them or is unplugged."""
    control = fcntl.ioctl

    def failing(fd: int, request: int, *more: Any) -> Any:
        if request == serial.serialposix.TCSETS2:
            raise OSError(code, os.strerror(code))
        return control(fd, request, *more)

    monkeypatch.setattr(fcntl, "ioctl", failing)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
async def test_an_adapter_that_cannot_set_the_speed_is_a_line_that_is_down(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """pyserial raises ValueError for a speed such as 14400 baud. It ended the agent."""
    sim = await ports.pty(sim_device())
    line = ports.line(sim, serial="14400 8N1")
    with monkeypatch.context() as patch:
        without_custom_speeds(patch, code)
        with pytest.raises(LineDown, match=os.strerror(code)):
            await line.exchange(ask(0, 2))
    assert (await ask_while(line, ask(3, 1), LineDown)).payload == words(3)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
async def test_a_change_to_a_speed_that_an_adapter_cannot_set_is_an_error_of_the_system(
    ports: Ports, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A device may have another speed than its line. Then the speed is set while the port is open."""
    line = ports.line(await ports.pty(sim_device()))
    await line.exchange(ask(0, 2))
    assert line._link is not None
    without_custom_speeds(monkeypatch, code)
    with pytest.raises(OSError, match="custom baud rate") as caught:
        line._link.port.apply(SerialSetting(28800, 8, "N", 1))
    assert caught.value.errno == code


async def test_a_port_counts_the_bytes_that_it_has_not_sent_yet(ports: Ports) -> None:
    """A change of the serial setting waits until there are none."""
    config = LineConfig("hall", (await ports.pty(sim_device())).url)

    port = await open_port(config, target(config), SerialSetting(9600))

    assert port.unsent() == 0
    port.close()


@pytest.fixture
def reused(tmp_path: Path) -> Iterator[Path]:
    """The link to a pseudo-terminal whose program was killed, and whose number another program has got since then."""
    link, pair = tmp_path / "bus", os.openpty()
    link.symlink_to(os.ttyname(pair[1]))
    before_ns = os.fstat(pair[1]).st_ctime_ns - 1_000_000_001
    os.utime(link, ns=(before_ns, before_ns), follow_symlinks=False)
    yield link
    for fd in pair:
        os.close(fd)


async def test_a_number_that_another_program_has_got_is_not_opened_as_the_old_line(ports: Ports, reused: Path) -> None:
    """Requests went to the terminal of somebody, and what he typed was taken for answers."""
    line = ports.line(f"serial:{reused}")
    with pytest.raises(LineDown, match="another program has got the number of its port"):
        await line.exchange(ask(0, 2))


async def test_a_number_that_another_program_has_got_is_not_the_old_port(reused: Path, tmp_path: Path) -> None:
    """`adopt` put a device on the line that had had the number before, and `scan` borrowed that line."""
    fresh = tmp_path / "fresh"
    fresh.symlink_to(os.readlink(reused))
    assert not is_same(f"serial:{reused}", f"serial:{fresh}")
    assert is_same(f"serial:{fresh}", f"serial:{os.readlink(reused)}")


async def test_a_port_in_use_remains_the_port_of_its_link(ports: Ports) -> None:
    sim = await ports.pty(sim_device())
    line = ports.line(sim)
    for _ in range(3):
        await line.exchange(ask(0, 2))
    assert is_same(f"serial:{sim.link}", f"serial:{os.readlink(sim.link)}")
