"""The frames of a line, as the agent traced them, in whole answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.cli.common import as_line
from drivers.model import GatewayError, UsageError

if TYPE_CHECKING:
    from drivers.line.trace import TracedFrame

JOIN_NS: Final = 50_000_000
SENT: Final = 0
DIRECTIONS: Final = ("->", "<-", "??")
DIRECTION_WORDS: Final = ("sent", "received", "noise")


def frames_path(folder: Path, line: str, snapshot: Mapping[str, Any]) -> Path:
    """The file with a line's last frames. Raises UsageError naming the lines there are."""
    lines = snapshot.get("lines", {})
    if line not in lines:
        from drivers.toml.parsers import did_you_mean

        hint = did_you_mean(line, lines, "It has") if lines else "It has none"
        raise UsageError(f'the running agent has no line "{line[:40]}"', where="watch", hint=hint)
    return folder / f"frames.{line}"


def read_frames(path: Path, line: str, after: int) -> list[TracedFrame]:
    """The pieces that are newer than number ``after``. Raises GatewayError."""
    from drivers.line.trace import read_trace

    try:
        return list(read_trace(path, after))
    except FileNotFoundError:
        hint = "Frames are shown once the line has been opened"
        raise GatewayError("has no frames yet", where=f"line {line}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise GatewayError(f"cannot be read: {error}", where=str(path)) from error


class FrameJoiner:
    """A serial port hands over an answer in pieces; pieces that follow one another closely are shown as one line."""

    def __init__(self) -> None:
        self.last = 0  # number of the newest piece taken
        self._held: TracedFrame | None = None
        self._end_ns = 0

    def join(self, frames: Iterable[TracedFrame], now_ns: int) -> Iterator[TracedFrame]:
        """The whole frames among the pieces; the last is held back while more of it may come."""
        for frame in frames:
            self.last = frame.number
            held = self._held
            if held and frame.direction == held.direction != SENT and frame.time_ns - self._end_ns < JOIN_NS:
                self._held = held._replace(data=held.data + frame.data)
            else:
                yield from self.rest()
                self._held = frame
            self._end_ns = frame.time_ns
        if now_ns - self._end_ns > JOIN_NS:
            yield from self.rest()

    def rest(self) -> Iterator[TracedFrame]:
        """The frame that is held back, if any."""
        held, self._held = self._held, None
        if held is not None:
            yield held


def frame_text(frame: TracedFrame) -> str:
    """``12:00:00.123 -> 01 03 ...``"""
    at = datetime.fromtimestamp(frame.time_ns // 1_000_000_000, UTC).astimezone()
    clock = f"{at:%H:%M:%S}.{frame.time_ns // 1_000_000 % 1000:03d}"
    return f"{clock} {DIRECTIONS[frame.direction % 3]} {frame.data.hex(' ').upper()}"


def frame_json(frame: TracedFrame) -> str:
    """One object, for scripts."""
    facts = {
        "number": frame.number,
        "time": frame.time_ns / 1e9,
        "direction": DIRECTION_WORDS[frame.direction % 3],
        "hex": frame.data.hex(),
    }
    return as_line(facts)
