# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Divides counters and gauges into intervals. The ``def`` functions check arguments; the code that they call is C."""
from array import array

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from ext.interval cimport (
    CHUNK, COUNTER, GAUGE, MAX_WINDOW, PAST, UNUSED, Cell, Done, Found, Mark, Past, Times, TrackedSlot, advance, begin,
    cut_off, find, i128, is_plain, scaled, step_clock, u128,
)
from ext.ring cimport FIRST_REASON, HEAD_SLOTS, KIND_ANSWER, RecordHeader, Ring, get, intact, plausible
from ext.ring cimport Slot as Value

MAX_SLOTS = 65_535
STATE_VERSION = 2
SLOT_BYTES = sizeof(TrackedSlot) + sizeof(Past)
cdef int64_t MAX_VALUE = 9_000_000_000_000_000  # up to this value, no product exceeds 128 bits


cdef object _wide(i128 value):
    """Convert a 128-bit integer to a Python int."""
    cdef u128 bits = <u128>value
    return (<object><int64_t>(<uint64_t>(bits >> 64)) << 64) | <object><uint64_t>bits


cdef object _mark(const Mark *m):
    return (m.seq, m.time, m.value) if m.time else None


cdef object _shown(int slot, int64_t start, int64_t end, const Cell *c):
    """Convert a cell to the form that ``CounterKernel.take`` returns."""
    return (
        slot, start, end, c.flags, c.amount, c.covered, c.spread, c.readings, _mark(&c.first), _mark(&c.last),
        c.low if c.seen else None, c.high if c.seen else None, _wide(c.pos), _wide(c.neg),
        _wide(c.demand) if c.windows else None, _wide(c.fixed) if c.fixed_windows else None,
    )  # fmt: skip


