"""Keys that are replaced: one file in one step, with owner and mode; any number of times; nothing half done."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.keys import (
    TYP_KEYS,
    KeyFileError,
    Revocation,
    Signer,
    check_key_records,
    create_key,
    current_records,
    key_records,
    load_key,
    rotate_key,
    thumbprint,
)
from agent.keys.signer import SoftEd25519
from agent.verify.keyring import KeyRing
from agent.verify.strict import parse_object

GATEWAY = "park7/gw01"
Mh = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "signing.key"
    create_key(found, 1_795_500_000)
    return found


def counter_of(data: bytes) -> int:
    return int(json.loads(data)["counter"])


@settings(max_examples=10)
@given(
    st.lists(
        st.tuples(st.sampled_from(["Ed25519", "ES256"]), st.integers(0, 1 << 31), st.booleans(), st.booleans()),
        min_size=1,
        max_size=7,
    )
)
@example([("ES256", 5, True, True), ("Ed25519", 3, False, False)])
def test_any_row_of_rotations_is_a_chain_that_every_verifier_goes_on_with(
    steps: list[tuple[str, int, bool, bool]],
) -> None:
    """Also where the clock runs back in between, and where the agent or a verifier sees only some of them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signing.key"
        kids = [create_key(path, 1_795_500_000).kid]
        agent_has = current_records(load_key(path), GATEWAY)
        ring, late = KeyRing(GATEWAY, kids), KeyRing(GATEWAY, kids)
        ring.update(agent_has, parse_object(agent_has))
        for alg, now_s, seen_by_agent, seen_by_verifier in steps:
            old, new = rotate_key(path, GATEWAY, now_s, alg)
            assert (old.kid, new.alg) == (kids[-1], alg)
            kids.append(new.kid)
            assert load_key(path).kid == new.kid and os.listdir(folder) == [path.name]
            if seen_by_agent:
                before, agent_has = agent_has, current_records(load_key(path), GATEWAY, agent_has)
                assert counter_of(agent_has) > counter_of(before)
                assert current_records(load_key(path), GATEWAY, agent_has) == agent_has
                if seen_by_verifier:
                    assert ring.update(agent_has, parse_object(agent_has))
        last = current_records(load_key(path), GATEWAY, agent_has)
        assert current_records(load_key(path), GATEWAY) == last, "nothing but the file is needed"
        late.update(last, parse_object(last))
        ring.update(last, parse_object(last))
        assert list(ring.keys) == list(late.keys) == kids
        assert check_key_records(last, GATEWAY, trust=kids[0]).kids == tuple(kids)


