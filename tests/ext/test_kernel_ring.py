"""The ring against a list of records: wraparound, overwriting, reopening, damage."""

from __future__ import annotations

import os
import resource
import stat
import struct
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext.ring import ANSWER, EVENT, GAP, TEXT, Record, Ring, Value

MIN = 64 * 1024
SLOTS = MIN // 16
EVER = 2**64
RESERVE, HEAD, TAIL = 128, 192, 256  # offsets in the header, layout 1


def slots_of(record: Record) -> int:
    body = {ANSWER: 16 * len(record.values), TEXT: 2 + len(record.text), EVENT: len(record.text)}
    size = body.get(record.kind, 2 * len(record.points or ()))
    return 2 + (size + 15) // 16


i64 = st.integers(-(2**63), 2**63 - 1)
values = st.lists(
    st.tuples(st.integers(0, 65535), st.integers(-(2**63), 2**64 - 1), st.integers(-350, 250), st.integers(0, 255)),
    max_size=120,
)
appends = st.one_of(
    st.tuples(st.just("values"), values),
    st.tuples(st.just("gap"), st.none() | st.lists(st.integers(0, 65534), min_size=1, max_size=40)),
    st.tuples(st.just("text"), st.text(st.characters(exclude_categories=["Cs"]), max_size=60)),
    st.tuples(st.just("event"), st.binary(max_size=200)),
)


def append(ring: Ring, what: str, body: object, n: int) -> Record:
    """Append; returns the record that must come back."""
    times = (n, n * 1_000_003, -n)
    head = ring.head
    if what == "values":
        assert ring.append_values(n % 7, *times, body) == head  # type: ignore[arg-type]
        back = tuple(Value(p, m, e, q) if q < 128 else Value(p, 0, 0, q) for p, m, e, q in body)  # type: ignore[attr-defined]
        record = Record(head, 0, ANSWER, n % 7, 0, *times, back, None, b"")
    elif what == "gap":
        points = None if body is None else tuple(body)  # type: ignore[arg-type]
        assert ring.append_gap(n % 7, 128 + n % 14, *times, None if body is None else array("H", points or ())) == head
        record = Record(head, 0, GAP, n % 7, 128 + n % 14, *times, (), points, b"")
    elif what == "text":
        text = str(body).encode()
        assert ring.append_text(n % 7, n % 100, n % 7, *times, text) == head
        record = Record(head, 0, TEXT, n % 7, n % 7, *times, (), (n % 100,), text)
    else:
        assert ring.append_event(n % 7, *times[1:], body) == head  # type: ignore[arg-type]
        record = Record(head, 0, EVENT, n % 7, 0, n * 1_000_003 // 1_000_000, *times[1:], (), None, body)  # type: ignore[arg-type]
    return record._replace(next=head + slots_of(record))


def holds(ring: Ring, model: list[Record]) -> None:
    """The ring has the newest records of the model, as many as fit, and counts the others."""
    kept = list(ring.scan(0, EVER))
    assert kept == model[len(model) - len(kept) :]
    assert ring.overwritten == len(model) - len(kept)
    assert ring.head == (model[-1].next if model else 0)
    assert ring.tail == (kept[0].position if kept else ring.head)
    assert len(kept) == len(model) or ring.head - model[len(model) - len(kept) - 1].position > ring.slots
    for record in model[: len(model) - len(kept)]:
        assert ring.record(record.position) is None


@given(st.lists(appends, max_size=60), st.integers(1, 9))
def test_holds_the_newest_records(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]], often: int
) -> None:
    """A writer, a reader that was there from the start, and one that opens the file at the end agree with a list."""
    path = str(tmp_path_factory.getbasetemp() / "model.ring")
    ring, model = Ring.create(path, MIN, 1, 2, bytes(32)), []
    reader = Ring.open(path)
    for n, (what, body) in enumerate(steps * often):
        model.append(append(ring, what, body, n))
    for looker in (ring, reader, Ring.open(path)):
        holds(looker, model)
    reader.close()
    ring.close()


