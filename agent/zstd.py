"""Decompresses zstd frames from the database safely, even if the disk damaged them or somebody altered them.

This is a separate module because store and intervals both need it, and neither may import the other.
"""

from __future__ import annotations

import zstandard


def read_frame(frame: bytes, cap: int, reader: zstandard.ZstdDecompressor | None = None) -> bytes:
    """The content of ``frame``, at most ``cap`` bytes. Raises ValueError if the frame is damaged or larger.

    ``max_output_size`` alone is not a limit: if the frame states its size, the library ignores the argument and
    allocates the stated size. The library itself rejects a frame whose content is larger than stated.
    """
    try:
        stated = zstandard.frame_content_size(frame)  # -1: not stated; then the library respects the cap
        if stated > cap:
            raise ValueError(f"frame too large: {stated} bytes, at most {cap} allowed")
        return (reader or zstandard.ZstdDecompressor()).decompress(frame, max_output_size=cap)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"the zstd frame is damaged: {error}") from error
