"""Runs a child process as the owner of a folder. Tools that run as root use it for folders of the agent's user.

So no new file in such a folder belongs to root, and a symbolic link cannot give access to files that the agent's user
may not access. The parent must not trust the child's answer, because the agent's user may have changed it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import agent
from agent.service.control.peer import login_of
from drivers.model import GatewayError

END_S: Final = 10.0  # time in seconds that the child has to close its files and end; after this time, it is killed
MAX_LINKS: Final = 40  # limit of the links in one path, as in the Linux kernel
# the only variables of the tool's environment that the child gets; SOFTHSM2_CONF locates the tokens of SoftHSM2
_ENVIRONMENT: Final = ("PATH", "LANG", "CREDENTIALS_DIRECTORY", "SOFTHSM2_CONF")
NO_IMPORT: Final = 70  # exit code of a child that cannot import its module
_CHILD: Final = f"""
import sys
from importlib import import_module
sys.path.insert(0, sys.argv[2])
try:
    module = import_module(sys.argv[3])
except (ImportError, OSError):
    sys.exit({NO_IMPORT})
module.main(int(sys.argv[1]))
"""


def path_owner(path: Path) -> os.stat_result | None:
    """Return the status of the first folder or link in ``path`` that does not belong to root.

    The owner of this folder or link controls where the path leads. Returns None if only root controls the path, or if
    this process does not run as root.

    Raises:
        GatewayError: a folder in the path belongs to root, but other users may write to it.
    """
    if os.geteuid() != 0:
        return None
    left, links = list(reversed(path.absolute().parts)), 0
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        while left:
            name = left.pop()
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(found.st_mode):
                break
            if found.st_uid:
                return found
            if stat.S_ISLNK(found.st_mode):
                links += 1
                if links > MAX_LINKS:  # stop here, because opening the path later fails with ELOOP
                    break
                left += reversed(Path(os.readlink(name, dir_fd=folder)).parts)
            elif stat.S_ISDIR(found.st_mode):
                _check_unshared(path, name, found)
                inner = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                os.close(folder)
                folder = inner
            else:
                break
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):  # in these cases the path cannot exist
            raise
    finally:
        os.close(folder)
    return None


def _check_unshared(path: Path, name: str, folder: os.stat_result) -> None:
    """Raise GatewayError if users other than the owner may write to a folder.

    Sticky folders such as /tmp are allowed.
    """
    shared = folder.st_mode & stat.S_IWOTH or (folder.st_mode & stat.S_IWGRP and folder.st_gid)
    if shared and not folder.st_mode & stat.S_ISVTX:
        what = f"users other than the owner can write to the folder {name} in this path"
        hint = "Remove the write permission of all other users: `sudo chmod go-w FOLDER`"
        raise GatewayError(what, where=str(path), hint=hint)


@contextlib.contextmanager
def child(owner: os.stat_result, module: str, sock: socket.socket, argument: object) -> Iterator[None]:
    """Run ``main`` of a module in a child process of the user ``owner``. At the end, wait for the child or kill it.

    ``main`` gets the number of the socket. ``argument`` is pickled on standard input. Standard input is a file in
    memory and not a pipe, because with a pipe the parent would wait forever if the user stops the child.

    Raises:
        GatewayError: the user ``owner`` may not start the Python interpreter of this command, or not read its files.
    """
    with sock, os.fdopen(os.memfd_create("argument", os.MFD_CLOEXEC), "r+b") as stdin:
        pickle.dump(argument, stdin)
        stdin.seek(0)
        home = Path(agent.__file__).resolve().parent.parent
        compiled = ["-X", f"pycache_prefix={sys.pycache_prefix}"] if sys.pycache_prefix else []
        identity = _identity(owner)
        try:
            process = subprocess.Popen(
                [sys.executable, "-I", *compiled, "-c", _CHILD, str(sock.fileno()), str(home), module],
                stdin=stdin, stdout=subprocess.DEVNULL, pass_fds=(sock.fileno(),), start_new_session=True,
                cwd="/", umask=0o077, **identity,
            )  # fmt: skip
        except (PermissionError, FileNotFoundError) as error:
            raise _unusable(owner, sys.executable) from error
    try:
        yield
    finally:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode == NO_IMPORT:  # the caller only knows that there was no answer
            raise _unusable(owner, str(home))


def _unusable(owner: os.stat_result, path: str) -> GatewayError:
    """Return the error for a Python interpreter or a folder of code that the user ``owner`` may not use."""
    user = login_of(owner.st_uid) or str(owner.st_uid)
    hint = (
        "Use the meterhouse of the Debian package (/usr/bin/meterhouse), or install Python and meterhouse in a folder "
        "that every user can read, such as /opt"
    )
    return GatewayError(
        f"the user {user} cannot use this file or folder, but the command must run as this user", where=path, hint=hint
    )


def _identity(owner: os.stat_result) -> dict[str, Any]:
    """Return the arguments of Popen that run the child as this user. Only root may run it as another user."""
    if owner.st_uid == os.geteuid():
        return {} if os.environ.get("MH_DEBUG", "") not in {"", "0"} else {"stderr": subprocess.DEVNULL}
    import pwd

    try:
        user = pwd.getpwuid(owner.st_uid)
        gid, groups = user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid)
    except KeyError:  # the user number has no name
        gid, groups = owner.st_gid, []
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {"user": owner.st_uid, "group": gid, "extra_groups": groups, "env": kept, "stderr": subprocess.DEVNULL}
