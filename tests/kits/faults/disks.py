"""Disks for fault tests: small ones, and one whose state at a moment can be kept, as a power cut would leave it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.kits.house import House, until


def can_mount() -> str:
    """Why no file system can be mounted here; "" if one can."""
    if os.geteuid() != 0:
        return "only root may mount a file system (run as root)"
    return (
        ""
        if Path("/dev/loop-control").exists()
        else "no loop devices here (modprobe loop; in a container: --privileged)"
    )


def can_cut() -> str:
    """Why no power cut can be simulated here; "" if one can."""
    tools = [tool for tool in ("mkfs.xfs", "mkfs.ext4") if not find(tool)]
    return can_mount() or (f"no {', '.join(tools)} here (apt: xfsprogs, e2fsprogs)" if tools else "")


def find(tool: str) -> str | None:
    return shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin")


def do(*words: object) -> None:
    """Run a command. Fails with its error output."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr)


def mount(what: Path | str, where: Path, *options: str) -> None:
    """Mount a file system. Skips the test if this machine cannot do it."""
    where.mkdir(exist_ok=True)
    words = ["mount", *options, str(what), str(where)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{' '.join(words)}: {done.stderr.strip()}")


def unmount(where: Path) -> None:
    """Unmount a file system. Waits while it is in use; after the deadline, detaches it anyway."""

    def done() -> bool:
        return (
            not os.path.ismount(where) or not subprocess.run(["umount", str(where)], stderr=-3, check=False).returncode
        )

    with contextlib.suppress(AssertionError):
        until(done, 5)
        return
    subprocess.run(["umount", "-l", str(where)], check=False)


class CutDisk:
    """An ext4 disk at ``live``. Its platter is a file, of which ``cut`` keeps a copy.

    Data that the file system has not yet written to the platter are not in the copy, as after a power cut. The file is
    on an XFS, where a copy by reference takes milliseconds and shows a single moment.
    """

    def __init__(self, house: House, folder: Path, size_bytes: int = 64 << 20) -> None:
        if why := can_cut():
            pytest.skip(why)
        image, self._host = folder / "host.img", folder / "host"
        self.live = folder / "live"
        with image.open("wb") as file:
            file.truncate(600 << 20)
        do(find("mkfs.xfs"), "-q", "-f", "-m", "reflink=1", image)
        house.at_end(lambda: image.unlink(missing_ok=True))
        mount(image, self._host, "-o", "loop")
        house.at_end(lambda: unmount(self._host))
        self._platter, self._kept = self._host / "disk.img", self._host / "kept.img"
        with self._platter.open("wb") as file:
            file.truncate(size_bytes)
        do(find("mkfs.ext4"), "-q", self._platter)
        mount(self._platter, self.live, "-o", "loop")
        house.at_end(lambda: unmount(self.live))

    def settle(self) -> None:
        """Write all data to the platter."""
        fd = os.open(self.live, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        do("sync", "-f", self.live)

    def cut(self) -> None:
        """Keep the platter as a power cut would leave it now."""
        do("cp", "--reflink=always", self._platter, self._kept)

    def back(self) -> None:
        """Mount the platter at ``live`` as it was at the cut. No process may have ``live`` open."""
        unmount(self.live)
        self._kept.replace(self._platter)
        mount(self._platter, self.live, "-o", "loop")


def freeze(pid: int) -> float:
    """Stop all threads of a process. Returns the time from which it does nothing any more, in UTC seconds."""
    os.kill(pid, 19)

    def still() -> bool:
        states = [
            Path(f"/proc/{pid}/task/{task}/stat").read_text().rpartition(")")[2].split()[0]
            for task in os.listdir(f"/proc/{pid}/task")
        ]
        return set(states) <= {"T", "D"}  # D: in a sync, at whose end the thread is stopped

    until(still, 5, "the process stops")
    return time.time()
