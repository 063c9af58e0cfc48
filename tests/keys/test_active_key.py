"""The key in the agent's hand: it changes between two rounds, and a token that does not sign loses nothing."""

from __future__ import annotations

import asyncio
import io
import json
import math
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.cli.keys import key_file, last_trusted
from agent.keys import (
    KeyFileError,
    Revocation,
    Signer,
    check_key_records,
    create_key,
    current_records,
    load_key,
    rotate_key,
    signed_by,
)
from agent.keys.signer import SoftEd25519
from agent.keys.token import NoUsableKey, PinRejected, TokenError
from agent.pack import BirthTable, Packer
from agent.service import signing_key
from agent.service.control import keys as key_requests
from agent.service.control.keys import last_signed
from agent.service.control.peer import Caller, NotAllowed
from agent.service.control.protocol import Keys
from agent.service.db_thread import DatabaseThread
from agent.service.runtime_dir import instance_lock
from agent.service.seal_jobs import Stream
from agent.service.signing_key import ActiveKey, KeyFileWatcher
from agent.store import Store, StoreFull
from agent.verify import Verdict, Verifier
from drivers.model import GatewayError, Reason, UsageError
from ext.ring import Ring
from tests.kits.exports import BASE, CLOCK, T0, Gateway, table

Mh = Callable[..., tuple[int, str, str]]
PROFILES = Path(__file__).parent.parent / "kits" / "profiles"


DEVICES = """
[[line]]
name = "roof"
url = "modbus-tcp://127.0.0.1:1"
""" + "".join(
    f"""
[[device]]
name = "{name}"
line = "roof"
address = "{n}"
profile = "test/tally"
"""
    for n, name in enumerate(("inv1", "births"), 1)
)


class Somebody(io.StringIO):
    """Sits at the terminal and says yes."""

    def __init__(self) -> None:
        super().__init__("y\n")

    def isatty(self) -> bool:
        return True


class Moody:
    """A key that signs when it likes to."""

    def __init__(self) -> None:
        self._key, self.well = SoftEd25519(Ed25519PrivateKey.generate()), True
        self.alg, self.jwk = self._key.alg, self._key.jwk

    def sign(self, message: bytes) -> bytes:
        if not self.well:
            raise TokenError("the token failed to sign", where="token")
        return self._key.sign(message)


