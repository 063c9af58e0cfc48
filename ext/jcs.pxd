# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# Writes strings and numbers as RFC 8785 text into a growing buffer. This is a part of canon, and no other module
# cimports it.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

from ext.decimal cimport isfinite, nearest, shortest64

cdef extern from *:
    """
    static const char mh_pairs[] =
        "00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354"
        "555657585960616263646566676869707172737475767778798081828384858687888990919293949596979899";
    """
    const char *PAIRS "mh_pairs"

cdef enum:
    NUMBER_ROOM = 64  # room for one number or time in bytes; fixed-size copies may write beyond its end

cdef struct Out:
    char *text
    size_t size
    size_t room
    bint failed  # True: memory was lacking once, so the text is incomplete

cdef inline bint reserve(Out *out, size_t more) noexcept nogil:
    """Reserve ``more`` bytes after the text. If there is no memory, set ``failed`` and return False."""
    cdef size_t room
    cdef void *grown
    if out.size + more <= out.room:
        return True
    room = out.room * 2 if out.room * 2 > out.size + more else out.size + more
    grown = realloc(out.text, room)
    if grown == NULL:
        out.failed = True
        return False
    out.text = <char *>grown
    out.room = room
    return True

cdef inline void put(Out *out, const char *text, size_t n) noexcept nogil:
    if reserve(out, n):
        memcpy(out.text + out.size, text, n)
        out.size += n

cdef inline int write_digits(char *out, uint64_t m) noexcept nogil:
    """Write the digits of m > 0, at most 20 bytes. Returns their number."""
    cdef char text[20]
    cdef int at = 20
    cdef uint32_t pair, low
    while m >> 32:
        pair = <uint32_t>(m % 100)
        m //= 100
        at -= 2
        memcpy(text + at, PAIRS + 2 * pair, 2)
    low = <uint32_t>m
    while low >= 100:
        pair = low % 100
        low //= 100
        at -= 2
        memcpy(text + at, PAIRS + 2 * pair, 2)
    if low >= 10:
        at -= 2
        memcpy(text + at, PAIRS + 2 * low, 2)
    else:
        at -= 1
        text[at] = <char>(48 + low)
    memcpy(out, text + at, 20 - at)
    return 20 - at

cdef inline int write_layout(char *out, bint minus, const char *digits, int k, int n) noexcept nogil:
    """Write 0.DIGITS * 10**n as ECMAScript's Number::toString does. Returns the length.

    There are ``k`` digits; the first and the last are not 0. 48 bytes of ``digits`` must be readable, and NUMBER_ROOM
    bytes of ``out`` writable, because the function copies a fixed size, which is faster than an exact size.
    """
    cdef char *p = out
    cdef int e
    if minus:
        p[0] = c"-"
        p += 1
    if 0 < n <= 21:
        memcpy(p, digits, 24)
        if n >= k:
            memset(p + k, c"0", n - k)
            return <int>(p - out) + n
        memcpy(p + n + 1, digits + n, 24)
        p[n] = c"."
        return <int>(p - out) + k + 1
    if -6 < n <= 0:
        memcpy(p, b"0.000000", 8)
        memcpy(p + 2 - n, digits, 24)
        return <int>(p - out) + 2 - n + k
    p[0] = digits[0]
    p += 1
    if k > 1:
        p[0] = c"."
        memcpy(p + 1, digits + 1, k - 1)
        p += k
    e = n - 1
    p[0] = c"e"
    p[1] = c"-" if e < 0 else c"+"
    p += 2
    p += write_digits(p, <uint64_t>(-e if e < 0 else e))
    return <int>(p - out)

cdef inline int write_decimal(char *out, bint minus, uint64_t m, int e) noexcept nogil:
    """Write exactly m * 10**e. Returns the length."""
    cdef char digits[48]
    cdef int k, all_digits
    if m == 0:
        out[0] = c"0"
        return 1
    all_digits = k = write_digits(digits, m)
    while digits[k - 1] == c"0":
        k -= 1
    return write_layout(out, minus, digits, k, all_digits + e)

