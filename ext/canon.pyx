# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# distutils: language = c++
"""Writes ring slices as canonical SenML JSON, and counts due readings by result. ``dumps`` writes any JSON value.

``split_pack`` separates the random values of a pack from the rest, for compression.
"""
from typing import NamedTuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.math cimport INFINITY
from libc.stdint cimport INT64_MIN, int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from ext.decimal cimport isfinite
from ext.jcs cimport NUMBER_ROOM, Out, put, put_string, reserve, write_double
from ext.ring cimport FIRST_REASON, Ring, Slot
from ext.senml cimport (
    COUNTER, LAST_KIND, MAX_PACES, Job, OutputRow, Pace, Place, Points, State, above, forget, look, walk,
)  # fmt: skip

cdef size_t MAX_GRID = 64 << 20  # due readings of a slice, one byte for each: enough for a day of 700 points at 1 s
cdef uint64_t BIGGEST = (<uint64_t>1 << 53) - 1  # a double holds all integers up to this one exactly
cdef int MAX_DEPTH = 64
cdef enum:
    HASH_CHARS = 43  # characters of a hash (32 bytes) in base64url
    SIGNATURE_CHARS = 86  # and of a signature (64 bytes)
    BIRTH_END = 10 + HASH_CHARS  # end of the member "birth" at the beginning of a pack
cdef int8_t[256] SEXTETS  # character of base64url -> its six bits; -1: another character
memset(SEXTETS, -1, sizeof(SEXTETS))
for _n, _char in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"):
    SEXTETS[ord(_char)] = _n


class RawJson(bytes):
    """Canonical JSON that is already written; ``dumps`` inserts it unchanged."""


class Slice(NamedTuple):
    e: bytes
    records: int
    reached_ms: int
    complete: bool
    due: int
    grid: bytes
    used: int
    lost: int
    tally: dict[int, int]


cdef class PointLayout:
    cdef Points points
    cdef bytes texts
    cdef bint busy

    def __cinit__(self):
        memset(&self.points, 0, sizeof(Points))

    def __init__(self, points, periods_ms, int64_t phase_ms=0):
        cdef Points *table = &self.points
        cdef OutputRow *row
        cdef list texts = []
        cdef uint32_t at = 0
        if table.rows != NULL:
            raise RuntimeError("a layout is made once")
        if len(points) > 65535 or not 0 < len(periods_ms) <= MAX_PACES:
            raise ValueError(f"a table has up to 65535 points and 1 to {MAX_PACES} paces")
        table.paces = <int>len(periods_ms)
        table.phase = phase_ms
        for i, period in enumerate(periods_ms):
            if period < 0:
                raise ValueError(f"pace {i}: a period is 0 or more milliseconds, got {period}")
            table.periods[i] = period
        table.rows = <OutputRow *>calloc(len(points) + 1, sizeof(OutputRow))
        table.touched = <int32_t *>malloc((len(points) + 1) * sizeof(int32_t))
        if table.rows == NULL or table.touched == NULL:
            raise MemoryError
        for name, label, unit, kind, pace in points:
            if label not in ("u", "du", ""):
                raise ValueError(f"{name}: a unit goes under u, du or not at all, got {label!r}")
            if not 0 <= kind <= LAST_KIND or not 0 <= pace < table.paces:
                limits = f"kind 0 to {LAST_KIND} and pace 0 to {table.paces - 1}"
                raise ValueError(f"{name}: want {limits}, got {kind} and {pace}")
            row = &table.rows[table.count]
            front = b'"du":' + quote(unit) + b"," if label == "du" else b""
            start = front + b'"n":' + quote(name)
            middle = b',"u":' + quote(unit) if label == "u" else b""
            row.kind, row.pace, row.text, row.state = kind, pace, at, -1
            if kind > COUNTER:
                row.state = table.state_count
                table.state_count += 1
            row.unit_size = len(front)
            row.name_size, row.value_size, row.string_size = len(start), len(middle) + 5, len(middle) + 6
            texts += [start, middle, b',"v":', middle, b',"vs":']
            at += row.name_size + row.value_size + row.string_size
            table.count += 1
        self.texts = b"".join(texts)
        table.texts = self.texts

    def __dealloc__(self):
        free(self.points.rows)
        free(self.points.touched)


