# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: language = c++
"""A compiled plan: decodes the bytes of one answer into ring values in one call, with integer arithmetic."""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport (
    INT64_MAX, INT64_MIN, UINT64_MAX, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)  # fmt: skip
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from ext.decimal cimport (
    Decimal, add, compare, digits, exceeds_one, from_f32, from_f64, i128, magnitude, multiply, multiply_overflows,
    power10, shorten,
)  # fmt: skip
from ext.ring cimport FIRST_REASON, FLAG_UNSIGNED, HEAD_SLOTS, KIND_ANSWER, RecordHeader, Ring, Slot, begin, commit, put
from ext.wire cimport (
    O_ABCD, O_BADC, O_CDAB, O_CDABGHEF, O_DCBA, as_f16, as_f32, as_f64, from_bcd,
    load16, load32, load64, load_bits, load_mod10k,
)  # fmt: skip

cdef enum:
    T_UNSIGNED, T_SIGNED, T_BITS, T_F16, T_F32, T_F64, T_BCD, T_MOD10K, T_DECIMAL
    F_NEGATE = 1
    F_PART = 2
    F_LOW = 4
    F_HIGH = 8
    F_PLAIN = 16  # the scale is a power of ten, and no offset is added
    F_SHARE = 32  # the value is a share of 1; a value above 1 is in percent, and is divided by 100
    QUALITY_RANGE = 2
    REASON_SENTINEL = 133
    DECIMAL_MISSING = 128  # flag in the eleventh byte of a decimal, beside FLAG_UNSIGNED: there is no value

cdef struct PlanField:
    uint32_t offset
    int32_t scale_offset  # byte offset of the scale factor's register; -1: there is none
    uint16_t point
    uint8_t type
    uint8_t size
    uint8_t order
    uint8_t width  # bits of the raw integer
    uint8_t shift
    uint8_t pick  # 0: the value is all bytes, 1: all but the lowest byte, 2: all but the highest byte
    uint8_t flags
    int16_t scale_e
    int16_t add_e
    int16_t low_e
    int16_t high_e
    uint32_t sentinel  # index of the field's first sentinel in the plan's list
    uint32_t sentinels  # number of the field's sentinels
    uint64_t mask  # applied after the shift; all ones if the whole integer is the value
    int64_t scale_m
    int64_t add_m
    int64_t low_m
    int64_t high_m

ORDERS = {
    "AB": 2, "BA": 2,
    "ABCD": 4, "CDAB": 4, "BADC": 4, "DCBA": 4,
    "ABCDEFGH": 8, "GHEFCDAB": 8, "CDABGHEF": 8, "BADCFEHG": 8, "HGFEDCBA": 8,
}  # fmt: skip
_LAYOUTS = {
    "": O_ABCD, "AB": O_ABCD, "ABCD": O_ABCD, "ABCDEFGH": O_ABCD,
    "CDAB": O_CDAB, "GHEFCDAB": O_CDAB,
    "BADC": O_BADC, "BADCFEHG": O_BADC,
    "BA": O_DCBA, "DCBA": O_DCBA, "HGFEDCBA": O_DCBA,
    "CDABGHEF": O_CDABGHEF,
}  # fmt: skip
# order of 24 bits in two registers -> (order of the 32 bits, pick). "-" is the byte that does not belong to the value.
_LAYOUTS_24 = {
    "-ABC": (O_ABCD, 2), "BC-A": (O_CDAB, 2), "A-CB": (O_BADC, 2), "CBA-": (O_DCBA, 2),
    "ABC-": (O_ABCD, 1), "C-AB": (O_CDAB, 1), "BA-C": (O_BADC, 1), "-CBA": (O_DCBA, 1),
}  # fmt: skip
ORDERS_24 = tuple(_LAYOUTS_24)
# type -> (class, number of bytes, number of bits, default sentinel); 0 bytes: ``size`` gives the number
_TYPES = {
    "u16": (T_UNSIGNED, 2, 16, 0xFFFF), "i16": (T_SIGNED, 2, 16, 0x8000),
    "u8h": (T_UNSIGNED, 2, 8, None), "u8l": (T_UNSIGNED, 2, 8, None),
    "i8h": (T_SIGNED, 2, 8, None), "i8l": (T_SIGNED, 2, 8, None),
    "u24": (T_UNSIGNED, 4, 24, 0xFFFFFF), "i24": (T_SIGNED, 4, 24, 0x800000),
    "u32": (T_UNSIGNED, 4, 32, 0xFFFFFFFF), "i32": (T_SIGNED, 4, 32, 0x80000000),
    "u64": (T_UNSIGNED, 8, 64, 0xFFFFFFFFFFFFFFFF), "i64": (T_SIGNED, 8, 64, 0x8000000000000000),
    "f16": (T_F16, 2, 16, None), "f32": (T_F32, 4, 32, None), "f64": (T_F64, 8, 64, None),
    "bcd16": (T_BCD, 2, 16, None), "bcd32": (T_BCD, 4, 32, None),
    "mod10k": (T_MOD10K, 0, 0, None), "bits": (T_BITS, 0, 0, None),
}  # fmt: skip
TYPES = tuple(_TYPES)  # the types of registers, without "decimal"
_TYPES["decimal"] = T_DECIMAL, 12, 64, None


