# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The ring: fixed slots in shared memory, one writer, many readers in other processes. The layout is in ring.pyi."""
import fcntl
import os
from typing import NamedTuple

from libc.stdint cimport INT64_MAX, INT64_MIN, UINT64_MAX
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MADV_DONTNEED, MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, madvise, mmap, munmap
from posix.unistd cimport close

cdef char *MAGIC = b"MHRING\r\n"
cdef uint32_t VERSION = 1
cdef size_t PAGE = 4096
cdef uint64_t MIN_SIZE = 64 * 1024
cdef uint64_t MAX_SIZE = <uint64_t>1 << 40
cdef int64_t MOST_MS = <int64_t>1 << 47  # a device's own time is at most this many ms (4,400 years) from 1970

ANSWER, GAP, TEXT, EVENT = KIND_ANSWER, KIND_GAP, KIND_TEXT, KIND_EVENT

assert sizeof(RingHeader) == 320 and sizeof(RecordHeader) == 32 and sizeof(Slot) == 16


class Value(NamedTuple):
    point: int
    mantissa: int
    exponent: int
    quality: int


class Record(NamedTuple):
    position: int
    next: int
    kind: int
    table: int
    aux: int
    tick_ms: int
    time_ns: int
    mono_ns: int
    values: tuple
    points: tuple | None
    text: bytes
    mt: tuple = ()


