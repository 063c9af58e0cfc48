# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# Writes the ring records of a slice as SenML into a buffer, and marks them in the grid of due readings.
# This is a part of canon, and no other module cimports it.
from libc.stdint cimport INT64_MIN, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from ext.jcs cimport NUMBER_ROOM, Out, put, put_string, reserve, write_decimal, write_number, write_seconds
from ext.ring cimport (
    FIRST_REASON, FLAG_TIME, FLAG_TIMED, FLAG_UNSIGNED, HEAD_SLOTS, KIND_ANSWER, KIND_GAP, KIND_TEXT, Map,
    RecordHeader, Slot, body_slots, get, intact, plausible,
)  # fmt: skip

cdef extern from *:
    """
    static const char *const mh_qualities[] = {"", "suspect", "range", "frozen", "clock", "estimated", "substituted"};
    static const unsigned char mh_quality_sizes[] = {0, 7, 5, 6, 5, 9, 11};
    """
    const char **QUALITY_TEXT "mh_qualities"
    const uint8_t *QUALITY_SIZE "mh_quality_sizes"

cdef enum:
    COUNTER = 1  # kinds up to this one (gauge, counter) have due ticks; higher ones (state, text) are sent on change
    LAST_KIND = 3
    LAST_QUALITY = 6
    REASON_SENTINEL = 133
    MAX_PACES = 16

cdef struct Sent:  # the value of a state or text that was last sent to the platform
    bint known  # False: no value was sent yet
    uint8_t quality
    uint8_t flags
    int16_t exponent
    int64_t mantissa
    uint8_t *text  # NULL: a number
    size_t size

cdef struct State:  # of a state or text of one stream
    Sent sent  # the value at the last boundary; a slice that is cut returns to it
    Sent now  # the value with the records written since that boundary

cdef struct OutputRow:
    # Offset in Points.texts of three parts that follow each other:
    # ["du":..,]"n":"..."  and  ,"u":"..","v":  and  ,"u":"..","vs":
    uint32_t text
    uint32_t unit_size  # bytes of "du" in the first part, after which "mt" is inserted
    uint32_t name_size  # bytes of the first part
    uint32_t value_size  # bytes of the second part, for numbers
    uint32_t string_size  # bytes of the third part, for texts
    uint8_t kind
    uint8_t pace
    bint touched  # True: its state changed since the last boundary
    size_t grid  # offset of its row in the grid of this call
    int64_t last_tick  # the last tick with a record in this call, for points that have no row in the grid
    int32_t state  # index in Points.states; -1: the point is a gauge or counter

cdef struct Points:  # a point table, with the values that were sent for its states and texts
    # Streams with the same points share all members except base and states, so only one of them is sealed at a time.
    OutputRow *rows
    State *states
    int32_t state_count
    int32_t count
    int32_t *touched  # numbers of the rows whose state changed since the last boundary
    int32_t touched_count
    int64_t periods[MAX_PACES]
    int paces
    int64_t phase
    const char *base  # "bn":"..",
    size_t base_size
    const char *texts  # the JSON parts of all rows

cdef struct Pace:
    int64_t period
    int64_t first  # number of the first due tick in [from_ms, to_ms)
    int64_t count  # number of due ticks in [from_ms, to_ms)
    int64_t index  # number of the current record's tick among these; -1: the pace is not due at this tick

cdef struct Job:  # one call of seal
    Out out
    Slot *body  # a copy of the current record
    size_t max_bytes
    int64_t reached
    int64_t from_ms
    int64_t to_ms
    int32_t low
    int32_t high
    uint8_t *grid
    size_t grid_size
    int64_t records
    int64_t bt_ms
    bint based  # True: a record is written already; only the first record has the base name
    Pace pace[MAX_PACES]

cdef struct Place:  # one position to be sealed
    RecordHeader head
    uint64_t position
    int64_t least  # smallest tick in [from_ms, to_ms) of this position and all later ones; to_ms if there is none
    uint64_t slots
    bint lost  # overwritten before it could be read

