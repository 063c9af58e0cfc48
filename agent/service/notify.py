"""Words to systemd (sd_notify): a datagram to the socket that it names, nothing where it names none."""

from __future__ import annotations

import os
import socket


def notify(message: str) -> None:
    """Send one message such as ``READY=1``. Silent where no service manager listens."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as door:
        try:
            door.sendto(message.encode(), address)
        except OSError:
            return  # the manager went away: we run on
