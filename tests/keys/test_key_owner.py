"""Root's `keys` in folders of the agent's user: done by a process of that user, whose word is checked."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import agent
from agent.cli import owner_process
from agent.cli.keys import worker
from agent.keys import KeyFileError, create_key, load_key
from drivers.model import GatewayError
from tests.kits.users import AGENT, ANNA, LOOK, ROOT, Town, User, why_no_users

pytestmark = pytest.mark.process

GATEWAY = ("--gateway", "park7/gw01")
Mh = Callable[..., tuple[int, str, str]]
real_users = pytest.mark.skipif(bool(why_no_users()), reason=why_no_users() or "can")


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    made = Town()
    made.begin()
    yield made
    made.close()


@pytest.fixture
def state(town: Town, request: pytest.FixtureRequest) -> Path:
    """The folder of the agent's user, with its key."""
    folder = town.folder / request.node.name.partition("[")[0]
    folder.mkdir()
    create_key(folder / "signing.key", 1)
    town.give(folder, AGENT)
    return folder


def owners(folder: Path) -> set[tuple[int, int]]:
    return {(one.lstat().st_uid, one.lstat().st_gid) for one in folder.rglob("*")}


@real_users
def test_root_makes_and_replaces_the_key_of_the_agents_user(town: Town, state: Path) -> None:
    """`sudo meterhouse keys create` before the first start: the service could not read a key of root's."""
    (state / "signing.key").unlink()
    for words in (("create",), ("rotate", *GATEWAY, "--yes"), ("show",), ("record", *GATEWAY)):
        done = town.mh(ROOT, "keys", words[0], state / "signing.key", *words[1:])
        assert done.returncode == 0, done.stderr
        assert owners(state) == {(AGENT.uid, AGENT.gid)}
    assert len(json.loads(done.stdout)["records"]) == 2
    assert (state / "signing.key").stat().st_mode & 0o777 == 0o600
    assert os.listdir(state) == ["signing.key"]


SWAP = """
import os, sys
key, other = sys.argv[1], sys.argv[2]
os.rename(key, key + ".own")
os.symlink(other, key + ".link")
os.link(key + ".own", key)
print("ready", flush=True)
for _ in range(3000):
    os.symlink(other, key + ".x")
    os.rename(key + ".x", key)
    try:
        os.link(key + ".own", key + ".y")
        os.rename(key + ".y", key)
    except OSError:
        pass
sys.stdin.read()
"""


@real_users
def test_a_key_that_becomes_a_link_while_root_rotates_it_leads_to_no_other_key(town: Town, state: Path) -> None:
    """The agent's user swaps file and link as fast as it can; what root has elsewhere stays as it is."""
    other = town.folder / "roots.key"
    create_key(other, 1)
    before = other.read_bytes()
    evil = town.start(AGENT, SWAP, state / "signing.key", other)
    try:
        for _ in range(4):
            town.mh(ROOT, "keys", "rotate", state / "signing.key", *GATEWAY, "--yes")
            assert other.read_bytes() == before
    finally:
        evil.kill()
        evil.communicate()
    assert {uid for uid, _ in owners(state)} == {AGENT.uid}


@real_users
def test_a_folder_that_becomes_a_link_leads_root_to_no_other_key(town: Town, state: Path) -> None:
    """Not the key but the folder above it is the link, to a folder of root's."""
    roots, keys = town.folder / "roots-keys", state / "keys"
    roots.mkdir()
    create_key(roots / "signing.key", 1)
    before = (roots / "signing.key").read_bytes()
    roots.chmod(0o755)
    keys.symlink_to(roots)
    os.chown(keys, AGENT.uid, AGENT.gid, follow_symlinks=False)
    done = town.mh(ROOT, "keys", "rotate", keys / "signing.key", *GATEWAY, "--yes")
    assert done.returncode == 3 and "Permission denied" in done.stderr, done.stderr
    done = town.mh(ROOT, "keys", "create", keys / "new.key")
    assert done.returncode == 3 and "Permission denied" in done.stderr, done.stderr
    assert (roots / "signing.key").read_bytes() == before and os.listdir(roots) == ["signing.key"]