@settings(max_examples=50, deadline=None)
@given(secret=st.binary(min_size=32, max_size=32), shape=st.sampled_from(["made", "bare", "dos", "short", "longer"]))
def test_a_key_file_is_read_as_the_library_reads_it(secret: bytes, shape: str) -> None:
    """What `keys create` writes is read without the library, what differs from it by a character is not."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    text = {
        "made": b"meterhouse signing key of 2026-12-07T00:00:00Z.\nnot_before: 1\nrecords: a-b\n" + pem,
        "bare": pem, "dos": pem.replace(b"\n", b"\r\n"), "short": pem.rstrip(), "longer": pem + b"more\n",
    }[shape]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "signing.key"
        file.touch(0o600)
        file.write_bytes(text)
        assert load_key(file).kid == thumbprint(SoftEd25519(key).jwk)


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: pem.replace(b"MC4CAQAwBQYDK2Vw", b"MC4CAQAwBQYDK2Vv"),  # X448
        lambda pem: pem.replace(b"MC4CAQ", b"MC4CAg"),  # version 2
        lambda pem: pem.replace(b"BCIEI", b"BCIEH"),  # a secret of 31 bytes, and one byte more
        lambda pem: pem[:-40] + pem[-36:],
        lambda pem: pem.replace(b"PRIVATE KEY", b"PUBLIC KEY"),
    ],
    ids=["another kind", "another version", "another length", "cut", "public"],
)
def test_a_damaged_key_is_no_key(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(KeyFileError, match="this is not a private key in PEM form"):
        load_key(path)


def test_the_new_file_is_like_the_old_one(path: Path) -> None:
    path.chmod(0o400)
    secret = path.read_text().splitlines()[-2]
    rotate_key(path, GATEWAY, 1_795_600_000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert secret not in path.read_text(), "the old secret is gone"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away (run as root)")
def test_root_replaces_the_key_of_the_agents_user(path: Path, mh: Mh) -> None:
    os.chown(path, 4242, 4343)
    assert mh("keys", "show", path)[0] == 0, "root may look"
    code, _, err = mh("keys", "rotate", path, "--gateway", GATEWAY, "--yes")
    found = path.stat()
    assert (code, found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 4242, 4343, 0o600), err
    assert "systemctl restart" in err
    with pytest.raises(KeyFileError, match="belongs to user 4242"):
        load_key(path)


def test_a_link_is_followed_and_stays(path: Path) -> None:
    link = path.with_name("link.key")
    link.symlink_to(path)
    _, new = rotate_key(link, GATEWAY, 1_795_600_000)
    assert link.is_symlink() and load_key(path).kid == load_key(link).kid == new.kid


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_leaves_the_old_key_or_the_new_one(path: Path, step: str) -> None:
    """A process that dies in the middle: the old key signs on, and the next rotation clears what it left."""
    old = load_key(path).kid
    code = (
        "import os, pathlib, sys\n"
        "from agent.keys import rotate_key\n"
        "def die(*args, **more): os._exit(9)\n"
        f"os.{step} = die\n"
        f"rotate_key(pathlib.Path({str(path)!r}), {GATEWAY!r}, 1_795_600_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=False)
    assert done.returncode == 9 and load_key(path).kid == old
    assert len(os.listdir(path.parent)) == 2
    _, new = rotate_key(path, GATEWAY, 1_795_600_000)
    assert os.listdir(path.parent) == [path.name]
    assert check_key_records(current_records(load_key(path), GATEWAY), GATEWAY).kids == (old, new.kid)


def test_two_who_rotate_at_once_do_not_fork_the_chain(path: Path) -> None:
    first = load_key(path).kid
    line = [sys.executable, "-c",
            f"import pathlib; from agent.keys import rotate_key;"
            f"rotate_key(pathlib.Path({str(path)!r}), {GATEWAY!r}, 1_795_600_000)"]  # fmt: skip
    both = [subprocess.Popen(line, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [p.communicate(timeout=300)[1] for p in both]
    good = [p.returncode for p in both].count(0)
    assert good >= 1 and all(not text or "another process is replacing this key" in text for text in said)
    kids = check_key_records(current_records(load_key(path), GATEWAY), GATEWAY).kids
    assert kids[0] == first and len(kids) == 1 + good


def test_somebody_elses_turn(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(KeyFileError, match=r"another process is replacing this key.*keys show"):
            rotate_key(path, GATEWAY, 1)
    finally:
        os.close(fd)


def test_a_lock_on_the_folder_keeps_nobody_from_replacing_the_key(path: Path) -> None:
    """Who may open the folder may not open the key."""
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        old, new = rotate_key(path, GATEWAY, 1)
    finally:
        os.close(fd)
    assert load_key(path).kid == new.kid != old.kid


def test_a_lock_on_a_key_that_was_replaced_meanwhile_counts_for_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another rotation between our open and our lock: we go on from its key, not from the one we opened."""
    kids, flock = [load_key(path).kid], fcntl.flock

    def late(fd: int, how: int) -> None:
        if len(kids) == 1:
            kids.append("")
            kids[1] = rotate_key(path, GATEWAY, 2)[1].kid
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", late)
    kids.append(rotate_key(path, GATEWAY, 3)[1].kid)
    assert check_key_records(current_records(load_key(path), GATEWAY), GATEWAY).kids == tuple(kids)


def test_what_took_too_long_is_not_done(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match="creating the new key took too long"):
        rotate_key(path, GATEWAY, 1, give_up_s=time.monotonic() - 1)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_key_of_another_gateway_is_not_rotated_here(path: Path) -> None:
    rotate_key(path, GATEWAY, 1)
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match=r"gateway 'park7/gw01' at 'park8/gw01'"):
        rotate_key(path, "park8/gw01", 2)
    assert path.read_bytes() == before


def test_a_file_whose_records_are_of_another_key_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    create_key(other, 1)
    rotate_key(other, GATEWAY, 2)
    records = next(line for line in other.read_text().splitlines() if line.startswith("records: "))
    path.write_text(records + "\n" + path.read_text())
    with pytest.raises(KeyFileError, match=r"newest record in the key file is for .* but the key is"):
        current_records(load_key(path), GATEWAY)


