"""A compiled plan: the bytes of one answer become ring values in one call."""
from collections.abc import Sequence
from typing_extensions import Buffer
from ext.ring import Ring

TYPES: tuple[str, ...]  # of registers: u16 i16 u8h u8l i8h i8l u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 mod10k bits
# Beside them "decimal", 12 bytes: digits that a device sent, as ``drivers.plan.pack_decimal`` packs them.
ORDERS: dict[str, int]
# AB BA ABCD CDAB BADC DCBA ABCDEFGH GHEFCDAB CDABGHEF BADCFEHG HGFEDCBA -> size in bytes.
# Letters name the order of bytes on the wire; A is the most significant byte. For 8 bytes, ABCD, CDAB, BADC and DCBA
# mean ABCDEFGH, GHEFCDAB, BADCFEHG and HGFEDCBA. For 6 bytes (mod10k, bits) they mean the same order of 6 bytes.

class Plan:
    def __init__(self, length: int) -> None:
        """``length``: bytes of payload that every answer of this block has."""
    def add(
        self,
        point: int,  # 0..65534, the point's number in its table
        offset: int,  # of the value's first byte in the payload; for u8h, u8l, i8h and i8l of the register's first byte
        type: str,
        order: str = "",  # "" is the natural AB / ABCD / ABCDEFGH
        *,
        size: int = 0,
        # bytes, only for two types. mod10k has 2, 4, 6 or 8: each word must be below 10000, else there is no reading.
        # bits has 1 to 8: bit 0 is the lowest bit of the first byte, as coils are packed. An order is applied to the
        # bytes before, so registers of bits need BA.
        bit: int = -1,  # take this one bit of the raw integer (after order)
        mask: int = 0,  # or take the bits of this mask, shifted down so that its lowest bit becomes bit 0; 0: no mask
        scale: tuple[int, int] = (1, 0),  # (m, e): value = (raw + add) * m * 10**e; exact, decimal
        add: tuple[int, int] = (0, 0),  # (m, e), added to the raw value before scale
        sentinels: Sequence[int] | None = None,
        # raw unsigned bit patterns (after order, before bit and mask) that mean "no reading"; (): there are none. None:
        # those of the type: u16 FFFF, i16 8000, u32 FFFFFFFF, i32 80000000, and likewise for u64 and i64; other types
        # have none. In addition, NaN, infinities and BCD with a digit above 9 always mean "no reading".
        low: tuple[int, int] | None = None,  # (m, e), lowest usual final value; one below is kept, with quality RANGE
        high: tuple[int, int] | None = None,
        scale_offset: int = -1,
        # byte offset of an int16 power of ten in the same payload; outside -10..10 (8000h too): no reading
        negate: bool = False,  # for a reversed CT: changes the sign of this field's own value
        part: bool = False,
        # add this value to the next field, which must be of the same point. The last field of a point gives the sum.
        # If a part is missing, the sum is missing, too.
        share: bool = False,  # a share of 1; a value above 1 is in percent and is divided by 100
    ) -> None:
        """Add a field. Raises ValueError, which names the field and the error, such as a field beyond the payload, an
        order of a wrong size, or both bit and mask."""
    length: int
    points: tuple[int, ...]  # the points whose values an answer gives, in order
    def decode_into(
        self, ring: Ring, payload: Buffer, table: int, tick_ms: int, time_ns: int, mono_ns: int, quality: int = 0,
        absent: int = 133,
    ) -> int:  # fmt: skip
        """Write one ANSWER record with a value for every field; returns its position. Good values get ``quality``;
        values that the device marks as missing get ``absent``, a gap reason.

        Raises ValueError if the payload does not have ``length`` bytes; nothing is written then. An f32 or f64 becomes
        the shortest decimal that identifies it, an f16 the shortest that identifies the same number as an f64. A
        mantissa has at most 64 bits: a float loses its last digits to fit; any other value that does not fit becomes a
        gap. So does a value too large for a double."""
    def values(self, payload: Buffer) -> list[tuple[int, int, int, int]]:
        """The same as Python tuples (point, mantissa, exponent, quality), for tools and tests."""
