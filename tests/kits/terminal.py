"""Runs a command in its own terminal. Tests send keys, and pyte draws the output as an xterm would."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyte

from tests.kits.broker import DEADLINE_S, patience

ROOT = Path(__file__).parents[2]
MH = (sys.executable, "-m", "agent.cli.main")
ALTERNATE = {47, 1047, 1049}


class XTerm(pyte.Screen):
    """A screen with an alternate screen, which pyte lacks. Leaving the alternate screen restores the first one."""

    def __init__(self, columns: int, lines: int) -> None:
        self.modes: set[int] = {7, 25}  # private modes that are set; a new terminal wraps lines and shows its cursor
        self.behind: list[str] | None = None  # the first screen, while the second is shown
        super().__init__(columns, lines)

    def set_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private"):
            self.modes |= set(modes)
            if ALTERNATE & set(modes):
                self.behind = list(self.display)
                self.erase_in_display(2)
        super().set_mode(*modes, **kwargs)

    def reset_mode(self, *modes: int, **kwargs: Any) -> None:
        if kwargs.get("private"):
            self.modes -= set(modes)
            if ALTERNATE & set(modes) and self.behind is not None:
                self.erase_in_display(2)
                for y, line in enumerate(self.behind):
                    self.cursor_position(y + 1, 1)
                    self.draw(line.rstrip())
                self.behind = None
        super().reset_mode(*modes, **kwargs)


class Terminal:
    """Runs ``meterhouse ARGS``, or another ``program``."""

    def __init__(
        self, args: Sequence[str | Path], columns: int, rows: int, program: Sequence[str] = MH, **environ: str
    ) -> None:
        self.screen = XTerm(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.code: int | None = None
        self.pid, self._fd = pty.fork()
        if not self.pid:
            _resize(1, columns, rows)
            os.environ.update({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **environ})
            for name in {"NO_COLOR", "COLUMNS", "LINES"} - environ.keys():
                os.environ.pop(name, None)
            os.chdir(ROOT)
            # pytest imports readline, whose C code sets COLUMNS and LINES where os.environ does not see it
            os.execvpe(program[0], [*program, *map(str, args)], os.environ)
        self._settings = termios.tcgetattr(self._fd)

    def resize(self, columns: int, rows: int) -> None:
        """Resize the window."""
        self.screen.resize(rows, columns)
        _resize(self._fd, columns, rows)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def until(self, holds: Callable[[], object]) -> None:
        """Feed the screen until ``holds`` returns a true value."""
        deadline = time.monotonic() + DEADLINE_S * patience()
        while not holds():
            assert time.monotonic() < deadline, self.text
            self._feed()

    def _feed(self) -> bool:
        """Draw what the command writes within a moment. Returns False if the other side is closed."""
        if not select.select([self._fd], [], [], 0.05)[0]:
            return True
        try:
            found = os.read(self._fd, 1 << 16)
        except OSError:  # EIO: no process has the terminal open any more
            return False
        self._stream.feed(found)
        return bool(found)

    def wait(self) -> int:
        """Wait until the command ends, and draw all its output. Returns the exit code."""

        def ended() -> bool:
            is_open = self._feed()
            pid, status = os.waitpid(self.pid, 0 if not is_open else os.WNOHANG)
            if pid:
                while is_open and select.select([self._fd], [], [], 0)[0]:
                    is_open = self._feed()
                self.code = os.waitstatus_to_exitcode(status)
            return bool(pid)

        self.until(ended)
        assert self.code is not None
        return self.code

    def close(self) -> None:
        """Kill the command if it still runs."""
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)

    def is_reset(self) -> bool:
        """Return True if the terminal is as before: first screen, cursor, line wrap and echo on, all reports off."""
        return (
            self.screen.behind is None
            and self.screen.modes & {7, 25, 1000, 1003, 1004, 1006, 2004, 2048} == {7, 25}
            and self._settings[:4] == termios.tcgetattr(self._fd)[:4]
        )


def _resize(fd: int, columns: int, rows: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