cdef class Table:
    cdef Points points
    cdef PointLayout layout
    cdef bytes base

    def __cinit__(self):
        memset(&self.points, 0, sizeof(Points))

    def __init__(self, str base_name, PointLayout layout not None):
        if self.layout is not None:
            raise RuntimeError("a table is made once")
        self.layout, self.base = layout, b'"bn":' + quote(base_name) + b","
        self.points = layout.points
        self.points.base, self.points.base_size = self.base, len(self.base)
        self.points.states = <State *>calloc(self.points.state_count + 1, sizeof(State))
        if self.points.states == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.points.states != NULL:
            self._forget()
        free(self.points.states)

    cdef void _forget(self) noexcept:
        cdef int32_t i
        for i in range(self.points.state_count):
            forget(&self.points.states[i].sent)
            forget(&self.points.states[i].now)

    def reset(self):
        """Let the next slice contain all states and texts again."""
        if self.layout.busy:
            raise RuntimeError("the table is being sealed")
        self._forget()


cdef Place *_places(Ring ring, const uint64_t[::1] positions) except NULL:
    """Copy the positions, so that the caller may append to its own list while the GIL is released."""
    cdef Py_ssize_t i, n = positions.shape[0]
    cdef uint64_t head = ring.head
    cdef Place *places = <Place *>calloc(n + 1, sizeof(Place))
    if places == NULL:
        raise MemoryError
    for i in range(n):
        places[i].position = positions[i]
        if positions[i] >= head:
            free(places)
            raise ValueError(f"position {positions[i]} is not committed: the ring's head is {head}")
    return places


cdef int _prepare(Job *job, Points *table, Place *places, Py_ssize_t n) except -1:
    """Compute the due ticks of each pace, and allocate the grid and the buffers that ``walk`` needs."""
    cdef int k
    cdef int32_t i
    cdef Py_ssize_t p
    cdef uint64_t slots = 0, most = 0
    cdef Pace *pace
    for k in range(table.paces):
        pace = &job.pace[k]
        pace.period = table.periods[k]
        if pace.period:
            pace.first = above(job.from_ms - table.phase, pace.period)
            pace.count = above(job.to_ms - table.phase, pace.period) - pace.first
    for i in range(table.count):
        table.rows[i].last_tick = INT64_MIN
        table.rows[i].grid = job.grid_size
        if job.low <= i < job.high and table.rows[i].kind <= COUNTER:
            job.grid_size += job.pace[table.rows[i].pace].count
            if job.grid_size > MAX_GRID:
                raise ValueError(f"too many due readings from {job.from_ms} to {job.to_ms} ms; seal shorter stretches")
    for p in range(n):
        slots += places[p].slots
        most = max(most, places[p].slots)
    job.grid = <uint8_t *>calloc(job.grid_size + 1, 1)
    job.body = <Slot *>malloc((most + 1) * sizeof(Slot))
    job.out.room = slots * 56 + 256
    if job.max_bytes:
        job.out.room = min(job.out.room, job.max_bytes + 4096)
    job.out.text = <char *>malloc(job.out.room)
    if job.grid == NULL or job.body == NULL or job.out.text == NULL:
        raise MemoryError
    return 0


cdef object _account(Job *job, const Points *table, Place *places, Py_ssize_t n):
    """Return the Slice of the records that ``walk`` has processed."""
    cdef int64_t count[MAX_PACES]
    cdef int64_t cell[256]  # by byte: number of grid cells with this byte
    cdef int64_t due = 0, got = 0, j
    cdef int32_t i
    cdef Py_ssize_t used = 0, lost = 0
    cdef const OutputRow *row
    cdef const uint8_t *cells
    cdef char *to
    cdef bytes grid = b""
    cdef dict tally = {}
    memset(cell, 0, sizeof(cell))
    for k in range(table.paces):
        count[k] = 0
        if job.pace[k].period:
            count[k] = above(job.reached - table.phase, job.pace[k].period) - job.pace[k].first
    for i in range(job.low, job.high):
        row = &table.rows[i]
        if row.kind <= COUNTER:
            due += count[row.pace]
            cells = job.grid + row.grid
            for j in range(count[row.pace]):
                cell[cells[j]] += 1
    for i in range(256):
        if cell[i]:
            tally[i - 1 if i < FIRST_REASON else i] = cell[i]
            got += cell[i] if 0 < i < FIRST_REASON else 0
    if got != due:
        grid = PyBytes_FromStringAndSize(NULL, due)
        to = grid
        for i in range(job.low, job.high):
            row = &table.rows[i]
            if row.kind <= COUNTER:
                cells = job.grid + row.grid
                for j in range(count[row.pace]):
                    to[j] = 1 if 0 < cells[j] < FIRST_REASON else cells[j]
                to += count[row.pace]
    while used < n and (places[used].lost or places[used].head.tick_ms < job.reached):
        lost += places[used].lost
        used += 1
    e = PyBytes_FromStringAndSize(job.out.text, job.out.size)
    return Slice(e, job.records, job.reached, got == due, due, grid, used, lost, tally)


