"""Real users of one machine: who may look, who may change, and what neither they nor the agent's own user can do."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from agent.store import Store
from tests.kits.house import Agent, House, Meter, until
from tests.kits.users import AGENT, ANNA, CHANGE, LI, LOOK, ROOT, STRANGER, Town, User, why_no_users

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(bool(why_no_users()), reason=why_no_users() or "can"),
    pytest.mark.timeout(180),
]
CONNECT = """
import os, socket, sys
sys.path.insert(0, os.getcwd())
folder = os.open(sys.argv[1], os.O_PATH)
def connect():
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(60)
    sock.connect(f"/proc/self/fd/{folder}/control")
    return sock
def rest(sock):
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except ConnectionResetError:
        pass
    return data
def frame(body):
    return b"\\x01" + len(body).to_bytes(4, "big") + body
"""
SAY = """
for body in sys.argv[2:]:
    sock = connect()
    sock.sendall(frame(body.encode()))
    print(rest(sock).decode("utf-8", "replace"))
"""
TRY_TO_OPEN = """
import errno, os, sys
for name in sys.argv[1:]:
    try:
        os.open(name, os.O_RDONLY)
        print("opened")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""


class Park:
    """An agent of its own user with one meter, and what is told to it."""

    def __init__(self, town: Town, house: House) -> None:
        self.town, self.house = town, house
        self.meter = Meter(1)
        self.agent: Agent = house.agent(
            None, {"roof": house.field.tcp(self.meter)}, {"m1": ("roof", 1)},
            more='[control]\ngroup = "mh-change"\n', before=tuple(town.command(AGENT)),
        )  # fmt: skip
        town.give(house.folder, AGENT)
        house.folder.chmod(0o755)
        for path in (self.agent.config, house.folder / "profiles"):
            town.give(path, User("root", 0, LOOK))
        self.agent.config.chmod(0o640)

    def start(self) -> None:
        self.agent.start()
        until(lambda: self.agent.snapshot()["devices"]["m1"]["packs"] > 1, 20, lambda: self.agent.said)

    def stop(self) -> None:
        if self.agent.process is not None:
            assert self.agent.stop() == 0

    @property
    def run(self) -> Path:
        return self.agent.runtime

    @property
    def state(self) -> Path:
        return self.house.folder / "state"

    def mh(self, user: User, *words: object) -> Any:
        return self.town.mh(user, *words, "-c", self.agent.config)

    def owners(self, folder: Path) -> set[tuple[int, int]]:
        found = set()
        for path in (folder, *folder.rglob("*")):
            facts = path.lstat()
            found.add((facts.st_uid, facts.st_gid))
        return found


@pytest.fixture(scope="module")
def park() -> Iterator[Park]:
    town = Town()
    town.begin()
    with House(town.folder / "park") as house:
        house.folder.mkdir()
        try:
            yield Park(town, house)
        finally:
            house.at_end(town.close)


@pytest.fixture(autouse=True)
def nothing_left_running() -> None:
    """The agent outlives single tests here; the park ends it."""


@pytest.fixture
def running(park: Park) -> Park:
    if park.agent.process is None:
        park.start()
    return park


@pytest.fixture
def stopped(park: Park) -> Park:
    if not (park.state / "store.db").exists():
        park.start()
    park.stop()
    return park


def place(park: Park, user: User, name: str) -> Path:
    """A folder of this user that does not exist yet."""
    folder = park.town.folder / f"of-{user.name}"
    if not folder.exists():
        folder.mkdir()
        park.town.give(folder, user)
    return folder / name


# --- who may what


def test_check_complains_of_nothing_that_it_cannot_see(running: Park) -> None:
    """A member of the group: the state directory is not his to look into."""
    done = running.mh(ANNA, "check")
    assert done.returncode == 0 and "does not exist" not in done.stderr and "max_size" not in done.stderr, done.stderr