class SealRounds:
    """Two streams that are sealed a second at a time by a real writer into a real store."""

    def __init__(self, folder: Path, active: ActiveKey) -> None:
        self.ring = Ring.create(str(folder / "ring"), 1 << 20, 77, 2, bytes(32))
        self.now_ms, self.told = T0, list[tuple[Any, ...]]()
        self.db_thread = DatabaseThread(lambda: Store.open(folder / "store.db", 64 << 20), lambda: CLOCK)
        self.db_thread.on_trouble = lambda *what: self.told.append(what)
        self.streams = []
        for n, name in enumerate((f"{BASE}/inv1", f"{BASE}/inv2")):
            stream = Stream(name, Packer(name, "00000000000000aa", None, active.sign, T0, 1 << 16), T0)
            stream.switch_table(n, BirthTable(name, table()), T0, self.ring)
            self.streams.append(stream)

    async def round(self) -> int:
        """Streams that were sealed."""
        tick, self.now_ms = self.now_ms, self.now_ms + 1000
        for n, stream in enumerate(self.streams):
            at = tick * 1_000_000 + 40_000_000
            values = [(0, tick // 1000, -1, 0), (1, tick, -3, 0)]
            stream.record(n, [self.ring.append_values(n, tick, at, 1, values)], True)
        jobs = [stream.job(self.now_ms, Reason.STOPPED) for stream in self.streams]
        done = await self.db_thread.seal(jobs)
        for job in jobs[:done]:
            job.stream.done(job)
        return done

    async def packs(self) -> dict[str, list[bytes]]:
        """Everything that is durable, by stream."""
        return {
            s.name: await self.db_thread.call(
                lambda store, s=s: [p.data for p in store.packs.after(s.name, 0, 1 << 40)]
            )  # type: ignore[misc]
            for s in self.streams
        }


def verdict(packs: dict[str, list[bytes]], active: ActiveKey, trust: str) -> Any:
    verifier = Verifier([trust])
    verifier.feed(active.records, f"meterhouse/v1/{BASE}/keys")
    for name, datas in packs.items():
        for data in datas:
            verifier.feed(data, f"meterhouse/v1/{name}/readings")
    return verifier.finish()


async def test_a_key_that_does_not_sign_loses_nothing(tmp_path: Path) -> None:
    """Sealing pauses and says why; what was read waits in the ring and is sealed with the first signature after."""
    key = Moody()
    active = ActiveKey(Signer(key, T0 // 1000 - 5), BASE)
    rounds = SealRounds(tmp_path, active)
    await rounds.db_thread.start()
    try:
        await rounds.db_thread.call(active.activate)
        assert await rounds.round() == 2
        key.well = False
        assert [await rounds.round() for _ in range(3)] == [0, 0, 0]
        assert rounds.told[-1] == ("token: the token failed to sign", Reason.STOPPED)
        key.well = True
        assert await rounds.round() == 2
        packs = await rounds.packs()
    finally:
        await rounds.db_thread.stop()
        rounds.ring.close()
    report = verdict(packs, active, active.signer.kid)
    assert report.verdict is Verdict.VERIFIED and report.gaps == 0 and report.readings == 2 * 2 * 5


@pytest.mark.parametrize("rotated", [False, True])
def test_key_records_that_the_disk_has_changed_are_made_again(tmp_path: Path, rotated: bool) -> None:
    """A turned bit in the row kept the agent from every start; the key's file has the records too. # field pain 52"""
    path, dice = tmp_path / "signing.key", random.Random(1)
    create_key(path, T0 // 1000 - 5)
    if rotated:
        rotate_key(path, BASE, T0 // 1000)
    store = Store.open(tmp_path / "store.db", 64 << 20)
    good = ActiveKey(load_key(path), BASE).activate(store)
    for _ in range(25):
        bad = bytearray(good)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(7)
        store.close()
        with closing(sqlite3.connect(tmp_path / "store.db")) as conn, conn:
            conn.execute("UPDATE key_records SET body = ?", (bytes(bad),))
        store = Store.open(tmp_path / "store.db", 64 << 20)
        assert ActiveKey(load_key(path), BASE).activate(store) == good
        kept = store.keys.newest()
        assert kept is not None and kept[1] == good
    with pytest.raises(GatewayError, match="park7/other"):  # sound, and of another gateway: nothing is dropped
        ActiveKey(load_key(path), "park7/other").activate(store)
    assert store.keys.newest() == kept
    store.close()


async def test_all_streams_change_at_one_border(tmp_path: Path) -> None:
    """Records are durable and handed out before the first pack that needs them; every stream changes in one round."""
    path = tmp_path / "signing.key"
    first = create_key(path, T0 // 1000 - 5).kid
    active = ActiveKey(load_key(path), BASE)
    rounds, seen, notes, checkpoints = SealRounds(tmp_path, active), list[bytes](), list[Any](), list[str]()

    async def checkpoint() -> None:
        checkpoints.append(active.signer.kid)

    await rounds.db_thread.start()
    try:
        await rounds.db_thread.call(active.activate)
        watch = KeyFileWatcher(active, path, rounds.db_thread, seen.append, notes.append, checkpoint)
        await watch.check()
        await rounds.round()
        kids = [first]
        for alg in ("ES256", "Ed25519", "ES256"):
            kids.append(rotate_key(path, BASE, T0 // 1000, alg)[1].kid)
            await rounds.round()
            await watch.check()
            kept = await rounds.db_thread.call(lambda store: store.keys.newest())
            assert watch.kid == kids[-1] and kept and kept[1] == seen[-1] == active.records
            await watch.check()
            await rounds.round()
        path.write_text("nonsense")
        await watch.check()
        await watch.check()
        await rounds.round()
        path.unlink()
        await watch.check()
        assert watch.kid == kids[-1]
        packs = await rounds.packs()
    finally:
        await rounds.db_thread.stop()
        rounds.ring.close()
    assert [(note["old"], note["new"]) for note in notes] == list(pairwise(kids))
    assert checkpoints == kids[1:] and len(seen) == 3
    rows = [[signed_by(data) for data in datas if '"table"' not in data.decode()] for datas in packs.values()]
    a, b, c, d = kids
    assert rows == [[a, a, b, b, c, c, d, d]] * 2
    assert verdict(packs, active, first).verdict is Verdict.VERIFIED


async def test_a_key_that_does_not_follow_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    create_key(path, 1)
    active = ActiveKey(load_key(path), BASE)
    rounds = SealRounds(tmp_path, active)
    await rounds.db_thread.start()
    try:
        await rounds.db_thread.call(active.activate)
        kid, records = active.signer.kid, active.records
        other = create_key(tmp_path / "other.key", 2)

        async def none() -> None:
            raise AssertionError("no checkpoint of a key that was refused")

        watch = KeyFileWatcher(active, path, rounds.db_thread, lambda data: None, lambda event: None, none)
        with pytest.raises(Exception, match="the newest recorded key is"):
            await watch.prepare(tmp_path / "other.key")
        with pytest.raises(Exception, match="no signing key"):
            await watch.prepare(tmp_path / "none.key")
        assert (active.signer.kid, active.records) == (kid, records) != (other.kid, b"")
        assert await rounds.db_thread.call(lambda store: store.keys.newest()) == (1, records)
    finally:
        await rounds.db_thread.stop()
        rounds.ring.close()


# --- how far a key signed, by the database


class Straight:
    service: Any = None

    def __init__(self, store: Store) -> None:
        self._store = store

    async def call(self, function: Callable[[Store], Any]) -> Any:
        return function(self._store)


def rotated(gateway: Gateway, seconds: int) -> str:
    """Another key from here on; returns it."""
    path = gateway.folder / "state" / "signing.key"
    gateway.signer = rotate_key(path, BASE, gateway.now_ms // 1000)[1]
    records = current_records(gateway.signer, BASE)
    gateway.keep(lambda store: store.keys.add(json.loads(records)["counter"], records))
    gateway.keys = records
    gateway.restart()
    gateway.seal(seconds)
    return gateway.signer.kid


@pytest.fixture
def gateway(tmp_path: Path) -> Any:
    made = Gateway(tmp_path)
    shutil.copytree(PROFILES, tmp_path / "profiles", dirs_exist_ok=True)
    made.config.write_text(made.config.read_text() + DEVICES)
    yield made
    made.ring.close()


class Held(Straight):
    """A running agent, as far as a question about keys sees it."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.lock = asyncio.Lock()
        self.sealing = SimpleNamespace(paused=lambda: self.lock)
        self.changing = asyncio.Lock()  # the key: a reload holds it
        self.key_watcher = SimpleNamespace(
            kid="old", last_unused_hold_s=-math.inf, check=self.check, locked=lambda: self.changing
        )
        self.service, self.looks, self.new = self, 0, False
        self.caller = Caller(os.geteuid(), "")

    async def check(self) -> None:
        async with self.changing:
            self.looks += 1
        self.key_watcher.kid = "new" if self.new and self.looks > 2 else "old"

    async def part(self, data: bytes) -> None:
        assert self.lock.locked(), "nothing is sealed from the answer on"


async def test_who_asks_and_makes_no_key_may_not_stop_the_sealing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.seal(1)
    store = Store.open(gateway.folder / "state" / "store.db", 64 << 20)
    try:
        agent, request = Held(store), Keys(kid=gateway.signer.kid, hold=True)
        agent.new = True
        for _ in range(3):
            agent.looks = 0
            assert await key_requests.answer(agent, request, agent) == {"kid": "new"}  # type: ignore[arg-type]
            agent.key_watcher.kid = "old"
        agent.new = False
        monkeypatch.setattr(key_requests, "HOLD_S", 0.2)
        assert await key_requests.answer(agent, request, agent) == {"kid": "old"}  # type: ignore[arg-type]
        with pytest.raises(
            GatewayError, match=r"cannot be paused again yet: .* no new key was made.*stop the agent first"
        ):
            await key_requests.answer(agent, request, agent)  # type: ignore[arg-type]
        agent.caller = Caller(os.geteuid() + 1, "li")
        with pytest.raises(NotAllowed, match=r"li .* may not pause sealing"):
            await key_requests.answer(agent, request, agent)  # type: ignore[arg-type]
        assert not agent.lock.locked()
    finally:
        store.close()


async def test_a_pause_for_a_new_key_ends_while_a_reload_waits_for_the_sealing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waited for the other for ever: no reading was sealed until the agent was killed."""
    gateway.seal(1)
    monkeypatch.setattr(key_requests, "HOLD_S", 0.2)
    with closing(Store.open(gateway.folder / "state" / "store.db", 64 << 20)) as store:
        agent = Held(store)

        async def reload() -> None:
            async with agent.changing:
                while not agent.lock.locked():  # noqa: ASYNC110 - a lock has no event
                    await asyncio.sleep(0)
                async with agent.lock:
                    pass

        async with asyncio.timeout(60):
            pause = key_requests.answer(agent, Keys(kid=gateway.signer.kid, hold=True), agent)  # type: ignore[arg-type]
            told, _ = await asyncio.gather(pause, reload())
        assert told == {"kid": "old"}


async def test_a_key_that_the_store_could_not_take_is_tried_again(tmp_path: Path) -> None:
    """It counted as looked at: the agent went on to sign with the key that `keys rotate` had retired."""
    path, now_s = tmp_path / "signing.key", T0 // 1000
    create_key(path, now_s - 5)
    active = ActiveKey(load_key(path), BASE)
    rounds = SealRounds(tmp_path, active)
    await rounds.db_thread.start()

    async def after() -> None:
        pass

    try:
        await rounds.db_thread.call(active.activate)
        full, take = [True], rounds.db_thread.call

        async def call(work: Callable[[Store], Any]) -> Any:
            if full[0]:
                raise StoreFull("the disk is full", where="store.db")
            return await take(work)

        watcher = KeyFileWatcher(active, path, rounds.db_thread, lambda keys: None, lambda event: None, after)
        rounds.db_thread.call = call  # type: ignore[method-assign]
        made = rotate_key(path, BASE, now_s)[1]
        await watcher.check()
        assert watcher.kid != made.kid and "the disk is full" in watcher.trouble
        full[0] = False
        await watcher.check()
        assert watcher.kid == made.kid and not watcher.trouble
    finally:
        await rounds.db_thread.stop()
        rounds.ring.close()


@pytest.mark.parametrize(("error", "tries"), [(TokenError, 4), (PinRejected, 1), (NoUsableKey, 1)])
async def test_a_token_that_was_busy_is_asked_again_unless_that_cannot_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[TokenError], tries: int
) -> None:
    """It counted as looked at, so the agent kept the retired key.

    But a token locks itself after some wrong PINs, and each try for a key that it does not have takes a session of it.
    Some tokens report a wrong PIN as a general error, so the pauses grow.
    """
    path = tmp_path / "signing.key"
    create_key(path, T0 // 1000 - 5)
    active = ActiveKey(load_key(path), BASE)
    rounds = SealRounds(tmp_path, active)
    await rounds.db_thread.start()
    loads, now_s = 0, 0.0

    def load(path: Path) -> Signer:
        nonlocal loads
        loads += 1
        if loads < 4:
            raise error("the token cannot be used", where=str(path))
        return load_key(path)

    async def after() -> None:
        pass

    try:
        await rounds.db_thread.call(active.activate)
        watcher = KeyFileWatcher(active, path, rounds.db_thread, lambda keys: None, lambda event: None, after)
        made = rotate_key(path, BASE, T0 // 1000)[1]
        monkeypatch.setattr(signing_key, "load_key", load)
        monkeypatch.setattr(signing_key, "monotonic", lambda: now_s)
        at = []
        for second in range(0, 60, 2):
            now_s, before = float(second), loads
            await watcher.check()
            at += [second] * (loads - before)
        assert at == [0, 2, 6, 14][:tries]
        assert loads == tries and (watcher.kid == made.kid) == (tries > 1) == (not watcher.trouble)
    finally:
        await rounds.db_thread.stop()
        rounds.ring.close()


async def test_how_far_each_key_signed(gateway: Gateway) -> None:
    choose = random.Random(1)
    kids = [gateway.signer.kid]
    gateway.seal(choose.randrange(1, 30))
    kids += [rotated(gateway, choose.randrange(0, 30)) for _ in range(4)]
    truth: dict[str, dict[str, int]] = {kid: {} for kid in kids}
    for pack in gateway.made:
        for kid in kids[kids.index(signed_by(pack.data)) :]:
            truth[kid][pack.stream] = max(truth[kid].get(pack.stream, 0), pack.seq)
    store = Store.open(gateway.folder / "state" / "store.db", 64 << 20)
    try:
        for kid in kids:
            assert await last_signed(Straight(store), kid, None) == truth[kid]  # type: ignore[arg-type]
        until = choose.randrange(T0, gateway.now_ms + 5000)
        found = await last_signed(Straight(store), kids[-1], until)  # type: ignore[arg-type]
        for stream in gateway.names:
            ends = [pack.seq for pack in gateway.made if pack.stream == stream and pack.to_ms <= until]
            assert found.get(stream, 0) == max(ends, default=0), until
        with pytest.raises(Exception, match=r"unknown key x.*Known keys: "):
            await last_signed(Straight(store), "x", None)  # type: ignore[arg-type]
    finally:
        store.close()


@pytest.mark.process
def test_a_key_that_never_signed_is_revoked(gateway: Gateway, mh: Mh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made and stolen while the agent was down: nothing of it counts, and the one before keeps what it signed.

    That nothing counts is for a person to say.
    """
    gateway.seal(3)
    path = gateway.folder / "state" / "signing.key"
    first, second = gateway.signer.kid, rotate_key(path, BASE, 1_795_600_000)[1].kid
    before = path.read_bytes()
    code, _, err = mh("keys", "revoke", second, "-c", gateway.config, "--yes")
    assert code == 2 and "no pack that the key signed would be trusted" in err and "--yes does not cover" in err, err
    assert path.read_bytes() == before
    for kid, last in ((second, {}), (first, {name: 4 for name in gateway.names})):
        monkeypatch.setattr("sys.stdin", Somebody())
        code, out, err = mh("keys", "revoke", kid, "-c", gateway.config, "--json")
        assert code == 0, err
        assert json.loads(out)["revoked"] == {"kid": kid, "last": last}
    code, _, err = mh("keys", "create", path.with_name("x"), "--lost", second, "-c", gateway.config, "--yes")
    assert code == 2 and "unknown key" in err and not path.with_name("x").exists()
    gateway.keys = current_records(load_key(path), BASE)
    assert gateway.broker().verdict is Verdict.VERIFIED


@pytest.mark.process
def test_a_revocation_with_the_agent_stopped(gateway: Gateway, mh: Mh) -> None:
    """Everything that the gateway sealed stays good; cut at a time, what came later is refused for that reason."""
    old = gateway.signer.kid
    gateway.seal(15)
    code, _, err = mh("keys", "revoke", old[:10], "-c", gateway.config, "--yes")
    assert code == 0, err
    path = gateway.folder / "state" / "signing.key"
    gateway.signer = load_key(path)
    gateway.keys = current_records(gateway.signer, BASE)
    gateway.restart()
    gateway.seal(4)
    assert gateway.broker().verdict is Verdict.VERIFIED
    assert check_key_records(gateway.keys, BASE, trust=old).kids == (old, gateway.signer.kid)
    gateway.keep(lambda store: store.keys.add(2, gateway.keys))
    code, out, err = mh(
        "keys", "revoke", gateway.signer.kid, "-c", gateway.config, "--yes", "--until", "2026-11-24T06:00:10Z", "--json"
    )
    assert code == 0, err
    last = json.loads(out)["revoked"]["last"]
    ends = {s: [p.seq for p in gateway.made if p.stream == s and p.to_ms <= T0 + 10_000] for s in gateway.names}
    assert T0 + 10_000 == 1_795_500_010_000 and last == {name: max(seqs) for name, seqs in ends.items()}
    gateway.signer = load_key(path)
    gateway.keys = current_records(gateway.signer, BASE)
    report = gateway.broker()
    assert report.verdict is Verdict.FAILED and set(report.failures) == {"revoked"}
    assert report.failures["revoked"] == sum(signed_by(p.data) not in (old, gateway.signer.kid) for p in gateway.made)


@pytest.mark.process
def test_where_the_agent_would_not_see_it_it_must_be_stopped(gateway: Gateway, mh: Mh, tmp_path: Path) -> None:
    """The key is a credential: the file that it comes from changes, what the service was given does not."""
    gateway.seal(2)
    path = gateway.folder / "state" / "signing.key"
    before, kid = path.read_bytes(), gateway.signer.kid
    gateway.config.write_text(gateway.config.read_text() + '[key]\ncredential = "signing-key"\n')
    code, _, err = mh("keys", "show", "-c", gateway.config)
    assert code == 2 and "systemd credential signing-key: give the file that it is loaded from" in err
    with instance_lock(gateway.folder / "state", gateway.folder / "run"):
        code, _, err = mh("keys", "revoke", kid, path, "-c", gateway.config, "--yes")
        assert code == 2 and "systemctl stop meterhouse" in err and path.read_bytes() == before
    code, _, err = mh("keys", "revoke", kid, path, "-c", gateway.config, "--yes")
    assert code == 0 and "systemctl restart meterhouse" in err, err
    code, _, err = mh("keys", "rotate", path, "-c", gateway.config, "--yes")
    assert code == 0 and "systemctl restart meterhouse" in err, err


@pytest.mark.process
def test_the_numbers_of_a_revocation_are_shown_before_somebody_says_yes(gateway: Gateway, mh: Mh) -> None:
    gateway.seal(5)
    path = gateway.folder / "state" / "signing.key"
    before = path.read_bytes()
    code, _, err = mh("keys", "revoke", gateway.signer.kid, "-c", gateway.config)
    assert code == 2 and "--yes" in err and path.read_bytes() == before
    assert all(f"{name} up to 6" in err for name in gateway.names), err


@pytest.mark.process
def test_a_number_beyond_what_the_key_signed_is_not_trusted(gateway: Gateway, mh: Mh) -> None:
    """By --last a person may trust less than the key signed, never more: that would be the thief's."""
    gateway.seal(5)
    path = gateway.folder / "state" / "signing.key"
    before, kid = path.read_bytes(), gateway.signer.kid
    for last, says in (("inv1=7", "only packs up to sequence number 6"), ("other=1", "signed no packs"),
                       ("inv1=0", "the sequence number 0 of the stream park7/gw01/inv1 is implausible"),
                       ("inv1=9007199254740991", "the sequence number 9007199254740991 of the stream")):  # fmt: skip
        code, _, err = mh("keys", "revoke", kid, "--last", last, "-c", gateway.config, "--yes")
        assert code == 2 and says in err and path.read_bytes() == before, err
    code, _, err = mh("keys", "create", path.with_name("x"), "--lost", kid, "--last", "inv1=7", "-c", gateway.config,
                      "--yes")  # fmt: skip
    assert code == 2 and "only packs up to sequence number 6" in err and not path.with_name("x").exists()
    code, out, err = mh("keys", "revoke", kid, "--last", "inv1=4", "-c", gateway.config, "--yes", "--json")
    assert code == 0 and json.loads(out)["revoked"]["last"] == {f"{BASE}/inv1": 4}, err


def test_where_no_database_can_be_asked_a_number_is_taken_with_a_warning(tmp_path: Path, mh: Mh) -> None:
    path = tmp_path / "signing.key"
    kid = create_key(path, 1).kid
    words = ("keys", "revoke", kid, path, "--gateway", BASE, "--last", "inv1=4", "--yes", "-c", tmp_path / "none.toml")
    code, _, err = mh(*words)
    assert code == 0 and "not compared with a database" in err, err


def test_a_revocation_that_would_not_fit_its_file_is_refused(tmp_path: Path) -> None:
    """Neither the agent nor a verifier would read it afterwards."""
    path = tmp_path / "signing.key"
    create_key(path, 1)
    before = path.read_bytes()
    for count in (60_000, 100_000):
        lasts = {f"{BASE}/s{n:05}": 1 for n in range(count)}
        with pytest.raises(KeyFileError, match=r"at most|do not hold"):
            rotate_key(path, BASE, 2, revokes=[Revocation(load_key(path).kid, lasts)])
        assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]
    most = {f"{BASE}/{'s' * 20}{n:05}": 900_000 for n in range(last_trusted.MAX_STREAMS)}
    for n in range(3):
        rotate_key(path, BASE, 3 + n, revokes=[Revocation(load_key(path).kid, most)])
    assert load_key(path).records and load_key(path).kid


@pytest.mark.parametrize(
    ("lasts", "says"),
    [
        ({}, "no pack that the key signed would be trusted"),
        ({"inv1": 3, "shed": 4}, "park7/gw01/shed is not a stream of this configuration"),
        ({"inv1": 900_000}, "park7/gw01/inv1: sequence number 900000 is higher than"),
        ({f"s{n}": 1 for n in range(100)}, "number of other streams with such warnings: 80"),
    ],
    ids=["nothing", "unknown stream", "too far", "many"],
)
def test_numbers_that_are_odd_are_for_a_person(
    tmp_path: Path, lasts: dict[str, int], says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`--yes` is for what was to be expected."""
    config = SimpleNamespace(base=BASE, devices=[SimpleNamespace(name="inv1")], pack=SimpleNamespace(every_ms=10_000))
    create_key(tmp_path / "signing.key", int(time.time()))
    place = key_file.KeyFile(tmp_path / "signing.key", config, BASE)  # type: ignore[arg-type]
    found = last_trusted.oddities({f"{BASE}/{name}": seq for name, seq in lasts.items()}, place)
    assert says in " ".join(found)
    with pytest.raises(UsageError, match="--yes does not cover"):
        key_file.ask_first("Revoke?", True, found)
    monkeypatch.setattr("sys.stdin", Somebody())
    key_file.ask_first("Revoke?", False, found)
    assert says in capsys.readouterr().err
    assert last_trusted.oddities({f"{BASE}/inv1": 300, f"{BASE}/_gateway": 7}, place) == []


def test_an_answer_of_a_hundred_thousand_streams_is_refused(tmp_path: Path) -> None:
    place = key_file.KeyFile(tmp_path / "signing.key", None, BASE)
    answer = json.dumps({f"{BASE}/s{n}": 1 for n in range(100_000)}).encode()
    with pytest.raises(GatewayError, match="the answer has 100000 streams"):
        last_trusted.read_lasts(answer, place, 1000)
