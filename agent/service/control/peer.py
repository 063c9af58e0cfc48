"""Identifies the peer of a Unix socket by its credentials from the kernel, and checks its rights."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Final

from drivers.model import GatewayError, clean_text

_SO_PEERGROUPS: Final = 59  # this constant of Linux is not in the socket module
_GROUPS_BYTES: Final = 1024  # the largest buffer in bytes that Python's getsockopt accepts, enough for 256 groups
_MOST_GROUPS: Final = 65536  # NGROUPS_MAX
_CREDENTIALS: Final = struct.Struct("iII")


class Right(Enum):
    """The right that a request needs.

    Members of the socket's group have LOOK. Root, the agent's user and members of ``[control] group`` have all rights.
    """

    LOOK = "look"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, with its ids at that time. The ids are those of our user namespace."""

    pid: int
    uid: int
    groups: frozenset[int]  # ids of its groups, primary and supplementary


@dataclass(frozen=True, slots=True)
class Caller:
    """The user who sent a request. The log and signed declarations name this user."""

    uid: int
    login: str  # name of the user; "" if the uid has no user on this machine

    def __str__(self) -> str:
        if self.login:
            return f"{self.login} (uid {self.uid})"
        return "a user that the agent's sandbox cannot identify" if self.uid == unmapped_uid() else f"uid {self.uid}"

    def as_dict(self) -> dict[str, Any]:
        """Return the caller in the form for signed declarations."""
        return {"login": self.login, "uid": self.uid} if self.login else {"uid": self.uid}


def peer_of(sock: socket.socket) -> Peer:
    """Return the peer of a connected Unix socket. Raises OSError."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    try:
        more = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    except OSError:
        more = _many_groups(sock)
    return Peer(pid, uid, frozenset((gid, *struct.unpack(f"{len(more) // 4}I", more))))


def _many_groups(sock: socket.socket) -> bytes:
    """Return the group ids of a peer that is in more groups than Python reads, which happens in large domains.

    The result is the bytes of the C array; empty after an error.
    """
    import ctypes  # imported here, because it needs memory and is rarely used

    groups, size = (ctypes.c_uint32 * _MOST_GROUPS)(), ctypes.c_uint32(_MOST_GROUPS * 4)
    libc = ctypes.CDLL(None)
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)):
        return b""  # after an error, only the primary group counts
    return bytes(groups)[: size.value]


@cache
def unmapped_uid() -> int:
    """Return the uid that the kernel shows for each user who is not in our user namespace."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 65534


def login_of(uid: int) -> str:
    """Return the name of a user; "" if there is no such user. This may wait for a directory service."""
    if uid == unmapped_uid():
        return ""  # this uid stands for every unmapped user, so its name would be misleading
    try:
        return clean_text(pwd.getpwuid(uid).pw_name, 64)
    except (KeyError, OSError):
        return ""


def gid_of(group: str) -> int | None:
    """Return the id of a group; None if there is no such group. This may wait for a directory service."""
    try:
        return grp.getgrnam(group).gr_gid
    except (KeyError, OSError):
        return None


class NotAllowed(GatewayError):
    """The caller does not have the right for a request."""


class AccessRules:
    """Decides who may query and who may make changes.

    Args:
        socket_gid: the group of the socket. Its members may query.
        own: the uids that may do everything; by default root and the agent's user.
    """

    def __init__(self, socket_gid: int, own: Collection[int] = ()) -> None:
        self.own = frozenset(own) or frozenset((0, os.geteuid()))
        self._socket_gid, self._unmapped = socket_gid, unmapped_uid()

    def check(self, peer: Peer, caller: Caller, right: Right, group: str, group_gid: int | None) -> None:
        """Raise NotAllowed if the peer does not have this right. The hint of the error tells how to get the right.

        Args:
            group, group_gid: name and id of the group whose members may make changes. ``group_gid`` None: the group
                does not exist.
        """
        if peer.uid in self.own:
            return
        known = peer.uid != self._unmapped
        if known and group_gid is not None and group_gid in peer.groups:
            return
        if right is Right.LOOK and (self._socket_gid in peer.groups or not known):
            return
        name = caller.login or "USER"
        if right is Right.LOOK:
            door = _group_name(self._socket_gid)
            hint = (
                f"Only members of the group {door} may query the agent: "
                f"run `sudo adduser {name} {door}`, then log in again"
            )
            raise NotAllowed(f"{caller} may not query this agent", where="control", hint=hint)
        if not known:
            hint = "The sandbox cannot identify uids above 65535: use sudo or a local account"
            what = "the agent cannot identify this user and therefore allows only queries"
            raise NotAllowed(what, where="control", hint=hint)
        what = f"{caller} may query this agent, but not change anything"
        if group_gid is None:
            hint = (
                f"Group {group} does not exist, so only root and the agent's user may make changes: "
                "use sudo, or create the group"
            )
        else:
            hint = (
                f"Only root and members of the group {group} may make changes: "
                f"run `sudo adduser {name} {group}`, then log in again"
            )
        raise NotAllowed(what, where="control", hint=hint)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