cdef inline void forget(Sent *sent) noexcept nogil:
    free(sent.text)
    memset(sent, 0, sizeof(Sent))

cdef inline bint copy(Sent *to, const Sent *source) noexcept nogil:
    """Copy a value. Returns False if there is no memory."""
    cdef uint8_t *text = NULL
    if source.text != NULL:
        text = <uint8_t *>malloc(source.size + 1)
        if text == NULL:
            return False
        memcpy(text, source.text, source.size)
    free(to.text)
    to[0] = source[0]
    to.text = text
    return True

cdef inline bint news(Points *table, int32_t point, const Sent *seen) noexcept nogil:
    """Return True if ``seen`` differs from the value that was last sent.

    If so, ``seen`` replaces that value. The next boundary keeps or undoes the change (see ``settle``).
    """
    cdef OutputRow *row = &table.rows[point]
    cdef Sent *now
    if row.state < 0:
        return True
    now = &table.states[row.state].now
    if now.known and now.quality == seen.quality and now.mantissa == seen.mantissa and now.exponent == seen.exponent:
        if now.flags == seen.flags and now.size == seen.size and (now.text == NULL) == (seen.text == NULL):
            if now.text == NULL or memcmp(now.text, seen.text, seen.size) == 0:
                return False
    copy(now, seen)
    if not row.touched:
        row.touched = True
        table.touched[table.touched_count] = point
        table.touched_count += 1
    return True

cdef inline void settle(Points *table, bint keep) noexcept nogil:
    """Keep the changes of states since the last boundary, or undo them if ``keep`` is False."""
    cdef State *state
    cdef int32_t i
    for i in range(table.touched_count):
        table.rows[table.touched[i]].touched = False
        state = &table.states[table.rows[table.touched[i]].state]
        if keep:
            copy(&state.sent, &state.now)
        else:
            copy(&state.now, &state.sent)
    table.touched_count = 0

cdef inline uint8_t read_cell(uint8_t quality) noexcept nogil:
    """Return the grid cell of a reading, which is 1 more than its quality as published."""
    return 1 + (quality if quality <= LAST_QUALITY else 1)

cdef inline int64_t above(int64_t a, int64_t b) noexcept nogil:
    """Return a / b rounded up, for b > 0."""
    return a // b + (1 if a % b > 0 else 0)

cdef inline int64_t milliseconds(int64_t ns) noexcept nogil:
    return -above(-ns, 1_000_000)

cdef inline bint start(
    Job *job, const Points *table, const OutputRow *row, int64_t ms, uint8_t quality, bint string, const Slot *time
) noexcept nogil:  # fmt: skip
    """Write a record up to its value. Returns False if there is no memory.

    The first record has the base name. A record has a base time if its read time differs from that of the previous
    record. ``time``: the device's own time for the value; NULL if there is none.
    """
    cdef Out *out = &job.out
    cdef const char *text = table.texts + row.text
    cdef size_t tail = row.string_size if string else row.value_size
    cdef char *p
    if not reserve(out, row.name_size + tail + table.base_size + 4 * NUMBER_ROOM):
        return False
    p = out.text + out.size
    if job.based:
        memcpy(p, b",{", 2)
        p += 2
    else:
        p[0] = c"{"
        memcpy(p + 1, table.base, table.base_size)
        p += 1 + table.base_size
    if ms != job.bt_ms or not job.based:
        memcpy(p, b'"bt":', 5)
        p += 5
        p += write_seconds(p, ms)
        p[0] = c","
        p += 1
        job.bt_ms = ms
        job.based = True
    if quality or string or time != NULL:
        memcpy(p, text, row.unit_size)
        p += row.unit_size
        if time != NULL:
            memcpy(p, b'"mt":', 5)
            p += 5
            p += write_seconds(p, time.mantissa)
            p[0] = c","
            p += 1
        memcpy(p, text + row.unit_size, row.name_size - row.unit_size)
        p += row.name_size - row.unit_size
        quality = quality if quality <= LAST_QUALITY else 1
        if quality:
            memcpy(p, b',"q":"', 6)
            memcpy(p + 6, QUALITY_TEXT[quality], QUALITY_SIZE[quality])
            p += 6 + QUALITY_SIZE[quality]
            p[0] = c'"'
            p += 1
        memcpy(p, text + row.name_size + (row.value_size if string else 0), tail)
        p += tail
    else:
        memcpy(p, text, row.name_size + tail)
        p += row.name_size + tail
    out.size = p - out.text
    job.records += 1
    return True

