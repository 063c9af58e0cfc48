"""A Debian machine with a real systemd, in a container of systemd-nspawn; every boot begins from the same root.

The mount namespace gives it a pure cgroup v2 tree, whatever the host has; libbpf and its capabilities make
``DevicePolicy=`` real; the container's own filter lets services ask for the clock's state, as on a real machine.
Nothing is registered anywhere, and its network is its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kits.broker import DEADLINE_S, patience

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / "build" / "system"
PACKAGES = (
    "systemd,systemd-sysv,dbus,udev,libbpf1,init-system-helpers,python3,python3-venv,tzdata,ca-certificates,iproute2,"
    "procps,mosquitto,mosquitto-clients"
)
TOOLS = ("systemd-nspawn", "mmdebstrap", "nsenter", "unshare", "dpkg-deb")

_BOOT = """
umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup
c=/sys/fs/cgroup/nsp.$$; mkdir $c; echo $$ > $c/cgroup.procs
r=$0; exec systemd-nspawn -q -D "$r" -b -M meterhouse-test --register=no --keep-unit --console=pipe \
    --capability=CAP_BPF,CAP_NET_ADMIN,CAP_PERFMON --system-call-filter="bpf adjtimex clock_adjtime" \
    --volatile=overlay --private-network "$@"
"""
# the same without a boot: one command from our own /usr, read only
_TRY = """
umount -R /sys/fs/cgroup; mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit
c=/sys/fs/cgroup/nsp.$$; mkdir $c && echo $$ > $c/cgroup.procs || exit
systemd-nspawn -q -D / -M meterhouse-try.$$ --register=no --keep-unit --console=pipe --volatile=yes \
    --private-network /usr/bin/true