def test_records_that_fork_from_the_published_ones_are_refused(path: Path, tmp_path: Path) -> None:
    """Two copies of one key, each replaced by itself: a box that was cloned."""
    clone = tmp_path / "clone.key"
    clone.write_bytes(path.read_bytes())
    clone.chmod(0o600)
    rotate_key(path, GATEWAY, 1_795_600_000)
    rotate_key(clone, GATEWAY, 1_795_600_000)
    published = current_records(load_key(path), GATEWAY)
    with pytest.raises(KeyFileError, match="the newest recorded key is"):
        current_records(load_key(clone), GATEWAY, published)
    old = load_key(clone)
    rotate_key(clone, GATEWAY, 1_795_700_000)
    with pytest.raises(KeyFileError, match="the newest recorded key is"):
        current_records(load_key(clone), GATEWAY, published)
    again = json.loads(current_records(old, GATEWAY))
    assert again["records"][0] == json.loads(published)["records"][0]


def test_an_old_key_that_is_put_back_is_refused(path: Path) -> None:
    """From a backup, say: it must never sign again."""
    backup = path.read_bytes()
    rotate_key(path, GATEWAY, 1_795_600_000)
    published = current_records(load_key(path), GATEWAY)
    path.write_bytes(backup)
    with pytest.raises(KeyFileError, match=r"restore the previous key.*--lost"):
        current_records(load_key(path), GATEWAY, published)


def test_a_lost_key_is_followed_by_a_new_root(path: Path, tmp_path: Path) -> None:
    rotate_key(path, GATEWAY, 1_795_600_000)
    lost = load_key(path)
    published = current_records(lost, GATEWAY)
    path.unlink()
    last = {"park7/gw01/inv1": 7}
    new = create_key(path, 1_795_700_000, lost=lost.kid, gateway=GATEWAY, revokes=[Revocation(lost.kid, last)])
    root = current_records(load_key(path), GATEWAY, published)
    assert counter_of(root) == 1_795_700_000 > counter_of(published)
    assert check_key_records(root, GATEWAY, trust=new.kid).instead_of == lost.kid
    with pytest.raises(KeyFileError, match="none of its keys is pinned"):
        check_key_records(root, GATEWAY, trust=lost.kid)
    rotate_key(path, GATEWAY, 1_795_800_000)  # before the agent was started again
    assert check_key_records(current_records(load_key(path), GATEWAY, published), GATEWAY).first == new.kid
    other = tmp_path / "other.key"
    create_key(other, 1_795_700_000, lost="A" * 43, gateway=GATEWAY)
    with pytest.raises(KeyFileError, match="the newest recorded key is"):
        current_records(load_key(other), GATEWAY, published)