def seal(
    Ring ring not None, positions, Table table not None, int64_t from_ms, int64_t to_ms, Py_ssize_t max_bytes=0,
    points=None,
):  # fmt: skip
    cdef Job job
    cdef Place *places
    cdef Py_ssize_t n
    if to_ms < from_ms:
        raise ValueError(f"a slice ends after it begins; got {from_ms} to {to_ms} ms")
    if max_bytes < 0:
        raise ValueError(f"max_bytes is 0 or more, got {max_bytes}")
    ring.check_open()
    if table.layout is None:
        raise ValueError("the table has no layout")
    if table.layout.busy:
        raise RuntimeError("the table is being sealed")
    memset(&job, 0, sizeof(job))
    job.from_ms, job.to_ms, job.reached, job.max_bytes = from_ms, to_ms, to_ms, max_bytes
    low, high = (0, table.points.count) if points is None else points
    if not 0 <= low <= high:
        raise ValueError(f"points are from low to high, got {low} to {high}")
    job.low, job.high = min(low, table.points.count), min(high, table.points.count)
    places = _places(ring, positions)
    n = len(positions)
    table.layout.busy = True
    ring.pins += 1
    try:
        look(&ring.map, &job, places, n)
        _prepare(&job, &table.points, places, n)
        if n > 4:  # with fewer records, it takes longer to get the GIL back than to process them
            with nogil:
                walk(&ring.map, &job, &table.points, places, n)
        else:
            walk(&ring.map, &job, &table.points, places, n)
        if job.out.failed:
            raise MemoryError
        return _account(&job, &table.points, places, n)
    finally:
        table.layout.busy = False
        ring.unpin()
        free(places)
        free(job.grid)
        free(job.body)
        free(job.out.text)


def number(mantissa, exponent):
    cdef char text[NUMBER_ROOM]
    v = float(f"{mantissa}e{exponent}")
    if v in (INFINITY, -INFINITY):
        raise ValueError(f"{mantissa}e{exponent} is beyond every double")
    return PyBytes_FromStringAndSize(text, write_double(text, v))


def quote(str text):
    cdef Out out
    cdef bytes raw = _utf8(text)
    memset(&out, 0, sizeof(out))
    try:
        put_string(&out, <const uint8_t *>(<const char *>raw), len(raw))
        if out.failed:
            raise MemoryError
        return PyBytes_FromStringAndSize(out.text, out.size)
    finally:
        free(out.text)


def dumps(value):
    cdef Out out
    memset(&out, 0, sizeof(out))
    try:
        _dump(&out, value, 0)
        if out.failed:
            raise MemoryError
        return PyBytes_FromStringAndSize(out.text, out.size)
    finally:
        free(out.text)


cdef bytes _utf8(str text):
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a lone surrogate at {error.start} of {text!a}") from None


