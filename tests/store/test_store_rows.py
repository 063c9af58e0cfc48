"""A value that was changed in the database file: it is found and named, or has no effect on what is delivered."""

from __future__ import annotations

import logging
import random
import re
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.checkpoint import checkpoint
from agent.pack import BirthTable, Head, Packer, SealedPack, base64url
from agent.service.control.export import Archive
from agent.service.recovery import resume_after_loss
from agent.service.seal_jobs import loss_event
from agent.service.store_check import pack_checker
from agent.store import Store
from agent.verify import Report, Verdict, Verifier
from tests.kits.exports import BASE, CLOCK, Gateway, table
from tests.kits.row_changes import Change, change_one

CAP = 64 << 20
DESTINATIONS = ("platform", "auditor")
SEED = 20261207


class Site(NamedTuple):
    """A stopped gateway, and what its destinations have already received."""

    gateway: Gateway
    delivered: dict[str, set[bytes]]  # by destination
    evicted: set[bytes]  # dropped at the size limit, with a loss that no pack states yet

    @property
    def path(self) -> Path:
        return self.gateway.folder / "state" / "store.db"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    gateway = Gateway(tmp_path_factory.mktemp("site"), "inv1", "m2")

    def opened(job: object) -> object:
        with closing(Store.open(gateway.folder / "state" / "store.db", CAP, destinations=DESTINATIONS)) as store:
            return job(store)  # type: ignore[operator]

    gateway.keep = opened  # type: ignore[method-assign]
    gateway.seal(45)
    gateway.restart()
    gateway.seal(20)
    number = {pack.data: n for n, pack in enumerate(gateway.made, 1)}
    evicted = gateway.made[60]

    def live(store: Store) -> None:
        ids = {name: list(range(1, 50 + 30 * n)) for n, name in enumerate(DESTINATIONS)}
        store.packs.commit((), {name: [*some, *range(100, 110)] for name, some in ids.items()})
        store.retention.evict([number[evicted.data]], "size_cap")
        store.documents.register_tables(77, [(0, gateway.names[0], table())])
        store.documents.keep_facts({gateway.names[0]: b'{"serial":"1"}'})
        heads = store.packs.heads().values()
        for _ in range(3):
            store.documents.chain_checkpoint(
                lambda before: checkpoint(gateway.signer, BASE, heads, before, gateway.now_ms)
            )

    opened(live)
    delivered = {
        name: {p.data for p in gateway.made if number[p.data] < 50 + 30 * n or 100 <= number[p.data] < 110}
        for n, name in enumerate(DESTINATIONS)
    }
    yield Site(gateway, delivered, {evicted.data})
    gateway.ring.close()


def deliver(store: Store, name: str) -> set[bytes]:
    got: set[bytes] = set()
    after = 0
    while items := store.packs.pending(name, after):
        got |= {item.data for item in items}
        after = items[-1].id
    store.packs.commit((), {name: range(1, after + 1)})
    return got


def next_packs(site: Site, store: Store) -> list[SealedPack]:
    """Seal the next packs as a start of the agent does, with the losses that the store has noted."""
    heads, losses, made = store.packs.heads(), store.packs.losses(), list[SealedPack]()
    start_ms = site.gateway.now_ms + 5000
    for name in site.gateway.names:
        known = heads.get(name)
        head = Head(known.boot, known.seq, base64url(known.hash), known.to_ms) if known else None
        packer = Packer(name, "f" * 16, head, site.gateway.signer.signer("mh-pack"), start_ms, 1 << 16)
        packer.use(BirthTable(name, table()))
        events = [loss_event(note) for note in losses if note.stream == name]
        made += packer.seal(site.gateway.ring, array("Q"), start_ms + 1000, CLOCK, events)
    store.packs.commit(made, {}, [note.id for note in losses])
    return made


