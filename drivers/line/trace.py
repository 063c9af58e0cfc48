"""The last frames of a line in shared memory, so that ``watch --frames`` can show them without a request to the agent.

File layout (little endian): a header page (magic, number of slots, number of frames ever written), then slots of
``SLOT`` bytes. A slot has: u64 frame number (counted from 1), i64 UTC ns, u16 length, u8 direction, padding, then the
frame, cut to 268 bytes.

The writer fills slot ``n % slots`` and then stores the number of frames. A reader copies a slot and then reads the
number of frames. This number shows whether the writer may have overwritten the slot meanwhile. If so, the reader
discards its copy.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

SENT, RECEIVED, NOISE = 0, 1, 2
BROKEN = 3  # not a frame but a text (UTF-8): why the bytes received since the request are not a valid answer
SLOT = 288
FRAMES = 2000
HEADER = 4096
_MAGIC = b"mhframes"
_HEAD = struct.Struct("<QqHBx")
_COUNT = struct.Struct("<Q")
_HEAD_BYTES = _HEAD.size
MOST_SHOWN = SLOT - _HEAD_BYTES  # a longer frame is cut to this number of bytes


@cache
def _slot(size: int) -> struct.Struct:
    """The layout of a slot with a frame of ``size`` bytes."""
    return struct.Struct(f"{_HEAD.format}{size}s")


class TracedFrame(NamedTuple):
    """One frame as it went over the line."""

    number: int
    time_ns: int  # time of the frame in UTC ns
    direction: int  # SENT, RECEIVED, NOISE (unsolicited bytes), or BROKEN
    data: bytes


def frames_each(lines: int, budget_bytes: int = 4 << 20) -> int:
    """The number of frames to keep per line, so that all lines together need at most ``budget_bytes``.

    It is at least 50 and at most 2,000.
    """
    return max(50, min(FRAMES, budget_bytes // (max(lines, 1) * SLOT)))


class FrameTrace:
    """Writes the trace of one line. The line owns this object."""

    def __init__(self, path: Path, frames: int = FRAMES, mode: int = 0o640, *, hidden: bool = False) -> None:
        """Create an empty file at ``path``, which replaces an older file. Raises OSError.

        With ``hidden``, the file gets this name only when ``show`` is called. Until then an older file remains.
        """
        size = HEADER + frames * SLOT
        self._path, self._draft = path, path.with_name(path.name + ".new")
        self._draft.unlink(missing_ok=True)
        fd = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            # allocate memory now: otherwise a later write to a full tmpfs would kill the agent (SIGBUS)
            os.posix_fallocate(fd, 0, size)
            self._map = mmap.mmap(fd, size)
        finally:
            os.close(fd)
        self._map[: len(_MAGIC)] = _MAGIC
        self._header = memoryview(self._map)[:24].cast("Q")  # magic, number of slots, number of frames ever written
        self._header[1] = frames
        self._frames, self._count = frames, 0
        if not hidden:
            self.show()

    def show(self) -> None:
        """Give the file its name. It replaces an older file of this name. Raises OSError."""
        self._draft.rename(self._path)

    def discard(self) -> None:
        """Remove the file of a trace for which ``show`` was never called."""
        self._draft.unlink(missing_ok=True)

    def put(self, direction: int, data: bytes, time_ns: int) -> None:
        """Add a frame to the trace. A longer frame is cut to 268 bytes."""
        at = HEADER + self._count % self._frames * SLOT
        self._count = count = self._count + 1
        size = min(len(data), MOST_SHOWN)
        _slot(size).pack_into(self._map, at, count, time_ns, size, direction, data)
        self._header[2] = count

    def trim(self) -> None:
        """Release the memory pages that this process has touched. The frames remain in the file."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap the file. The file remains, so that it can be read later."""
        self._header.release()
        self._map.close()


def read_trace(path: Path, after: int = 0) -> Iterator[TracedFrame]:
    """Yield the frames with numbers above ``after``, oldest first.

    Raises OSError if the file does not exist, ValueError if it is not a frame trace.
    """
    # O_NONBLOCK: opening a pipe must not block
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb"), mmap.mmap(fd, 0, prot=mmap.PROT_READ) as view:
        if len(view) < HEADER or view[: len(_MAGIC)] != _MAGIC:
            raise ValueError(f"{path}: not a frame trace")
        (frames,) = _COUNT.unpack_from(view, 8)
        (count,) = _COUNT.unpack_from(view, 16)
        if not frames or len(view) != HEADER + frames * SLOT:
            raise ValueError(
                f"{path}: the file size of {len(view)} bytes does not fit the {frames} frames that its header states"
            )
        for number in range(max(after, count - frames + 1) + 1, count + 1):
            at = HEADER + (number - 1) % frames * SLOT
            seen, time_ns, size, direction = _HEAD.unpack_from(view, at)
            data = bytes(view[at + _HEAD_BYTES : at + _HEAD_BYTES + size])
            (now,) = _COUNT.unpack_from(view, 16)
            if seen == number and number > now - frames + 1:
                yield TracedFrame(number, time_ns, direction, data)