cdef class CounterKernel:
    cdef TrackedSlot *slots
    cdef int count
    cdef Times times
    cdef Done *done
    cdef int32_t dones, room

    def __cinit__(self, int count):
        if not 0 <= count <= MAX_SLOTS:
            raise ValueError(f"a tally has 0 to {MAX_SLOTS} slots, got {count}")
        self.slots = <TrackedSlot *>calloc(count + 1, sizeof(TrackedSlot))
        if self.slots == NULL:
            raise MemoryError
        self.count = count

    def __dealloc__(self):
        cdef int i
        if self.slots != NULL:
            for i in range(self.count):
                free(self.slots[i].past)
                free(self.slots[i].position)
        free(self.slots)
        free(self.times.bounds)
        free(self.done)

    cdef TrackedSlot *slot(self, int number) except NULL:
        if not 0 <= number < self.count:
            raise IndexError(f"slot {number} of {self.count}")
        return &self.slots[number]

    cdef bint inside(self, int64_t time_ms) noexcept nogil:
        return self.times.count > 1 and self.times.bounds[0] <= time_ms < self.times.bounds[self.times.count - 1]

    cdef int reserve(self, const TrackedSlot *s, int64_t to_ms) except -1:
        """Reserve space for all cells that a step of a slot to ``to_ms`` may close."""
        cdef Done *more
        cdef int32_t need = self.dones + 2
        if s.has and to_ms >= s.end:
            need += find(&self.times, to_ms) - s.at
        if need > self.room:
            more = <Done *>realloc(self.done, (need + CHUNK) * sizeof(Done))
            if more == NULL:
                raise MemoryError
            self.done, self.room = more, need + CHUNK
        return 0

    def configure(
        self, int number, int kind, int64_t resolution=1, int64_t modulus=0, int64_t max_gap_ms=300_000,
        int64_t period_ms=0, int64_t slip_ms=0,
    ):  # fmt: skip
        cdef TrackedSlot *s = self.slot(number)
        if kind not in (UNUSED, COUNTER, GAUGE):
            raise ValueError(f"kind is 0, 1 or 2, got {kind}")
        if not 0 < resolution <= MAX_VALUE or modulus < 0 or not 0 < max_gap_ms <= 86_400_000:
            raise ValueError(f"resolution {resolution}, modulus {modulus}, max_gap_ms {max_gap_ms}: out of bounds")
        if period_ms and (slip_ms <= 0 or period_ms % slip_ms or not 0 < period_ms // slip_ms < MAX_WINDOW):
            raise ValueError(f"a window of {period_ms} ms cannot slip by {slip_ms} ms: 1 to {MAX_WINDOW - 1} steps")
        free(s.past)
        free(s.position)
        memset(s, 0, sizeof(TrackedSlot))
        if kind == COUNTER:
            s.past = <Past *>calloc(1, sizeof(Past))
        if period_ms:
            s.position = <i128 *>calloc(period_ms // slip_ms + 1, sizeof(i128))
        if (kind == COUNTER and s.past == NULL) or (period_ms and s.position == NULL):
            raise MemoryError
        s.kind, s.resolution, s.modulus, s.max_gap = kind, resolution, modulus, max_gap_ms
        s.period, s.slip = period_ms, slip_ms if period_ms else 0

    def bounds(self, const int64_t[::1] bounds not None, int64_t offset_ms=0, int64_t change_ms=0, later_ms=None):
        cdef Py_ssize_t n = bounds.shape[0], i
        cdef int64_t *copy
        cdef Times fresh
        if not 2 <= n <= 1 << 24:
            raise ValueError(f"boundaries are two to 2**24, got {n}")
        for i in range(1, n):
            if bounds[i] <= bounds[i - 1]:
                raise ValueError(f"boundaries must grow, at {i}")
        fresh.bounds, fresh.count = <int64_t *>&bounds[0], <int32_t>n
        for i in range(self.count):
            if self.slots[i].has:
                at = self.slots[i].start
                if not bounds[0] <= at < bounds[n - 1] or bounds[find(&fresh, at)] != at:
                    raise ValueError(f"slot {i} stands at {at}, which is none of these boundaries")
        copy = <int64_t *>realloc(self.times.bounds, n * sizeof(int64_t))
        if copy == NULL:
            raise MemoryError
        memcpy(copy, &bounds[0], n * sizeof(int64_t))
        self.times.bounds, self.times.count = copy, <int32_t>n
        self.times.offset, self.times.change = offset_ms, change_ms
        self.times.later = offset_ms if later_ms is None else later_ms
        for i in range(self.count):
            if self.slots[i].has:
                self.slots[i].at = find(&self.times, self.slots[i].start)

    def feed(
        self, const uint16_t[::1] numbers not None, const int64_t[::1] times_ms not None,
        const int64_t[::1] values not None, const uint32_t[::1] seqs not None, const uint32_t[::1] flags not None,
    ):  # fmt: skip
        cdef Py_ssize_t i, n = numbers.shape[0]
        cdef TrackedSlot *s
        cdef list odd = []
        if times_ms.shape[0] != n or values.shape[0] != n or seqs.shape[0] != n or flags.shape[0] != n:
            raise ValueError(f"want {n} times, values, packs and flags")
        for i in range(n):
            if numbers[i] >= self.count:
                raise IndexError(f"slot {numbers[i]} of {self.count}")
        for i in range(n):
            s = &self.slots[numbers[i]]
            if s.kind == UNUSED:
                continue
            if s.held or not self.inside(times_ms[i]) or not is_plain(s, times_ms[i], values[i], MAX_VALUE):
                s.held = s.kind == COUNTER
                odd.append(i)
                continue
            self.reserve(s, times_ms[i])
            if s.has:
                advance(
                    s, &self.times, numbers[i], times_ms[i], values[i], values[i] - s.level, seqs[i], flags[i], True,
                    self.done, &self.dones,
                )  # fmt: skip
            else:
                begin(s, &self.times, times_ms[i], values[i], seqs[i], flags[i])
        return odd

    def accept(
        self, int number, int64_t time_ms, int64_t value, int64_t growth, uint32_t seq, uint32_t flags=0,
        bint covered=True,
    ):  # fmt: skip
        cdef TrackedSlot *s = self.slot(number)
        if not self.inside(time_ms):
            raise ValueError(f"{time_ms} is outside of the boundaries")
        if not -1 <= growth <= MAX_VALUE or not -MAX_VALUE <= value <= MAX_VALUE:
            raise ValueError(f"value {value}, growth {growth}: out of bounds")
        self.reserve(s, time_ms)
        if s.has:
            advance(
                s, &self.times, number, time_ms, value, growth, seq, flags, covered, self.done, &self.dones
            )  # fmt: skip
        else:
            begin(s, &self.times, time_ms, value, seq, flags)

    def hold(self, int number, bint held):
        self.slot(number).held = held

    def carry(self, int number, uint32_t flags):
        self.slot(number).carry |= flags

    def level(self, int number):
        cdef TrackedSlot *s = self.slot(number)
        return (s.seq, s.time, s.level) if s.has else None

    def past(self, int number):
        cdef TrackedSlot *s = self.slot(number)
        return [(s.past.time[i], s.past.value[i]) for i in range(s.known)]

    def step(self, int64_t by_ms):
        cdef int i
        for i in range(self.count):
            if self.slots[i].has and not self.inside(self.slots[i].time + by_ms):
                raise ValueError(f"slot {i} would leave the boundaries")
        for i in range(self.count):
            self.reserve(&self.slots[i], self.slots[i].time)
            step_clock(&self.slots[i], &self.times, i, by_ms, self.done, &self.dones)

    def cut_off(self, int number):
        cdef TrackedSlot *s = self.slot(number)
        self.reserve(s, s.time)
        cut_off(s, number, self.done, &self.dones)

    def take(self):
        cdef int32_t i
        cdef list out = []
        for i in range(self.dones):
            out.append(_shown(self.done[i].slot, self.done[i].start, self.done[i].end, &self.done[i].cell))
        self.dones = 0
        if self.room > 8 * CHUNK:  # a step after a long silence needed much space, which is released here
            free(self.done)
            self.done, self.room = NULL, 0
        return out

    def open(self, int number):
        cdef TrackedSlot *s = self.slot(number)
        return _shown(number, s.start, s.end, &s.cell) if s.has else None

    def state(self, int number):
        cdef TrackedSlot was = self.slot(number)[0]
        past = PyBytes_FromStringAndSize(<char *>was.past, sizeof(Past)) if was.past != NULL else b""
        window = PyBytes_FromStringAndSize(<char *>was.position, was.run * sizeof(i128)) if was.run else b""
        was.past, was.position, was.at = NULL, NULL, 0  # these would make the bytes of equal states differ
        return PyBytes_FromStringAndSize(<char *>&was, sizeof(TrackedSlot)) + past + window

    def restore(self, int number, const uint8_t[::1] state not None):
        cdef TrackedSlot *s = self.slot(number)
        cdef TrackedSlot was
        cdef Py_ssize_t past_size = sizeof(Past) if s.past != NULL else 0
        if state.shape[0] < <Py_ssize_t>sizeof(TrackedSlot):
            raise ValueError(f"a state has {sizeof(TrackedSlot)} bytes or more, got {state.shape[0]}")
        memcpy(&was, &state[0], sizeof(TrackedSlot))
        same = was.kind == s.kind and was.resolution == s.resolution and was.modulus == s.modulus
        if not same or was.known > (PAST if past_size else 0):
            raise ValueError("the state of another slot")
        if not 0 <= was.run <= MAX_WINDOW:
            raise ValueError(f"the state has {was.run} positions of a window")
        if state.shape[0] != <Py_ssize_t>sizeof(TrackedSlot) + past_size + was.run * <Py_ssize_t>sizeof(i128):
            raise ValueError(f"a state of {state.shape[0]} bytes is not whole")
        if was.slip != s.slip or was.period != s.period:
            was.run, was.slip, was.period = 0, s.slip, s.period  # the slot has another window, or none: begin anew
            was.cell.windows, was.cell.fixed_windows, was.cell.demand, was.cell.fixed = 0, 0, 0, 0
        elif was.run > (s.period // s.slip + 1 if s.slip else 0):
            raise ValueError(f"the state has {was.run} positions of a window")
        was.max_gap, was.past, was.position = s.max_gap, s.past, s.position
        if was.has:
            if not self.inside(was.start) or not was.start <= was.time < was.end:
                raise ValueError(f"the state stands at {was.start}, outside of the boundaries")
            was.at = find(&self.times, was.start)
            if self.times.bounds[was.at] != was.start or self.times.bounds[was.at + 1] != was.end:
                raise ValueError(f"the state begins at {was.start}, not on a boundary")
        if past_size:
            memcpy(s.past, &state[sizeof(TrackedSlot)], past_size)
        if was.run:
            memcpy(s.position, &state[sizeof(TrackedSlot) + past_size], was.run * sizeof(i128))
        s[0] = was


def gather(
    Ring ring not None, const uint64_t[::1] positions not None, const int32_t[::1] slot_of not None,
    const int64_t[:, ::1] wanted not None, int64_t from_ms, int64_t to_ms,
):  # fmt: skip
    cdef Py_ssize_t i, lost = 0, n = 0, room = 0, begun
    cdef uint32_t k
    cdef int32_t number
    cdef uint64_t head_position
    cdef RecordHeader head
    cdef Value v
    cdef Found *found = NULL
    cdef Found *more
    cdef int64_t[::1] last = None
    ring.check_open()
    if wanted.shape[1] != 3:
        raise ValueError("want exponent, period and phase of each slot")
    for i in range(slot_of.shape[0]):
        if not -1 <= slot_of[i] < wanted.shape[0]:
            raise IndexError(f"point {i} goes to slot {slot_of[i]} of {wanted.shape[0]}")
    for i in range(wanted.shape[0]):
        if wanted[i, 1] < 0 or not -32 <= wanted[i, 0] <= 32:
            raise ValueError(f"slot {i}: exponent {wanted[i, 0]}, period {wanted[i, 1]}: out of bounds")
    last = array("q", [INT64_MIN]) * (wanted.shape[0] + 1)
    head_position = ring.head
    try:
        for i in range(positions.shape[0]):
            if positions[i] >= head_position:
                raise ValueError(f"position {positions[i]} is not committed: the ring's head is {head_position}")
            get(&ring.map, positions[i], &head, sizeof(RecordHeader))
            if not (intact(&ring.map, positions[i]) and plausible(&ring.map, positions[i], &head)):
                lost += 1
                continue
            if head.kind != KIND_ANSWER or not from_ms <= head.tick_ms < to_ms:
                continue
            if n + head.count > room:
                more = <Found *>realloc(found, (n + head.count + CHUNK) * sizeof(Found))
                if more == NULL:
                    raise MemoryError
                found, room = more, n + head.count + CHUNK
            begun = n
            for k in range(head.count):
                get(&ring.map, positions[i] + HEAD_SLOTS + k, &v, sizeof(Value))
                number = slot_of[v.point] if v.point < slot_of.shape[0] else -1
                if number < 0 or v.quality >= FIRST_REASON or last[number] == head.tick_ms:
                    continue
                last[number] = head.tick_ms
                if wanted[number, 1] and (head.tick_ms - wanted[number, 2]) % wanted[number, 1]:
                    continue  # the point is not due at this tick, so packs leave the value out too
                found[n].time, found[n].slot, found[n].quality = head.time_ns // 1_000_000, number, v.quality
                found[n].value = scaled(&v, <int>wanted[number, 0])
                n += 1
            if not intact(&ring.map, positions[i]):
                n = begun
                lost += 1
        return (
            array("H", [found[i].slot for i in range(n)]), array("q", [found[i].time for i in range(n)]),
            array("q", [found[i].value for i in range(n)]), bytes([found[i].quality for i in range(n)]), lost,
        )  # fmt: skip
    finally:
        free(found)
