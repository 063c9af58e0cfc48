# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The records of a pack against the pieces of one before it: where all but the numbers is the same, nothing is parsed."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

cdef extern from "Python.h":
    ctypedef struct PyObject
    PyObject *item "PyTuple_GET_ITEM" (tuple pieces, Py_ssize_t n)  # borrowed: nothing is counted a piece
    const char *text "PyBytes_AS_STRING" (PyObject *piece)
    Py_ssize_t size "PyBytes_GET_SIZE" (PyObject *piece)
    bint is_bytes "PyBytes_CheckExact" (PyObject *piece)

cdef const char *BETWEEN = b'},{"n":"'
cdef Py_ssize_t WIDE = 8  # bytes of BETWEEN
cdef Py_ssize_t SAFE_DIGITS = 15  # before the point: less than 2^53


cdef inline Py_ssize_t digits(const char **p, const char *end) noexcept nogil:
    cdef const char *start = p[0]
    while p[0] < end and c'0' <= p[0][0] <= c'9':
        p[0] += 1
    return p[0] - start


cdef const char *number(const char *p, const char *end) noexcept nogil:
    """The end of a JSON number below 10^15; NULL where none stands there, or one that must be looked at closer."""
    cdef Py_ssize_t whole
    cdef bint leading
    if p < end and p[0] == c'-':
        p += 1
    leading = p < end and p[0] == c'0'
    whole = digits(&p, end)
    if not 0 < whole <= (1 if leading else SAFE_DIGITS):
        return NULL
    if p < end and p[0] == c'.':
        p += 1
        if not digits(&p, end):
            return NULL
    if p < end and (p[0] == c'e' or p[0] == c'E'):
        p += 1
        if p == end or p[0] != c'-':  # a small one; what is large is not usual
            return NULL
        p += 1
        if not digits(&p, end):
            return NULL
    return p


cdef const char *border(const char *p, const char *end) noexcept nogil:
    """The next BETWEEN, or ``end``."""
    while p < end:
        p = <const char *>memchr(p, c'}', end - p)
        if p == NULL or end - p < WIDE:
            return end
        if memcmp(p, BETWEEN, WIDE) == 0:
            return p
        p += 1
    return end


def fit(bytes raw not None, Py_ssize_t start, Py_ssize_t end, tuple pieces not None, tuple odd not None) -> list | None:
    cdef const char *p = PyBytes_AS_STRING(raw)
    cdef const char *stop
    cdef const char *found
    cdef Py_ssize_t plain = 0, count = len(pieces), n = 0, turn = 0, wide
    cdef Py_ssize_t next_odd = odd[0] if odd else -1
    cdef list records = []
    if not 0 <= start <= end <= PyBytes_GET_SIZE(raw):
        raise IndexError(f"[{start}, {end}) of {PyBytes_GET_SIZE(raw)} bytes")
    stop = p + end
    p += start
    while True:
        if n == next_odd:
            found = border(p, stop)
            records.append(PyBytes_FromStringAndSize(<char *>p, found - p))
            turn += 1
            next_odd = odd[turn] if turn < len(odd) else -1
        else:
            if plain == count:
                return None
            if not is_bytes(item(pieces, plain)):
                raise TypeError(f"piece {plain} is no bytes")
            wide = size(item(pieces, plain))
            if stop - p < wide or memcmp(p, text(item(pieces, plain)), wide) != 0:
                return None
            plain += 1
            found = number(p + wide, stop)
            if found == NULL:
                return None
        n += 1
        if found == stop:
            return records if plain == count and turn == len(odd) else None
        if stop - found < WIDE or memcmp(found, BETWEEN, WIDE) != 0:
            return None
        p = found + WIDE