cdef class Ring:
    def __cinit__(self):
        self.fd, self.closed = -1, True

    def __init__(self):
        raise TypeError("use Ring.create or Ring.open")

    def __dealloc__(self):
        self.unmap()

    # -- opening and closing

    @staticmethod
    def create(path, size_bytes, ring_id, boot, bytes table_hash, mode=0o640):
        cdef Ring ring
        cdef uint64_t slots
        if not MIN_SIZE <= size_bytes <= MAX_SIZE:
            raise ValueError(f"{path}: a ring has {MIN_SIZE} to {MAX_SIZE} bytes, got {size_bytes}")
        slots = 1 << ((size_bytes // sizeof(Slot)).bit_length() - 1)
        path = os.fspath(path)
        draft = f"{path}.new{os.getpid()}"
        fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)  # not limited by the umask, because tools that run in the group must be able to read
            # allocate every page now, so that a full tmpfs is an error here and not a SIGBUS at a later store
            os.posix_fallocate(fd, 0, PAGE + slots * sizeof(Slot))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ring = Ring.__new__(Ring)
            ring.path = path
            _map(ring, fd, PAGE + slots * sizeof(Slot), True)
            memset(ring.map.h, 0, PAGE)
            ring.map.h.version, ring.map.h.slot_size = VERSION, sizeof(Slot)
            ring.map.h.slots, ring.map.mask = slots, slots - 1
            ring.map.h.ring_id, ring.map.h.boot = ring_id, boot
            ring.map.h.writer_pid = os.getpid()
            ring.table_hash = table_hash
            mh_fence_release()
            memcpy(ring.map.h.magic, MAGIC, 8)
            os.rename(draft, path)
        except BaseException:
            os.close(fd)
            os.unlink(draft)
            raise
        ring.fd = fd
        return ring

    @staticmethod
    def open(path, writable=False, boot=None):
        cdef Ring ring = Ring.__new__(Ring)
        cdef RingHeader *h
        cdef uint64_t tail, head, reserve
        ring.path = path = os.fspath(path)
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            size = os.fstat(fd).st_size
            if size < PAGE:
                raise ring._damage(f"has {size} bytes, shorter than its header of {PAGE}")
            _map(ring, fd, size, writable)
            h = ring.map.h
            if memcmp(h.magic, MAGIC, 8) != 0:
                raise ring._damage("does not begin with the magic of a ring")
            if h.version != VERSION or h.slot_size != sizeof(Slot):
                raise ring._damage(f"has layout {h.version}, slots of {h.slot_size}; want {VERSION}, {sizeof(Slot)}")
            # compared before it is multiplied, because the product may overflow to the right size
            too_many = h.slots > <uint64_t>size // sizeof(Slot)
            if h.slots == 0 or h.slots & (h.slots - 1) or too_many or PAGE + h.slots * sizeof(Slot) != size:
                raise ring._damage(f"says {h.slots} slots, but has {size} bytes")
            ring.map.mask = h.slots - 1
            # A writer may change these three meanwhile. Read in this order, they still cannot look out of order.
            tail, head, reserve = mh_load_acquire(&h.tail), mh_load_acquire(&h.head), mh_load_acquire(&h.reserve)
            if not tail <= head <= reserve:
                raise ring._damage(f"has tail {tail}, head {head}, reserve {reserve}: out of order")
            if writable:
                _take_over(ring, fd, boot)
                ring.fd = fd
        except BaseException:
            os.close(fd)
            ring.unmap()
            raise
        if not writable:
            os.close(fd)
        return ring

    def close(self):
        """Unmap the file. While other threads run calls without the GIL, it stays mapped until they have finished."""
        self.closed = True
        if self.pins == 0:
            self.unmap()

    def trim(self):
        self.check_open()
        madvise(self.map.h, self.map.size, MADV_DONTNEED)

    cdef void unpin(self) noexcept:
        self.pins -= 1
        if self.closed and self.pins == 0:
            self.unmap()

    cdef void unmap(self) noexcept:
        if self.map.h != NULL:
            munmap(self.map.h, self.map.size)
        if self.fd >= 0:
            close(self.fd)
        self.map.h = NULL
        self.fd, self.closed = -1, True

    cdef object _damage(self, str what):
        return ValueError(f"{self.path}: ring file {what}")

    cdef int check_open(self) except -1:
        if self.closed:
            raise ValueError(f"{self.path}: the ring is closed")
        return 0

    cdef RingHeader *header(self) except NULL:
        self.check_open()
        return self.map.h

    cdef int check_room(self, uint64_t slots) except -1:
        """Check that a record with this body may be appended."""
        self.check_open()
        if not self.writable:
            raise ValueError(f"{self.path}: the ring was opened for reading only")
        # a record takes at most a quarter of the ring, so that readers have time to copy it before it is overwritten
        if slots + HEAD_SLOTS > (self.map.mask + 1) >> 2:
            raise ValueError(f"{self.path}: a body of {slots} slots is too large for a ring of {self.map.mask + 1}")
        return 0

    # -- reading

    def record(self, position):
        return _record(self, position) if 0 <= position < mh_load_acquire(&self.header().head) else None

    def scan(self, start, end):
        cdef uint64_t position, stop
        position = max(start, mh_load_acquire(&self.header().tail))
        stop = min(end, mh_load_acquire(&self.map.h.head))
        while position < stop:
            self.check_open()
            record = _record(self, position)
            if record is None:
                return
            yield record
            position = record.next

    # -- writing

    def append_gap(
        self, uint16_t table, uint8_t reason, int64_t tick_ms, int64_t time_ns, int64_t mono_ns, points=None
    ):  # fmt: skip
        cdef const uint16_t[::1] view = points
        cdef bytes body = b"" if points is None else bytes(points)
        if reason < FIRST_REASON:
            raise ValueError(f"a gap reason is {FIRST_REASON} or more, got {reason}")
        if points is not None and not body:
            raise ValueError("a gap without points is none; all points of the table are None")
        body += b"\xff" * (-len(body) % sizeof(Slot))  # the last slot is filled with 0xFFFF, which is not a point
        return _bytes(self, RecordHeader(len(body) >> 4, table, KIND_GAP, reason, tick_ms, time_ns, mono_ns), body)

    def append_text(
        self, uint16_t table, uint16_t point, uint8_t quality, int64_t tick_ms, int64_t time_ns, int64_t mono_ns,
        bytes text,
    ):  # fmt: skip
        if quality >= FIRST_REASON:
            raise ValueError(f"a quality is below {FIRST_REASON}, got {quality}; a missing text is a gap")
        text.decode()  # raises ValueError for an invalid text, because everything in the ring must be fit to be sent
        text = point.to_bytes(2, "little") + text
        return _bytes(self, RecordHeader(len(text), table, KIND_TEXT, quality, tick_ms, time_ns, mono_ns), text)

    def append_event(self, uint16_t table, int64_t time_ns, int64_t mono_ns, bytes text):
        return _bytes(self, RecordHeader(len(text), table, KIND_EVENT, 0, time_ns // 1_000_000, time_ns, mono_ns), text)

    def append_values(self, uint16_t table, int64_t tick_ms, int64_t time_ns, int64_t mono_ns, values):
        cdef RecordHeader head = RecordHeader(0, table, KIND_ANSWER, 0, tick_ms, time_ns, mono_ns)
        cdef Py_ssize_t i, n = len(values), at = 0
        cdef uint64_t position
        cdef Slot *slots
        n += sum([len(value) > 4 and value[4] is not None for value in values])  # each device time takes a slot
        self.check_room(n)
        slots = <Slot *>malloc(max(n, 1) * sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        try:
            for value in values:
                at += _fill(&slots[at], value)
            head.count = <uint32_t>at  # may be less than n, because a missing value takes no slot for its time
            n = at
            position = begin(&self.map, HEAD_SLOTS + n)
            put(&self.map, position, &head, sizeof(RecordHeader))
            put(&self.map, position + HEAD_SLOTS, slots, n * sizeof(Slot))
            commit(&self.map, position + HEAD_SLOTS + n)
        finally:
            free(slots)
        return position

    # -- header fields

    @property
    def ring_id(self):
        return self.header().ring_id

    @property
    def boot(self):
        return self.header().boot

    @property
    def slots(self):
        return self.header().slots

    @property
    def head(self):
        return mh_load_acquire(&self.header().head)

    @property
    def tail(self):
        return mh_load_acquire(&self.header().tail)

    @property
    def overwritten(self):
        return mh_load_relaxed(&self.header().overwritten)

    @property
    def table_hash(self):
        return <bytes>self.header().table_hash[:32]

    @table_hash.setter
    def table_hash(self, bytes value):
        self.check_room(0)
        if len(value) != 32:
            raise ValueError(f"{self.path}: table_hash has 32 bytes, got {len(value)}")
        memcpy(self.map.h.table_hash, <const char *>value, 32)


cdef int _map(Ring ring, int fd, size_t size, bint writable) except -1:
    cdef void *base = mmap(NULL, size, PROT_READ | PROT_WRITE if writable else PROT_READ, MAP_SHARED, fd, 0)
    if base == MAP_FAILED:
        raise OSError(f"{ring.path}: cannot map {size} bytes")
    ring.map.h = <RingHeader *>base
    ring.map.slot = <Slot *>(<char *>base + PAGE)
    ring.map.size = size
    ring.writable = writable
    ring.closed = False
    return 0


cdef int _take_over(Ring ring, int fd, boot) except -1:
    """Become the only writer, after the previous writer has ended."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # this process may hold the lock, through an earlier mapping that is not closed yet; then no other writer exists
        if ring.map.h.writer_pid != os.getpid():
            raise BlockingIOError(f"{ring.path}: process {ring.map.h.writer_pid} writes this ring") from None
    ring.map.h.writer_pid = os.getpid()
    if boot is not None:
        ring.map.h.boot = boot
    # A killed writer may have left reserve ahead of head. Reserve stays as it is, because the unfinished record has
    # overwritten the oldest slots. The tail is right, because the writer had moved it before.
    if ring.map.h.reserve - ring.map.h.tail > ring.map.mask + 1:
        raise ring._damage(f"has tail {ring.map.h.tail} too far behind reserve {ring.map.h.reserve}")
    return 0


cdef int _fill(Slot *slot, value) except -1:
    """Write one value into slots. Returns their number: two if the value has a device time, otherwise one."""
    cdef int64_t mt
    point, mantissa, exponent, quality = value[:4]
    memset(slot, 0, sizeof(Slot))
    slot.point = point
    slot.quality = quality
    if slot.quality >= FIRST_REASON:
        return 1
    if mantissa and not -400 <= exponent + len(str(abs(mantissa))) <= 308:
        raise OverflowError(f"point {point}: {mantissa}e{exponent} does not fit a double")
    slot.exponent = exponent
    if INT64_MIN <= mantissa <= INT64_MAX:
        slot.mantissa = mantissa
    elif 0 <= mantissa <= UINT64_MAX:
        slot.mantissa = <int64_t><uint64_t>mantissa
        slot.flags = FLAG_UNSIGNED
    else:
        raise OverflowError(f"point {point}: mantissa {mantissa} does not fit 64 bits")
    if len(value) == 4 or value[4] is None:
        return 1
    mt = value[4]
    if not -MOST_MS <= mt <= MOST_MS:
        raise OverflowError(f"point {point}: {mt} ms is not a time of a device")
    slot.flags |= FLAG_TIMED
    memset(&slot[1], 0, sizeof(Slot))
    slot[1].point, slot[1].flags, slot[1].mantissa = slot.point, FLAG_TIME, mt
    return 2


cdef object _bytes(Ring ring, RecordHeader head, bytes body):
    cdef Py_ssize_t n = len(body)
    cdef uint64_t slots = (<uint64_t>n + 15) >> 4, position
    ring.check_room(slots)
    position = begin(&ring.map, HEAD_SLOTS + slots)
    put(&ring.map, position, &head, sizeof(RecordHeader))
    put(&ring.map, position + HEAD_SLOTS, <const char *>body, n)
    commit(&ring.map, position + HEAD_SLOTS + slots)
    return position


cdef object _record(Ring ring, uint64_t position):
    cdef RecordHeader head
    cdef uint64_t i, slots
    cdef Slot *body
    cdef uint16_t *numbers
    get(&ring.map, position, &head, sizeof(RecordHeader))
    if not intact(&ring.map, position):
        return None
    if not plausible(&ring.map, position, &head):
        raise ring._damage(f"has no sound record at {position} (kind {head.kind}, count {head.count})")
    slots = body_slots(&head)
    body = <Slot *>malloc((slots + 1) * sizeof(Slot))
    if body == NULL:
        raise MemoryError
    try:
        get(&ring.map, position + HEAD_SLOTS, body, slots * sizeof(Slot))
        if not intact(&ring.map, position):
            return None
        values, points, text, mt = (), None, b"", ()
        numbers = <uint16_t *>body
        if head.kind == KIND_ANSWER:
            values = tuple([_value(&body[i]) for i in range(slots) if not body[i].flags & FLAG_TIME])
            mt = tuple([(body[i].point, body[i].mantissa) for i in range(slots) if body[i].flags & FLAG_TIME])
        elif head.kind == KIND_GAP and slots:
            points = tuple([numbers[i] for i in range(slots * 8) if numbers[i] != 0xFFFF])
        elif head.kind == KIND_TEXT:
            if head.count < 2:
                raise ring._damage(f"has a text of {head.count} bytes at {position}")
            points = (numbers[0],)
            text = (<const char *>body)[2 : head.count]
        elif head.kind == KIND_EVENT:
            text = (<const char *>body)[: head.count]
    finally:
        free(body)
    return Record(
        position, position + HEAD_SLOTS + slots, head.kind, head.table, head.aux,
        head.tick_ms, head.time_ns, head.mono_ns, values, points, text, mt,
    )  # fmt: skip


cdef object _value(const Slot *slot):
    if slot.quality >= FIRST_REASON:
        return Value(slot.point, 0, 0, slot.quality)
    if slot.flags & FLAG_UNSIGNED:
        return Value(slot.point, <uint64_t>slot.mantissa, slot.exponent, slot.quality)
    return Value(slot.point, slot.mantissa, slot.exponent, slot.quality)
