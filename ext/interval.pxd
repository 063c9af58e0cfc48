# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# Divides the readings of one counter or gauge into intervals. All amounts are in whole thousandths of a count.
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memmove, memset

from ext.ring cimport FLAG_UNSIGNED
from ext.ring cimport Slot as Value

cdef extern from *:
    """
    #ifndef __SIZEOF_INT128__
    #error "exact amounts need 128-bit integers: build for a 64-bit processor"
    #endif
    typedef __int128 mh_wide;
    typedef unsigned __int128 mh_uwide;
    """
    ctypedef long long i128 "mh_wide"  # this is a 128-bit integer in C, but Cython only needs to know an integer type
    ctypedef unsigned long long u128 "mh_uwide"

cdef enum:
    UNUSED = 0
    COUNTER = 1
    GAUGE = 2
    SPREAD = 1  # SPREAD to CLOCK are values of agent.intervals.Flag
    ESTIMATED = 2
    SUSPECT = 8
    BACK_STEP = 256
    CLOCK = 1024
    PARTS = 1000  # an amount is in thousandths of a count
    FEW = 10  # a growth of at most this many counts, or of at most this many times the usual growth, is plain
    PAST = 8  # number of levels that are remembered to judge the next one
    MAX_WINDOW = 61  # the largest number of positions of a sliding window
    CHUNK = 64  # arrays grow by at least this many items

cdef struct Mark:  # one reading; time 0: there is none
    int64_t time
    int64_t value
    uint32_t seq

cdef struct Cell:  # the values of one interval
    int64_t amount  # of a counter, in thousandths of a count
    int64_t covered  # ms of the interval that lie between two good readings of one counter or gauge
    int64_t spread  # part of these ms that lies in steps longer than max_gap
    int64_t readings
    int64_t low
    int64_t high
    i128 pos  # of a gauge: area above zero, in 1/2000 of value * ms
    i128 neg  # of a gauge: area below zero, in the same unit
    i128 demand  # highest growth in a sliding window, in the unit of amount (counter) or pos (gauge)
    i128 fixed  # highest growth in a window that begins at a fixed time, in the same unit
    Mark first
    Mark last
    uint32_t flags
    uint8_t seen  # 1: low and high are set
    uint8_t windows  # 1: demand is set
    uint8_t fixed_windows  # 1: fixed is set

cdef struct Past:
    int64_t time[PAST]
    int64_t value[PAST]

cdef struct TrackedSlot:
    # ``past`` is allocated only for counters, ``position`` only for windows, because a gateway has thousands of gauges
    # that need neither.
    Past *past
    i128 *position
    int64_t resolution
    int64_t modulus
    int64_t max_gap
    int64_t period  # length of the demand window; 0: there is no window
    int64_t slip
    # the current state: the last good reading, and the interval that contains it
    int64_t time
    int64_t level
    int64_t start
    int64_t end
    int32_t at
    uint32_t seq
    uint32_t carry  # flags for the next step
    uint8_t kind
    uint8_t has
    uint8_t held  # 1: ``feed`` returns the readings of this slot, so that the caller judges them
    uint8_t known  # number of levels in ``past``
    double pace  # usual growth in counts per ms; it only decides which readings are plain, and affects no amount
    Cell cell
    i128 total  # amount up to the last reading, from which window positions are computed
    int32_t run  # number of window positions reached without interruption

cdef struct Done:
    int32_t slot
    int64_t start
    int64_t end
    Cell cell

cdef struct Times:
    int64_t *bounds
    int32_t count
    # local time minus UTC, which determines where fixed windows begin: ``offset`` before ``change``, then ``later``
    int64_t offset
    int64_t change
    int64_t later

cdef inline int32_t find(const Times *t, int64_t at_ms) noexcept nogil:
    """Return the number of the interval that contains an instant. The instant must lie within the boundaries."""
    cdef int32_t low = 0, high = t.count - 1, middle
    while high - low > 1:
        middle = (low + high) >> 1
        if t.bounds[middle] <= at_ms:
            low = middle
        else:
            high = middle
    return low

