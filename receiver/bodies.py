"""Reads packs from the database, byte for byte as they were published."""

from __future__ import annotations

from hashlib import sha256
from uuid import UUID

import zstandard

from agent.verify.signed import payload_hash, payload_of
from agent.verify.strict import MAX_PACK_BYTES, parse_object
from receiver.database import Connection, short_hash


def digest_of(raw: bytes, short: UUID) -> bytes:
    """The full SHA-256 hash of a stored pack. Its first 16 bytes are ``short``.

    If a bridge has reformatted the pack, the hash of the stored bytes does not begin with ``short``. Then the hash of
    the pack's canonical form is returned.
    """
    try:
        if short_hash(digest := payload_hash(raw)) == short:
            return digest
    except ValueError:
        pass
    return sha256(payload_of(parse_object(raw))).digest()


class Bodies:
    """Decompresses stored packs. Each compression dictionary is read from the database only once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._readers: dict[int, zstandard.ZstdDecompressor] = {}

    def read(self, frame: bytes) -> bytes:
        """Decompress a pack. Returns the bytes as they were published. Raises ValueError if the row is damaged."""
        try:
            number = zstandard.get_frame_parameters(frame).dict_id
            reader = self._readers.get(number)
            if reader is None:
                reader = self._readers[number] = self._make(number)
            return reader.decompress(frame, max_output_size=MAX_PACK_BYTES)
        except zstandard.ZstdError as error:
            raise ValueError(f"the body is damaged: {error}") from None

    def _make(self, number: int) -> zstandard.ZstdDecompressor:
        if number == 0:
            return zstandard.ZstdDecompressor()
        row = self._connection.execute("SELECT bytes FROM dictionaries WHERE id = %s", [number]).fetchone()
        if row is None:
            raise ValueError(f"the body was compressed with dictionary {number}, which is missing")
        return zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(bytes(row[0])))