@pytest.mark.parametrize("user", [ROOT, AGENT, ANNA, LI], ids=lambda user: user.name)
def test_who_may_look_gets_an_export_as_his_own_files(running: Park, user: User) -> None:
    out = place(running, user, "looked")
    done = running.mh(user, "export", out, "--csv", out.with_suffix(".csv"))
    assert done.returncode == 0, done.stderr
    assert running.owners(out) == {(user.uid, user.gid)}
    done = running.town.mh(user, "verify", out, "--trust", running.agent.kid)
    assert done.returncode == 0, done.stdout
    for words in (("report", "--json"), ("declare", "--json")):
        done = running.mh(user, *words)
        assert done.returncode == 0, done.stderr


def test_a_member_of_the_group_that_looks_cannot_change_anything(running: Park) -> None:
    """And hears which group he would have to be in."""
    kid = "k" * 43
    bodies = [
        '{"kind":"lease","line":"roof","purpose":"read"}',
        '{"kind":"reload"}',
        f'{{"kind":"keys","kid":"{kid}","hold":true}}',
        '{"kind":"declare","n":"declared.x","v":"1","u":"t","who":"the director","from":0}',
    ]
    done = running.town.python(ANNA, CONNECT + SAY, running.run, *bodies)
    assert done.stdout.count("anna (uid 61002) may query this agent, but not change anything") == 4, done
    assert done.stdout.count("sudo adduser anna mh-change") == 4
    for words, code in ((("read", "m1"), 4), (("reload",), 1)):
        done = running.mh(ANNA, *words)
        assert done.returncode == code and "group mh-change may" in done.stderr, done.stderr
    refused = json.loads(running.mh(ANNA, "reload", "--json").stdout)
    assert not refused["ok"] and "group mh-change may" in refused["complaints"][0]
    assert not running.agent.snapshot()["lines"]["roof"]["lent"]
    assert "control: lease refused to anna (uid 61002)" in running.agent.said


def test_a_member_of_the_group_that_changes_may(running: Park) -> None:
    done = running.mh(LI, "read", "m1", "--json")
    assert done.returncode == 0, done.stderr
    assert "lent to read by li (uid 61004)" in running.agent.said
    done = running.mh(LI, "reload")
    assert done.returncode == 0 and "is in effect" in done.stdout, done.stderr


def test_a_member_of_the_group_that_changes_cannot_hold_the_sealing(running: Park) -> None:
    """He cannot make a key, so all that it would do is to keep root from revoking one."""
    body = json.dumps({"kind": "keys", "kid": running.agent.kid, "hold": True})
    for _ in range(2):
        done = running.town.python(LI, CONNECT + SAY, running.run, body)
        assert "li (uid 61004) may not pause sealing" in done.stdout, done
    done = running.mh(ROOT, "keys", "revoke", running.agent.kid, "--yes")
    assert done.returncode == 0, done.stderr
    assert running.owners(running.state) == {(AGENT.uid, AGENT.gid)}


def test_a_member_of_very_many_groups_is_known_by_all_of_them(running: Park) -> None:
    """Domains put people into hundreds; the one that counts is the last."""
    li = User("li", LI.uid, LI.gid, (*range(62000, 62600), LOOK, CHANGE))
    done = running.mh(li, "reload")
    assert done.returncode == 0 and "is in effect" in done.stdout, done.stderr
    anna = User("anna", ANNA.uid, ANNA.gid, (*range(62000, 62600), LOOK))
    done = running.mh(anna, "reload")
    assert done.returncode == 1 and "but not change anything" in done.stderr, done.stderr


