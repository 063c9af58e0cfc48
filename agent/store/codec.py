"""Packs at rest: smaller, and back to the identical bytes.

Three things in a pack are random and would spoil the compression of all the rest, because base64 letters and the
digits of readings then share one Huffman table: the signature and the hashes ``prev`` and ``birth``. They are cut out;
the first two are kept as raw bytes, the third once for all packs of a birth. The rest goes through zstd, with a
dictionary of this database's own packs where there is one: names and units of a stream's points are the same in every
pack.

A body is one byte of form, then
    0: 32 bytes SHA-256 of the payload, zstd of the pack
    1: 64 bytes signature, 32 bytes ``prev``, zstd of the pack without these two
    2: as 1, and without ``birth``
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from agent.zstd import read_frame

MAX_PACK_BYTES = 64 * 1024 * 1024  # what decompression may give at most, whatever a damaged frame claims
DICTIONARY_BYTES = 32 * 1024
SAMPLE_BYTES = 12 * 1024  # of one pack in a dictionary: all points once, as a rule
_PLAIN_LEVEL = 3  # until there is a dictionary
_BIRTH, _PREV, _SIG, _DOTS = b'{"birth":"', b'"prev":"', b',"sig":"', b".."
_PREV_LEN, _SIG_LEN = 43, 86  # base64url characters of 32 and 64 bytes


def payload_hash(data: bytes) -> bytes:
    """SHA-256 of what a pack's signature is over: the object without ``sig``."""
    start = data.rindex(_SIG)
    end = data.index(b'"', start + len(_SIG)) + 1
    return hashlib.sha256(data[:start] + data[end:]).digest()


def prev_of(body: bytes | None) -> bytes | None:
    """The hash ``prev`` in a body, without reading the rest of it; None if it is not kept apart there."""
    return body[65:97] if body and body[0] in {1, 2} and len(body) > 97 else None


@dataclass(frozen=True, slots=True)
class _Cut:
    """A pack without its random parts."""

    sig: bytes
    prev: bytes
    rest: bytes


def _cut(data: bytes, birth: bytes | None) -> _Cut | None:
    """None if this pack would not come back identical. ``birth``: the hash to leave out, None: leave it in."""
    prev = data.rfind(_PREV) + len(_PREV)
    dots = data.rfind(_DOTS) + len(_DOTS)
    if not len(_PREV) <= prev < dots - _PREV_LEN:
        return None
    prev_end, sig_end, start = prev + _PREV_LEN, dots + _SIG_LEN, 0
    try:
        sig_raw = base64.urlsafe_b64decode(data[dots:sig_end] + b"==")
        prev_raw = base64.urlsafe_b64decode(data[prev:prev_end] + b"=")
    except binascii.Error:
        return None
    if birth is not None:
        start = len(_BIRTH) + _PREV_LEN
    rest = data[start:prev] + data[prev_end:dots] + data[sig_end:]
    if len(sig_raw) != 64 or len(prev_raw) != 32 or _join(sig_raw, prev_raw, birth, rest) != data:
        return None
    return _Cut(sig_raw, prev_raw, rest)


def _join(sig_raw: bytes, prev_raw: bytes, birth: bytes | None, rest: bytes) -> bytes:
    prev = rest.rfind(_PREV) + len(_PREV)
    dots = rest.rfind(_DOTS) + len(_DOTS)
    return b"".join(
        (
            b"" if birth is None else _BIRTH + base64.urlsafe_b64encode(birth)[:_PREV_LEN],
            rest[:prev],
            base64.urlsafe_b64encode(prev_raw)[:_PREV_LEN],
            rest[prev:dots],
            base64.urlsafe_b64encode(sig_raw)[:_SIG_LEN],
            rest[dots:],
        )
    )


def compressible(data: bytes) -> bytes:
    """What of a pack zstd will see, for dictionaries."""
    cut = _cut(data, _birth_of(data)) or _cut(data, None)
    return cut.rest if cut else data


def _birth_of(data: bytes) -> bytes | None:
    """The hash that a pack begins with, if it does."""
    if not data.startswith(_BIRTH):
        return None
    try:
        return base64.urlsafe_b64decode(data[len(_BIRTH) : len(_BIRTH) + _PREV_LEN] + b"=")
    except binascii.Error:
        return None