@real_users
def test_members_of_the_group_cannot_keep_root_from_replacing_the_key(town: Town) -> None:
    """Keys in /etc/meterhouse, 0750: they may open and lock that folder, but not what is locked."""
    folder = town.folder / "etc"
    folder.mkdir()
    create_key(folder / "signing.key", 1)
    town.give(folder, User("root", 0, LOOK))
    folder.chmod(0o750)
    lock = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX)"
    holder = town.start(ANNA, lock + "; print('ready', flush=True); sys.stdin.read()", folder)
    try:
        done = town.mh(ROOT, "keys", "rotate", folder / "signing.key", *GATEWAY, "--yes")
    finally:
        holder.communicate("")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away (run as root)")
def test_root_loads_no_library_that_another_users_file_names(tmp_path: Path, mh: Mh) -> None:
    """A key in a token names the library to talk to it: loaded by root, it would run as root."""
    path = tmp_path / "signing.key"
    path.write_text("pkcs11:token=t;object=o?module-path=/tmp/evil.so\n")
    path.chmod(0o600)
    os.chown(path, 4242, 4242)
    for words in (("show", path), ("record", path, *GATEWAY), ("rotate", path, *GATEWAY, "--yes", "--alg", "ed25519")):
        code, out, err = mh("keys", *words)
        assert (code, out) == (3, "") and "root does not load a library that another user chose" in err, err


def test_nobody_works_on_a_key_where_several_could_lead_to_another(tmp_path: Path, mh: Mh) -> None:
    """A folder that everybody may write, and that is not like /tmp."""
    if os.geteuid():
        pytest.skip("needs root (run as root)")
    shared = tmp_path / "shared"
    shared.mkdir()
    create_key(shared / "signing.key", 1)
    shared.chmod(0o777)
    code, _, err = mh("keys", "rotate", shared / "signing.key", *GATEWAY, "--yes")
    assert (
        code == 1
        and "users other than the owner can write to the folder shared in this path" in err
        and "chmod go-w" in err
    )
    shared.chmod(0o1777)
    assert mh("keys", "rotate", shared / "signing.key", *GATEWAY, "--yes")[0] == 0


