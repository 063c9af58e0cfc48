"""Packs out of the database, byte for byte as they were published."""

from __future__ import annotations

from typing import Final

import zstandard

from agent.verify.jws import PublicKey
from agent.verify.pack import Pack, read_pack
from agent.verify.signed import Signed, payload_hash
from agent.verify.strict import MAX_PACK_BYTES, parse_columns
from receiver.database import Connection

_UNUSED_KEY: Final[PublicKey | None] = None


class Bodies:
    """Decompresses bodies; asks the database for each dictionary once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._readers: dict[int, zstandard.ZstdDecompressor] = {}

    def read(self, frame: bytes) -> bytes:
        """The published bytes. Raises ValueError where the row is damaged."""
        number = zstandard.get_frame_parameters(frame).dict_id
        reader = self._readers.get(number)
        if reader is None:
            reader = self._readers[number] = self._make(number)
        try:
            return reader.decompress(frame, max_output_size=MAX_PACK_BYTES)
        except zstandard.ZstdError as error:
            raise ValueError(f"a damaged body: {error}") from None

    def _make(self, number: int) -> zstandard.ZstdDecompressor:
        if number == 0:
            return zstandard.ZstdDecompressor()
        row = self._connection.execute("SELECT bytes FROM dictionaries WHERE id = %s", [number]).fetchone()
        if row is None:
            raise ValueError(f"a body needs dictionary {number}, which is not here")
        return zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(bytes(row[0])))


def reread(body: bytes, signer: int) -> Pack:
    """A pack that was judged before it was stored: its signature is not checked again."""
    value, columns = parse_columns(body, records="e")
    signed = Signed(value, b"", payload_hash(body), _UNUSED_KEY, False)  # type: ignore[arg-type]
    return read_pack(signed, signer, columns)