def test_header(tmp_path: Path) -> None:
    path = tmp_path / "a.ring"
    old = os.umask(0o077)
    try:
        ring = Ring.create(str(path), 100_000, 2**64 - 1, 2**63, bytes(range(32)))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "tools of the group read it, whatever the umask"
    assert path.stat().st_size == 4096 + MIN
    assert os.listdir(tmp_path) == ["a.ring"]
    reader = Ring.open(str(path))
    for r in (ring, reader):
        assert (r.ring_id, r.boot, r.slots, r.head, r.tail, r.overwritten) == (2**64 - 1, 2**63, SLOTS, 0, 0, 0)
        assert r.table_hash == bytes(range(32))
    ring.table_hash = b"h" * 32
    assert reader.table_hash == b"h" * 32


def test_a_reader_cannot_write(new_ring: Callable[[int], Ring], tmp_path: Path) -> None:
    new_ring(MIN)
    reader = Ring.open(str(tmp_path / "0.ring"))
    with pytest.raises(ValueError, match="for reading only"):
        reader.append_gap(1, 128, 0, 0, 0)
    with pytest.raises(ValueError, match="for reading only"):
        reader.table_hash = bytes(32)


def test_closed(new_ring: Callable[[int], Ring]) -> None:
    ring = new_ring(MIN)
    ring.append_gap(1, 128, 0, 0, 0)
    records = ring.scan(0, EVER)
    ring.close()
    ring.close()
    for use in (
        lambda: ring.head,
        lambda: ring.record(0),
        lambda: next(records),
        lambda: ring.append_gap(1, 128, 0, 0, 0),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_refuses(new_ring: Callable[[int], Ring], tmp_path: Path) -> None:
    ring = new_ring(MIN)
    with pytest.raises(TypeError, match=r"Ring\.create"):
        Ring()
    with pytest.raises(ValueError, match="65536 to"):
        Ring.create(str(tmp_path / "b"), MIN - 1, 1, 1, bytes(32))
    with pytest.raises(ValueError, match="table_hash"):
        Ring.create(str(tmp_path / "b"), MIN, 1, 1, bytes(31))
    with pytest.raises(OverflowError, match="mantissa"):
        ring.append_values(1, 0, 0, 0, [(1, 2**64, 0, 0)])
    with pytest.raises(OverflowError, match="mantissa"):
        ring.append_values(1, 0, 0, 0, [(1, -(2**63) - 1, 0, 0)])
    with pytest.raises(OverflowError, match="double"):
        ring.append_values(1, 0, 0, 0, [(1, 10, 308, 0)])
    with pytest.raises(OverflowError):
        ring.append_values(1, 0, 0, 0, [(65536, 1, 0, 0)])
    with pytest.raises(ValueError, match="too large"):
        ring.append_values(1, 0, 0, 0, [(1, 1, 0, 0)] * (SLOTS // 4 - 1))
    with pytest.raises(ValueError, match="too large"):
        ring.append_event(1, 0, 0, bytes(16 * (SLOTS // 4 - 2) + 1))
    with pytest.raises(ValueError, match="reason"):
        ring.append_gap(1, 127, 0, 0, 0)
    with pytest.raises(ValueError, match="without points"):
        ring.append_gap(1, 128, 0, 0, 0, array("H"))
    with pytest.raises(ValueError, match="quality"):
        ring.append_text(1, 0, 128, 0, 0, 0, b"")
    with pytest.raises(UnicodeDecodeError):
        ring.append_text(1, 0, 0, 0, 0, 0, b"\xff")
    assert ring.head == 0, "nothing of what was refused is in the ring"
    ring.append_values(1, 0, 0, 0, [(1, 1, 0, 0)] * (SLOTS // 4 - 2))
    assert len(list(ring.scan(0, EVER))) == 1


def test_a_full_file_system_is_an_error(tmp_path: Path) -> None:
    """Not a SIGBUS when the page that is not there is written to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIN, hard))
    try:
        with pytest.raises(OSError, match="large"):
            Ring.create(str(tmp_path / "a.ring"), MIN, 1, 1, bytes(32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


def test_scan_clamps_and_stops(new_ring: Callable[[int], Ring]) -> None:
    ring = new_ring(MIN)
    at = [ring.append_gap(1, 128, n, 0, 0) for n in range(10)]
    assert [r.tick_ms for r in ring.scan(at[3], at[6])] == [3, 4, 5]
    assert [r.tick_ms for r in ring.scan(-5, EVER)] == list(range(10))
    assert ring.record(ring.head) is None
    assert ring.record(-1) is None
    records = ring.scan(0, EVER)
    next(records)
    for n in range(SLOTS):  # the writer overtakes it
        ring.append_gap(1, 129, n, 0, 0)
    assert list(records) == []


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize(
    ("offset", "data", "complaint"),
    [
        (0, b"MHRINGxx", "magic"),
        (8, struct.pack("<I", 2), "layout 2"),
        (12, struct.pack("<I", 32), "slots of 32"),
        (16, struct.pack("<Q", SLOTS // 2), "says 2048 slots"),
        (16, struct.pack("<Q", SLOTS + 1), "says 4097 slots"),
        (16, struct.pack("<Q", 2**60), "slots"),
        (HEAD, struct.pack("<Q", 10**9), "out of order"),
        (TAIL, struct.pack("<Q", 10**9), "out of order"),
        (RESERVE, struct.pack("<Q", 0), "out of order"),
    ],
)
def test_damaged_header(
    new_ring: Callable[[int], Ring], tmp_path: Path, offset: int, data: bytes, complaint: str
) -> None:
    """The message names the file and what is wrong with it."""
    ring, path = new_ring(MIN), tmp_path / "0.ring"
    for n in range(100):
        ring.append_gap(1, 128, n, 0, 0)
    ring.close()
    patch(path, offset, data)
    for writable in (False, True):
        with pytest.raises(ValueError, match=rf"0\.ring: ring file .*{complaint}"):
            Ring.open(str(path), writable)


@pytest.mark.parametrize("size", [0, 100, 4096, 4096 + MIN - 16, 4096 + MIN + 16])
def test_damaged_size(new_ring: Callable[[int], Ring], tmp_path: Path, size: int) -> None:
    new_ring(MIN).close()
    os.truncate(tmp_path / "0.ring", size)
    with pytest.raises(ValueError, match=r"has .* bytes"):
        Ring.open(str(tmp_path / "0.ring"))


@pytest.mark.parametrize("slots", [2**60, 2**61, 2**63])
def test_a_number_of_slots_that_overflows_is_damage(
    new_ring: Callable[[int], Ring], tmp_path: Path, slots: int
) -> None:
    """The size of so many slots is 0 in 64 bits: a header alone was accepted as a ring, and reads left its memory."""
    new_ring(MIN).close()
    patch(tmp_path / "0.ring", 16, struct.pack("<Q", slots))
    os.truncate(tmp_path / "0.ring", 4096)
    for writable in (False, True):
        with pytest.raises(ValueError, match=rf"0\.ring: ring file says {slots} slots"):
            Ring.open(str(tmp_path / "0.ring"), writable)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ring.open(str(tmp_path / "none"))


@pytest.mark.parametrize("head", [b"\xff" * 8, struct.pack("<IHBB", 2**31, 1, 1, 0), struct.pack("<IHBB", 1, 1, 0, 0)])
def test_a_damaged_record_ends_the_scan(new_ring: Callable[[int], Ring], tmp_path: Path, head: bytes) -> None:
    ring = new_ring(MIN)
    at = [ring.append_gap(1, 128, n, 0, 0) for n in range(10)]
    patch(tmp_path / "0.ring", 4096 + at[4] * 16, head)
    seen = []
    with pytest.raises(ValueError, match=rf"no sound record at {at[4]}"):
        seen.extend(r.tick_ms for r in iter(ring.scan(0, EVER).__next__, None))
    assert [r.tick_ms for r in ring.scan(at[5], EVER)] == [5, 6, 7, 8, 9]
    for n in range(3 * SLOTS):  # and the writer gets over it
        ring.append_gap(1, 129, n, 0, 0)
    assert len(list(ring.scan(0, EVER))) == SLOTS // 2


def test_reopened_writable_goes_on(new_ring: Callable[[int], Ring], tmp_path: Path) -> None:
    ring = new_ring(MIN)
    model = [append(ring, "values", [(n, n, 0, 0)], n) for n in range(5)]
    ring.close()
    ring = Ring.open(str(tmp_path / "0.ring"), writable=True, boot=77)
    model += [append(ring, "gap", None, n) for n in range(5)]
    holds(ring, model)
    assert ring.boot == 77
    ring.close()


@pytest.mark.parametrize("torn", [1, 40, 500, 1000])
def test_killed_in_the_middle_of_a_record(new_ring: Callable[[int], Ring], tmp_path: Path, torn: int) -> None:
    """kill -9 between the first slot and the commit word: what was announced is destroyed, all else is there."""
    ring, path = new_ring(MIN), tmp_path / "0.ring"
    model = [append(ring, "values", [(n, n, 0, 0)] * (n % 50), n) for n in range(400)]
    head = ring.head
    ring.close()
    # what the writer does before the commit: move the tail, announce, write some of the slots
    kept = [r for r in model if head + torn - r.position <= SLOTS]
    patch(path, TAIL, struct.pack("<Q", kept[0].position))
    patch(path, RESERVE, struct.pack("<Q", head + torn))
    for position in range(head, head + torn):
        patch(path, 4096 + position % SLOTS * 16, b"\xa5" * 16)

    assert list(Ring.open(str(path)).scan(0, EVER)) == kept
    ring = Ring.open(str(path), writable=True)
    assert list(ring.scan(0, EVER)) == kept
    assert [ring.record(r.position) for r in model[: -len(kept)]] == [None] * (len(model) - len(kept))
    for n in range(400, 900):
        model.append(append(ring, "values", [(n, n, 0, 0)] * (n % 50), n))
        if n % 20 == 0:
            records = list(ring.scan(0, EVER))
            assert records == model[-len(records) :]
    ring.close()


def resident() -> int:
    """Bytes of shared memory in this process's resident set."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def test_trimmed_pages_stay_in_the_file(new_ring: Callable[[int], Ring], tmp_path: Path) -> None:
    """The process becomes smaller, the ring does not change, and goes on."""
    ring, model = new_ring(1 << 20), []
    for n in range(2_000):
        model.append(append(ring, "values", [(p, n, 0, 0) for p in range(20)], n))
    before = resident()
    ring.trim()
    assert resident() < before - (1 << 19)
    model.append(append(ring, "gap", None, 7))
    holds(ring, model[:-1] + model[-1:])
    holds(Ring.open(str(tmp_path / "0.ring")), model)


def test_a_value_may_carry_the_devices_own_time(tmp_path: Path) -> None:
    ring = Ring.create(str(tmp_path / "ring"), 64 * 1024, 1, 1, bytes(32))
    values = [
        (1, 5, 0, 0, 1_795_500_900_123),
        (2, 2**64 - 1, 0, 1, -1),
        (3, 7, 0, 0, None),
        (4, 0, 0, 133, 9),
        (5, 1, 0, 0),
    ]
    at = ring.append_values(1, 0, 0, 0, values)
    record = ring.record(at)
    assert record is not None
    assert record.values == (
        Value(1, 5, 0, 0),
        Value(2, 2**64 - 1, 0, 1),
        Value(3, 7, 0, 0),
        Value(4, 0, 0, 133),
        Value(5, 1, 0, 0),
    )
    assert record.mt == ((1, 1_795_500_900_123), (2, -1)), "a value that is missing has no time"
    assert record.next == at + 2 + 7 == ring.head
    for wrong in (2**47 + 1, -(2**47) - 1, 2**70):
        with pytest.raises(OverflowError):
            ring.append_values(1, 0, 0, 0, [(1, 5, 0, 0, wrong)])
    assert ring.head == record.next
    ring.close()
