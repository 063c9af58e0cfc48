"""Checkpoints: chained over restarts and page counts, bounded in the store, and the measure of what is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.checkpoint import CheckpointPage, checkpoint, payload_hash
from agent.keys import Signer, create_key, key_records
from agent.service.checkpoints import CheckpointMaker
from agent.service.db_thread import DatabaseThread
from agent.service.signing_key import ActiveKey
from agent.store import Store
from agent.uplink import Uplink
from agent.verify import Verdict, Verifier
from drivers.encoding import base64url, base64url_decode
from ext.canon import dumps
from tests.kits.exports import BASE, T0, Gateway


@dataclass(frozen=True)
class Head:
    stream: str
    boot: str
    seq: int
    hash: bytes
    to_ms: int


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return create_key(tmp_path_factory.mktemp("key") / "signing.key", T0 // 1000)


def heads(count: int) -> list[Head]:
    return [Head(f"{BASE}/d{n:03d}", f"{n:016x}", n + 1, bytes([n % 256]) * 32, T0 + n) for n in range(count)]


@given(st.lists(st.integers(1, 25), min_size=1, max_size=6))
def test_every_checkpoint_follows_the_one_before_whatever_the_number_of_pages(signer: Signer, sizes: list[int]) -> None:
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, BASE), f"meterhouse/v1/{BASE}/keys")
    newest: dict[int, tuple[int, int, bytes]] = {}
    fed = 0
    for n, size in enumerate(sizes):
        pages = checkpoint(signer, BASE, heads(size)[::-1], list(newest.values()), T0 + n * 1000, page_heads=7)
        assert [page.page for page in pages] == list(range(1, -(-size // 7) + 1))
        assert len({page.counter for page in pages}) == 1
        for page in pages:
            body, old = json.loads(page.data), newest.get(page.page)
            follows = old is not None and old[1] == page.counter - 1
            assert body["prev"] == (payload_hash(old[2]) if old and follows else None)
            assert [h["stream"] for h in body["heads"]] == sorted(h["stream"] for h in body["heads"])
            verifier.feed(page.data, f"meterhouse/v1/{BASE}/checkpoint/{page.page}")
            newest[page.page] = (page.page, page.counter, page.data)
            fed += 1
    report = verifier.finish()
    assert not report.failed and report.checkpoints == fed, report.faults


def test_a_page_fits_into_the_smallest_packet_that_brokers_allow(signer: Signer) -> None:
    pages = checkpoint(signer, BASE, heads(500), [], T0)
    assert len(pages) == 3 and max(len(page.data) for page in pages) < 100_000


def test_a_new_database_counts_on_above_the_one_that_was_lost(signer: Signer) -> None:
    (old,) = checkpoint(signer, BASE, heads(3), [], T0)
    for n in range(5):
        (old,) = checkpoint(signer, BASE, heads(3), [(1, old.counter, old.data)], T0 + n * 60_000)
    (new,) = checkpoint(signer, BASE, heads(3), [], T0 + 600_000)
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, BASE))
    for page in (old, new):
        verifier.feed(page.data)
    assert new.counter > old.counter and not verifier.finish().failed


@pytest.mark.parametrize("later_ms", [1, 400, 1000])
def test_a_database_that_is_lost_within_a_second_of_its_first_checkpoint_breaks_no_chain(
    signer: Signer, later_ms: int
) -> None:
    """The counter was the time in seconds, so the next database used it again, or the next one without its hash."""
    pages = checkpoint(signer, BASE, heads(3), [], T0) + checkpoint(signer, BASE, heads(3), [], T0 + 1 + later_ms)
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, BASE))
    for page in pages:
        verifier.feed(page.data)
    assert not verifier.finish().failed


async def test_a_checkpoint_that_a_power_cut_destroyed_after_it_was_published_breaks_no_chain(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start used its counter for another checkpoint. The disk had acknowledged the commit. # field pain 51"""
    gateway.seal(3)
    state, platter = gateway.folder / "state", gateway.folder / "platter"
    published: list[bytes] = []
    uplink = cast(Uplink, SimpleNamespace(retain=lambda topic, data: published.append(data)))

    async def run(now_ms: int, cut: bool) -> None:
        path = state / "store.db"
        db_thread = DatabaseThread(lambda: Store.open(path, 64 << 20, destinations=["platform"]), dict)
        await db_thread.start()
        key = cast(ActiveKey, SimpleNamespace(signer=gateway.signer))
        maker = CheckpointMaker(db_thread, key, BASE, [uplink], lambda: ["inv1"], lambda: now_ms)
        assert await maker.make()
        if cut:
            shutil.copytree(state, platter)  # what is on the disk when the power goes
            assert await maker.make()
        await db_thread.stop()

    await run(T0, cut=True)
    shutil.rmtree(state)
    shutil.move(platter, state)
    monkeypatch.setattr("agent.store.heads.boot_bytes", lambda: b"after the cut 16")
    await run(T0 + 5000, cut=False)

    verifier = Verifier([gateway.signer.kid])
    verifier.feed(gateway.keys)
    for page in published:
        verifier.feed(page)
    report = verifier.finish()
    assert report.checkpoints == 3 and not report.failed, report.faults


