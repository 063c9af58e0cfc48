"""Decompresses zstd frames from the database safely, even if the disk damaged them or somebody altered them.

This is a separate module because store and intervals both need it, and neither may import the other.
"""

from __future__ import annotations

import zstandard


def read_frame(frame: bytes, cap: int, reader: zstandard.ZstdDecompressor | None = None) -> bytes:
    """Return the content of ``frame``. Raises ValueError if the frame is damaged or its content exceeds ``cap`` bytes.

    ``max_output_size`` alone does not limit the memory: if the frame states its size, the library ignores the argument
    and allocates the stated size. The library itself rejects a frame whose content is larger than the stated size.
    """
    try:
        # -1: the frame does not state its size; only then does the library respect ``max_output_size``
        stated = zstandard.frame_content_size(frame)
        if stated > cap:
            raise ValueError(f"frame too large: {stated} bytes, at most {cap} allowed")
        return (reader or zstandard.ZstdDecompressor()).decompress(frame, max_output_size=cap)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"the zstd frame is damaged: {error}") from error