cdef bint _fit(Decimal *v, Slot *slot) noexcept nogil:
    """Write a decimal into a slot. Returns False if its mantissa does not fit 64 bits, or a double cannot hold it."""
    if v.m > <i128>INT64_MAX or v.m < <i128>INT64_MIN:
        shorten(v)
        if v.m > <i128>UINT64_MAX or v.m < <i128>INT64_MIN:
            return False
    # the largest double is 1.797e308, which is also SenML's limit
    if v.e > 288 and v.m != 0 and digits(<uint64_t>magnitude(v.m)) + v.e > 308:
        return False
    slot.mantissa = <int64_t><uint64_t>v.m
    slot.exponent = <int16_t>v.e if v.m != 0 else 0
    slot.flags = FLAG_UNSIGNED if v.m > <i128>INT64_MAX else 0
    return True


cdef bint _load_decimal(const uint8_t *p, Decimal *v, uint64_t *raw, bint *is_whole) noexcept nogil:
    """Load a value that a device sent as digits. Returns False if there is no reading.

    For a whole number of up to 64 bits, ``raw`` is set and ``is_whole`` becomes True.
    """
    cdef int64_t m
    cdef int16_t e
    cdef i128 integer = 0
    cdef Decimal whole
    memcpy(&m, p, 8)
    memcpy(&e, p + 8, 2)
    if p[10] & DECIMAL_MISSING or not -400 <= e <= 308:
        return False
    v.m = <i128><uint64_t>m if p[10] & FLAG_UNSIGNED else <i128>m
    v.e = e
    whole = v[0]
    shorten(&whole)  # so that 5.0 counts as whole
    if whole.m == 0 or (0 <= whole.e <= 19 and not multiply_overflows(whole.m, <i128>power10(whole.e), &integer)):
        if <i128>INT64_MIN <= integer <= <i128>UINT64_MAX:
            raw[0] = <uint64_t>integer
            is_whole[0] = True
    return True


