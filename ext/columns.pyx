# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Decodes runs of integers in pages of intervals, and adds them up. The ``def`` functions check their arguments."""
from array import array

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from ext.interval cimport PARTS, i128, u128

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "pages are written for little-endian hosts"
    #endif
    """
    bint sub_overflows "__builtin_sub_overflow" (int64_t a, int64_t b, int64_t *difference) noexcept nogil

cdef enum:
    WIDEST = 4  # the highest code of a run: 8 bytes per number
    MAX_ROWS = 65_535

cdef int64_t FAR_COUNTS = <int64_t>1 << 48  # a growth of this many counts or more is a jump to another level
cdef object ZERO = array("q", [0])

FAR = FAR_COUNTS


cdef inline int64_t _plus(int64_t a, int64_t b) noexcept nogil:
    return <int64_t>(<uint64_t>a + <uint64_t>b)  # may wrap meanwhile, but the final results of a valid page fit 64 bits


cdef void _read(const uint8_t *p, Py_ssize_t n, int code, bint differences, int64_t *to) noexcept nogil:
    """Read a run as a page stores it: the lowest bytes of all numbers, then their next higher bytes, and so on."""
    cdef Py_ssize_t i, k
    cdef uint64_t bits
    for i in range(n):
        if code == 1:
            to[i] = <int8_t>p[i]
        elif code == 2:
            to[i] = <int16_t>(<uint16_t>p[i] | <uint16_t>p[n + i] << 8)
        elif code == 3:
            to[i] = <int32_t>(
                <uint32_t>p[i] | <uint32_t>p[n + i] << 8 | <uint32_t>p[2 * n + i] << 16 | <uint32_t>p[3 * n + i] << 24
            )
        else:
            bits = 0
            for k in range(8):
                bits |= <uint64_t>p[k * n + i] << 8 * k
            to[i] = <int64_t>bits
    if differences:
        for i in range(1, n):
            to[i] = _plus(to[i], to[i - 1])


cdef class Runs:
    cdef bytes body
    cdef const uint8_t *bytes_of
    cdef Py_ssize_t head, rows, count
    cdef Py_ssize_t *begins

    def __cinit__(self):
        self.begins = NULL

    def __init__(self, bytes body not None, Py_ssize_t head, Py_ssize_t rows, Py_ssize_t count):
        cdef Py_ssize_t n, at, size = len(body)
        cdef const uint8_t *p = body
        if not 0 <= rows <= MAX_ROWS or head < 0 or count < 0 or head > size or count > size - head:
            raise ValueError(f"{rows} rows and {count} runs do not fit {size} bytes")
        free(self.begins)
        self.rows = self.count = 0
        self.begins = <Py_ssize_t *>malloc((count + 1) * sizeof(Py_ssize_t))
        if self.begins == NULL:
            raise MemoryError
        at = head + count
        for n in range(count):
            self.begins[n] = at
            if p[head + n] > WIDEST:
                raise ValueError(f"run {n} is of width {p[head + n]}")
            if p[head + n]:
                at += rows << (p[head + n] - 1)
        if at != size:
            raise ValueError(f"sizes do not agree: {at} bytes and {size}")
        self.body, self.bytes_of, self.head, self.rows, self.count = body, p, head, rows, count

    def __dealloc__(self):
        free(self.begins)

    def get(self, Py_ssize_t number, bint differences=False):
        cdef int64_t[::1] to
        cdef int code
        if not 0 <= number < self.count:
            raise IndexError(f"run {number} of {self.count}")
        out = ZERO * self.rows
        code = self.bytes_of[self.head + number]
        if code and self.rows:
            to = out
            _read(&self.bytes_of[self.begins[number]], self.rows, code, differences, &to[0])
        return out


cdef void _restore(const int64_t *known, int64_t *amount, int64_t *first, int64_t *last, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint is_counter = False, begun = False
    cdef int64_t level = 0, growth = 0
    for i in range(n):
        if amount[i]:
            is_counter = True
            break
    for i in range(n):
        if not known[i]:
            last[i] = 0
            continue
        first[i] = _plus(first[i], level if begun else last[i])
        if not begun:
            level, begun = first[i], True
        if is_counter:
            amount[i] >>= 1
            if not sub_overflows(last[i], level, &growth) and -FAR_COUNTS < growth < FAR_COUNTS:
                amount[i] = _plus(amount[i], PARTS * growth)
        level = last[i]


def restore(
    const int64_t[::1] known not None, int64_t[::1] amount not None, int64_t[::1] first not None,
    int64_t[::1] last not None,
):  # fmt: skip
    cdef Py_ssize_t n = known.shape[0]
    if amount.shape[0] != n or first.shape[0] != n or last.shape[0] != n:
        raise ValueError(f"want {n} rows each; got {amount.shape[0]}, {first.shape[0]}, {last.shape[0]}")
    if n:
        _restore(&known[0], &amount[0], &first[0], &last[0], n)


def restore_window(int64_t[::1] kept not None, const int64_t[::1] amount not None):
    cdef Py_ssize_t i, n = kept.shape[0]
    if amount.shape[0] != n:
        raise ValueError(f"want {n} rows; got {amount.shape[0]}")
    for i in range(n):
        if kept[i]:
            kept[i] = _plus(kept[i] >> 1, amount[i])


cdef struct Stretch:
    i128 amount
    i128 flawed
    i128 covered
    int64_t flags
    bint seen


cdef object _wide(i128 value):
    """Convert a 128-bit integer to a Python int."""
    cdef u128 bits = <u128>value
    cdef int64_t low = <int64_t>value
    if <i128>low == value:
        return low
    return (<object><int64_t>(<uint64_t>(bits >> 64)) << 64) | <object><uint64_t>bits


cdef Py_ssize_t _add(
    Stretch *sums, const int32_t *rows, const int32_t *places, Py_ssize_t n, const int64_t *known,
    const int64_t *amount, const int64_t *length, const int64_t *lack, int64_t also, int64_t flaw,
) noexcept nogil:  # fmt: skip
    cdef Py_ssize_t i, taken = 0
    cdef int64_t flags
    cdef int32_t row
    cdef Stretch *to
    for i in range(n):
        row = rows[i]
        if not known[row]:
            continue
        to = &sums[places[i] if places != NULL else 0]
        flags = _plus(known[row], -1) | also
        to.amount += amount[row]
        if flags & flaw:
            to.flawed += amount[row]
        to.covered += <i128>length[row] - <i128>lack[row]
        to.flags |= flags
        to.seen = True
        taken += 1
    return taken


cdef class Sums:
    cdef Stretch *sums
    cdef Py_ssize_t count
    cdef int64_t flaw

    def __cinit__(self):
        self.sums = NULL

    def __init__(self, Py_ssize_t count, int64_t flaw):
        if not 0 < count <= 1 << 32:
            raise ValueError(f"so many stretches: {count}")
        free(self.sums)
        self.count, self.flaw = 0, flaw
        self.sums = <Stretch *>calloc(count, sizeof(Stretch))
        if self.sums == NULL:
            raise MemoryError
        self.count = count

    def __dealloc__(self):
        free(self.sums)

    def add(
        self, const int32_t[::1] rows not None, const int32_t[::1] places, const int64_t[::1] known not None,
        const int64_t[::1] amount not None, const int64_t[::1] length not None, const int64_t[::1] lack not None,
        int64_t also=0,
    ):  # fmt: skip
        cdef Py_ssize_t i, n = rows.shape[0], size = known.shape[0]
        if amount.shape[0] != size or length.shape[0] != size or lack.shape[0] != size:
            raise ValueError(f"want {size} rows each; got {amount.shape[0]}, {length.shape[0]}, {lack.shape[0]}")
        if places is not None and places.shape[0] != n:
            raise ValueError(f"{n} rows have {places.shape[0]} places")
        for i in range(n):
            if not 0 <= rows[i] < size:
                raise IndexError(f"row {rows[i]} of {size}")
            if places is not None and not 0 <= places[i] < self.count:
                raise IndexError(f"stretch {places[i]} of {self.count}")
        if not n or not self.count:
            return 0
        return _add(
            self.sums, &rows[0], &places[0] if places is not None else NULL, n, &known[0], &amount[0], &length[0],
            &lack[0], also, self.flaw,
        )  # fmt: skip

    def get(self, Py_ssize_t at=0):
        cdef Stretch *found
        if not 0 <= at < self.count:
            raise IndexError(f"stretch {at} of {self.count}")
        found = &self.sums[at]
        if not found.seen:
            return None
        return _wide(found.amount), _wide(found.flawed), _wide(found.covered), found.flags