r=$?; echo $$ > /sys/fs/cgroup/cgroup.procs
rmdir $c/*/ $c; exit $r
"""


def why_not() -> str:
    """Why no machine can be booted here; "" if one can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        return f"needs {', '.join(missing)}: apt-get install systemd-container mmdebstrap"
    probe = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "bash", "-c", _TRY],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return "" if probe.returncode == 0 else f"no machine can be started here: {probe.stderr.strip()[-200:]}"


def mirror() -> list[str]:
    """The Debian mirror that this machine uses itself; none: mmdebstrap's own choice."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    if sources.exists():
        for line in sources.read_text().splitlines():
            if line.startswith("URIs:"):
                return [line.split()[1]]
    return []


def base_root() -> Path:
    """A tar of a small Debian, made once (20 s) and kept below build/."""
    tar = CACHE / "root.tar"
    if not tar.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = tar.with_suffix(f".{os.getpid()}.tar")
        subprocess.run(
            ["mmdebstrap", "-q", "--variant=minbase", f"--include={PACKAGES}", "trixie", str(draft), *mirror()],
            check=True, timeout=300,
        )  # fmt: skip
        draft.rename(tar)
    return tar


class Machine:
    """One machine from boot to halt."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "root"
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0

    def unpack(self) -> None:
        self.root.mkdir(parents=True)
        tar = base_root()
        subprocess.run(["tar", "-xpf", str(tar), "-C", str(self.root), "--exclude=./dev/*"], check=True, timeout=120)

    def boot(self, *options: str, seconds: float = 60.0) -> None:
        """Start it and wait until systemd says that it runs."""
        log = (self.folder / "console.log").open("ab")
        self._process = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "bash", "-c", _BOOT, str(self.root), *options],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        log.close()
        self.wait(self._up, seconds, "the machine boots")

    def _up(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise AssertionError((self.folder / "console.log").read_text()[-2000:])
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self.leader = int(children[0])
        return self.run("systemctl", "is-system-running", ok=None).stdout.strip() in {"running", "degraded"}

    def command(self, *command: str) -> list[str]:
        """What runs ``command`` inside."""
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        env = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8", "SYSTEMD_PAGER=",
               "SYSTEMD_COLORS=0", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"]  # fmt: skip
        return [*enter, *env, *command]

    def run(
        self, *command: str, ok: int | None = 0, seconds: float = 60.0, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end. ``ok``: the exit code that is expected, None for any."""
        done = subprocess.run(
            self.command(*command), check=False, capture_output=True, text=True, timeout=seconds, input=text
        )
        assert ok is None or done.returncode == ok, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def sh(self, script: str, ok: int | None = 0, seconds: float = 60.0) -> str:
        """A shell script; its standard output."""
        return self.run("bash", "-c", script, ok=ok, seconds=seconds).stdout

    def write(self, path: str, text: str, mode: str = "644") -> None:
        self.run("bash", "-c", f"umask 022; mkdir -p $(dirname {path}); cat > {path}; chmod {mode} {path}", text=text)

    def take(self, file: Path, path: str) -> None:
        """Copy a file of ours into the running machine."""
        with file.open("rb") as stream:
            subprocess.run(self.command("bash", "-c", f"cat > {path}"), stdin=stream, check=True, timeout=120)

    def read(self, path: str) -> str:
        return self.run("cat", path).stdout

    def show(self, unit: str, *names: str) -> dict[str, str]:
        """Properties of a unit."""
        said = self.run("systemctl", "show", unit, "-p", ",".join(names)).stdout
        return dict(line.split("=", 1) for line in said.splitlines())

    def journal(self, unit: str = "meterhouse", *more: str) -> str:
        return self.run("journalctl", "-u", unit, "-o", "cat", "--no-pager", *more).stdout

    @staticmethod
    def wait(condition: Callable[[], object], seconds: float, what: str = "") -> None:
        deadline = time.monotonic() + max(seconds, DEADLINE_S) * min(3.0, patience())
        while not condition():
            assert time.monotonic() < deadline, f"not within {max(seconds, DEADLINE_S)} s: {what}"
            time.sleep(0.1)

    def halt(self) -> None:
        if self._process is None:
            return
        # nothing in it is kept, so nothing in it is asked to stop: with its first process all of them end
        for pid in (self.leader, self._process.pid):
            if pid and self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(10)
        number = self._process.pid
        self._process = None
        for base in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
            for folder in sorted(base.glob(f"nsp.{number}/**/"), reverse=True) if base.is_dir() else ():
                with contextlib.suppress(OSError):
                    folder.rmdir()


def build_deb() -> Path:
    """The package of this source tree, or the one that MH_DEB names."""
    if made := os.environ.get("MH_DEB"):
        return Path(made)
    subprocess.run([str(ROOT / "tools" / "deb")], check=True, timeout=600, stdout=subprocess.DEVNULL)
    return max((ROOT / "dist").glob("meterhouse_*.deb"), key=lambda path: path.stat().st_mtime)


def repack(deb: Path, version: str, folder: Path, edits: Sequence[tuple[str, str, str]] = ()) -> Path:
    """The same package under another version; ``edits`` are (path inside, old text, new text)."""
    tree = folder / f"tree-{version}"
    subprocess.run(["dpkg-deb", "-R", str(deb), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    lines = control.read_text().splitlines()
    control.write_text(
        "\n".join(f"Version: {version}" if line.startswith("Version:") else line for line in lines) + "\n"
    )
    init = tree / "usr/lib/meterhouse/agent/__init__.py"
    for path, old, new in (
        ("usr/lib/meterhouse/agent/__init__.py", init.read_text(), f'__version__ = "{version}"\n'),
        *edits,
    ):
        file = tree / path
        text = file.read_text()
        assert old in text, path
        file.write_text(text.replace(old, new))
    (tree / "DEBIAN" / "md5sums").unlink(missing_ok=True)
    out = folder / f"meterhouse_{version}_amd64.deb"
    build = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b"]
    subprocess.run([*build, str(tree), str(out)], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)
    return out