@pytest.mark.parametrize("user", [ROOT, AGENT], ids=lambda user: user.name)
def test_root_and_the_agents_user_may(running: Park, user: User) -> None:
    done = running.mh(user, "reload", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ok"] is True, done.stderr


def test_a_refused_reload_says_why(running: Park) -> None:
    text = running.agent.config.read_text()
    running.agent.config.write_text(text.replace('line = "roof"', 'line = "rof"'))
    try:
        done = running.mh(LI, "reload", "--runtime-dir", running.run)
        assert done.returncode == 3, done.stderr
        assert 'no [[line]] is named "rof"' in done.stderr and "stays in effect" in done.stderr
        done = running.mh(LI, "reload", "--runtime-dir", running.run, "--json")
        assert done.returncode == 3 and len(json.loads(done.stdout)["complaints"]) == 1
    finally:
        running.agent.config.write_text(text)
    assert running.mh(LI, "reload").returncode == 0


def test_a_reload_prints_the_warnings_of_check(running: Park) -> None:
    text = running.agent.config.read_text()
    running.agent.config.write_text(text + '\n[[line]]\nname = "spare"\nurl = "serial:/dev/ttyUSB9"\n')
    try:
        done = running.mh(LI, "reload")
        assert done.returncode == 0 and "line spare added" in done.stdout, done.stderr
        assert "warning: " in done.stderr and "/dev/ttyUSB9 may refer to another adapter" in done.stderr
        (warning,) = json.loads(running.mh(LI, "reload", "--json").stdout)["warnings"]
        assert "/dev/ttyUSB9" in warning
    finally:
        running.agent.config.write_text(text)
    assert running.mh(LI, "reload").stderr == ""


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "1969-12-31", "2200-01-01", "0001", "9999-12"])
def test_a_report_of_a_day_beyond_all_calendars_is_refused_in_words(running: Park, day: str) -> None:
    """And the log of the agent has no traceback of it."""
    done = running.mh(ANNA, "report", day)
    assert done.returncode == 2 and "Reports cover the years 1970 to 2199" in done.stderr, done.stderr
    assert "Traceback" not in running.agent.said and "internal error" not in running.agent.said


@pytest.mark.parametrize("day", ["1970-01-01", "2199-12-31", "2199"])
def test_a_report_of_the_first_and_the_last_day_is_made(running: Park, day: str) -> None:
    done = running.mh(ANNA, "report", day, "--json")
    assert done.returncode == 0, done.stderr


def test_who_declares_cannot_do_so_in_anothers_name(running: Park) -> None:
    """What he calls himself is kept, and beside it who he is."""
    days = ("--from", "2026-11-01", "--to", "2026-12-01")
    words = ("declare", "certificates", "90", "MWh", *days, "--who", "the director")
    plan = running.house.folder / "plan.toml"
    plan.write_text('schema = 1\nsets = ["national-2025"]\n')
    text = running.agent.config.read_text()
    running.agent.config.write_text(text + '\n[indicators]\nplan = "plan.toml"\n')
    try:
        assert running.mh(ROOT, "reload").returncode == 0
        assert running.mh(ANNA, *words).returncode == 1
        done = running.mh(LI, *words, "--json")
        assert done.returncode == 0, done.stderr
        entry = json.loads(done.stdout)["entry"]
        assert entry["who"] == "the director" and entry["by"] == {"login": "li", "uid": LI.uid}
        running.stop()
        done = running.mh(ROOT, *words, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["entry"]["by"] == {"login": "root", "uid": 0}, "of the tool, not of its child"
        kept = json.loads(running.mh(AGENT, "declare", "--json").stdout)["entries"]
        assert [one["by"]["login"] for one in kept] == ["li", "root"]
    finally:
        running.agent.config.write_text(text)


def test_a_stranger_gets_nowhere(running: Park) -> None:
    names = ["", "agent.lock", "snapshot.json"]
    done = running.town.python(
        STRANGER, TRY_TO_OPEN, *(running.run / name for name in names), running.state, running.state / "store.db"
    )
    assert done.stdout.split() == ["EACCES"] * 5, done
    done = running.town.python(STRANGER, CONNECT + "connect()", running.run)
    assert "Permission denied" in done.stderr, done
    done = running.mh(STRANGER, "export", place(running, STRANGER, "out"), "--runtime-dir", running.run)
    assert done.returncode != 0 and not place(running, STRANGER, "out").exists()


# --- what the group could do when it could write there


def test_a_member_of_the_group_cannot_write_in_the_runtime_directory(running: Park) -> None:
    """So he can neither answer for the agent, nor make root write or overwrite a file, nor freeze the agent."""
    script = """
import errno, os, sys
def tried(what, *args):
    try:
        what(*args)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
run = sys.argv[1]
print(tried(os.mkdir, run + "/requests"), tried(os.mkdir, run + "/leases"))
print(tried(os.rename, run + "/control", run + "/x"), tried(os.unlink, run + "/control"))
print(tried(os.symlink, "/etc/passwd", run + "/roof.ask"), tried(os.mkfifo, run + "/f"))
print(tried(os.open, run + "/new", os.O_CREAT | os.O_WRONLY), tried(os.open, run + "/snapshot.json", os.O_WRONLY))
"""
    done = running.town.python(ANNA, script, running.run)
    assert set(done.stdout.split()) == {"EACCES"}, done
    assert not (running.run / "requests").exists() and not (running.run / "leases").exists()


def test_a_member_of_the_group_cannot_hold_a_lock_that_keeps_the_agent_from_starting(running: Park) -> None:
    """Neither the instance's lock nor the database's: both are for the agent's user alone."""
    done = running.town.python(ANNA, TRY_TO_OPEN, running.run / "agent.lock", running.state / "store.db", running.state)
    assert done.stdout.split() == ["EACCES"] * 3, done
    assert (running.run / "agent.lock").stat().st_mode & 0o777 == 0o600
    assert running.state.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o077 for p in running.state.glob("store.db*")} == {0}


