"""A compiled plan: the bytes of one answer become ring values in one call."""
from collections.abc import Sequence
from typing_extensions import Buffer
from ext.ring import Ring

TYPES: tuple[str, ...]  # u16 i16 u8h u8l i8h i8l u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 mod10k bits
ORDERS: dict[str, int]  # AB BA ABCD CDAB BADC DCBA ABCDEFGH GHEFCDAB CDABGHEF BADCFEHG HGFEDCBA -> size in bytes
# letters name the order of bytes on the wire, A the most significant. On 64 bits ABCD, CDAB, BADC, DCBA mean
# ABCDEFGH, GHEFCDAB, BADCFEHG, HGFEDCBA.

class Plan:
    def __init__(self, length: int) -> None:
        """``length``: bytes of payload that every answer of this block has."""
    def add(
        self,
        point: int,  # 0..65534, the point's number in its table
        offset: int,  # of the first byte in the payload
        type: str,
        order: str = "",  # "" is the natural AB / ABCD / ABCDEFGH
        *,
        size: int = 0,  # bytes; only for mod10k (2 to 8) and bits (1 to 8; coils are packed lowest bit first per byte)
        bit: int = -1,  # take this one bit of the raw integer (after order)
        mask: int = 0,  # or these, shifted down to their lowest bit
        scale: tuple[int, int] = (1, 0),  # (m, e): value = (raw + add) * m * 10**e; exact, decimal
        add: tuple[int, int] = (0, 0),  # (m, e), added to the raw value before scale
        sentinels: Sequence[int] | None = None,  # raw unsigned bit patterns that mean "no reading"; None: the type's own
        #   default (DESIGN: per type and on by default): u16 FFFF, i16 8000, u32 FFFFFFFF, i32 80000000, u64, i64 likewise;
        #   floats NaN and infinities (always, also with ()); bcd with a digit above 9 (always); bits, bytes: none. () : none.
        low: tuple[int, int] | None = None,  # (m, e), value range; outside: the value stays, quality RANGE
        high: tuple[int, int] | None = None,
        scale_offset: int = -1,  # byte offset of an int16 power of ten in the same payload (SunSpec); 8000h: sentinel
        negate: bool = False,  # a reversed CT
        part: bool = False,  # add this value to that of the next field (which emits); a sentinel in any part wins
    ) -> None:
        """Raises ValueError that names the field and what is wrong: beyond length, order on one byte or of the wrong size,
        a bit that the type has not, two of bit/mask, f16.. with bit, and so on."""
    length: int
    points: tuple[int, ...]
    def decode_into(
        self, ring: Ring, payload: Buffer, table: int, tick_ms: int, time_ns: int, mono_ns: int, quality: int = 0
    ) -> int:
        """One ANSWER record with a value for every field; returns its position. ``quality`` goes to values that are good.

        ValueError if the payload is not ``length`` bytes (nothing is written then). Floats become the shortest decimal that
        identifies them. A value that does not fit 64 bits of mantissa loses last digits only if it came from a float, else it is
        a SENTINEL gap."""
    def values(self, payload: Buffer) -> list[tuple[int, int, int, int]]:
        """The same as Python tuples (point, mantissa, exponent, quality), for tools and tests."""

def number(mantissa: int, exponent: int) -> bytes:
    """mantissa * 10**exponent as RFC 8785 writes the double nearest to it (``-1500``, ``230.1``, ``1e-7``)."""
