"""Pack codec: a pack is stored as a compressed body, which decodes to the identical bytes.

Three values in a pack are random: the signature and the hashes ``prev`` and ``birth``. They would worsen the
compression of the rest, because base64 letters and the digits of readings would share one Huffman table. So they are
removed; the first two are stored as raw bytes, the third once for all packs of a birth. The rest is compressed with
zstd. If there is a dictionary made of this database's packs, zstd uses it, because names and units of a stream's points
repeat in every pack.

A body begins with one byte for its form, then
    0: 32 bytes SHA-256 of the payload, zstd of the pack
    1: 64 bytes signature, 32 bytes ``prev``, zstd of the pack without these two
    2: the same as 1, but the pack is also without ``birth``
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import zstandard

from agent.store.rows import PackRow
from agent.zstd import read_frame
from drivers.encoding import base64url_bytes, base64url_decode
from ext.canon import split_pack

MAX_PACK_BYTES = 64 * 1024 * 1024  # largest decompressed pack; a damaged frame may state any size
DICTIONARY_BYTES = 32 * 1024
SAMPLE_BYTES = 12 * 1024  # bytes of one pack that a dictionary may contain: usually enough for every point once
SMALL_BYTES = 3 * 1024  # up to this size, the better search of zstd is cheap enough, see ``_compressor``
_PLAIN_LEVEL = 3  # zstd level until a dictionary exists
_BIRTH, _PREV, _DOTS = b'{"birth":"', b'"prev":"', b".."
_HASH_LEN = 43  # length of a hash (32 bytes) in base64url


def prev_of(body: bytes | None) -> bytes | None:
    """The hash ``prev`` of a body, without decoding the rest; None if this form does not store it separately."""
    return body[65:97] if body and body[0] in {1, 2} and len(body) > 97 else None


def _join(sig_raw: bytes, prev_raw: bytes, birth: bytes | None, rest: bytes) -> bytes:
    """Restore the pack that ``split_pack`` has split. ``birth``: the hash, if it was left out."""
    prev = rest.rfind(_PREV) + len(_PREV)
    dots = rest.rfind(_DOTS) + len(_DOTS)
    return b"".join(
        (
            b"" if birth is None else _BIRTH + base64url_bytes(birth),
            rest[:prev],
            base64url_bytes(prev_raw),
            rest[prev:dots],
            base64url_bytes(sig_raw),
            rest[dots:],
        )
    )


def compressible(data: bytes) -> bytes:
    """The part of a pack that is compressed. Dictionaries are made from it."""
    found = split_pack(data, _birth_of(data))
    return found[3] if found else data


def _birth_of(data: bytes) -> bytes | None:
    """The hash ``birth`` at the beginning of a pack; None if there is none."""
    if not data.startswith(_BIRTH):
        return None
    try:
        return base64url_decode(data[len(_BIRTH) : len(_BIRTH) + _HASH_LEN])
    except ValueError:
        return None


def _compressor(raw: bytes, strategy: int, log: int, min_match: int) -> zstandard.ZstdCompressor:
    """A compressor with a dictionary. ``min_match`` matters most: shorter matches are coincidences among digits.

    Size of a body and CPU time per pack, measured with readings that all change:
    - 50 readings: 356 bytes, 28 us with btlazy2 (435 bytes, 12 us with zstd's level 4)
    - 100 readings: 766 bytes, 13 us with dfast (709 bytes, 79 us with btlazy2; 744 bytes, 26 us with greedy)
    - 1000 readings: 5150 bytes, 120 us with dfast (4820 bytes, 840 us with btlazy2; 5140 bytes, 260 us with greedy)

    So packs up to ``SMALL_BYTES``, of some 90 readings, get the better search.
    """
    settings = zstandard.ZstdCompressionParameters(
        window_log=17,
        hash_log=log,
        chain_log=log,
        search_log=4,
        min_match=min_match,
        target_length=8,
        strategy=strategy,
        write_checksum=True,
        write_dict_id=False,
    )
    content = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    content.precompute_compress(compression_params=settings)
    return zstandard.ZstdCompressor(dict_data=content, compression_params=settings)


class Codec:
    """Encodes packs with the active dictionary; decodes bodies of all known dictionaries. Use it in one thread only."""

    def __init__(self) -> None:
        self._plain = zstandard.ZstdDecompressor()
        compressor = zstandard.ZstdCompressor(level=_PLAIN_LEVEL, write_checksum=True)
        self._small = self._large = compressor  # for packs of at most SMALL_BYTES, and for larger packs
        self._readers: dict[int, zstandard.ZstdDecompressor] = {}
        self.dictionary = 0  # number of the active dictionary; 0: none is active

    def activate(self, number: int, raw: bytes) -> None:
        """Encode with this dictionary from now on."""
        self._small = _compressor(raw, zstandard.STRATEGY_BTLAZY2, 13, 6)
        self._large = _compressor(raw, zstandard.STRATEGY_DFAST, 13, 7)
        self.dictionary = number

    def add_dictionary(self, number: int, raw: bytes) -> None:
        """From now on, decode bodies that were encoded with this dictionary."""
        content = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self._readers[number] = zstandard.ZstdDecompressor(dict_data=content)

    @property
    def dictionaries(self) -> Collection[int]:
        """The numbers of all known dictionaries."""
        return self._readers.keys()

    @property
    def newest_dictionary(self) -> int:
        """The highest known dictionary number; 0: none."""
        return max(self._readers, default=0)

    def is_better(self, raw: bytes, samples: Sequence[bytes]) -> bool:
        """True if bodies become 10 % smaller than with the active dictionary, or 5 % smaller if none is active."""
        trial = Codec()
        trial.activate(1, raw)
        now, then = (sum(len(c.pack(data, b"", _birth_of(data))[2]) for data in samples) for c in (self, trial))
        return then < now * (0.9 if self.dictionary else 0.95)

    def remove_dictionaries(self, numbers: Sequence[int]) -> None:
        """Forget deleted dictionaries."""
        for number in numbers:
            self._readers.pop(number, None)

    def pack(self, data: bytes, digest: bytes, birth: bytes | None = None) -> tuple[int, bool, bytes]:
        """Encode a pack. Returns (number of the dictionary, whether ``birth`` is left out, body).

        Args:
            digest: SHA-256 of the payload.
            birth: hash of the birth in effect, which is left out of the body if the pack contains it. ``unpack`` must
                then get the same hash.
        """
        found = split_pack(data, birth)
        left_out, sig, prev, rest = found or (False, b"", b"", data)
        number = self.dictionary
        frame = (self._small if len(rest) <= SMALL_BYTES else self._large).compress(rest)
        if found is None:
            return number, False, b"".join((b"\x00", digest, frame))
        return number, left_out, b"".join((b"\x02" if left_out else b"\x01", sig, prev, frame))

    def restore(self, row: PackRow) -> bytes:
        """Return the pack of a row. Raises ValueError if the row was changed."""
        if not row.is_sound():
            raise ValueError("the row of a pack was changed")
        return self.unpack(row.dictionary, row.body, row.birth_hash)

    def unpack(self, number: int, body: bytes, birth: bytes | None) -> bytes:
        """Decode a pack. ``birth``: the hash, if it was left out. Raises ValueError if the body is damaged."""
        reader = self._readers.get(number) if number else self._plain
        form = body[0] if body else 255
        skip = {0: 33, 1: 97, 2: 97}.get(form)
        if reader is None or skip is None or len(body) <= skip or (form == 2 and birth is None):
            raise ValueError(f"unreadable body of a pack: form {form}, dictionary {number}")
        try:
            rest = read_frame(body[skip:], MAX_PACK_BYTES, reader)
        except ValueError as error:
            raise ValueError(f"the body of a pack is damaged: {error}") from error
        return rest if form == 0 else _join(body[1:65], body[65:97], birth if form == 2 else None, rest)


def make_dictionary(packs: Sequence[bytes]) -> bytes:
    """Make the raw content of a zstd dictionary from sample packs.

    The first of ``packs`` is placed at the end of the dictionary, because zstd prefers matches near its end. A sample
    is skipped if the samples chosen so far already compress it well: streams with the same points are much alike.
    """
    chosen: list[bytes] = []
    size = 0
    for data in packs:
        sample = compressible(data)[:SAMPLE_BYTES]
        if size + len(sample) > DICTIONARY_BYTES:
            continue
        if chosen:
            so_far = zstandard.ZstdCompressionDict(b"".join(chosen), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            packed = zstandard.ZstdCompressor(level=3, dict_data=so_far).compress(sample)
            if len(packed) * 6 < len(sample):
                continue
        chosen.append(sample)
        size += len(sample)
    return b"".join(reversed(chosen))