cdef inline bint write(
    Job *job, const Points *table, const OutputRow *row, const Slot *slot, int64_t ms, const Slot *time
) noexcept nogil:  # fmt: skip
    """Write one record. Returns False if there is no memory, or if its value is too large for a double.

    In the second case, nothing is written.
    """
    cdef Out *out = &job.out
    cdef char number[NUMBER_ROOM]
    cdef bint rounded = False
    cdef bint minus = slot.mantissa < 0 and not slot.flags & FLAG_UNSIGNED
    cdef uint64_t m = <uint64_t>0 - <uint64_t>slot.mantissa if minus else <uint64_t>slot.mantissa
    cdef int n = write_number(number, minus, m, slot.exponent, &rounded)
    cdef char *p
    if n == 0 or not start(job, table, row, ms, slot.quality, False, time):
        return False
    p = out.text + out.size
    memcpy(p, number, 32)
    p += n
    if rounded:
        memcpy(p, b',"x":"', 6)
        p += 6
        p += write_decimal(p, minus, m, slot.exponent)
        p[0] = c'"'
        p += 1
    p[0] = c"}"
    out.size = p + 1 - out.text
    return True

cdef inline void answer(Job *job, Points *table, const RecordHeader *head, const Slot *body) noexcept nogil:
    cdef int64_t ms = milliseconds(head.time_ns)
    cdef const Slot *slot
    cdef const Slot *time
    cdef OutputRow *row
    cdef Pace *pace
    cdef uint8_t *cell
    cdef Sent seen
    cdef uint32_t i
    for i in range(head.count):
        slot = &body[i]
        time = NULL
        if slot.flags > FLAG_UNSIGNED:
            if slot.flags & FLAG_TIME:  # a device time, which was written together with its value
                continue
            if i + 1 < head.count and body[i + 1].flags & FLAG_TIME:
                time = &body[i + 1]
        if not job.low <= slot.point < job.high:
            continue
        row = &table.rows[slot.point]
        pace = &job.pace[row.pace]
        if row.kind <= COUNTER and pace.period:
            if pace.index < 0:  # the point is not due, and verifiers would count this record as one too many
                continue
            cell = job.grid + row.grid + pace.index
            if slot.quality >= FIRST_REASON:
                if cell[0] == 0:
                    cell[0] = slot.quality
            elif cell[0] == 0 or cell[0] >= FIRST_REASON:
                cell[0] = read_cell(slot.quality) if write(job, table, row, slot, ms, time) else REASON_SENTINEL
            continue
        if slot.quality >= FIRST_REASON or row.last_tick == head.tick_ms:
            continue
        row.last_tick = head.tick_ms
        if row.kind > COUNTER:
            seen = Sent(True, slot.quality, slot.flags & FLAG_UNSIGNED, slot.exponent, slot.mantissa, NULL, 0)
            if not news(table, slot.point, &seen):
                continue
        write(job, table, row, slot, ms, time)