cdef inline int write_double(char *out, double v) noexcept nogil:
    cdef int e = 0
    cdef uint64_t m
    if v == 0:
        out[0] = c"0"
        return 1
    m = shortest64(-v if v < 0 else v, &e)
    return write_decimal(out, v < 0, m, e)

cdef inline int write_number(char *out, bint minus, uint64_t m, int e, bint *rounded) noexcept nogil:
    """Write the double nearest to m * 10**e. Returns the length; 0 if it is too large for a double.

    ``rounded`` becomes True if the written decimal is not exactly m * 10**e.
    """
    cdef char digits[48]
    cdef char *end
    cdef int k, n, all_digits, near_e = 0
    cdef uint64_t near
    cdef double v
    rounded[0] = False
    if m == 0:
        out[0] = c"0"
        return 1
    all_digits = k = write_digits(digits, m)
    while digits[k - 1] == c"0":
        k -= 1
    n = all_digits + e
    # a decimal of up to 15 digits survives conversion to a double, except at both ends of its range
    if k <= 15 and -290 < n < 290:
        return write_layout(out, minus, digits, k, n)
    # make a text of the form DIGITS e EXPONENT, and parse it as the nearest double
    end = digits + all_digits
    end[0] = c"e"
    end[1] = c"-" if e < 0 else c"+"
    end += 2
    if e == 0:
        end[0] = c"0"
        end += 1
    else:
        end += write_digits(end, <uint64_t>(-e if e < 0 else e))
    v = nearest(digits, end)
    if not isfinite(v):
        return 0
    if v == 0:
        rounded[0] = True
        out[0] = c"0"
        return 1
    near = shortest64(v, &near_e)
    while m % 10 == 0:
        m //= 10
        e += 1
    rounded[0] = near != m or near_e != e
    return write_decimal(out, minus, near, near_e)

cdef inline int write_seconds(char *out, int64_t ms) noexcept nogil:
    return write_decimal(out, ms < 0, <uint64_t>(-ms if ms < 0 else ms), -3)

cdef inline int utf8_length(const uint8_t *p, size_t left) noexcept nogil:
    """Return the number of bytes of the character at p; 0 if no UTF-8 character begins there."""
    cdef uint8_t low = 0x80, high = 0xBF  # limits of the second byte
    cdef int n, i
    if p[0] < 0x80:
        return 1
    if p[0] < 0xC2 or p[0] > 0xF4:
        return 0
    n = 2 if p[0] < 0xE0 else 3 if p[0] < 0xF0 else 4
    if p[0] == 0xE0:
        low = 0xA0
    elif p[0] == 0xED:
        high = 0x9F
    elif p[0] == 0xF0:
        low = 0x90
    elif p[0] == 0xF4:
        high = 0x8F
    if left < <size_t>n or not low <= p[1] <= high:
        return 0
    for i in range(2, n):
        if p[i] & 0xC0 != 0x80:
            return 0
    return n

cdef inline void put_string(Out *out, const uint8_t *text, size_t n) noexcept nogil:
    """Write a JSON string. Invalid UTF-8 becomes U+FFFD."""
    cdef size_t i = 0
    cdef char *p
    cdef uint8_t c
    cdef int length
    if not reserve(out, 6 * n + 2):
        return
    p = out.text + out.size
    p[0] = c'"'
    p += 1
    while i < n:
        c = text[i]
        if c >= 0x80:
            length = utf8_length(text + i, n - i)
            if length:
                memcpy(p, text + i, length)
                p += length
                i += length
            else:
                memcpy(p, b"\xef\xbf\xbd", 3)
                p += 3
                i += 1
            continue
        i += 1
        if c >= 0x20 and c != 0x22 and c != 0x5C:
            p[0] = <char>c
            p += 1
            continue
        p[0] = c"\\"
        p[1] = (
            c"b" if c == 8 else c"t" if c == 9 else c"n" if c == 10 else c"f" if c == 12 else c"r" if c == 13
            else c"u" if c < 0x20 else <char>c
        )
        if p[1] == c"u":
            memcpy(p + 2, b"00", 2)
            p[4] = <char>(48 + (c >> 4))
            c &= 15
            p[5] = <char>(48 + c if c < 10 else 87 + c)
            p += 4
        p += 2
    p[0] = c'"'
    out.size = (p + 1) - out.text