@pytest.fixture
def closed_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The interpreter of these tests, in a folder that only root may enter."""
    folder = tmp_path / "root-only"
    folder.mkdir(mode=0o700)
    python = folder / "python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(python))
    return python


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away (run as root)")
@pytest.mark.parametrize("words", [("keys", "show"), ("keys", "rotate", "--yes"), ("export", "out")])
@pytest.mark.parametrize(
    ("lang", "says", "do"),
    [
        ("en", "the user 61001 cannot use", "Use the meterhouse of the Debian package"),
        ("zh", "用户 61001 无法使用", "请使用 Debian"),
    ],
)
def test_a_python_that_the_agents_user_may_not_start_is_one_error_with_its_cure(
    tmp_path: Path,
    mh: Mh,
    closed_python: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    lang: str,
    says: str,
    do: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LC_ALL", f"{lang}.UTF-8")
    state, config = tmp_path / "state", tmp_path / "agent.toml"
    state.mkdir()
    create_key(state / "signing.key", 1)
    (state / "store.db").touch()
    for path in (state, *state.iterdir()):
        os.chown(path, AGENT.uid, AGENT.gid)
    config.write_text(
        f'[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n'
        f'[paths]\nstate_dir = "{state}"\nruntime_dir = "{tmp_path}/run"\n'
        f'[key]\nfile = "{state}/signing.key"\n'
    )

    code, out, err = mh(*words, "-c", config)

    assert (code, out) == (1, "") and err.count("\n") == 1, err
    assert str(closed_python) in err and says in err and do in err


def test_code_that_the_agents_user_may_not_read_is_one_error_with_its_cure(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()

    with (
        ours,
        pytest.raises(GatewayError, match=r"cannot use this file or folder.*Debian package") as error,
        owner_process.child(tmp_path.stat(), "agent.not_readable", theirs, None),
    ):
        assert ours.recv(1) == b""

    assert error.value.where == str(Path(agent.__file__).parent.parent)


# --- what the process of that user says


@pytest.fixture
def answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bytes], None]:
    """Let the process answer with this frame, whatever it is asked."""

    def answer(kind: int, payload: bytes) -> None:
        said = tmp_path / "said"
        said.write_bytes(bytes([kind]) + len(payload).to_bytes(4, "big") + payload)
        code = f"import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(open({str(said)!r}, 'rb').read())"
        monkeypatch.setattr(owner_process, "_CHILD", code)
        monkeypatch.setattr(worker, "path_owner", lambda path: tmp_path.stat())

    return answer


def public(path: Path, **more: Any) -> dict[str, Any]:
    signer = load_key(path)
    return {"kid": signer.kid, "alg": signer.alg, "jwk": signer.jwk, "not_before": 1, "in_token": False} | more


@pytest.mark.parametrize(
    "more",
    [{"kid": "\x1b[2J" + "A" * 39}, {"alg": "none"}, {"not_before": -1}, {"jwk": {"d": "secret"}}, {"records": "{}"},
     {"records": "[" * 100_000}, {"records": '{"gateway":"a/b"}'}, {"kid": 7}, {"kid": "A" * 43 + "\n"}],
    ids=str,
)  # fmt: skip
def test_an_answer_that_is_no_key_is_refused(
    tmp_path: Path, mh: Mh, answered: Callable[[int, bytes], None], more: dict[str, Any]
) -> None:
    create_key(tmp_path / "signing.key", 1)
    answered(4, json.dumps(public(tmp_path / "signing.key", **more)).encode())
    code, out, err = mh("keys", "show", tmp_path / "signing.key")
    assert (code, out) == (3, "") and "malformed answer" in err and "\x1b" not in err, err


def test_records_that_do_not_end_with_the_key_are_refused(
    tmp_path: Path, mh: Mh, answered: Callable[[int, bytes], None]
) -> None:
    create_key(tmp_path / "signing.key", 1)
    create_key(tmp_path / "other.key", 1)
    other = worker.work_on_key(worker.ReadKey(str(tmp_path / "other.key"), "park7/gw01"))
    answered(4, json.dumps(public(tmp_path / "signing.key", records=other.published)).encode())
    code, _, err = mh("keys", "show", tmp_path / "signing.key")
    assert code == 3 and "the newest record in the key file is for" in err, err


@pytest.mark.parametrize("payload", [b"{}", b"", b"\xff", b'{"kind":"KeyFileError","what":1,"where":"","hint":""}'])
def test_a_failure_that_says_nothing_is_told(
    tmp_path: Path, mh: Mh, answered: Callable[[int, bytes], None], payload: bytes
) -> None:
    answered(5, payload)
    code, out, err = mh("keys", "show", tmp_path / "signing.key")
    assert (code, out) == (3, "") and "malformed answer" in err, err


def test_what_a_failure_says_is_cleaned(tmp_path: Path, mh: Mh, answered: Callable[[int, bytes], None]) -> None:
    said = {"kind": "TokenError", "what": "x\x1b]0;y\x07", "where": "\u202ez\n", "hint": ""}
    answered(5, json.dumps(said).encode())
    code, _, err = mh("keys", "show", tmp_path / "signing.key")
    assert code == 4 and not {"\x1b", "\x07", "\u202e"} & set(err) and err.count("\n") == 1, err


def test_a_process_that_its_user_stops_does_not_hold_root(
    tmp_path: Path, answered: Callable[[int, bytes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never reads what it is asked, however much that is, and never answers."""
    answered(4, b"")
    monkeypatch.setattr(owner_process, "_CHILD", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)")
    monkeypatch.setattr(owner_process, "END_S", 0.1)
    monkeypatch.setattr(worker, "ANSWER_S", 0.5)
    revokes = {"k" * 43: {f"park7/gw01/s{n}": 1 for n in range(50_000)}}
    with pytest.raises(KeyFileError, match="ended without an answer"):
        worker.work_on_key(worker.ReplaceKey(str(tmp_path / "signing.key"), "park7/gw01", 1, revokes=revokes))