cdef int _dump(Out *out, value, int depth) except -1:
    cdef bytes raw
    if value is None:
        put(out, b"null", 4)
    elif value is True:
        put(out, b"true", 4)
    elif value is False:
        put(out, b"false", 5)
    elif isinstance(value, str):
        raw = _utf8(str(value) if type(value) is str else str.__str__(value))
        put_string(out, <const uint8_t *>(<const char *>raw), len(raw))
    elif isinstance(value, int):
        if not -9007199254740991 <= value <= 9007199254740991:
            raise ValueError(f"integer {value} is beyond 2**53")
        raw = int.__repr__(value).encode()
        put(out, raw, len(raw))
    elif isinstance(value, float):
        if not isfinite(value):
            raise ValueError(f"{value} is not a JSON number")
        if reserve(out, NUMBER_ROOM):
            out.size += write_double(out.text + out.size, value)
    elif isinstance(value, RawJson):
        raw = bytes(value)
        put(out, raw, len(raw))
    elif depth >= MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    elif isinstance(value, dict):
        put(out, b"{", 1)
        for i, key in enumerate(_sorted(value)):
            if i:
                put(out, b",", 1)
            _dump(out, key, depth)
            put(out, b":", 1)
            _dump(out, value[key], depth + 1)
        put(out, b"}", 1)
    elif isinstance(value, (list, tuple)):
        put(out, b"[", 1)
        for i, item in enumerate(value):
            if i:
                put(out, b",", 1)
            _dump(out, item, depth + 1)
        put(out, b"]", 1)
    else:
        raise ValueError(f"{type(value).__name__} is not a JSON value")
    return 0


cdef list _sorted(dict value):
    """Return the keys in order of UTF-16 code units, as RFC 8785 requires. For ASCII, this is the usual order."""
    for key in value:
        if not isinstance(key, str):
            raise ValueError(f"a key must be a str, got {key!r}")
    if all([key.isascii() for key in value]):
        return sorted(value)
    return sorted(value, key=_utf16)


def _utf16(key):
    return key.encode("utf-16-be", "surrogatepass")


cdef bint _decode(const char *text, Py_ssize_t chars, uint8_t *raw) noexcept nogil:
    """Decode base64url. Returns False if the text is not the one that encoding the bytes would give."""
    cdef uint32_t bits = 0
    cdef int held = 0
    cdef int8_t six
    cdef Py_ssize_t n
    for n in range(chars):
        six = SEXTETS[<uint8_t>text[n]]
        if six < 0:
            return False
        bits = bits << 6 | <uint32_t>six
        held += 6
        if held >= 8:
            held -= 8
            raw[0] = <uint8_t>(bits >> held)
            raw += 1
    return bits & ((1 << held) - 1) == 0


cdef Py_ssize_t _after_last(const char *text, Py_ssize_t size, const char *wanted, Py_ssize_t length) noexcept nogil:
    """Return the position after the last ``wanted`` in a text; -1 if the text does not contain it."""
    cdef Py_ssize_t at = size - length
    while at >= 0:
        if memcmp(text + at, wanted, length) == 0:
            return at + length
        at -= 1
    return -1


def split_pack(bytes data, bytes birth):
    cdef const char *text = data
    cdef Py_ssize_t size = len(data), start = 0
    cdef Py_ssize_t prev = _after_last(text, size, b'"prev":"', 8), sig = _after_last(text, size, b"..", 2)
    cdef uint8_t raw_sig[64]
    cdef uint8_t raw_prev[32]
    cdef uint8_t raw_birth[32]
    cdef bytes rest
    cdef char *out
    if prev < 0 or prev + HASH_CHARS >= sig or sig + SIGNATURE_CHARS > size:
        return None
    if not _decode(text + prev, HASH_CHARS, raw_prev) or not _decode(text + sig, SIGNATURE_CHARS, raw_sig):
        return None
    if birth is not None and len(birth) == 32 and prev > BIRTH_END and memcmp(text, b'{"birth":"', 10) == 0:
        if _decode(text + 10, HASH_CHARS, raw_birth) and memcmp(raw_birth, <const char *>birth, 32) == 0:
            start = BIRTH_END
    rest = PyBytes_FromStringAndSize(NULL, size - start - HASH_CHARS - SIGNATURE_CHARS)
    out = rest
    memcpy(out, text + start, prev - start)
    memcpy(out + prev - start, text + prev + HASH_CHARS, sig - prev - HASH_CHARS)
    memcpy(out + sig - start - HASH_CHARS, text + sig + SIGNATURE_CHARS, size - sig - SIGNATURE_CHARS)
    # a reader that restores the pack searches the two places in the same way
    if _after_last(out, len(rest), b'"prev":"', 8) != prev - start:
        return None
    if _after_last(out, len(rest), b"..", 2) != sig - start - HASH_CHARS:
        return None
    return start > 0, raw_sig[:64], raw_prev[:32], rest
