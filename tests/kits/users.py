"""Runs commands as other users: the agent, a technician who may read, one who may make changes, and a stranger.

Each command runs in its own mount namespace, where these users have names and can reach the interpreter.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT_FOLDER = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True, slots=True)
class User:
    """A user with a primary group and further ones."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


LOOK, CHANGE = 61000, 61009
ROOT = User("root", 0, 0)
AGENT = User("mh-agent", 61001, LOOK)
ANNA = User("anna", 61002, 61002, (LOOK,))
STRANGER = User("mallory", 61003, 61003)
LI = User("li", 61004, 61004, (LOOK, CHANGE))
USERS = (AGENT, ANNA, STRANGER, LI)
GROUPS = {"mh-look": LOOK, "mh-change": CHANGE, "anna": 61002, "mallory": 61003, "li": 61004}

_ENTER = """
set -e
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
. "$1/reach"
for folder in /etc/meterhouse /run/meterhouse /var/lib/meterhouse; do  # of an agent installed on this machine
    [ ! -d "$folder" ] || mount -t tmpfs -o mode=755 none "$folder"
done
shift
exec "$@"
"""

# Importing a command takes longer than running most of them here. So they are imported once, as root, and each call is
# a fork that becomes the user before it reads its words.
_COMMANDS = """
import ctypes, json, os, sys
sys.path.insert(0, os.getcwd())
from agent.cli import export, read, reload, status, verify
from agent.cli.keys import commands
from agent.cli.report import command
from agent.cli.main import main
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        for n, name in enumerate((os.devnull, asked["out"], asked["err"])):
            os.dup2(os.open(name, os.O_RDWR), n)
        os.setgroups(asked["groups"])
        os.setresgid(*[asked["gid"]] * 3)
        os.setresuid(*[asked["uid"]] * 3)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after exec
        code = 1
        try:
            main(asked["words"])
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Town:
    """A folder that all users can reach, and commands that run as one of them."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mh-users-", dir="/tmp"))
        self.folder.chmod(0o755)
        self._names = self.folder / ".names"
        self._names.mkdir()
        (self._names / "passwd").write_text(
            Path("/etc/passwd").read_text()
            + "".join(f"{u.name}:x:{u.uid}:{u.gid}::/nonexistent:/usr/sbin/nologin\n" for u in USERS)
        )
        members = {name: [u.name for u in USERS if gid in u.groups] for name, gid in GROUPS.items()}
        (self._names / "group").write_text(
            Path("/etc/group").read_text()
            + "".join(f"{name}:x:{gid}:{','.join(members[name])}\n" for name, gid in GROUPS.items())
        )
        (self._names / "reach").write_text(_reach(self._names / "held"))
        self._commands: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Import the commands, for ``mh``."""
        self._commands = self.start(ROOT, _COMMANDS)

    def close(self) -> None:
        if self._commands is not None:
            self._commands.communicate()
        shutil.rmtree(self.folder)

    def give(self, path: Path, user: User) -> None:
        """Make this user the owner of a path and of everything below it."""
        for one in (path, *path.rglob("*")):
            os.chown(one, user.uid, user.gid, follow_symlinks=False)

    def command(self, user: User, *words: object) -> list[str]:
        """The command line that runs a command as this user."""
        groups = f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups"
        become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", groups, "--"]
        enter = ["unshare", "-m", "--propagation", "private", "sh", "-c", _ENTER, "sh", str(self._names)]
        return [*enter, *become, *map(str, words)]

    def mh(self, user: User, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `meterhouse` as this user. Fails if its output has a traceback."""
        assert self._commands is not None, "begin() comes first"
        asking, answers = self._commands.stdin, self._commands.stdout
        assert asking is not None and answers is not None
        asked = [str(word) for word in words]
        with tempfile.NamedTemporaryFile("r") as out, tempfile.NamedTemporaryFile("r") as err:
            ids = {"uid": user.uid, "gid": user.gid, "groups": user.groups}
            asking.write(json.dumps({"words": asked, "out": out.name, "err": err.name, **ids}) + "\n")
            asking.flush()
            done = subprocess.CompletedProcess(asked, int(answers.readline()), out.read(), err.read())
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def python(self, user: User, script: str, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a Python script as this user."""
        return self.run(user, sys.executable, "-c", script, *words)

    def run(self, user: User, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(user, *words), cwd=ROOT_FOLDER, capture_output=True, text=True, timeout=200, check=False
        )

    def start(self, user: User, script: str, *words: object) -> subprocess.Popen[str]:
        """Start a Python script as this user in the background. Returns when it has printed "ready"."""
        process = subprocess.Popen(
            self.command(user, sys.executable, "-c", script, *words), cwd=ROOT_FOLDER, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        said = process.stdout.readline()
        if said != "ready\n":
            process.kill()
            process.communicate()
            raise AssertionError(said)
        return process


def _reach(held: Path) -> str:
    """Shell commands that let other users reach the interpreter and this tree if a folder above is closed to them."""
    wanted = {Path(sys.base_prefix), Path(sys.prefix), ROOT_FOLDER}
    closed: dict[Path, list[Path]] = {}
    for path in sorted(wanted):
        for above in reversed(path.parents):
            if not above.stat().st_mode & 0o001:
                closed.setdefault(above, []).append(path)
                break
    lines = []
    for n, (above, paths) in enumerate(closed.items()):
        kept = [(path, held / f"{n}-{i}") for i, path in enumerate(paths)]
        for path, place in kept:
            place.mkdir(parents=True)
            lines.append(f"mount --bind '{path}' '{place}'")
        lines.append(f"mount -t tmpfs -o mode=755 none '{above}'")
        lines += [f"mkdir -p '{path}'; mount --bind '{place}' '{path}'" for path, place in kept]
    return "\n".join(lines) + "\n"


@cache
def why_no_users() -> str:
    """Why no command can run as another user here; "" if one can."""
    if os.geteuid() != 0:
        return "only root can become other users (run as root)"
    missing = [tool for tool in ("unshare", "setpriv", "mount") if not shutil.which(tool)]
    if missing:
        return f"no {', '.join(missing)} here (apt: util-linux, mount)"
    town = Town()
    try:
        done = town.python(ANNA, "import os, msgspec; print(os.getuid(), sorted(os.getgroups()))")
        wanted = f"{ANNA.uid} {sorted(ANNA.groups)}"
        return "" if done.stdout.strip() == wanted else f"no other user can run Python here: {done.stderr[-200:]}"
    finally:
        town.close()


Words = Sequence[object]
