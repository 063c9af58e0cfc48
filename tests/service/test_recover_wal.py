"""A killed run with a damaged WAL: what had left the house is stated lost, what had not is sealed again from the ring.

By hand, with a real store, a real ring and the verifier; the whole agent is played in ``tests/fault``.
"""

from __future__ import annotations

import json
import os
import shutil
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.keys import Signer, create_key, current_records
from agent.pack import BirthTable
from agent.service.recovery import LostTransactions, resume_after_loss
from agent.store.heads import _HEADER, MAGIC, SLOT, HeadRecord, _summed, record_file
from agent.verify import Report, Verdict, Verifier
from tests.service.test_recover import CLOCK, NAME, T0, TABLE, Run, document

KNOWN = 4  # seconds of packs that came into the database
SEALED = 9  # seconds of packs in all
READ = 12  # seconds of readings in the ring


class Accident:
    """A run that was killed. Packs of one second each; the last ``SEALED - KNOWN`` are in its WAL alone, and gone.

    Args:
        left: up to this second packs had left the house when it was killed.
    """

    def __init__(self, folder: Path, left: int, ring_words: int = 0) -> None:
        self.folder = folder
        self.signer = create_key(folder / "signing.key", T0 // 1000)
        live = folder / "live"
        live.mkdir()
        self.first = run = Run(live, self.signer)
        packer = run.begin(TABLE)
        self.published: list[bytes] = []
        for second in range(SEALED):
            positions = array("Q", [run.read(second, second)])
            packs = packer.seal(run.ring, positions, T0 + (second + 1) * 1000, CLOCK)  # type: ignore[arg-type]
            run.commit(packs)
            if second < left:
                run.store.mark_sent()
                self.published += [pack.data for pack in packs]
            if second + 1 == KNOWN:
                run.store.close()  # which brings all of it into the file
                run.open()
        self.sealed = [json.loads(item.data) for item in run.store.packs.pending("platform", 0, 1000)]
        for second in range(SEALED, READ):
            run.read(second, second)
        for n in range(ring_words):
            run.read(READ + n, READ + n)
        self.place = folder / "after"
        self.place.mkdir()
        for path in live.iterdir():
            shutil.copy(path, self.place / path.name)
        os.truncate(self.place / "store.db-wal", 0)
        run.die()

    @property
    def ring(self) -> Path:
        (path,) = self.place.glob("ring.*")
        return path

    def start(self) -> tuple[Run, LostTransactions | None]:
        """The next run, with what was left in the ring sealed, and a pack of its own."""
        run = Run(self.place, self.signer)
        gone = resume_after_loss(run.store, self.place)
        run.recover(30)
        return run, gone

    def verify(self, *more: Sequence[bytes]) -> Report:
        """The word on what was published before, and on all that the next run has to send."""
        verifier = Verifier([self.signer.kid])
        verifier.feed(current_records(self.signer, "park7/gw01", None))
        for data in (*self.published, *(data for some in more for data in some)):
            verifier.feed(data)
        return verifier.report()


def waiting(run: Run) -> list[bytes]:
    return [item.data for item in run.store.packs.pending("platform", 0, 1000)]


def losses(run: Run) -> list[dict[str, Any]]:
    return [e for p in run.packs() for e in p.get("events", ()) if e["event"] == "loss"]


@pytest.mark.parametrize("left", [0, 2, KNOWN, KNOWN + 2, SEALED])
def test_no_reading_is_lost_or_there_twice_and_no_sequence_is_given_twice(tmp_path: Path, left: int) -> None:
    """Whatever had left: packs that had not are sealed again under later sequences, each with what it said before."""
    accident = Accident(tmp_path, left)
    run, gone = accident.start()
    last = accident.sealed[-1]["seq"]
    known = [p for p in accident.sealed if p["to"] <= T0 / 1000 + KNOWN]
    assert gone == LostTransactions(1, last - known[-1]["seq"], int(left < SEALED), True)
    came = [json.loads(data) for data in accident.published]
    fresh = [p for p in run.packs() if p["boot"] == run.boot]
    assert min(p["seq"] for p in fresh) == last + 1
    numbers = [r["v"] for p in (*came, *(p for p in run.packs() if p not in came)) for r in p.get("e", ())]
    assert sorted(numbers) == list(range(READ)), "each once"
    (loss,) = losses(run)
    assert loss in fresh[0]["events"], "in the next pack of the stream"
    assert (loss["first"], loss["last"], loss["reason"]) == (known[-1]["seq"] + 1, last, "damaged")
    resumed = max(left, KNOWN)
    assert (loss["from"], loss["to"]) == (T0 / 1000 + KNOWN, T0 / 1000 + resumed)
    assert fresh[0]["from"] == T0 / 1000 + resumed and fresh[0]["prev_boot"] == accident.first.boot
    report = accident.verify(waiting(run))
    stream = report.streams[NAME]
    assert report.verdict is Verdict.VERIFIED, report.reasons
    assert not stream.conflicts and not stream.restarts and not report.missing
    assert report.lost == last - max(known[-1]["seq"], *(p["seq"] for p in came), 0)
    assert stream.readings == READ
    run.die()


def test_what_had_left_and_did_not_arrive_is_stated_lost(tmp_path: Path) -> None:
    """It was handed to a connection that broke: the verifier sees the loss, and no hole beside it."""
    accident = Accident(tmp_path, SEALED)
    run, _ = accident.start()
    accident.published.clear()
    report = accident.verify(waiting(run))
    assert report.verdict is Verdict.VERIFIED and not report.missing, report.reasons
    assert report.lost == SEALED - KNOWN and report.streams[NAME].readings == KNOWN + READ - SEALED
    (hole,) = report.streams[NAME].lost
    assert hole.readings == SEALED - KNOWN
    run.die()


@pytest.mark.parametrize("fault", ["gone", "overwritten", "unknown tables", "not readable"])
def test_where_the_ring_does_not_have_all_of_it_the_time_is_stated_lost(tmp_path: Path, fault: str) -> None:
    """A power cut took it, or it ran over: then what had not left is lost as well, and said."""
    accident = Accident(tmp_path, 0, ring_words=3000 if fault == "overwritten" else 0)
    if fault == "gone":
        accident.ring.unlink()
    elif fault == "not readable":
        accident.ring.write_bytes(b"x" * 4096)
    run, gone = Run(accident.place, accident.signer), None
    if fault == "unknown tables":
        run.store.documents.forget_rings([])
    run.die()
    run, gone = accident.start()
    assert gone is not None and gone.again == 0
    (note,) = run.store.packs.losses() or [None]
    if note is not None:  # nothing is left of the stream to seal now: the next pack says it
        assert (note.from_ms, note.to_ms) == (T0 + KNOWN * 1000, T0 + SEALED * 1000)
    else:
        (loss,) = losses(run)
        assert (loss["from"], loss["to"]) == (T0 / 1000 + KNOWN, T0 / 1000 + SEALED)
    assert run.store.packs.heads()[NAME].seq >= accident.sealed[-1]["seq"]
    numbers = [r["v"] for p in run.packs() for r in p.get("e", ())]
    assert len(numbers) == len(set(numbers)) and not set(numbers) & set(range(KNOWN, SEALED))
    run.die()


def test_after_a_power_cut_nothing_is_taken_for_not_having_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The record is of another boot of the kernel: it says that heads were there, and not that nothing came after."""
    accident = Accident(tmp_path, 0)
    record = record_file(accident.place / "store.db")
    record.write_bytes(_summed(_HEADER.pack(MAGIC, bytes(range(16)), 0)) + record.read_bytes()[SLOT:])
    run, gone = accident.start()
    assert gone == LostTransactions(1, SEALED - KNOWN, 0, False) and "may have lost more packs" in caplog.text
    (loss,) = losses(run)
    assert (loss["from"], loss["to"]) == (T0 / 1000 + KNOWN, T0 / 1000 + SEALED)
    assert [r["v"] for p in run.packs() for r in p.get("e", ())] == [*range(KNOWN), *range(SEALED, READ)]
    assert accident.verify(waiting(run)).verdict is Verdict.VERIFIED
    run.die()


def test_results_are_made_again_from_where_they_had_left(tmp_path: Path) -> None:
    """Figures stand in no ring; they follow from what is sealed again."""
    accident = Accident(tmp_path, 0)
    name = "park7/gw01/_indicators"
    record = record_file(accident.place / "store.db")
    entry = HeadRecord(record).found[NAME]
    entry.stream, entry.sent_seq, entry.sent_ms, entry.ring_id = name, 2, T0 + 2000, 77
    data = bytearray(record.read_bytes())
    data[5 * SLOT : 6 * SLOT] = entry.encode()
    record.write_bytes(data)
    run, _ = accident.start()
    head = run.store.packs.heads()[name]
    assert head.seq == accident.sealed[-1]["seq"] and head.to_ms == T0 + 2000
    assert any(note.stream == name for note in run.store.packs.losses())
    run.begin(TABLE)
    packer, ring, lost = run.packer(name), run.ring, [{"event": "loss", "first": 1}]
    assert ring
    packer.use(BirthTable(name, document()))
    (birth,) = packer.results(ring, CLOCK, [], lost)
    assert birth.is_birth and json.loads(birth.data)["events"] == lost and birth.from_ms == birth.to_ms == T0 + 2000
    (more,) = packer.results(ring, CLOCK, [], lost)
    assert json.loads(more.data)["events"] == lost and not packer.results(ring, CLOCK, [])
    run.die()


def test_a_database_without_a_record_says_nothing(tmp_path: Path, signer: Signer) -> None:
    """Of an older version: it starts, and what is gone is gone."""
    accident = Accident(tmp_path, 0)
    record_file(accident.place / "store.db").unlink()
    run, gone = accident.start()
    assert gone is None and not losses(run)
    run.die()


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    folder = tmp_path / "unused"
    folder.mkdir()
    return create_key(folder / "signing.key", 1)