@pytest.mark.parametrize(
    "spoil", [lambda page: page.replace(b'"sig"', b'"siG"'), lambda page: page[:100], lambda page: b""]
)
def test_a_page_that_the_disk_has_changed_counts_as_lost(signer: Signer, spoil: Callable[[bytes], bytes]) -> None:
    """Each stop of the agent ended with an internal error, since the last checkpoint had no signature."""
    # field pain 52
    first, second = checkpoint(signer, BASE, heads(4), [], T0, page_heads=2)
    before = [(1, first.counter, first.data), (2, second.counter, spoil(second.data))]
    pages = checkpoint(signer, BASE, heads(4), before, T0 + 600_000, page_heads=2)
    assert [json.loads(page.data)["prev"] for page in pages] == [None, None]
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, BASE))
    for page in (first, second, *pages):
        verifier.feed(page.data)
    assert pages[0].counter > first.counter + 1 and not verifier.finish().failed


def keep(store: Store, signer: Signer, time_ms: int, count: int = 3) -> list[CheckpointPage]:
    made: list[CheckpointPage] = []

    def after(before: list[tuple[int, int, bytes]]) -> list[tuple[int, int, int, bytes]]:
        made.extend(checkpoint(signer, BASE, heads(count), before, time_ms, page_heads=2))
        return [(page.page, page.counter, page.time_ms, page.data) for page in made]

    store.documents.chain_checkpoint(after)
    return made


