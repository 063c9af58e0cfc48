"""Reads the frames of a line from the agent's trace, and joins the pieces of an answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.cli.common import as_line, say
from drivers.model import GatewayError, UsageError, clean_text

if TYPE_CHECKING:
    from drivers.line.trace import TracedFrame

JOIN_NS: Final = 50_000_000  # pieces with a shorter pause between them belong to one frame
# after this time, the agent has checked a complete answer; an incomplete answer is only checked at the time-out
JUDGED_NS: Final = 300_000_000
# the same values as in drivers.line.trace, which is not imported because the import is slow
SENT, RECEIVED, NOISE, BROKEN = range(4)
DIRECTIONS: Final = ("->", "<-", "??", "!!")
DIRECTION_WORDS: Final = ("sent", "received", "noise", "broken")


def frames_path(folder: Path, line: str, snapshot: Mapping[str, Any]) -> Path:
    """Return the file with the last frames of a line. Raises UsageError, which suggests existing lines."""
    lines = snapshot.get("lines", {})
    if line not in lines:
        from drivers.toml.parsers import did_you_mean

        hint = did_you_mean(line, lines, "Lines that the agent polls") if lines else "The agent has no line"
        raise UsageError(f'the running agent has no line "{line[:40]}"', where="watch", hint=hint)
    return folder / f"frames.{line}"


class NoFrames(GatewayError):
    """The line has no file with frames: it was not opened yet, or the agent has ended."""


def read_frames(path: Path, line: str, joiner: FrameJoiner) -> list[TracedFrame]:
    """Return the pieces of frames that the joiner does not have yet. Raises NoFrames or another GatewayError."""
    from drivers.line.trace import read_trace

    try:
        facts = path.lstat()
        joiner.begin((facts.st_dev, facts.st_ino))
        return list(read_trace(path, joiner.last))
    except FileNotFoundError:
        hint = "Frames are shown after the agent has opened the line"
        raise NoFrames("has no frames yet", where=f"line {line}", hint=hint) from None
    except (OSError, ValueError) as error:
        raise GatewayError(f"cannot be read: {error}", where=str(path)) from error


class ShownFrame(NamedTuple):
    """A whole frame. ``broken``: why it is not a valid answer; "" if it is valid or not checked yet.

    If the reason arrives after the frame has been shown, it becomes a separate entry with the direction BROKEN and no
    bytes.
    """

    number: int
    time_ns: int  # UTC time in ns
    direction: int
    data: bytes
    broken: str = ""


class FrameJoiner:
    """Joins received pieces that follow each other closely, because a serial port delivers an answer in pieces."""

    def __init__(self) -> None:
        self.last = 0  # number of the newest piece so far
        self._file: tuple[int, int] | None = None
        self._held: ShownFrame | None = None
        self._end_ns = 0

    def begin(self, file: tuple[int, int]) -> None:
        """If ``file`` (device, inode) is a new file, take all its pieces: each agent numbers its pieces from 1."""
        if file != self._file:
            self._file, self.last = file, 0

    def join(self, frames: Iterable[TracedFrame], now_ns: int) -> Iterator[ShownFrame]:
        """Yield whole frames. The last frame is held back while another piece or a reason may still follow it."""
        for frame in frames:
            self.last = frame.number
            held = self._held
            if frame.direction == BROKEN:
                why = clean_text(frame.data.decode("utf-8", "replace"), 200)
                if held is not None and held.direction == RECEIVED:
                    self._held = held._replace(broken=why)
                    yield from self.rest()
                else:
                    yield from self.rest()
                    yield ShownFrame(frame.number, frame.time_ns, BROKEN, b"", why)
                continue
            if held and frame.direction == held.direction != SENT and frame.time_ns - self._end_ns < JOIN_NS:
                self._held = held._replace(data=held.data + frame.data)
            else:
                yield from self.rest()
                self._held = ShownFrame(*frame)
            self._end_ns = frame.time_ns
        held = self._held
        if held is not None and now_ns - self._end_ns > (JUDGED_NS if held.direction == RECEIVED else JOIN_NS):
            yield from self.rest()

    def rest(self) -> Iterator[ShownFrame]:
        """Yield the frame that is held back, if there is one."""
        held, self._held = self._held, None
        if held is not None:
            yield held


def frame_text(frame: ShownFrame, zone: tzinfo | None = None) -> str:
    """Return a frame as text: ``12:00:00.123 -> 01 03 ...``, followed by ``!! reason`` if it is not a valid answer.

    ``zone``: the time zone of the text; None means the time zone of this machine.
    """
    at = datetime.fromtimestamp(frame.time_ns // 1_000_000_000, UTC).astimezone(zone)
    clock = f"{at:%H:%M:%S}.{frame.time_ns // 1_000_000 % 1000:03d}"
    why = f"{DIRECTIONS[BROKEN]} {say(frame.broken)}" if frame.broken else ""
    if frame.direction == BROKEN:
        return f"{clock} {why}"
    return f"{clock} {DIRECTIONS[frame.direction % 4]} {frame.data.hex(' ').upper()}{'  ' * bool(why)}{why}"


def frame_json(frame: ShownFrame) -> str:
    """Return a frame as one line of JSON. It has the member ``broken`` only if the frame is not a valid answer."""
    facts: dict[str, Any] = {
        "number": frame.number,
        "time": frame.time_ns / 1e9,
        "direction": DIRECTION_WORDS[frame.direction % 4],
        "hex": frame.data.hex(),
    }
    if frame.broken:
        facts["broken"] = frame.broken
    return as_line(facts)