def verified(site: Site, packs: set[bytes]) -> Report:
    verifier = Verifier([site.gateway.signer.kid])
    verifier.feed(site.gateway.keys, f"meterhouse/v1/{BASE}/keys")
    for data in sorted(packs, key=lambda data: int(data[data.rindex(b'"seq":') + 6 :].split(b",", 1)[0])):
        verifier.feed(data)
    return verifier.finish()


def judge(site: Site, folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Start, deliver, seal, export and check as the product does. Returns the outcome; raises if it is a wrong one."""
    made = {pack.data for pack in site.gateway.made}
    with closing(Store.open(folder / "store.db", CAP, destinations=DESTINATIONS)) as store:
        resume_after_loss(store, folder)
        early = {name: deliver(store, name) for name in DESTINATIONS}
        sealed = {pack.data for pack in next_packs(site, store)}
        outcome = "no effect"
        for name in DESTINATIONS:
            got = early[name] | deliver(store, name)
            assert got <= made | sealed, f"{name} got bytes that were never sealed"
            arrived = got | site.delivered[name]
            report = verified(site, arrived)
            assert report.verdict is Verdict.VERIFIED, f"{name}: {report.verdict}, {report.as_dict()}"
            if lost := made - site.evicted - arrived:
                outcome = f"lost {len(lost)}"
        archive = Archive(store, 0, 1 << 52)
        lines = {line for piece in archive.pieces() if piece.packs for line in piece.lines}
        assert lines <= made | sealed, "the export has bytes that were never sealed"
        if gone := made - site.evicted - lines:
            outcome = f"{outcome}, {len(gone)} not exported"
    named = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert outcome == "no effect" or named or archive.warnings, f"{outcome}, and nothing says so"
    return "repaired" if outcome == "no effect" and named else outcome


def check_whole(folder: Path, caplog: pytest.LogCaptureFixture) -> bool:
    """Check the database as `verify --db` does. Returns True if something was found."""
    with closing(Store.open(folder / "store.db", CAP, destinations=DESTINATIONS)) as store:
        check = store.start_check(pack_checker(store))
        while check.step():
            pass
        return bool(check.bad_packs or store.quarantine or any(r.levelno >= logging.WARNING for r in caplog.records))


def try_one(site: Site, folder: Path, dice: random.Random, caplog: pytest.LogCaptureFixture) -> tuple[Change, str]:
    folder.mkdir()
    shutil.copytree(site.path.parent, folder / "start")
    change = change_one(folder / "start" / "store.db", dice)
    shutil.copytree(folder / "start", folder / "check")
    outcome = ""
    try:
        caplog.clear()
        outcome = judge(site, folder / "start", caplog)
        caplog.clear()
        found = check_whole(folder / "check", caplog)
        assert found or outcome == "no effect", f"{outcome}, and the check of the database finds nothing"
        return change, outcome
    except Exception as error:  # noqa: BLE001 - each kind of failure is counted
        return change, f"WRONG: {outcome} {type(error).__name__}: {str(error)[:300]}"
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("changes", [60, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_each_changed_value_is_found_or_has_no_effect_on_what_is_delivered(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: int
) -> None:
    dice = random.Random(SEED)
    print(f"seed {SEED}")
    columns: dict[tuple[str, str], Counter[str]] = {}
    wrong: list[str] = []

    for n in range(changes):
        change, outcome = try_one(site, tmp_path / str(n), dice, caplog)
        kind = "wrong" if outcome.startswith("WRONG") else re.sub(r" ?[0-9]+", "", outcome)
        columns.setdefault((change.table, change.column), Counter())[kind] += 1
        if kind == "wrong":
            wrong.append(f"{change.what}: {outcome}")

    for (name, column), counts in sorted(columns.items()):
        print(f"{name}.{column}: {', '.join(f'{kind} {count}' for kind, count in sorted(counts.items()))}")
    print(f"all: {sum(columns.values(), Counter())}")
    assert not wrong, "\n".join([f"{len(wrong)} of {changes}", *wrong])