def test_the_store_keeps_the_newest_and_one_a_day(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.store.documents.KEEP_CHECKPOINTS", 5)
    monkeypatch.setattr("agent.store.documents.KEEP_DAYS", 4)
    store = Store.open(tmp_path / "store.db")
    try:
        day = T0 // 86_400_000 * 86_400_000
        for hour in range(24 * 6):
            keep(store, signer, day + hour * 3_600_000)
        found = [store.documents.checkpoint(*key) or b"" for key in store.documents.checkpoint_keys(0, 1 << 60)]
        times = sorted({json.loads(body)["time"] * 1000 for body in found})
        dailies = [day + n * 86_400_000 for n in (2, 3, 4, 5)]
        assert times == sorted({*dailies, *(day + hour * 3_600_000 for hour in range(24 * 6 - 5, 24 * 6))})
        assert len(found) == 2 * len(times), "all pages of each"
    finally:
        store.close()


def test_a_stream_whose_device_was_removed_may_be_silent_and_another_may_not(signer: Signer) -> None:
    verifier = Verifier([signer.kid])
    verifier.feed(key_records(signer, BASE))
    (page,) = checkpoint(signer, BASE, heads(3), [], T0, retired=lambda stream: stream.endswith("/d001"))
    verifier.feed(page.data)
    report = verifier.finish()
    assert [name for name, s in report.streams.items() if s.retired] == [f"{BASE}/d001"]
    assert report.shortfalls() == [f"{BASE}/{name}: known, but without any pack" for name in ("d000", "d002")]
    (page,) = checkpoint(signer, BASE, heads(3), [(1, page.counter, page.data)], T0 + 1000)
    verifier.feed(page.data)
    assert len(verifier.finish().shortfalls()) == 3, "the device is back"


def test_a_failure_between_two_pages_leaves_neither(signer: Signer, tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db")
    try:
        first = keep(store, signer, T0)

        def half(before: list[tuple[int, int, bytes]]) -> list[tuple[int, int, int, bytes]]:
            return [(1, first[0].counter + 1, T0, b"{}"), (1, first[0].counter + 1, T0, b"{}")]

        with pytest.raises(Exception, match="UNIQUE"):
            store.documents.chain_checkpoint(half)
        assert [page for page, _, _ in store.documents.newest_checkpoints()] == [1, 2]
        assert {counter for _, counter, _ in store.documents.newest_checkpoints()} == {first[0].counter}
    finally:
        store.close()


@pytest.mark.process
def test_an_exported_checkpoint_shows_that_the_end_was_cut_off(gateway: Gateway, mh) -> None:
    """Without it nobody could tell that the last packs of a folder were taken out."""
    gateway.seal(20)

    def after(store: Store) -> None:
        known = store.packs.heads().values()
        store.documents.chain_checkpoint(
            lambda before: [
                (p.page, p.counter, p.time_ms, p.data)
                for p in checkpoint(gateway.signer, BASE, known, before, gateway.now_ms)
            ]
        )

    gateway.keep(after)
    gateway.seal(5)
    folder = gateway.folder / "out"
    assert mh("export", folder, "-c", gateway.config)[0] == 0
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.VERIFIED and report.checkpoints == 1, report.reasons
    file = folder / "packs" / "inv1.packs.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    for cut in (5, 9, 20):
        file.write_bytes(b"".join(lines[:cut]))
        report = gateway.folder_report(folder)
        assert report.verdict is Verdict.INCOMPLETE and report.missing == 21 - cut
    end = [*file.parent.parent.glob("checkpoints.jsonl")]
    assert len(end) == 1
    part = gateway.folder / "part"
    code, _, err = mh("export", part, "-c", gateway.config, "--to", "2026-11-24T06:00:10Z")
    assert code == 0, err
    assert gateway.folder_report(part).verdict is Verdict.VERIFIED, "a checkpoint after the range is left out"


def damage_newest(store: Store, how: str) -> None:
    """Change the newest checkpoint in the database, as a disk does."""
    (page, counter, data), *others = store.documents.newest_checkpoints()
    execute = store.packs._db.execute
    where = f"WHERE page = {page} AND counter = {counter}"
    bodies = {
        "digit": data.replace(b'"seq":', b'"sep":', 1),
        "no signature": data.replace(b'"sig"', b'"siG"'),
        "no JSON": data.replace(b"}", b"~", 1),
        "empty": b"",
        "unknown key": sign_by_another(data),
        "another page": others[0][2] if others else b"",
    }
    if how in bodies:
        execute(f"UPDATE checkpoints SET body = ? {where}", (bodies[how],))
    elif how == "counter":
        execute(f"UPDATE checkpoints SET counter = {(1 << 63) - 1} {where}")
    elif how == "text":  # one bit in the header of a row; the bytes of the object are the same
        execute(f"UPDATE checkpoints SET body = CAST(body AS TEXT) {where}")
    else:
        execute(f"DELETE FROM checkpoints {where}")


def sign_by_another(data: bytes) -> bytes:
    """A page whose signature names another key: the field ``kid`` of its header has one other character."""
    header = json.loads(data)["sig"].partition(".")[0]
    fields = json.loads(base64url_decode(header))
    return data.replace(header.encode(), base64url(dumps({**fields, "kid": fields["kid"][:-1] + "~"})).encode())


DAMAGES = ("digit", "no signature", "no JSON", "empty", "unknown key", "another page", "counter")


@pytest.mark.parametrize("how", DAMAGES)
async def test_the_next_checkpoint_does_not_follow_a_page_that_the_disk_has_changed(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """Also not if it still looks like a signed object: nobody has the object whose hash it would name."""
    # field pain 52
    gateway.seal(3)
    sent: list[bytes] = []

    class Uplink:
        def retain(self, topic: str, data: bytes) -> None:
            sent.append(data)

    async def make(damage: str = "") -> None:
        store = Store.open(gateway.folder / "state" / "store.db", 64 << 20, destinations=["platform"])

        class Thread:
            async def call(self, job: Callable[[Store], Any]) -> Any:
                return job(store)

        key = SimpleNamespace(signer=gateway.signer)
        maker = CheckpointMaker(
            cast("Any", Thread()), cast("Any", key), BASE, cast("Any", [Uplink()]), lambda: ["inv1"]
        )
        assert await maker.make()
        if damage:
            damage_newest(store, damage)
        store.close()

    for damage in ("", how, "", ""):
        await make(damage)
    counters = [json.loads(data)["counter"] for data in sent]
    prevs = [json.loads(data)["prev"] for data in sent]
    assert prevs == [None, payload_hash(sent[0]), None, payload_hash(sent[2])]
    assert counters[1] == counters[0] + 1 < counters[2] == counters[3] - 1
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["deleted checkpoints of the store that the disk had changed: 1"]
    verifier = Verifier([gateway.signer.kid])
    verifier.feed(gateway.keys)
    for data in sent:
        verifier.feed(data)
    assert not verifier.finish().failed


@pytest.mark.process
@pytest.mark.parametrize("how", [*DAMAGES, "lost page", "text"])
def test_a_damaged_checkpoint_does_not_stop_an_export(gateway: Gateway, mh, how: str) -> None:
    """It is left out with all its pages, the command says so, and the rest is verified."""
    # field pain 52
    gateway.seal(10)
    gateway.keep(lambda store: keep(store, gateway.signer, gateway.now_ms - 5000, 3))
    gateway.keep(lambda store: keep(store, gateway.signer, gateway.now_ms, 3))
    gateway.keep(lambda store: damage_newest(store, how))
    folder = gateway.folder / "out"
    code, out, err = mh("export", folder, "-c", gateway.config)
    assert code == 0, (out, err)
    left_out = {"text": 0, "counter": 2}.get(how, 1)  # a page with a wrong counter looks like a checkpoint of its own
    found = re.findall(r"checkpoints that are damaged in the database, and are left out: (\d+)", out + err)
    assert found == ([str(left_out)] if left_out else []), (out, err)
    assert len((folder / "checkpoints.jsonl").read_bytes().splitlines()) == (4 if how == "text" else 2)
    report = gateway.folder_report(folder)
    assert not report.failed and not report.torn_checkpoints


@pytest.mark.process
def test_key_records_that_one_bit_has_made_a_text_are_exported(gateway: Gateway, mh) -> None:
    gateway.seal(3)
    gateway.keep(lambda store: store.packs._db.execute("UPDATE key_records SET body = CAST(body AS TEXT)"))
    folder = gateway.folder / "out"
    code, _, err = mh("export", folder, "-c", gateway.config)
    assert code == 0, err
    assert (folder / "keys.json").read_bytes().strip() == gateway.keys
    assert gateway.folder_report(folder).verdict is Verdict.VERIFIED


@pytest.mark.process
def test_a_damaged_key_record_is_made_again_from_the_key_file(gateway: Gateway, mh) -> None:
    """The export had no keys, and blamed the key file. # field pain 52"""
    gateway.seal(3)
    changed = gateway.keys.replace(b'"counter":1', b'"counter":3')
    assert changed != gateway.keys
    gateway.keep(lambda store: store.db.execute("UPDATE key_records SET body = ?", (changed,)))
    folder = gateway.folder / "out"
    code, out, err = mh("export", folder, "-c", gateway.config)
    assert code == 0 and "key file" not in out + err, (out, err)
    assert (folder / "keys.json").read_bytes().strip() == gateway.keys
    assert gateway.folder_report(folder).verdict is Verdict.VERIFIED


@pytest.mark.process
def test_an_export_says_how_many_packs_the_disk_has_changed(gateway: Gateway, mh) -> None:
    """They were left out, and nothing said so; a file of values has no hole that somebody could see."""
    # field pain 52
    gateway.seal(10)
    gateway.keep(lambda store: store.db.execute("UPDATE packs SET body = x'01' WHERE seq IN (3, 4)"))
    csv, folder = ("--csv", gateway.folder / "out.csv"), (gateway.folder / "out",)
    for where in (csv, folder):  # the first one drops them, the second one does not find them
        code, out, err = mh("export", *where, "-c", gateway.config)
        found = re.findall("packs of this time range that the database no longer has, .*: (\\d+)", out + err)
        assert (code, found) == (0, ["4"]), (out, err)


@pytest.mark.process
def test_an_exported_checkpoint_has_all_its_pages_or_none(gateway: Gateway, mh) -> None:
    """One page that names packs after the range takes the others with it: alone they look held back."""

    def keep_pages(time_ms: int) -> None:
        gateway.keep(
            lambda store: store.documents.chain_checkpoint(
                lambda before: [
                    (p.page, p.counter, p.time_ms, p.data)
                    for p in checkpoint(
                        gateway.signer, BASE, store.packs.heads().values(), before, time_ms, page_heads=1
                    )
                ]
            )
        )

    gateway.seal(10)
    keep_pages(gateway.now_ms)
    folder = gateway.folder / "out"
    assert mh("export", folder, "-c", gateway.config)[0] == 0
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.VERIFIED and report.checkpoints == 2, report.reasons
    file = folder / "checkpoints.jsonl"
    pages = file.read_bytes().splitlines(keepends=True)
    for n in (0, 1):
        file.write_bytes(pages[n])
        report = gateway.folder_report(folder)
        assert report.verdict is Verdict.INCOMPLETE and [torn.missing for torn in report.torn_checkpoints] == [[2 - n]]
    gateway.seal(10)
    keep_pages(T0 + 5000)  # as if the clock had gone back: in the range, and names packs after it
    part = gateway.folder / "part"
    code, _, err = mh("export", part, "-c", gateway.config, "--to", "2026-11-24T06:00:10Z", "--stream", "inv1")
    assert code == 0, err
    assert not (part / "checkpoints.jsonl").exists()
    assert gateway.folder_report(part).verdict is Verdict.VERIFIED


@pytest.mark.process
def test_an_export_of_one_device_says_so(gateway: Gateway, mh) -> None:
    """Without its word the other one would be held back, which a checkpoint names."""
    gateway.seal(10)
    gateway.keep(
        lambda store: store.documents.chain_checkpoint(
            lambda before: [
                (p.page, p.counter, p.time_ms, p.data)
                for p in checkpoint(gateway.signer, BASE, store.packs.heads().values(), before, gateway.now_ms)
            ]
        )
    )
    folder = gateway.folder / "out"
    assert mh("export", folder, "-c", gateway.config, "--stream", "inv1")[0] == 0
    assert (folder / "streams.txt").read_text() == "inv1\n"
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.VERIFIED and report.only == ["inv1"], report.reasons
    assert report.shortfalls() == [f"{BASE}/births: known, but without any pack"]
    (folder / "streams.txt").unlink()
    report = gateway.folder_report(folder)
    assert report.verdict is Verdict.INCOMPLETE and report.withheld == [f"{BASE}/births"]