cdef inline bint is_plain(const TrackedSlot *s, int64_t time_ms, int64_t value, int64_t most) noexcept nogil:
    """Return True if a reading is usual growth, or a fall of a few counts, so that nobody needs to judge it."""
    cdef int64_t rise
    if not -most <= value <= most:
        return False
    if s.kind == GAUGE:
        return not s.has or time_ms > s.time
    if value < 0 or not s.has or time_ms <= s.time:
        return False
    rise = value - s.level
    if rise <= FEW * s.resolution:
        return rise >= 0 or (value > 0 and rise >= -FEW * s.resolution)
    if s.modulus and rise > s.modulus >> 1:
        return False
    return s.known > 3 and <double>rise <= FEW * s.pace * <double>(time_ms - s.time)

cdef inline void remember(TrackedSlot *s, int64_t time_ms, int64_t value, bint anew) noexcept nogil:
    """Remember a level, to judge the next level by it. ``anew``: forget the previous levels."""
    cdef int i
    if s.past == NULL:
        return
    if anew:
        s.known = 0
    if s.known == PAST:
        for i in range(PAST - 1):
            s.past.time[i], s.past.value[i] = s.past.time[i + 1], s.past.value[i + 1]
        s.known = PAST - 1
    s.past.time[s.known], s.past.value[s.known] = time_ms, value
    s.known += 1

cdef inline void touch(TrackedSlot *s, int64_t time_ms, int64_t value, uint32_t seq) noexcept nogil:
    """Record a good reading within the open cell."""
    cdef Cell *c = &s.cell
    c.readings += 1
    c.last.time, c.last.value, c.last.seq = time_ms, value, seq
    if c.first.time == 0 or time_ms == s.start:
        c.first.time, c.first.value, c.first.seq = time_ms, value, seq
    if s.kind == GAUGE:
        if not c.seen or value < c.low:
            c.low = value
        if not c.seen or value > c.high:
            c.high = value
        c.seen = 1

cdef inline void begin(
    TrackedSlot *s, const Times *t, int64_t time_ms, int64_t value, uint32_t seq, uint32_t flags
) noexcept nogil:
    """Begin a slot with its very first reading."""
    s.at = find(t, time_ms)
    s.start, s.end = t.bounds[s.at], t.bounds[s.at + 1]
    memset(&s.cell, 0, sizeof(Cell))
    s.cell.flags = flags | s.carry
    s.carry = 0
    s.has, s.run, s.total = 1, 0, 0
    s.time, s.level, s.seq = time_ms, value, seq
    s.carry = flags & (SUSPECT | ESTIMATED)
    remember(s, time_ms, value, 1)
    touch(s, time_ms, value, seq)

cdef inline i128 part(const TrackedSlot *s, int64_t value, int64_t growth, int64_t dt, int64_t into) noexcept nogil:
    """Return the amount from the last reading up to ``into`` ms after it. The next reading is ``dt`` ms after the last.

    The amount is rounded down. The amount of an interval is the difference of two of these values, so the amounts of
    all intervals between the two readings add up exactly to the growth.
    """
    cdef i128 wide = growth
    if s.kind == COUNTER:
        return wide * PARTS * into / dt
    wide = value - s.level
    return <i128>s.level * 2000 * into + wide * PARTS * into * into / dt

cdef inline int64_t over(int64_t a, int64_t step) noexcept nogil:
    """Return the first multiple of ``step`` above ``a``."""
    cdef int64_t rest = a % step
    return a - rest + (step if rest >= 0 else 0)

