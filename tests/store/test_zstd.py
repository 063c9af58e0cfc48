"""Frames of a damaged or altered database are not decompressed beyond their cap."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard

from agent.intervals.page_format import ZSTD, PageReader
from agent.store.codec import Codec
from agent.zstd import read_frame

CAP = 1 << 20


def stating(size: int, plain: bytes) -> bytes:
    """A frame of ``plain`` whose header states another size, in four bytes."""
    frame = bytearray(zstandard.ZstdCompressor().compress(plain))
    assert frame[4] >> 6 == 2, "four bytes of content size"
    at = 5 if frame[4] & 32 else 6
    frame[at : at + 4] = size.to_bytes(4, "little")
    return bytes(frame)


def test_an_intact_frame_is_read() -> None:
    for plain in (b"", b"x", bytes(CAP)):
        assert read_frame(zstandard.compress(plain), CAP) == plain
        assert read_frame(zstandard.ZstdCompressor(write_content_size=False).compress(plain), CAP) == plain


@pytest.mark.parametrize(
    "frame",
    [
        zstandard.compress(bytes(CAP + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(CAP + 1)),
        zstandard.compress(bytes(64 * CAP)),
        stating(3 << 30, bytes(CAP)),
        stating(200_000, bytes(64 * CAP)),
        zstandard.compress(bytes(CAP))[:-3],
        b"no frame",
        b"",
    ],
    ids=["more", "more, not stated", "much more", "states 3 GiB", "states less", "cut off", "none", "nothing"],
)
def test_a_frame_with_more_or_another_size_is_refused_before_memory_is_allocated(frame: bytes) -> None:
    """The library ignores its cap if a frame states its size."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="frame"):
            read_frame(frame, CAP)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * CAP


def test_packs_and_pages_are_capped() -> None:
    """A body with a cap of 64 MiB gave 400 MiB."""
    frame = zstandard.ZstdCompressor(level=1).compress(bytes(80 << 20))
    with pytest.raises(ValueError, match="the body of a pack is damaged"):
        Codec().unpack(0, bytes(33) + frame, None)
    with pytest.raises(ValueError, match="page of intervals is damaged"):
        PageReader(bytes([ZSTD]) + frame)