def test_what_an_earlier_version_made_is_closed_to_the_group(stopped: Park) -> None:
    (stopped.state / "store.db").chmod(0o640)
    stopped.state.chmod(0o750)
    stopped.run.chmod(0o770)
    stopped.start()
    assert stopped.run.stat().st_mode & 0o777 == 0o750
    assert stopped.state.stat().st_mode & 0o777 == 0o700
    assert (stopped.state / "store.db").stat().st_mode & 0o777 == 0o600


FLOOD = (
    CONNECT
    + """
import random
held = []
told = 0
for _ in range(4):
    sock = connect()
    sock.send(b"\\x01\\x00\\x00")  # half a header, and no more
    held.append(sock)
for _ in range(200):
    sock = connect()
    told += b"too many connections" in rest(sock)
print("ready", flush=True)
sys.stdin.read()
print(told)
"""
)


def test_a_member_of_the_group_cannot_keep_others_from_asking(running: Park) -> None:
    """Four connections are his, the rest is told so; descriptors and others' requests are as before."""
    assert running.agent.process
    folder = Path(f"/proc/{running.agent.process.pid}/fd")
    before = len(list(folder.iterdir()))
    flood = running.town.start(ANNA, FLOOD, running.run)
    try:
        assert running.mh(ROOT, "export", place(running, ROOT, "beside")).returncode == 0
        assert running.mh(LI, "export", place(running, LI, "beside")).returncode == 0
    finally:
        told, _ = flood.communicate("")
    assert told == "200\n"
    until(lambda: len(list(folder.iterdir())) <= before, 20)
    assert "this user has 4 open connections" in running.agent.said


def test_users_together_leave_room_for_root(running: Park) -> None:
    """Three users hold their four each; a fourth is refused, root is served."""
    others = [User(f"u{n}", 61010 + n, 61010 + n, (LOOK,)) for n in range(3)]
    hold = CONNECT + "held = [connect() for _ in range(4)]\nprint('ready', flush=True)\nsys.stdin.read()\n"
    refused = "sock = connect()\nprint(rest(sock).decode('utf-8', 'replace'))"
    with ExitStack() as stack:
        for user in others:
            process = running.town.start(user, hold, running.run)
            stack.callback(process.communicate, "")
        done = running.town.python(ANNA, CONNECT + refused, running.run)
        assert "12 user connections are open" in done.stdout, done
        assert running.mh(ROOT, "export", place(running, ROOT, "crowd")).returncode == 0


