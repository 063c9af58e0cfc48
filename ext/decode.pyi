"""A compiled plan of a block: one call turns the bytes of an answer into values in the ring."""
from collections.abc import Sequence
from typing_extensions import Buffer
from ext.ring import Ring

TYPES: tuple[str, ...]
# The types of registers: u16 i16 u8h u8l i8h i8l u24 i24 u32 i32 u64 i64 f16 f32 f64 bcd16 bcd32 mod10k bits. There is
# also the type "decimal", which is not in TYPES: 12 bytes with the digits that a device sent, as
# ``drivers.plan.pack_decimal`` packs them.
ORDERS: dict[str, int]
# AB BA ABCD CDAB BADC DCBA ABCDEFGH GHEFCDAB CDABGHEF BADCFEHG HGFEDCBA -> size in bytes.
# The letters show in which order the bytes come on the wire; A is the most significant byte. For 8 bytes, the short
# names ABCD, CDAB, BADC and DCBA mean ABCDEFGH, GHEFCDAB, BADCFEHG and HGFEDCBA. For 6 bytes (mod10k, bits) they mean
# the same orders with 6 bytes. For mod10k, AB and BA are the order in each register.
ORDERS_24: tuple[str, ...]
# -ABC BC-A A-CB CBA- ABC- C-AB BA-C -CBA, only for u24 and i24: "-" is the byte that does not belong to the value. The
# types u24 and i24 also accept the orders of 4 bytes: the value is then the lower 24 bits of the 32 bits.

class Plan:
    def __init__(self, length: int) -> None:
        """``length``: number of bytes in the payload of each answer of this block."""
    def add(
        self,
        point: int,  # number of the point in its table, 0 to 65534
        offset: int,
        # Offset of the value's first byte in the payload. For u8h, u8l, i8h and i8l, it is the offset of the first byte
        # of the register.
        type: str,
        order: str = "",  # "" is the natural AB / ABCD / ABCDEFGH
        *,
        size: int = 0,
        # The size in bytes, which only two types need. For mod10k it is 2, 4, 6 or 8. Each word must be below 10000,
        # otherwise there is no reading. For bits it is 1 to 8. Bit 0 is the lowest bit of the first byte, as coils are
        # packed. ``order`` is applied to the bytes before, so bits in registers need the order BA.
        bit: int = -1,  # the value is this one bit of the raw integer, after ``order`` is applied; -1: no bit
        mask: int = 0,  # the value is the bits of this mask, shifted down so that its lowest bit is bit 0; 0: no mask
        scale: tuple[int, int] = (1, 0),  # (m, e): the value is exactly (raw + add) * m * 10**e
        add: tuple[int, int] = (0, 0),  # (m, e): m * 10**e is added to the raw value before it is scaled
        sentinels: Sequence[int] | None = None,
        # Raw unsigned bit patterns that mean "no reading", after ``order`` and before ``bit`` and ``mask``. (): there
        # are none. None: the patterns of the type: u16 FFFF, i16 8000, u32 FFFFFFFF, i32 80000000, and likewise for u64
        # and i64; the other types have none. NaN, infinities and BCD with a digit above 9 always mean "no reading".
        low: tuple[int, int] | None = None,
        # (m, e): the lowest usual value after scaling. A lower value is kept, with the quality RANGE.
        high: tuple[int, int] | None = None,  # the highest usual value, likewise
        scale_offset: int = -1,
        # Byte offset of a register in the same payload that has a power of ten as int16; -1: there is none. If the
        # power is not within -10 to 10 (as with 8000h), there is no reading.
        negate: bool = False,  # True, for a reversed CT: the sign of this field's own value is changed
        part: bool = False,
        # True: this value is added to the next field, which must be of the same point. The last field of a point gives
        # the sum. If a part is missing, the sum is missing too.
        share: bool = False,  # True: the value is a share of 1; a value above 1 is in percent, and is divided by 100
    ) -> None:
        """Add a field. Raises ValueError, which names the field and the error.

        For example, the field is beyond the payload, the order has another size, or both bit and mask are given."""
    length: int
    points: tuple[int, ...]  # the points whose values an answer gives, in order
    def decode_into(
        self, ring: Ring, payload: Buffer, table: int, tick_ms: int, time_ns: int, mono_ns: int, quality: int = 0,
        absent: int = 133,
    ) -> int:  # fmt: skip
        """Write one ANSWER record with the values of all points of the plan. Returns its position.

        Good values get ``quality``. Missing values get ``absent``: any gap reason, not only ``Reason.ABSENT``. The
        default is ``Reason.SENTINEL``. A value is missing if the device marks it as missing, or if it does not fit.
        Raises ValueError, and writes nothing, if the payload does not have ``length`` bytes.

        An f32 or f64 becomes the shortest decimal that identifies it. An f16 is converted to f64 before that. A
        mantissa has at most 64 bits: a float is rounded to fit, and any other value that does not fit becomes a gap. A
        value that is too large for a double becomes a gap too."""
    def values(self, payload: Buffer) -> list[tuple[int, int, int, int]]:
        """Decode a payload to Python tuples (point, mantissa, exponent, quality), for tools and tests."""