def test_what_is_revoked_must_be_of_the_chain(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(KeyFileError, match=rf"no key {'B' * 43} to revoke.*Known: "):
        rotate_key(path, GATEWAY, 1, revokes=[Revocation("B" * 43, {})])
    assert path.read_bytes() == before


def test_an_es256_key_says_the_same_twice_in_other_bytes(path: Path) -> None:
    """Its signatures differ each time: a database that is lost must not make the gateway a liar."""
    path.unlink()
    create_key(path, 1_795_500_000, alg="ES256")
    one, two = (key_records(load_key(path), GATEWAY) for _ in range(2))
    assert one != two
    ring = KeyRing(GATEWAY)
    assert ring.update(one, parse_object(one)) and not ring.update(two, parse_object(two))
    rotate_key(path, GATEWAY, 1_795_600_000)
    goes_on = current_records(load_key(path), GATEWAY)
    assert ring.update(goes_on, parse_object(goes_on)), "whichever of the two its records began with"


def test_the_counter_of_records_only_rises(path: Path) -> None:
    """A retained object of before a rotation is refused, also with a good signature."""
    first = current_records(load_key(path), GATEWAY)
    rotate_key(path, GATEWAY, 1_795_600_000)
    second = current_records(load_key(path), GATEWAY)
    ring = KeyRing(GATEWAY)
    ring.update(first, parse_object(first))
    ring.update(second, parse_object(second))
    for old in (first, second.replace(b'"counter":2', b'"counter":1')):
        with pytest.raises(ValueError, match=r"counter 1 after 2|does not fit"):
            ring.update(old, parse_object(old))
    assert ring.order and len(ring.keys) == 2


def test_thumbprints_are_no_options(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`keys revoke -Ab...` would be taken for an option: a key of such a name, one in 64, is thrown away."""
    keys = [Ed25519PrivateKey.from_private_bytes(n.to_bytes(32)) for n in range(1, 400)]
    bad = [key for key in keys if thumbprint(SoftEd25519(key).jwk).startswith("-")][:3]
    good = next(key for key in keys if key not in bad)
    drawn = iter([*bad, good])
    monkeypatch.setattr(Ed25519PrivateKey, "generate", lambda: next(drawn))
    made = create_key(path.with_name("drawn.key"), 1)
    assert len(bad) == 3 and made.kid == thumbprint(SoftEd25519(good).jwk)


def test_commands_that_change_ask_first(path: Path, mh: Mh, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    for words in (
        ("rotate", path),
        ("revoke", load_key(path).kid, path, "--last", "inv1=3"),
        ("create", path.with_name("new.key"), "--lost", load_key(path).kid),
    ):
        monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
        code, out, err = mh("keys", *words, "--gateway", GATEWAY)
        assert (code, out) == (2, "") and "Use --yes" in err
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("revoke", "Zz", "--last", "inv1=3"), 2, "is not a known key. Known keys: "),
        (("revoke", "KID", "--last", "inv1"), 2, "Write STREAM=SEQUENCE, such as inv1=812"),
        (("revoke", "KID", "--last", "inv1=-3"), 2, "Write STREAM=SEQUENCE"),
        (("revoke", "KID", "--last", "inv1=3", "--until", "2026-11-20"), 2, "cannot be combined"),
        (("revoke", "KID", "--until", "yesterday"), 2, "invalid time 'yesterday'"),
        (("revoke", "KID"), 2, "or the last sequence numbers with --last"),
        (("rotate", "--alg", "es256", "--pkcs11", "pkcs11:x"), 2, "--alg cannot be combined with --pkcs11"),
        (("rotate", "--pkcs11", "pkcs11:x"), 3, "URI"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_done(
    path: Path, mh: Mh, words: tuple[str, ...], code: int, what: str
) -> None:
    before, kid = path.read_bytes(), load_key(path).kid
    line = [kid[:6] if word == "KID" else word for word in words]
    at = 2 if words[0] == "revoke" else 1
    found, out, err = mh("keys", *line[:at], path, *line[at:], "--gateway", GATEWAY, "--yes", "-c", "none.toml")
    assert (found, out) == (code, "") and what in err and err.startswith("error: "), err
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_a_stolen_key_as_its_owner_sees_it(path: Path, mh: Mh) -> None:
    old = load_key(path)
    code, out, err = mh("keys", "revoke", old.kid[:8], path, "--gateway", GATEWAY, "--last", "inv1=3", "--yes")
    assert code == 0 and "pin the new thumbprint" in err
    assert "park7/gw01/inv1 up to 3" in out and f"revokes {old.kid}" in out
    data = current_records(load_key(path), GATEWAY)
    ring = KeyRing(GATEWAY, [load_key(path).kid])
    ring.update(data, parse_object(data))
    ring.check_revoked(old.kid, "park7/gw01/inv1", 3)
    for stream, seq in (("park7/gw01/inv1", 4), ("park7/gw01/inv2", 1)):
        with pytest.raises(ValueError, match="revoked key"):
            ring.check_revoked(old.kid, stream, seq)
    # the thief signs a successor of his own; who pins the new key does not believe him
    thief = Signer(create_and_read(path.with_name("thief.key"))._key, 1_795_900_000)
    forged = key_records(thief, GATEWAY, key_records(old, GATEWAY), old)
    with pytest.raises(ValueError, match=r"counter|records do not begin"):
        ring.update(forged, parse_object(forged))
    fresh = KeyRing(GATEWAY, [load_key(path).kid])
    with pytest.raises(ValueError, match="none of its keys is pinned"):
        fresh.update(forged, parse_object(forged))
    assert json.loads(forged)["records"][1]["sig"].startswith(old.sign(TYP_KEYS, b"").split("..")[0])


def create_and_read(path: Path) -> Signer:
    create_key(path, 1)
    return load_key(path)