FRAMES = (
    CONNECT
    + """
bodies = [b"[" * 60000, b'{"kind":"lease","line":"\\\\ud800","purpose":"read"}', b'{"a":' * 9000, b""]
for n in range(300):
    sock = connect()
    try:
        sock.sendall(frame(bodies[n % 4]) if n % 5 else b"\\x01\\xff\\xff\\xff\\xff")
    except OSError:
        pass
    if n % 3:
        rest(sock)
    sock.close()
print("done")
"""
)


def test_frames_of_a_member_of_the_group_do_not_harm_the_agent(running: Park) -> None:
    """What once ended or froze it: depth, surrogates, lengths, and a client that is gone."""
    packs = running.agent.snapshot()["devices"]["m1"]["packs"]
    done = running.town.python(ANNA, FRAMES, running.run)
    assert done.stdout == "done\n", done
    until(lambda: running.agent.snapshot()["devices"]["m1"]["packs"] > packs + 1, 20, lambda: running.agent.said)
    assert "Traceback" not in running.agent.said and "internal error" not in running.agent.said


# --- what the agent's own user could make root do


EVIL = """
import json, os, socket, sys
os.chdir(sys.argv[1])
if os.path.lexists("control"):
    os.unlink("control")
door = socket.socket(socket.AF_UNIX)
door.bind("control")
door.listen(8)
print("ready", flush=True)
sock, _ = door.accept()
sock.recv(65536)
def frame(kind, body):
    return bytes([kind]) + len(body).to_bytes(4, "big") + body
for part in sys.argv[2:]:
    sock.sendall(frame(2, part.encode()))
sock.sendall(frame(4, b'{"packs":1,"streams":["x"],"warnings":[]}'))
sock.recv(1)
"""


@pytest.mark.parametrize(
    "file",
    ["cron.d-x", "../cron.d-x", "/tmp/cron.d-x", "packs/../../x", "packs/x.packs.jsonl/y", "packs/x.packs.jsonl\n",
     "packs/X.packs.jsonl", "keys.json\x00", ".profile", "packs"],
)  # fmt: skip
def test_the_agents_user_cannot_make_root_write_a_file(stopped: Park, file: str) -> None:
    """What an answer names is created only if it is one of the export's own names."""
    out = place(stopped, ROOT, "forged")
    part = json.dumps({"file": file, "packs": 1}) + "\n* * * * * root sh"
    evil = stopped.town.start(AGENT, EVIL, stopped.run, part)
    try:
        done = stopped.mh(ROOT, "export", out)
    finally:
        evil.kill()
        evil.communicate()
        (stopped.run / "control").unlink()
    assert done.returncode == 1 and "unexpected file" in done.stderr, done.stderr
    assert "\n\n" not in done.stderr and "\x00" not in done.stderr
    assert list(out.parent.glob("*forged*")) == [] and not Path("/tmp/cron.d-x").exists()


def test_the_agents_user_cannot_make_root_overwrite_a_file_twice_named(stopped: Park) -> None:
    """The same name again, after another one: nothing is opened that is there."""
    out = place(stopped, ROOT, "twice")
    parts = [json.dumps({"file": name, "packs": 0}) + "\n{}" for name in ("births.jsonl", "keys.json", "births.jsonl")]
    evil = stopped.town.start(AGENT, EVIL, stopped.run, *parts)
    try:
        done = stopped.mh(ROOT, "export", out)
    finally:
        evil.kill()
        evil.communicate()
        (stopped.run / "control").unlink()
    assert done.returncode == 1 and not out.exists(), done.stderr


def test_who_listens_must_be_the_owner_of_the_runtime_directory(stopped: Park) -> None:
    """A directory that others may write, and one of them was faster."""
    mode = stopped.run.stat().st_mode & 0o777
    stopped.run.chmod(0o777)
    evil = stopped.town.start(STRANGER, EVIL, stopped.run, '{"file":"keys.json","packs":0}')
    try:
        done = stopped.mh(ROOT, "export", place(stopped, ROOT, "whose"))
        assert (
            done.returncode == 1
            and "user 61003 opened this socket, but the socket's folder belongs to user 61001" in done.stderr
        ), done.stderr
    finally:
        evil.kill()
        evil.communicate()
        (stopped.run / "control").unlink()
        stopped.run.chmod(mode)