cdef void _value(const PlanField *f, const uint64_t *sentinels, const uint8_t *payload, Decimal *v) noexcept nogil:
    """Compute the scaled value of one field."""
    cdef const uint8_t *p = payload + f.offset
    cdef uint64_t raw = 0, number = 0
    cdef uint32_t i
    cdef int factor
    cdef bint is_whole = f.type != T_DECIMAL
    v.m = 0
    v.e = 0
    v.exact = True
    v.missing = False
    if f.type == T_DECIMAL:
        if not _load_decimal(p, v, &raw, &is_whole) or (f.mask != UINT64_MAX and not is_whole):
            v.missing = True
            return
    elif f.type == T_BITS:
        raw = load_bits(p, f.size, f.order)
    elif f.type == T_MOD10K:
        if not load_mod10k(p, f.size, f.order, &raw):
            v.missing = True
            return
    elif f.size == 4:
        raw = load32(p, f.order)
        if f.pick:
            raw = raw >> 8 if f.pick == 1 else raw & 0xFFFFFF
    elif f.size == 2:
        raw = load16(p, f.order)
        if f.pick:
            raw = raw >> 8 if f.pick == 1 else raw & 0xFF
    else:
        raw = load64(p, f.order)
    for i in range(f.sentinels):
        if is_whole and raw == sentinels[f.sentinel + i]:
            v.missing = True
            return
    if f.type == T_DECIMAL and f.mask == UINT64_MAX:
        pass
    elif f.type == T_F32:
        v.exact = False
        v.missing = not from_f32(as_f32(<uint32_t>raw), &v.m, &v.e)
    elif f.type == T_F64:
        v.exact = False
        v.missing = not from_f64(as_f64(raw), &v.m, &v.e)
    elif f.type == T_F16:
        v.exact = False
        v.missing = not from_f64(as_f16(<uint32_t>raw), &v.m, &v.e)
    elif f.type == T_BCD:
        if not from_bcd(raw, f.size, &number):
            v.missing = True
        v.m = <i128>number
    elif f.type == T_SIGNED and f.mask == UINT64_MAX:
        v.m = <i128>(<int64_t>(raw << (64 - f.width)) >> (64 - f.width))
    else:
        v.m = <i128>(raw >> f.shift & f.mask)
        v.e = 0
    if v.missing:
        return
    if not f.flags & F_PLAIN:
        if f.add_m != 0:
            add(v, f.add_m, f.add_e)
            if not v.exact:
                shorten(v)
        multiply(v, f.scale_m)
        if not v.exact:
            shorten(v)
    v.e += f.scale_e
    if f.scale_offset >= 0:
        factor = <int16_t>load16(payload + f.scale_offset, O_ABCD)
        if factor < -10 or factor > 10:  # 8000h means "no factor", and other factors are impossible
            v.missing = True
        v.e += factor
    if f.flags & F_SHARE and exceeds_one(v.m, v.e):
        v.e -= 2
    if f.flags & F_NEGATE:
        v.m = -v.m


cdef int _run(
    const PlanField *fields, int count, const uint64_t *sentinels, const uint8_t *payload,
    Slot *base, uint64_t mask, uint64_t start, uint8_t quality, uint8_t absent,
) noexcept nogil:  # fmt: skip
    """Decode all fields into the slots from ``start`` on. Returns the number of slots."""
    cdef Decimal v
    cdef Decimal total = Decimal(0, 0, True, False)
    cdef bint open = False
    cdef int i, n = 0
    cdef const PlanField *f
    cdef Slot *slot
    for i in range(count):
        f = &fields[i]
        _value(f, sentinels, payload, &v)
        if open:
            v.exact = v.exact and total.exact
            v.missing = v.missing or total.missing
            add(&v, total.m, total.e)
            open = False
        if f.flags & F_PART:
            if not v.exact:
                shorten(&v)
            total = v
            open = True
            continue
        slot = &base[(start + <uint64_t>n) & mask]
        n += 1
        slot.point = f.point
        slot.zero = 0
        slot.quality = quality
        if v.missing or not _fit(&v, slot):
            slot.mantissa = 0
            slot.exponent = 0
            slot.flags = 0
            slot.quality = absent
        elif f.flags & F_LOW and compare(v.m, v.e, f.low_m, f.low_e) < 0:
            slot.quality = QUALITY_RANGE
        elif f.flags & F_HIGH and compare(v.m, v.e, f.high_m, f.high_e) > 0:
            slot.quality = QUALITY_RANGE
    return n