cdef inline void slide(
    TrackedSlot *s, const Times *t, int64_t value, int64_t growth, int64_t dt, int64_t low, int64_t high
) noexcept nogil:
    """Process the window positions in ``(low, high]``, which is a part of the open cell."""
    cdef int32_t n = <int32_t>(s.period / s.slip) + 1
    cdef int64_t b = over(low, s.slip)
    cdef int64_t offset
    cdef i128 window
    while b <= high:
        if s.run == n:
            memmove(&s.position[0], &s.position[1], (n - 1) * sizeof(i128))
            s.run = n - 1
        s.position[s.run] = s.total + part(s, value, growth, dt, b - s.time)
        s.run += 1
        if s.run == n:
            window = s.position[n - 1] - s.position[0]
            if not s.cell.windows or window > s.cell.demand:
                s.cell.demand, s.cell.windows = window, 1
            offset = t.offset if b < t.change else t.later
            if (b + offset) % s.period == 0 and (not s.cell.fixed_windows or window > s.cell.fixed):
                s.cell.fixed, s.cell.fixed_windows = window, 1
        b += s.slip

cdef inline void close(TrackedSlot *s, int32_t number, Done *done, int32_t *dones) noexcept nogil:
    """Append the open cell to ``done``. No later reading can add to it."""
    cdef Done *d = &done[dones[0]]
    d.slot, d.start, d.end, d.cell = number, s.start, s.end, s.cell
    dones[0] += 1

cdef inline void add(TrackedSlot *s, i128 amount) noexcept nogil:
    if s.kind == COUNTER:
        s.cell.amount += <int64_t>amount
    elif amount > 0:
        s.cell.pos += amount
    else:
        s.cell.neg -= amount

cdef inline void move(
    TrackedSlot *s, const Times *t, int32_t number, int64_t to_ms, int64_t value, int64_t growth, uint32_t flags,
    bint covered, const Mark *now, Done *done, int32_t *dones,
) noexcept nogil:  # fmt: skip
    """Advance the slot to ``to_ms``, and close the cells that end on the way. ``now``: the reading at ``to_ms``."""
    cdef int64_t dt = to_ms - s.time, low = s.time, high
    cdef i128 whole = part(s, value, growth, dt, dt) if dt > 0 and covered else 0
    cdef i128 before = 0, so_far
    cdef bint long_step = dt > s.max_gap
    cdef Mark was = s.cell.last
    if dt <= 0:
        if s.kind == COUNTER and covered:
            s.cell.amount += growth * PARTS  # no time has passed, so all growth belongs to this cell
        s.cell.flags |= flags
        return
    if long_step and covered:
        flags |= SPREAD
    if s.slip and (long_step or not covered):
        s.run = 0
    while True:
        high = min(to_ms, s.end)
        s.cell.flags |= flags
        if covered:
            so_far = whole if high == to_ms else part(s, value, growth, dt, high - s.time)
            add(s, so_far - before)
            before = so_far
            s.cell.covered += high - low
            if long_step:
                s.cell.spread += high - low
            elif s.slip:
                slide(s, t, value, growth, dt, low, high)
        if to_ms < s.end:
            break
        s.cell.last = now[0]
        close(s, number, done, dones)
        s.at += 1
        s.start, s.end = t.bounds[s.at], t.bounds[s.at + 1]
        memset(&s.cell, 0, sizeof(Cell))
        s.cell.first = s.cell.last = was
        low = high
        if to_ms == high:
            break
    s.total += whole
    s.time = to_ms