@pytest.mark.parametrize("leads", ["link", "fifo", "file", "link to a socket of root"])
def test_the_agents_user_cannot_make_roots_tools_touch_what_a_name_leads_to(stopped: Park, leads: str) -> None:
    """`read`, `export` and `reload` of root, with something else at the place of the socket."""
    victim, door = stopped.town.folder / "victim", stopped.run / "control"
    victim.write_text("root's own")
    victim.chmod(0o600)
    with socket.socket(socket.AF_UNIX) as roots:
        if leads == "link":
            door.symlink_to(victim)
        elif leads == "fifo":
            os.mkfifo(door)
        elif leads == "file":
            door.write_text("x")
        else:
            roots.bind(str(stopped.town.folder / "roots"))
            roots.listen(1)
            roots.setblocking(False)
            door.symlink_to(stopped.town.folder / "roots")
        os.chown(door, AGENT.uid, AGENT.gid, follow_symlinks=False)
        try:
            for words in (("export", place(stopped, ROOT, "led")), ("reload",)):
                done = stopped.mh(ROOT, *words)
                assert done.returncode == 1 and "is not a socket" in done.stderr, done.stderr
            if leads.endswith("root"):
                with pytest.raises(BlockingIOError):
                    roots.accept()
        finally:
            door.unlink()
            (stopped.town.folder / "roots").unlink(missing_ok=True)
    assert victim.read_text() == "root's own" and not place(stopped, ROOT, "led").exists()


@pytest.mark.parametrize("leads", ["/dev/zero", "fifo", "deep"])
def test_the_agents_user_cannot_make_roots_status_hang_or_swell(stopped: Park, leads: str) -> None:
    """A snapshot that never ends, never comes, or is nested without end."""
    snapshot = stopped.run / "snapshot.json"
    if leads == "fifo":
        os.mkfifo(snapshot)
    elif leads == "deep":
        snapshot.write_text("[" * 1_000_000)
    else:
        snapshot.symlink_to(leads)
    os.chown(snapshot, AGENT.uid, AGENT.gid, follow_symlinks=False)
    try:
        for command in ("status", "watch"):
            done = stopped.mh(ROOT, command)
            assert done.returncode == 1 and "snapshot.json" in done.stderr, done.stderr
    finally:
        snapshot.unlink()


def test_a_forged_answer_signs_no_revocation(stopped: Park) -> None:
    """A thief who would be trusted for ever, streams that are not ours: the tool looks before anything is signed."""
    key = stopped.state / "signing.key"
    before = key.read_bytes()
    for lasts, says in (
        (
            {"park7/gw01/m1": 9007199254740991},
            "the implausible sequence number 9007199254740991 of the stream park7/gw01/m1",
        ),
        ({"park7/gw01/m1": 0}, "sequence number 0 of"),
        ({"park7/gw02/m1": 4}, "the answer contains the unknown stream 'park7/gw02/m1'"),
        ({"park7/gw01/../m1": 4}, "the answer contains"),
        ({"park7/gw01/m1": "4"}, "no valid sequence numbers"),
        ({"park7/gw01/\x1b[2J": 4}, "the answer contains"),
    ):
        evil = stopped.town.start(AGENT, EVIL, stopped.run, json.dumps(lasts))
        try:
            done = stopped.mh(ROOT, "keys", "revoke", stopped.agent.kid, "--yes")
        finally:
            evil.kill()
            evil.communicate()
            (stopped.run / "control").unlink()
        assert done.returncode == 1 and says in done.stderr and "\x1b" not in done.stderr, (lasts, done.stderr)
        assert key.read_bytes() == before


# --- the agent is stopped