def _compressor(raw: bytes, strategy: int, search_log: int) -> zstandard.ZstdCompressor:
    """``min_match`` 6 matters most: shorter matches are accidents among digits.

    Measured with values that all change (bytes of body a pack, CPU): 50 readings btlazy2 356, 28 us (zstd's own level 4
    435, 12 us); 500 readings greedy 3100, 88 us; 1000 readings dfast 5700, 83 us (no dictionary: level 3 6200, 72 us;
    level 6 5900, 360 us). The smaller a pack, the more its signature weighs, and the less time a better search takes.
    """
    small = strategy != zstandard.STRATEGY_DFAST
    settings = zstandard.ZstdCompressionParameters(
        window_log=17,
        hash_log=13 if small else 15,
        chain_log=13 if small else 15,
        search_log=search_log,
        min_match=6,
        target_length=8,
        strategy=strategy,
        write_checksum=True,
        write_dict_id=False,
    )
    content = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    content.precompute_compress(compression_params=settings)
    return zstandard.ZstdCompressor(dict_data=content, compression_params=settings)


class Codec:
    """Makes bodies with the dictionary in use and reads those of all. One thread only."""

    def __init__(self) -> None:
        self._plain = zstandard.ZstdDecompressor()
        whole = zstandard.ZstdCompressor(level=_PLAIN_LEVEL, write_checksum=True)
        self._compressors: list[tuple[float, zstandard.ZstdCompressor]] = [(math.inf, whole)]  # by size, up to
        self._readers: dict[int, zstandard.ZstdDecompressor] = {}
        self.dictionary = 0  # the one in use

    def use(self, number: int, raw: bytes) -> None:
        """Compress with this dictionary from now on."""
        self._compressors = [
            (4 * 1024, _compressor(raw, zstandard.STRATEGY_BTLAZY2, 4)),
            (32 * 1024, _compressor(raw, zstandard.STRATEGY_GREEDY, 4)),
            (math.inf, _compressor(raw, zstandard.STRATEGY_DFAST, 1)),
        ]
        self.dictionary = number

    def knows(self, number: int) -> bool:
        """Can bodies with this dictionary be read?"""
        return number == 0 or number in self._readers

    def learn(self, number: int, raw: bytes) -> None:
        """Be able to read bodies with this dictionary."""
        content = zstandard.ZstdCompressionDict(raw, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        self._readers[number] = zstandard.ZstdDecompressor(dict_data=content)

    @property
    def newest(self) -> int:
        """The highest number known."""
        return max(self._readers, default=0)

    def worth(self, raw: bytes, samples: Sequence[bytes]) -> bool:
        """Would this dictionary save a tenth more than the one in use, or a twentieth if it is the first?"""
        trial = Codec()
        trial.use(1, raw)
        now, then = (sum(len(c.pack(data, b"", _birth_of(data))[2]) for data in samples) for c in (self, trial))
        return then < now * (0.9 if self.dictionary else 0.95)

    def forget(self, numbers: Sequence[int]) -> None:
        """These dictionaries exist no longer."""
        for number in numbers:
            self._readers.pop(number, None)

    def pack(self, data: bytes, digest: bytes, birth: bytes | None = None) -> tuple[int, bool, bytes]:
        """A pack's (dictionary, birth left out?, body).

        Args:
            digest: SHA-256 of the payload.
            birth: the hash that the reader will know.
        """
        cut = None
        if birth is not None and birth == _birth_of(data):
            cut = _cut(data, birth)
        form = 2 if cut else 1
        cut = cut or _cut(data, None)
        rest = cut.rest if cut else data
        number = self.dictionary
        frame = next(c for limit, c in self._compressors if len(rest) <= limit).compress(rest)
        if cut is None:
            return number, False, b"".join((b"\x00", digest, frame))
        return number, form == 2, b"".join((bytes((form,)), cut.sig, cut.prev, frame))

    def unpack(self, number: int, body: bytes, birth: bytes | None) -> bytes:
        """The pack as published. ``birth``: the hash, if it was left out. Raises ValueError if the body is damaged."""
        reader = self._readers.get(number) if number else self._plain
        form = body[0] if body else 255
        skip = {0: 33, 1: 97, 2: 97}.get(form)
        if reader is None or skip is None or len(body) <= skip or (form == 2 and birth is None):
            raise ValueError(f"a pack's body of form {form} and dictionary {number} that cannot be read")
        try:
            rest = read_frame(body[skip:], MAX_PACK_BYTES, reader)
        except ValueError as error:
            raise ValueError(f"a pack's body is damaged: {error}") from error
        return rest if form == 0 else _join(body[1:65], body[65:97], birth if form == 2 else None, rest)


def make_dictionary(packs: Sequence[bytes]) -> bytes:
    """Raw content for a dictionary from sample packs, the most typical last (zstd prefers what is near the end).

    Streams of one shape give nearly the same bytes: a sample that the ones already chosen compress well adds nothing.
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
