"""A compiled plan: the bytes of one answer become ring values in one call."""
from collections.abc import Sequence
from typing_extensions import Buffer
from ext.ring import Ring

TYPES: tuple[str, ...]  # of registers: u16 i16 u8h u8l i8h i8l u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 mod10k bits
# Beside them "decimal", 12 bytes: digits that a device sent, as ``drivers.plan.pack_decimal`` packs them.
ORDERS: dict[str, int]
# AB BA ABCD CDAB BADC DCBA ABCDEFGH GHEFCDAB CDABGHEF BADCFEHG HGFEDCBA -> size in bytes.
# Letters name the order of bytes on the wire, A the most significant. On 64 bits ABCD, CDAB, BADC, DCBA mean
# ABCDEFGH, GHEFCDAB, BADCFEHG, HGFEDCBA; on 6 bytes (mod10k, bits) the same habit.

class Plan:
    def __init__(self, length: int) -> None:
        """``length``: bytes of payload that every answer of this block has."""
    def add(
        self,
        point: int,  # 0..65534, the point's number in its table
        offset: int,  # of the first byte in the payload (u8h..i8l: of the register)
        type: str,
        order: str = "",  # "" is the natural AB / ABCD / ABCDEFGH
        *,
        size: int = 0,
        # bytes; only for mod10k (2, 4, 6, 8: words below 10000, else "no reading") and bits (1 to 8: bit 0 is the
        # lowest of the first byte, as coils are packed; an order applies to the bytes first, so BA is for registers)
        bit: int = -1,  # take this one bit of the raw integer (after order)
        mask: int = 0,  # or these, shifted down to their lowest bit
        scale: tuple[int, int] = (1, 0),  # (m, e): value = (raw + add) * m * 10**e; exact, decimal
        add: tuple[int, int] = (0, 0),  # (m, e), added to the raw value before scale
        sentinels: Sequence[int] | None = None,
        # raw unsigned bit patterns (after order, before bit and mask) that mean "no reading"; None: the type's own:
        # u16 FFFF, i16 8000, u32 FFFFFFFF, i32 80000000, u64, i64 likewise; bits, u8.., i8..: none. (): none.
        # Always: floats NaN and infinities, bcd with a digit above 9.
        low: tuple[int, int] | None = None,  # (m, e), range of the final value; outside: it stays, quality RANGE
        high: tuple[int, int] | None = None,
        scale_offset: int = -1,
        # byte offset of an int16 power of ten in the same payload; outside -10..10 (8000h too): no reading
        negate: bool = False,  # for a reversed CT: changes the sign of this field's own value
        part: bool = False,
        # add this value to the next field, which is of the same point and gives the sum; if a part is missing, so is
        # the sum
        share: bool = False,  # a share of 1; a value above 1 is in percent and is divided by 100
    ) -> None:
        """Add a field. Raises ValueError that names the field and the error: beyond length, order on one byte or of the
        wrong size, a bit that the type does not have, both bit and mask, f16.. with bit, and so on."""
    length: int
    points: tuple[int, ...]  # the points whose values an answer gives, in order
    def decode_into(
        self, ring: Ring, payload: Buffer, table: int, tick_ms: int, time_ns: int, mono_ns: int, quality: int = 0,
        absent: int = 133,
    ) -> int:  # fmt: skip
        """Write one ANSWER record with a value for every field; returns its position. Good values get ``quality``;
        values that the device marks as missing get ``absent``, a gap reason.

        Raises ValueError if the payload does not have ``length`` bytes; nothing is written then. An f32 or f64 becomes
        the shortest decimal that identifies it, an f16 the shortest that identifies the same number as an f64. If a
        value needs more than 64 bits of mantissa, it loses its last digits if it came from a float; else it becomes a
        gap. A value too large for a double becomes a gap too."""
    def values(self, payload: Buffer) -> list[tuple[int, int, int, int]]:
        """The same as Python tuples (point, mantissa, exponent, quality), for tools and tests."""