cdef inline void advance(
    TrackedSlot *s, const Times *t, int32_t number, int64_t time_ms, int64_t value, int64_t growth, uint32_t seq,
    uint32_t flags, bint covered, Done *done, int32_t *dones,
) noexcept nogil:  # fmt: skip
    """Process the next good reading.

    Args:
        growth: of a counter. Below 0: the counter went back a little, and its level stays until a reading exceeds it.
        covered: False if nothing is known about the time between the two readings.
    """
    cdef int64_t dt = time_ms - s.time, zero
    cdef uint32_t own = flags & (SUSPECT | ESTIMATED)  # these flags also apply to the step after the reading
    cdef Mark now
    now.time, now.value, now.seq = time_ms, value, seq
    flags |= s.carry
    s.carry = 0
    if s.kind == GAUGE:
        covered = covered and dt <= s.max_gap
        if covered and dt > 0 and ((s.level < 0 < value) or (value < 0 < s.level)):
            # the gauge passes through zero: divide the step there, because areas above and below zero are separate sums
            zero = s.time + <int64_t>(<i128>dt * s.level / (<i128>s.level - value))
            if s.time < zero < time_ms:
                move(s, t, number, zero, 0, 0, flags, covered, &now, done, dones)
                s.level = 0
        move(s, t, number, time_ms, value, 0, flags, covered, &now, done, dones)
        s.level = value
    else:
        if growth < 0:
            flags |= BACK_STEP
            growth = 0
        elif value != s.level or not covered:
            if covered and dt > 0:
                s.pace += (<double>growth / <double>dt - s.pace) / (4 if s.known > 1 else 1)
                remember(s, time_ms, value, 0)
            else:
                remember(s, time_ms, value, 1)
            move(s, t, number, time_ms, value, growth, flags, covered, &now, done, dones)
            s.level = value
            s.carry = own
            s.seq = seq
            touch(s, time_ms, value, seq)
            return
        move(s, t, number, time_ms, s.level, growth, flags, covered, &now, done, dones)
    s.carry = own
    s.seq = seq
    touch(s, time_ms, value, seq)

cdef inline void step_clock(
    TrackedSlot *s, const Times *t, int32_t number, int64_t by_ms, Done *done, int32_t *dones
) noexcept nogil:
    """Apply a clock step. The time of the last reading changes with the clock, so that its age stays the same."""
    cdef Mark was
    cdef int i
    if not s.has:
        return
    s.run = 0
    s.time += by_ms
    for i in range(s.known):
        s.past.time[i] += by_ms
    s.cell.flags |= CLOCK
    if by_ms >= 0 and s.start <= s.time < s.end:
        return
    # The clock was set back, or far ahead. Close the cell, because readings of a repeated time must not be mixed with
    # earlier readings of this time.
    was = s.cell.last
    close(s, number, done, dones)
    s.at = find(t, s.time)
    s.start, s.end = t.bounds[s.at], t.bounds[s.at + 1]
    memset(&s.cell, 0, sizeof(Cell))
    s.cell.flags = CLOCK
    s.cell.first = s.cell.last = was

cdef inline void cut_off(TrackedSlot *s, int32_t number, Done *done, int32_t *dones) noexcept nogil:
    """End this counter. The next reading is then the first one of another counter."""
    if s.has:
        close(s, number, done, dones)
    s.has = s.held = s.known = 0
    s.carry, s.pace = 0, 0

cdef struct Found:  # a value read from the ring
    int64_t time
    int64_t value
    uint16_t slot
    uint8_t quality

cdef inline int64_t scaled(const Value *v, int exponent) noexcept nogil:
    """Return the value in units of ``10**exponent``, rounded half to even; INT64_MAX if it does not fit."""
    cdef i128 wide = <i128><uint64_t>v.mantissa if v.flags & FLAG_UNSIGNED else <i128>v.mantissa
    cdef i128 power = 1, half
    cdef int by = v.exponent - exponent
    if wide == 0:
        return 0
    if by > 18 or by < -37:
        return INT64_MAX if by > 0 else 0
    for _ in range(by if by > 0 else -by):
        power *= 10
    if by >= 0:
        wide *= power
    else:
        half = wide % power * 2
        wide /= power
        if half > power or (half == power and wide & 1):
            wide += 1
        elif half < -power or (half == -power and wide & 1):
            wide -= 1
    return <int64_t>wide if -INT64_MAX < wide < INT64_MAX else INT64_MAX