def test_with_the_agent_stopped_nothing_in_the_state_directory_becomes_roots(stopped: Park) -> None:
    """root exports; everything that opening a database makes belongs to the agent's user."""
    (stopped.state / "store.db.ballast").unlink(missing_ok=True)
    out = place(stopped, ROOT, "cold")
    done = stopped.mh(ROOT, "export", out, "--csv", out.with_suffix(".csv"))
    assert done.returncode == 0, done.stderr
    assert stopped.owners(out) == {(0, 0)} and stopped.owners(stopped.state) == {(AGENT.uid, AGENT.gid)}
    assert stopped.town.mh(ROOT, "verify", out, "--trust", stopped.agent.kid).returncode == 0
    done = stopped.mh(AGENT, "export", place(stopped, AGENT, "cold"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["store.db.ballast", "store.db-wal", "store.db.suspect", "store.db.salvage"])
def test_links_in_the_state_directory_lead_root_nowhere(stopped: Park, name: str) -> None:
    """The agent's user puts one where a root's tool would have written."""
    elsewhere = stopped.town.folder / "etc"
    elsewhere.mkdir(exist_ok=True)
    elsewhere.chmod(0o755)
    link = stopped.state / name
    kept = link.read_bytes() if link.exists() else None
    link.unlink(missing_ok=True)
    link.symlink_to(elsewhere / "nologin")
    os.chown(link, AGENT.uid, AGENT.gid, follow_symlinks=False)
    try:
        stopped.mh(ROOT, "export", place(stopped, ROOT, f"by-{name}"))
        assert list(elsewhere.iterdir()) == []
        assert stopped.owners(stopped.state) == {(AGENT.uid, AGENT.gid)}
    finally:
        if link.is_symlink():
            link.unlink()
            if kept is not None:
                link.write_bytes(kept)
                os.chown(link, AGENT.uid, AGENT.gid)


@pytest.mark.parametrize("name", ["store.db", "store.db-wal", "store.db.heads", "store.db.salvage"])
def test_a_pipe_in_the_state_directory_does_not_hold_roots_tools(stopped: Park, name: str) -> None:
    """Nobody would ever write into it."""
    pipe, kept = stopped.state / name, stopped.state / "kept"
    if pipe.exists():
        pipe.rename(kept)
    os.mkfifo(pipe)
    os.chown(pipe, AGENT.uid, AGENT.gid)
    try:
        done = stopped.mh(ROOT, "export", place(stopped, ROOT, f"pipe-{name}"))
        assert done.returncode == (0 if name.endswith("heads") else 1), done.stderr
        assert done.returncode == 0 or "not a regular file" in done.stderr, done.stderr
    finally:
        pipe.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(pipe)


def test_a_key_behind_a_link_of_the_agents_user_is_not_rotated_by_root(stopped: Park) -> None:
    """The link leads to another key of root, which a rotation would replace."""
    from agent.keys import create_key

    other = stopped.town.folder / "roots.key"
    create_key(other, 1)
    before, key, kept = other.read_bytes(), stopped.state / "signing.key", stopped.state / "kept.key"
    key.rename(kept)
    key.symlink_to(other)
    try:
        done = stopped.mh(ROOT, "keys", "rotate", "--yes")
        assert done.returncode == 3 and "Permission denied" in done.stderr, done.stderr
        assert other.read_bytes() == before
    finally:
        key.unlink()
        kept.rename(key)


@pytest.mark.parametrize("user", [ANNA, LI], ids=lambda user: user.name)
def test_with_the_agent_stopped_only_its_user_and_root_open_the_database(stopped: Park, user: User) -> None:
    done = stopped.mh(user, "export", place(stopped, user, "cold"))
    assert done.returncode == 1, done.stdout
    assert "only root and the agent's user may open the agent's database" in done.stderr and "sudo" in done.stderr


def test_the_child_that_opens_the_database_has_nothing_of_roots(stopped: Park) -> None:
    """Its user might look into it: no terminal, no descriptor, no environment of root's."""
    script = """
import os, sys
sys.path.insert(0, os.getcwd())
import agent.cli.owner_process as owner
owner._CHILD = '''
import json, os, sys
said = {"ids": [os.getresuid(), os.getresgid()], "groups": os.getgroups(), "env": sorted(os.environ),
        "session": os.getsid(0) == os.getpid(), "cwd": os.getcwd(), "umask": os.umask(0),
        "fds": [os.readlink(f"/proc/self/fd/{n}") for n in range(3)],
        "others": [n for n in os.listdir("/proc/self/fd") if int(n) > 2 and n != sys.argv[1]]}
open(os.environ["LANG"], "w").write(json.dumps(said))
'''
os.environ["SECRET"] = "x"
os.environ["LANG"] = sys.argv[2]
secret = os.open(sys.argv[3], os.O_RDONLY)
os.set_inheritable(secret, True)
from agent.cli.main import outcome
outcome(["export", sys.argv[2] + ".d", "-c", sys.argv[1]])
"""
    told = place(stopped, AGENT, "told.json")
    stopped.town.python(ROOT, script, stopped.agent.config, told, "/etc/shadow")
    said = json.loads(told.read_text())
    assert said["ids"] == [[AGENT.uid] * 3, [AGENT.gid] * 3] and said["groups"] == [AGENT.gid]
    assert (
        set(said["env"]) <= {"PATH", "LANG", "LC_CTYPE", "SOFTHSM2_CONF"} and said["session"] and said["umask"] == 0o077
    )
    assert said["cwd"] == "/" and "/etc/shadow" not in said["fds"] and all("tty" not in fd for fd in said["fds"])
    assert len(said["others"]) <= 1, "the listing's own"


def test_a_second_tool_hears_that_the_database_is_in_use(stopped: Park) -> None:
    store = Store.open(stopped.state / "store.db")
    try:
        done = stopped.mh(ROOT, "export", place(stopped, ROOT, "busy"))
        assert done.returncode == 1 and "the database is in use by another process" in done.stderr, done.stderr
    finally:
        store.close()
        stopped.town.give(stopped.state, AGENT)


def test_an_export_has_the_rights_that_the_umask_leaves(stopped: Park) -> None:
    """Folder and files alike."""
    script = (
        "import os, sys\nsys.path.insert(0, os.getcwd())\nos.umask(int(sys.argv[1], 8))\n"
        "from agent.cli.main import outcome\nsys.exit(outcome(sys.argv[2:]))\n"
    )
    for mask in (0o022, 0o027, 0o077):
        out = place(stopped, ROOT, f"mask-{mask:o}")
        words = ("export", out, "--csv", out.with_suffix(".csv"), "-c", stopped.agent.config)
        done = stopped.town.python(ROOT, script, f"{mask:o}", *words)
        assert done.returncode == 0, done.stderr
        for path in (out, out / "packs", out / "keys.json", out / "packs/m1.packs.jsonl", out.with_suffix(".csv")):
            wanted = (0o777 if path.is_dir() else 0o666) & ~mask
            assert path.stat().st_mode & 0o777 == wanted, path


HOLD = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print("ready", flush=True)
sys.stdin.readline()
fcntl.lockf(fd, fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


def test_who_locks_the_database_since_before_an_upgrade_is_named(stopped: Park) -> None:
    """The group could read it then; a descriptor outlives the rights that it was opened with."""
    database = stopped.state / "store.db"
    stopped.state.chmod(0o750)
    database.chmod(0o640)
    holder = stopped.town.start(ANNA, HOLD, database)
    try:
        stopped.state.chmod(0o700)
        database.chmod(0o600)
        assert holder.stdin is not None and holder.stdout is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "locked\n"
        done = stopped.mh(AGENT, "run", "--state-dir", stopped.state)
        assert done.returncode == 1 and "another process has the database open (process " in done.stderr, done.stderr
        assert f"`sudo fuser -v {database}` shows which process has the database open" in done.stderr, done.stderr
        said = done.stderr.partition("(process ")[2].partition(")")[0]
        assert os.stat(f"/proc/{said}").st_uid == ANNA.uid
    finally:
        holder.communicate("")