cdef inline void gap(Job *job, Points *table, const RecordHeader *head, const uint16_t *points) noexcept nogil:
    cdef OutputRow *row
    cdef uint8_t *cell
    cdef int64_t i, n = <int64_t>head.count * 8 if head.count else table.count
    cdef int32_t point
    for i in range(n):
        point = points[i] if head.count else <int32_t>i
        if not job.low <= point < job.high:
            continue
        row = &table.rows[point]
        if row.kind > COUNTER or job.pace[row.pace].index < 0:
            continue
        cell = job.grid + row.grid + job.pace[row.pace].index
        if cell[0] == 0:
            cell[0] = head.aux

cdef inline void text(Job *job, Points *table, const RecordHeader *head, uint8_t *body) noexcept nogil:
    cdef uint16_t point
    cdef OutputRow *row
    cdef Sent seen
    if head.count < 2:
        return
    memcpy(&point, body, 2)
    if not job.low <= point < job.high:
        return
    row = &table.rows[point]
    if row.last_tick == head.tick_ms:
        return
    row.last_tick = head.tick_ms
    seen = Sent(True, head.aux, 0, 0, 0, body + 2, head.count - 2)
    if news(table, point, &seen) and start(job, table, row, milliseconds(head.time_ns), head.aux, True, NULL):
        put_string(&job.out, seen.text, seen.size)
        put(&job.out, b"}", 1)

cdef inline void look(const Map *ring, Job *job, Place *places, Py_ssize_t n) noexcept nogil:
    """Read the heads of all positions, and set ``least`` of each: the smallest tick from this position on."""
    cdef Py_ssize_t i
    cdef int64_t least = job.to_ms
    cdef Place *place
    for i in range(n - 1, -1, -1):
        place = &places[i]
        get(ring, place.position, &place.head, sizeof(RecordHeader))
        place.lost = not (intact(ring, place.position) and plausible(ring, place.position, &place.head))
        place.slots = 0
        if not place.lost:
            place.slots = body_slots(&place.head)
            if job.from_ms <= place.head.tick_ms < least:
                least = place.head.tick_ms
        place.least = least

cdef inline void record(Job *job, Points *table, const RecordHeader *head) noexcept nogil:
    cdef int k
    cdef int64_t past
    for k in range(table.paces):
        job.pace[k].index = -1
        if job.pace[k].period:
            past = head.tick_ms - table.phase - job.pace[k].first * job.pace[k].period
            if past >= 0 and past % job.pace[k].period == 0:
                job.pace[k].index = past // job.pace[k].period
    if head.kind == KIND_ANSWER:
        answer(job, table, head, job.body)
    elif head.kind == KIND_GAP:
        gap(job, table, head, <const uint16_t *>job.body)
    elif head.kind == KIND_TEXT:
        text(job, table, head, <uint8_t *>job.body)

cdef inline void walk(const Map *ring, Job *job, Points *table, Place *places, Py_ssize_t n) noexcept nogil:
    """Process records in order, up to the last boundary at which the slice is not too large.

    A boundary is a place between two positions: all ticks before it are smaller than all ticks after it.
    """
    cdef Py_ssize_t i
    cdef Place *place
    cdef Out *out = &job.out
    cdef int64_t most = INT64_MIN
    cdef size_t kept = 1  # bytes of the slice at the last boundary; the next two are its records and its end
    cdef int64_t kept_records = 0
    cdef int64_t kept_reached = job.to_ms
    put(out, b"[", 1)
    for i in range(n):
        place = &places[i]
        if job.max_bytes and most < place.least:
            settle(table, True)
            kept, kept_records, kept_reached = out.size, job.records, place.least
        if place.lost or not job.from_ms <= place.head.tick_ms < job.to_ms:
            continue
        most = max(most, place.head.tick_ms)
        get(ring, place.position + HEAD_SLOTS, job.body, place.slots * sizeof(Slot))
        if not intact(ring, place.position):
            place.lost = True
            continue
        record(job, table, &place.head)
        if job.max_bytes and out.size + 1 > job.max_bytes:
            settle(table, False)
            out.size, job.records, job.reached = kept, kept_records, kept_reached
            break
    settle(table, not out.failed)
    put(out, b"]", 1)
