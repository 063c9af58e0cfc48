# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# Converts registers in wire order to integers. This is a part of decode, and no other module cimports it.
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    static inline float mh_as_f32(std::uint32_t bits) noexcept { float v; __builtin_memcpy(&v, &bits, 4); return v; }
    static inline double mh_as_f64(std::uint64_t bits) noexcept { double v; __builtin_memcpy(&v, &bits, 8); return v; }
    static inline double mh_as_f16(std::uint32_t bits) noexcept {
        const int e = bits >> 10 & 31, f = bits & 1023;
        const double v = e == 31 ? (f ? __builtin_nan("") : __builtin_inf())
                                 : e ? __builtin_ldexp(1024.0 + f, e - 25) : __builtin_ldexp((double)f, -24);
        return bits & 0x8000 ? -v : v;
    }
    """
    float as_f32 "mh_as_f32" (uint32_t bits) noexcept nogil
    double as_f64 "mh_as_f64" (uint64_t bits) noexcept nogil
    double as_f16 "mh_as_f16" (uint32_t bits) noexcept nogil
    uint16_t swap16 "__builtin_bswap16" (uint16_t v) noexcept nogil
    uint32_t swap32 "__builtin_bswap32" (uint32_t v) noexcept nogil
    uint64_t swap64 "__builtin_bswap64" (uint64_t v) noexcept nogil

cdef enum:
    # byte orders: natural; words reversed; bytes of each word swapped; all bytes reversed; words of each half swapped
    O_ABCD, O_CDAB, O_BADC, O_DCBA, O_CDABGHEF

cdef inline uint64_t load16(const uint8_t *p, int order) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v if order == O_DCBA else swap16(v)

cdef inline uint64_t load32(const uint8_t *p, int order) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    if order == O_ABCD or order == O_CDAB:
        v = swap32(v)
    if order == O_CDAB or order == O_BADC:
        v = v << 16 | v >> 16
    return v

cdef inline uint64_t load64(const uint8_t *p, int order) noexcept nogil:
    cdef uint64_t v, even = 0x0000FFFF0000FFFF  # every other word
    memcpy(&v, p, 8)
    if order != O_DCBA and order != O_BADC:
        v = swap64(v)
    if order == O_CDAB or order == O_BADC:  # words in reverse
        v = v << 32 | v >> 32
    if order == O_CDAB or order == O_BADC or order == O_CDABGHEF:
        v = (v & even) << 16 | (v >> 16 & even)
    return v

cdef inline int place(int i, int size, int order) noexcept nogil:
    """Return the position on the wire of the i-th most significant byte, for sizes without a load function."""
    if order == O_CDAB:
        return (size - 2 - (i & ~1)) + (i & 1)
    if order == O_BADC:
        return i ^ 1
    if order == O_DCBA:
        return size - 1 - i
    if order == O_CDABGHEF:
        return i ^ 2
    return i

cdef inline uint64_t load_bits(const uint8_t *p, int size, int order) noexcept nogil:
    cdef uint64_t v = 0
    cdef int i
    for i in range(size):
        v |= <uint64_t>p[place(i, size, order)] << (8 * i)
    return v

cdef inline bint load_mod10k(const uint8_t *p, int size, int order, uint64_t *value) noexcept nogil:
    cdef int i
    cdef unsigned int word
    value[0] = 0
    for i in range(0, size, 2):
        word = <unsigned int>p[place(i, size, order)] << 8 | p[place(i + 1, size, order)]
        if word > 9999:
            return False
        value[0] = value[0] * 10000 + word
    return True

cdef inline bint from_bcd(uint64_t raw, int size, uint64_t *value) noexcept nogil:
    cdef int shift
    cdef uint64_t digit
    value[0] = 0
    for shift in range(size * 8 - 4, -1, -4):
        digit = raw >> shift & 15
        if digit > 9:
            return False
        value[0] = value[0] * 10 + digit
    return True
