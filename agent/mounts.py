"""Finds the file system of a folder, and the reasons why commits there may not be durable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

IN_MEMORY: Final = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_REMOTE: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "fuse.sshfs"})
_OVERLAY: Final = frozenset({"overlay", "aufs"})
_NO_JOURNAL: Final = frozenset({"vfat", "exfat", "msdos"})
_NOT_SYNCED: Final = frozenset({"data=writeback", "nobarrier", "barrier=0", "fsync_mode=nobarrier"})


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system, as in /proc/self/mountinfo. ``kind``: its type, such as ext4; "" if it is unknown."""

    point: str
    kind: str = ""
    options: frozenset[str] = frozenset()

    @property
    def read_only(self) -> bool:
        """True if the file system is mounted read-only."""
        return "ro" in self.options

    def weaknesses(self) -> Iterator[str]:
        """Yield the reasons why a commit on this file system may not survive a power cut; usually there is none."""
        point, kind = self.point, self.kind
        if bad := ", ".join(sorted(self.options & _NOT_SYNCED)):
            yield f"{point} is mounted with {bad}: a power cut can damage the database"
        if kind in IN_MEMORY:
            yield f"{point} is a {kind}: everything is lost at a power cut"
        if kind in _REMOTE:
            yield f"{point} is a network file system ({kind}): locks and syncs are not reliable"
        if kind in _OVERLAY:
            yield f"{point} is an overlay ({kind}): files there may be lost at the next boot of the machine"
        if kind in _NO_JOURNAL:
            yield f"{point} is {kind}, which has no journal: a power cut can damage the database"


def mount_of(directory: Path, mountinfo: str | None = None) -> Mount:
    """Return the file system of a folder.

    Args:
        mountinfo: text in the form of /proc/self/mountinfo, for tests. None: the file itself is read.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return Mount("")
    target, best = str(directory.resolve()), Mount("")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        # of several file systems mounted at one point, only the last is visible
        if inside and len(point) >= len(best.point):
            best = Mount(point, tail[0], frozenset([*fields[5].split(","), *tail[2].split(",")]))
    return best
