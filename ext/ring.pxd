# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# The part of the ring that decode and canon need: its layout, and the functions that append and read records.
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    /* Atomic stores, loads and fences: they order the accesses of different processes. */
    static inline uint64_t mh_load_acquire(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t mh_load_relaxed(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
    static inline void mh_store_release(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void mh_store_relaxed(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }
    static inline void mh_fence_acquire(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline void mh_fence_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    """
    uint64_t mh_load_acquire(const uint64_t *p) noexcept nogil
    uint64_t mh_load_relaxed(const uint64_t *p) noexcept nogil
    void mh_store_release(uint64_t *p, uint64_t v) noexcept nogil
    void mh_store_relaxed(uint64_t *p, uint64_t v) noexcept nogil
    void mh_fence_acquire() noexcept nogil
    void mh_fence_release() noexcept nogil

cdef enum:
    KIND_ANSWER = 1
    KIND_GAP = 2
    KIND_TEXT = 3
    KIND_EVENT = 4
    HEAD_SLOTS = 2
    FLAG_UNSIGNED = 1
    FLAG_TIMED = 2  # in the slot of a value: the next slot has the device's own time for this value
    FLAG_TIME = 4  # in the slot with this time: it has the time (UTC ms) instead of a mantissa, and the same point
    FIRST_REASON = 128  # gap reasons begin here; qualities are below

cdef struct RingHeader:  # the beginning of the file; reserve, head and tail are in different cache lines
    char magic[8]
    uint32_t version
    uint32_t slot_size
    uint64_t slots
    uint64_t ring_id
    uint64_t boot
    uint8_t table_hash[32]
    uint32_t writer_pid
    uint8_t pad0[52]
    uint64_t reserve  # at byte 128
    uint64_t pad1[7]
    uint64_t head  # at byte 192
    uint64_t pad2[7]
    uint64_t tail  # at byte 256
    uint64_t overwritten
    uint64_t pad3[6]

cdef struct RecordHeader:  # two slots
    uint32_t count
    uint16_t table
    uint8_t kind
    uint8_t aux
    int64_t tick_ms
    int64_t time_ns
    int64_t mono_ns

cdef struct Slot:
    int64_t mantissa
    uint16_t point
    int16_t exponent
    uint8_t quality
    uint8_t flags
    uint16_t zero

cdef struct Map:  # the location of a mapped file
    RingHeader *h
    Slot *slot
    uint64_t mask  # slots - 1
    size_t size  # bytes

cdef class Ring:
    cdef Map map
    cdef int fd  # held by the writer for its lock; -1 for readers
    cdef bint writable
    cdef bint closed
    cdef int pins  # number of calls that run without the GIL; the file stays mapped until the last of them ends
    cdef object path
    cdef object _damage(self, str what)
    cdef int check_open(self) except -1
    cdef RingHeader *header(self) except NULL
    cdef int check_room(self, uint64_t slots) except -1
    cdef void unpin(self) noexcept
    cdef void unmap(self) noexcept

cdef inline uint64_t body_slots(const RecordHeader *head) noexcept nogil:
    """Return the number of slots in the body of a record. For a text or event, ``count`` is in bytes."""
    if head.kind >= KIND_TEXT:
        return (<uint64_t>head.count + 15) >> 4
    return head.count

cdef inline bint plausible(const Map *ring, uint64_t position, const RecordHeader *head) noexcept nogil:
    """Return True if this can be the head of a committed record at ``position``."""
    cdef uint64_t slots = HEAD_SLOTS + body_slots(head)
    if not KIND_ANSWER <= head.kind <= KIND_EVENT or slots > (ring.mask + 1) >> 2:
        return False
    return position + slots <= mh_load_acquire(&ring.h.head)

# -- writing: begin, put, commit

cdef inline uint64_t begin(Map *ring, uint64_t slots) noexcept nogil:
    """Announce that ``slots`` slots will be written. Returns the position of the first of them."""
    cdef RingHeader *h = ring.h
    cdef uint64_t head = h.head
    cdef uint64_t end = head + slots
    cdef uint64_t tail = h.tail
    cdef uint64_t lost = 0
    cdef const RecordHeader *oldest
    if end - tail > ring.mask + 1:
        while tail < head and end - tail > ring.mask + 1:
            # only the first slot of this head, with count and kind, is used: the second may be at the ring's start
            oldest = <const RecordHeader *>&ring.slot[tail & ring.mask]
            # a damaged head does not show where the next record begins, so all records up to ``head`` are given up
            tail = tail + HEAD_SLOTS + body_slots(oldest) if plausible(ring, tail, oldest) else head
            lost += 1
        # the tail moves first, so that only a few old records are lost if the process is killed after that
        mh_store_relaxed(&h.overwritten, h.overwritten + lost)
        mh_store_release(&h.tail, tail)
    if end > h.reserve:  # reserve may be ahead already, if a writer was killed while it wrote a larger record
        mh_store_relaxed(&h.reserve, end)
    mh_fence_release()  # others see the new reserve before any slot changes
    return head

cdef inline void put(Map *ring, uint64_t position, const void *source, size_t size) noexcept nogil:
    """Copy bytes to a position. At the end of the ring, the copy continues at its start."""
    cdef size_t offset = (position & ring.mask) * sizeof(Slot)
    cdef size_t room = (ring.mask + 1) * sizeof(Slot) - offset
    cdef char *base = <char *>ring.slot
    if size <= room:
        memcpy(base + offset, source, size)
    else:
        memcpy(base + offset, source, room)
        memcpy(base, <const char *>source + room, size - room)

cdef inline void commit(Map *ring, uint64_t end) noexcept nogil:
    mh_store_release(&ring.h.head, end)

# -- reading: get, then check intact

cdef inline void get(const Map *ring, uint64_t position, void *target, size_t size) noexcept nogil:
    cdef size_t offset = (position & ring.mask) * sizeof(Slot)
    cdef size_t room = (ring.mask + 1) * sizeof(Slot) - offset
    cdef const char *base = <const char *>ring.slot
    if size <= room:
        memcpy(target, base + offset, size)
    else:
        memcpy(target, base + offset, room)
        memcpy(<char *>target + room, base, size - room)

cdef inline bint intact(const Map *ring, uint64_t position) noexcept nogil:
    """Return True if the bytes copied from ``position`` on were not overwritten. Call this after copying."""
    mh_fence_acquire()
    return mh_load_relaxed(&ring.h.reserve) - position <= ring.mask + 1 and position >= mh_load_relaxed(&ring.h.tail)