cdef class Plan:
    cdef PlanField *fields
    cdef int count
    cdef int emitted
    cdef uint64_t *sentinels
    cdef uint32_t sentinel_count
    cdef bint open  # True: the last field is a part of a sum, which the next field must continue
    cdef readonly Py_ssize_t length

    def __cinit__(self):
        self.fields = NULL
        self.sentinels = NULL

    def __init__(self, length):
        if not 0 < length <= 65536:
            raise ValueError(f"an answer has 1 to 65536 bytes, got {length}")
        self.length = length

    def __dealloc__(self):
        free(self.fields)
        free(self.sentinels)

    @property
    def points(self):
        return tuple([self.fields[i].point for i in range(self.count) if not self.fields[i].flags & F_PART])

    def add(
        self, point, offset, type, order="", *, size=0, bit=-1, mask=0, scale=(1, 0), add=(0, 0), sentinels=None,
        low=None, high=None, scale_offset=-1, negate=False, part=False, share=False,
    ):  # fmt: skip
        cdef PlanField f
        cdef void *grown
        where = f"point {point}, {type} at byte {offset}"
        if not 0 <= point <= 65534:
            raise ValueError(f"{where}: a point's number is 0 to 65534")
        if self.open and self.fields[self.count - 1].point != point:
            raise ValueError(f"{where}: the field before is a part of point {self.fields[self.count - 1].point}")
        if type not in _TYPES:
            raise ValueError(f"{where}: unknown type; known are {' '.join(TYPES)}")
        kind, natural, width, default = _TYPES[type]
        memset(&f, 0, sizeof(f))
        size, width = _check_size(where, type, natural, width, size)
        layout, pick = _check_order(where, type, order, size)
        if not 0 <= offset <= self.length - size:
            raise ValueError(f"{where}: {size} bytes lie beyond the payload of {self.length}")
        if not (scale_offset == -1 or 0 <= scale_offset <= self.length - 2):
            raise ValueError(f"{where}: scale factor at byte {scale_offset} lies beyond the payload of {self.length}")
        shift, kept = _check_mask(where, type, kind, width, bit, mask)
        scale_m, scale_e = _check_decimal(where, "scale", scale)
        add_m, add_e = _check_decimal(where, "add", add)
        if scale_m == 0:
            raise ValueError(f"{where}: a scale of 0 makes every value 0")
        raws = [default] if sentinels is None and default is not None else list(sentinels or ())
        for raw in raws:
            if not 0 <= raw < 1 << width:
                raise ValueError(f"{where}: sentinel {raw:#x} does not fit {width} bits")
        f.point, f.offset, f.scale_offset = point, offset, scale_offset
        f.type, f.size, f.order, f.width, f.shift, f.mask = kind, size, layout, width, shift, kept
        f.pick = pick
        f.scale_m, f.scale_e, f.add_m, f.add_e = scale_m, scale_e, add_m, add_e
        f.flags = (F_NEGATE if negate else 0) | (F_PART if part else 0) | (F_SHARE if share else 0)
        if scale_m == 1 and add_m == 0:
            f.flags |= F_PLAIN
        if low is not None:
            f.low_m, f.low_e = _check_decimal(where, "low", low)
            f.flags |= F_LOW
        if high is not None:
            f.high_m, f.high_e = _check_decimal(where, "high", high)
            f.flags |= F_HIGH
        if part and f.flags & (F_LOW | F_HIGH):
            raise ValueError(f"{where}: a part has no range; give it to the field that emits")
        grown = realloc(self.fields, (self.count + 1) * sizeof(PlanField))
        if grown == NULL:
            raise MemoryError
        self.fields = <PlanField *>grown
        grown = realloc(self.sentinels, (self.sentinel_count + len(raws) + 1) * sizeof(uint64_t))
        if grown == NULL:
            raise MemoryError
        self.sentinels = <uint64_t *>grown
        f.sentinel = self.sentinel_count
        f.sentinels = <uint32_t>len(raws)
        for raw in raws:
            self.sentinels[self.sentinel_count] = raw
            self.sentinel_count += 1
        self.fields[self.count] = f
        self.count += 1
        self.open = part
        self.emitted += 0 if part else 1

    cdef int _check(self, Py_ssize_t got) except -1:
        if got != self.length:
            raise ValueError(f"the plan is for an answer of {self.length} bytes, got {got}")
        if self.open:
            raise ValueError(f"the last part of point {self.fields[self.count - 1].point} has no field to add it to")
        return 0

    def decode_into(
        self, Ring ring not None, payload, uint16_t table, int64_t tick_ms, int64_t time_ns, int64_t mono_ns,
        uint8_t quality=0, uint8_t absent=REASON_SENTINEL,
    ):  # fmt: skip
        cdef Py_buffer view
        cdef RecordHeader head = RecordHeader(
            <uint32_t>self.emitted, table, KIND_ANSWER, quality, tick_ms, time_ns, mono_ns
        )
        cdef uint64_t position
        if quality >= FIRST_REASON:
            raise ValueError(f"a quality is below {FIRST_REASON}, got {quality}; an answer that did not come is a gap")
        if absent < FIRST_REASON:
            raise ValueError(f"a reason is {FIRST_REASON} or more, got {absent}")
        ring.check_room(self.emitted)
        # not a typed memoryview, which would take longer than decoding ten registers
        PyObject_GetBuffer(payload, &view, PyBUF_SIMPLE)
        try:
            self._check(view.len)
            # Keep the GIL. Decoding takes a few microseconds, which is less than it takes to get the GIL back from a
            # busy thread. And while the GIL is held, no other thread of this process can append.
            position = begin(&ring.map, HEAD_SLOTS + self.emitted)
            put(&ring.map, position, &head, sizeof(RecordHeader))
            _run(
                self.fields, self.count, self.sentinels, <const uint8_t *>view.buf,
                ring.map.slot, ring.map.mask, position + HEAD_SLOTS, quality, absent,
            )  # fmt: skip
            commit(&ring.map, position + HEAD_SLOTS + self.emitted)
        finally:
            PyBuffer_Release(&view)
        return position

    def values(self, const uint8_t[::1] payload not None):
        cdef Slot *slots
        cdef int i
        self._check(payload.shape[0])
        slots = <Slot *>malloc((self.emitted + 1) * sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        try:
            _run(self.fields, self.count, self.sentinels, &payload[0], slots, UINT64_MAX, 0, 0, REASON_SENTINEL)
            return [
                (
                    slots[i].point,
                    <uint64_t>slots[i].mantissa if slots[i].flags & FLAG_UNSIGNED else slots[i].mantissa,
                    slots[i].exponent,
                    slots[i].quality,
                )
                for i in range(self.emitted)
            ]
        finally:
            free(slots)


def _check_size(where, type, natural, width, size):
    """Return the number of bytes and of bits of the raw integer."""
    if natural:
        if size not in (0, natural):
            raise ValueError(f"{where}: {type} has {natural} bytes, not {size}")
        return natural, width
    if type == "mod10k" and size not in (2, 4, 6, 8):
        raise ValueError(f"{where}: mod10k needs size 2, 4, 6 or 8, got {size}")
    if not 1 <= size <= 8:
        raise ValueError(f"{where}: bits needs size 1 to 8, got {size}")
    return size, (64 if type == "mod10k" else size * 8)


def _check_order(where, type, order, size):
    """Return (order of the bytes, pick)."""
    pick = 1 if type in ("u8h", "i8h") else 2 if type in ("u8l", "i8l", "u24", "i24") else 0
    if not order:
        return O_ABCD, pick
    if order in _LAYOUTS_24 and type in ("u24", "i24"):
        return _LAYOUTS_24[order]
    if order not in _LAYOUTS:
        raise ValueError(f"{where}: unknown order {order!r}; known are {' '.join(ORDERS)}")
    if type == "mod10k" and order == "BA":  # in each register
        return O_BADC, pick
    # the names with 4 letters also stand for the same order of 6 or 8 bytes, and AB for registers without another order
    if size == ORDERS[order] or (size in (6, 8) and ORDERS[order] == 4) or (type == "mod10k" and order == "AB"):
        return _LAYOUTS[order], pick
    raise ValueError(f"{where}: order {order} is for {ORDERS[order]} bytes, {type} has {size} here")


def _check_mask(where, type, kind, width, bit, mask):
    """Return (shift, mask to apply after the shift) for a bit or a mask."""
    if bit == -1 and not mask:
        return 0, UINT64_MAX
    if kind not in (T_UNSIGNED, T_SIGNED, T_BITS, T_DECIMAL):
        raise ValueError(f"{where}: {type} has no bits to take; bit and mask are for integers")
    if bit != -1 and mask:
        raise ValueError(f"{where}: bit and mask exclude each other")
    if mask:
        if not 0 < mask < 1 << width:
            raise ValueError(f"{where}: mask {mask:#x} is wider than the {width} bits of {type}")
        shift = (mask & -mask).bit_length() - 1
        return shift, mask >> shift
    if not 0 <= bit < width:
        raise ValueError(f"{where}: {type} has bits 0 to {width - 1}, not {bit}")
    return bit, 1


def _check_decimal(where, name, pair):
    m, e = pair
    while m and m % 10 == 0:  # remove trailing zeros, so that most results stay within 64 bits
        m, e = m // 10, e + 1
    if m == 0:
        e = 0
    if not INT64_MIN <= m <= INT64_MAX or not -300 <= e <= 300:
        raise ValueError(f"{where}: {name} {pair} is beyond 64 bits or 10**300")
    return m, e
