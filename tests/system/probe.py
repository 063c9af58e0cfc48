"""What a process may do in the sandbox that it was started in: run inside the machine, prints JSON."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import resource
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

PLACES = ("/etc", "/etc/meterhouse", "/usr", "/usr/lib/meterhouse", "/var", "/var/lib", "/var/log", "/home", "/root",
          "/opt", "/srv", "/run", "/dev/shm", "/var/lib/meterhouse", "/run/meterhouse")  # fmt: skip


def tried(what: Callable[[], Any]) -> str:
    """The name of the error; done where there was none."""
    try:
        what()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


def door() -> None:
    """A control socket as the agent has one, and a client."""
    path = "/run/meterhouse/probe.control"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        client.connect(path)
        listener.accept()[0].close()
    os.unlink(path)


def write(folder: str) -> None:
    path = f"{folder}/probe"
    with open(path, "w", encoding="ascii") as file:
        file.write("x")
    os.unlink(path)


def clock() -> str:
    sys.path.insert(0, "/usr/lib/meterhouse")
    from ext.clock import state

    return str(state().synced)


def unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000):  # CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")


facts = {
    "user": os.getuid() != 0,
    "door": tried(door),
    "pair": tried(lambda: [s.close() for s in socket.socketpair()]),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", 1883), 5).close()),
    "packet": tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink": tried(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "write and execute": tried(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "user namespace": tried(unshare),
    "set the clock": tried(lambda: time.clock_settime(time.CLOCK_REALTIME, time.time())),
    "clock": clock(),
    "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "serial": tried(lambda: os.close(os.open("/dev/ttyGW0", os.O_RDWR | os.O_NOCTTY))),
    "other device": tried(lambda: os.close(os.open("/dev/ttyX0", os.O_RDWR | os.O_NOCTTY))),
    "writes": [place for place in PLACES if tried(lambda place=place: write(place)) == "done"],  # type: ignore[misc]
}
print(json.dumps(facts))
