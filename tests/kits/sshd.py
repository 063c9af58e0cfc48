"""A private SSH server on loopback with its own host key. The user that runs the tests logs in with a key."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.kits.broker import free_port, until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
SEPARATION = Path("/run/sshd")  # sshd needs this folder if it runs as root; normally its unit makes it
ROOT = Path(__file__).parents[2]
CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
StrictModes no
PrintMotd no
PrintLastLog no
"""


def lacking() -> str:
    """Why there is no SSH here; "" if there is."""
    tools = {"sshd": SSHD, "ssh": shutil.which("ssh"), "ssh-keygen": shutil.which("ssh-keygen")}
    missing = [name for name, path in tools.items() if not path]
    return f"no {' and '.join(missing)} here (apt: openssh-server, openssh-client)" if missing else ""


@dataclass(frozen=True)
class Ssh:
    """How to log in."""

    folder: Path
    port: int

    def command(self, *words: str | Path, **environ: str) -> list[str]:
        """``ssh -tt`` that runs ``meterhouse WORDS`` in a terminal on the other side, with these variables there."""
        there = [sys.executable, "-m", "agent.cli.main", *map(str, words)]
        settings = [f"{name}={value}" for name, value in environ.items()]
        unset = [arg for name in ("LC_ALL", "LANG", "NO_COLOR", "LINES", "COLUMNS") for arg in ("-u", name)]
        remote = f"cd {shlex.quote(str(ROOT))} && exec {shlex.join(['env', *unset, *settings, *there])}"
        options = {
            "StrictHostKeyChecking": "no", "UserKnownHostsFile": str(self.folder / "known"), "LogLevel": "ERROR",
            "IdentitiesOnly": "yes", "EscapeChar": "none", "ServerAliveInterval": "0",
        }  # fmt: skip
        settled = [arg for name, value in options.items() for arg in ("-o", f"{name}={value}")]
        front = ["ssh", "-F", "none", "-tt", "-i", str(self.folder / "user"), "-p", str(self.port), *settled]
        return [*front, f"{getpass.getuser()}@127.0.0.1", remote]


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[Ssh]:
    """Run the server until the end of the block."""
    assert SSHD is not None
    folder.mkdir(exist_ok=True)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    made = os.geteuid() == 0 and not SEPARATION.exists()
    if made:
        SEPARATION.mkdir(mode=0o755)
    port, log = free_port(), folder / "sshd.log"
    (folder / "config").write_text(CONFIG.format(port=port, folder=folder))
    process = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", folder / "config"], stdin=subprocess.DEVNULL, stderr=log.open("wb")
    )
    try:
        until(lambda: "listening" in log.read_text() or process.poll() is not None, what=log.read_text)
        assert process.poll() is None, log.read_text()
        yield Ssh(folder, port)
    finally:
        process.terminate()
        process.wait(60)
        if made:
            SEPARATION.rmdir()
