# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# Decimals as (mantissa, exponent), for decode and canon. Needs C++17 and a little-endian host.
from libc.stdint cimport UINT64_MAX, int64_t, uint64_t

cdef extern from *:
    """
    #include <charconv>
    #include <cstdint>
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the ring and the decode plan are laid out for little-endian hosts"
    #endif
    #ifndef __SIZEOF_INT128__
    #error "exact decimals need 128-bit integers: build for a 64-bit processor"
    #endif

    /* Digits and exponent of the shortest decimal that identifies v, finite and >= 0; no trailing zero in digits. */
    template <class F> static inline std::uint64_t mh_shortest(F v, int *exponent) noexcept {
        char text[40];
        const char *p = text;
        *std::to_chars(text, text + 32, v, std::chars_format::scientific).ptr = 0;
        std::uint64_t digits = (std::uint64_t)(*p++ - '0');
        int shown = 0, e = 0;
        if (*p == '.')
            for (++p; *p != 'e'; ++p, ++shown)
                digits = digits * 10 + (std::uint64_t)(*p - '0');
        const bool below = p[1] == '-';
        for (p += 2; *p; ++p)
            e = e * 10 + (*p - '0');
        *exponent = (below ? -e : e) - shown;
        return digits;
    }
    typedef __int128 mh_i128;
    typedef unsigned __int128 mh_u128;
    /* The same for any v, with its sign. False: infinite or not a number. */
    template <class F> static inline bool mh_float(F v, mh_i128 *m, int *exponent) noexcept {
        if (!__builtin_isfinite(v))
            return false;
        const mh_i128 digits = mh_shortest(__builtin_signbit(v) ? -v : v, exponent);
        *m = __builtin_signbit(v) ? -digits : digits;
        return true;
    }
    /* The double nearest to a decimal text; +inf if it is too large, 0 if too small. */
    static inline double mh_nearest(const char *text, const char *end) noexcept {
        double v = 0;
        auto r = std::from_chars(text, end, v);
        if (r.ec == std::errc::result_out_of_range) {
            const char *e = end;
            while (e > text && *e != 'e') --e;
            return e > text && e[1] != '-' ? __builtin_inf() : 0.0;
        }
        return r.ec == std::errc() ? v : __builtin_nan("");
    }
    """
    ctypedef long long i128 "mh_i128"  # this is a 128-bit integer in C, but Cython only needs to know an integer type
    ctypedef unsigned long long u128 "mh_u128"
    bint from_f32 "mh_float<float>" (float v, i128 *m, int *exponent) noexcept nogil
    bint from_f64 "mh_float<double>" (double v, i128 *m, int *exponent) noexcept nogil
    uint64_t shortest64 "mh_shortest<double>" (double v, int *exponent) noexcept nogil
    double nearest "mh_nearest" (const char *text, const char *end) noexcept nogil
    bint isfinite "__builtin_isfinite" (double v) noexcept nogil
    bint multiply_overflows "__builtin_mul_overflow" (i128 a, i128 b, i128 *product) noexcept nogil
    bint add_overflows "__builtin_add_overflow" (i128 a, i128 b, i128 *total) noexcept nogil

cdef struct Decimal:
    i128 m
    int e
    bint exact  # False: the value comes from a float, so its last digits may be dropped
    bint missing  # there is no value

cdef inline u128 magnitude(i128 v) noexcept nogil:
    return <u128>0 - <u128>v if v < 0 else <u128>v

cdef inline u128 power10(int n) noexcept nogil:
    """Return 10**n, for n from 0 to 38."""
    cdef u128 p = 1, base = 10
    while n > 0:
        if n & 1:
            p *= base
        base *= base
        n >>= 1
    return p

cdef inline int digits(uint64_t m) noexcept nogil:
    cdef int n = 0
    while m:
        m //= 10
        n += 1
    return n

cdef inline void shorten(Decimal *v) noexcept nogil:
    """Remove trailing zeros from the mantissa. Then round a value from a float if its mantissa does not fit 64 bits."""
    cdef bint minus = v.m < 0
    cdef u128 rest, unit = 1, m = magnitude(v.m)
    cdef u128 limit = <u128>1 << 63 if minus else <u128>UINT64_MAX
    while m and m % 10 == 0:
        m //= 10
        v.e += 1
    if m > limit and not v.exact:
        while m // unit >= limit:
            unit *= 10
            v.e += 1
        rest = m % unit
        m = m // unit
        if rest > unit // 2 or (rest == unit // 2 and m & 1):  # to even
            m += 1
    v.m = -<i128>m if minus else <i128>m

cdef inline void add(Decimal *to, i128 m, int e) noexcept nogil:
    """Add m * 10**e to ``to``.

    If the sum does not fit 128 bits, an exact value becomes missing. For a value from a float, the larger summand is
    the result, because the smaller summand is below the last digit of the larger one.
    """
    cdef i128 aligned = 0, total = 0
    if to.m == 0 or m == 0:
        if m != 0:
            to.m = m
            to.e = e
        return
    if e > to.e:  # lower the larger exponent
        if e - to.e <= 38 and not multiply_overflows(m, <i128>power10(e - to.e), &aligned):
            if not add_overflows(to.m, aligned, &total):
                to.m = total
                return
    elif to.e - e <= 38 and not multiply_overflows(to.m, <i128>power10(to.e - e), &aligned):
        if not add_overflows(aligned, m, &total):
            to.m = total
            to.e = e
            return
    if to.exact:
        to.missing = True
    elif e > to.e:  # both mantissas have at most 64 bits here, so the smaller summand is below the last digit
        to.m = m
        to.e = e

cdef inline void multiply(Decimal *v, int64_t m) noexcept nogil:
    cdef i128 product = 0
    if multiply_overflows(v.m, m, &product):
        shorten(v)
        if multiply_overflows(v.m, m, &product):
            v.missing = True
            return
    v.m = product

cdef inline int compare(i128 a, int a_e, int64_t b, int b_e) noexcept nogil:
    """Compare a * 10**a_e with b * 10**b_e. Returns a negative number, 0 or a positive number.

    ``a`` and ``b`` have at most 64 bits.
    """
    cdef int way = -1 if a < 0 else 1
    cdef int apart = a_e - b_e
    cdef u128 x = magnitude(a), y = magnitude(b)
    if a == 0:
        return -1 if b > 0 else 1 if b < 0 else 0
    if b == 0 or (a < 0) != (b < 0):
        return way
    if apart > 19 or apart < -19:  # no mantissa has more than 20 digits, so the larger exponent decides
        return way if apart > 0 else -way
    if apart > 0:
        x *= power10(apart)
    else:
        y *= power10(-apart)
    return 0 if x == y else way if x > y else -way

cdef inline bint exceeds_one(i128 m, int e) noexcept nogil:
    """Return True if the absolute value of m * 10**e is above 1. ``m`` may have all 128 bits, unlike in ``compare``."""
    cdef u128 x = magnitude(m)
    if e >= 0:
        return x > (1 if e == 0 else 0)
    return e >= -38 and x > power10(-e)  # 10**39 is above any mantissa
