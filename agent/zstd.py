"""zstd frames out of the database, which a disk may have damaged or somebody altered.

A module of its own because the store and the intervals both read such frames and neither may import the other.
"""

from __future__ import annotations

import zstandard


def read_frame(frame: bytes, cap: int, reader: zstandard.ZstdDecompressor | None = None) -> bytes:
    """The content of ``frame``, at most ``cap`` bytes. Raises ValueError if it is damaged or larger.

    ``max_output_size`` alone bounds nothing: the library ignores it if the frame states a size, and allocates whatever
    is stated. The library itself rejects a frame whose content is larger than stated.
    """
    try:
        stated = zstandard.frame_content_size(frame)  # -1: not stated, then the library keeps to the cap
        if stated > cap:
            raise ValueError(f"frame too large: {stated} bytes, at most {cap} allowed")
        return (reader or zstandard.ZstdDecompressor()).decompress(frame, max_output_size=cap)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"damaged frame: {error}") from error
