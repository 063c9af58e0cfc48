"""The only module that opens serial ports and sockets to devices. Every port is one non-blocking file descriptor."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import sys
import termios
from collections.abc import Awaitable, Callable

from drivers.line.config import LineConfig, Target
from drivers.model import LineDown
from drivers.serial_setting import SerialSetting

CHUNK = 4096
OPEN_TIMEOUT_S = 5.0  # longest time until a port is open, as its caller limits it
_HINTS = {
    errno.ENOENT: "Is the adapter plugged in? Its name is under /dev/serial/by-id/",
    errno.ENODEV: "Is the adapter plugged in? Its name is under /dev/serial/by-id/",
    errno.EIO: "Was the adapter unplugged?",
    errno.EACCES: "Is this user in the group of the port (often dialout)?",
    errno.EBUSY: "Another program has the port open",
    errno.EAGAIN: "Another program has the port open",
    errno.ECONNREFUSED: "The host is up but nothing listens on this port: is the service running, and is the port "
    "number right?",
    errno.EHOSTUNREACH: "Network unreachable: are cable, address and netmask right?",
    errno.ENETUNREACH: "Network unreachable: are cable, address and netmask right?",
    errno.ETIMEDOUT: "No response from this address: is the device on?",
    errno.ECONNRESET: "The device closed the connection: does it allow one client only?",
}


def down(where: str, error: OSError | None, what: str = "") -> LineDown:
    """Make a LineDown from a system error, with a useful hint."""
    code = (error.errno or 0) if error else 0
    if isinstance(error, socket.gaierror):
        missing = code in (socket.EAI_NONAME, socket.EAI_NODATA)
        return LineDown(
            f"{what}: {'host name not found' if missing else 'DNS server not responding'}",
            where=where,
            hint="Check the spelling of the host name, or write its IP address",
        )
    text = os.strerror(code) if code else str(error or "")
    if "Inappropriate ioctl" in text:  # pyserial's text does not say that the file is not a serial port
        return LineDown(
            f"{what}: not a serial port", where=where, hint="Serial ports are listed under /dev/serial/by-id/"
        )
    return LineDown(": ".join(filter(None, (what, text))), where=where, hint=_HINTS.get(code, ""))


def _is_pty(found: os.stat_result) -> bool:
    # the major numbers of pseudo-terminals (Unix98 slaves) in Linux, devices.txt
    return os.major(found.st_rdev) in range(136, 144)


def is_reused(path: str) -> bool:
    """Whether a path is a link to a pseudo-terminal that is younger than the link.

    The link was made for an earlier pseudo-terminal, whose number the system has given to another program since then.
    """
    try:
        link, port = os.lstat(path), os.stat(path)
    except OSError:
        return False
    # some file systems keep whole seconds only
    made_ns = link.st_mtime_ns if link.st_mtime_ns % 1_000_000_000 else link.st_mtime_ns + 999_999_999
    return stat.S_ISLNK(link.st_mode) and _is_pty(port) and port.st_ctime_ns > made_ns


def is_same_port(first: str, second: str) -> bool:
    """Whether two paths name the same serial port. A port may have several paths."""
    return first == second or (
        os.path.realpath(first) == os.path.realpath(second) and not is_reused(first) and not is_reused(second)
    )


class Port:
    """An open port. ``write`` and ``read`` never block; both raise OSError.

    ``read`` returns the available bytes; b"" means that the connection is lost.
    """

    def __init__(self, where: str, fd: int, read: Callable[[int], bytes], write: Callable[[bytes], int]) -> None:
        self.where, self.fd, self.read, self.write = where, fd, read, write
        self.setting: SerialSetting | None = None
        self.notes: dict[str, str] = {}
        self.failed_addresses = 0  # number of addresses of the host name that failed before this one was connected

    def apply(self, setting: SerialSetting) -> None:
        """Switch a serial port to another setting. Raises OSError."""

    def unsent(self) -> int:
        """The number of bytes that were written but have not left the port yet, as the system reports. Raises
        OSError.
        """
        return 0

    def close(self) -> None:
        """Close the file descriptor.

        A port must not stay open after a fault: as long as it is open, a USB adapter that is plugged in again gets
        another name.
        """
        raise NotImplementedError


PortOpener = Callable[[LineConfig, Target, SerialSetting | None], Awaitable[Port]]  # the function raises OSError


class _SocketPort(Port):
    def __init__(self, where: str, sock: socket.socket) -> None:
        super().__init__(where, sock.fileno(), sock.recv, sock.send)
        self._sock = sock

    def close(self) -> None:
        self._sock.close()
        self.fd = -1


def _os_error(error: Exception) -> OSError:
    """The system error in an error of ``termios`` or pyserial. pyserial raises ValueError if it cannot set a speed that
    has no constant in termios, such as 14400 baud.
    """
    if isinstance(error, termios.error):
        return OSError(*error.args)
    code = error.__context__.errno if isinstance(error.__context__, OSError) else None
    return OSError(code or errno.EINVAL, str(error))


class _SerialPort(Port):
    """A serial port. pyserial opens and configures it; bytes are read and written directly on the file descriptor."""

    def __init__(self, where: str, path: str, setting: SerialSetting, rs485: bool) -> None:
        import serial  # imported only here, because it takes a megabyte of memory, and TCP lines do not need it

        if is_reused(path):
            what = f"its link is older than {os.path.realpath(path)}, so another program has got the number of its port"
            raise OSError(f"{what}. Start the program again that makes this port")
        plain = SerialSetting(setting.baud, 8, "N", setting.stop)
        # inter_byte_timeout 0 sets VMIN to 1. Then a read without data fails with EAGAIN, and b"" means that the port
        # is lost.
        try:
            self._serial = serial.Serial(
                path, plain.baud, stopbits=plain.stop, exclusive=True, timeout=0, inter_byte_timeout=0
            )
        except (termios.error, ValueError) as error:  # they are not OSErrors; pyserial has closed the file
            raise _os_error(error) from error
        fd: int = self._serial.fileno()
        super().__init__(where, fd, self._read, self._write)
        try:
            os.set_blocking(fd, False)
            # on a pseudo-terminal, TIOCEXCL would remain after this process ends; there the file lock is enough
            if not self._is_pty():
                fcntl.ioctl(fd, termios.TIOCEXCL)
            try:  # ask for low latency, because otherwise FTDI adapters collect bytes for 16 ms
                self._serial.set_low_latency_mode(True)
                self.notes["latency"] = "low"
            except (ValueError, OSError):
                pass  # ignore the error: most other ports have no low-latency mode, and do not need it
            if rs485:
                self._switch_transmitter()
            self.apply(setting)
            termios.tcflush(fd, termios.TCIOFLUSH)
        except OSError:
            self.close()
            raise
        except termios.error as error:
            self.close()
            raise _os_error(error) from error

    def _read(self, size: int) -> bytes:
        return os.read(self.fd, size)

    def _write(self, frame: bytes) -> int:
        return os.write(self.fd, frame)

    def unsent(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def apply(self, setting: SerialSetting) -> None:
        port = self._serial
        try:
            port.baudrate, port.stopbits = setting.baud, setting.stop
            port.bytesize, port.parity = setting.bits, setting.parity
        except (termios.error, ValueError) as error:
            if error.args[0] != errno.EINVAL or not self._only_frame_differs(setting):
                raise _os_error(error) from error
            # pseudo-terminals do not keep parity and 7 bits, and glibc reports this as an error
            self.notes["serial"] = f"the port does not support {setting.bits}{setting.parity}"
        self.setting = setting

    def _only_frame_differs(self, setting: SerialSetting) -> bool:
        """Whether the port is a pseudo-terminal that has accepted the speed and the stop bits of the setting."""
        try:
            _, _, flags, _, _, speed, _ = termios.tcgetattr(self.fd)
        except termios.error:  # the adapter was unplugged in the meantime
            return False
        stop = 2 if flags & termios.CSTOPB else 1
        return self._is_pty() and stop == setting.stop and speed == getattr(termios, f"B{setting.baud}", speed)

    def _is_pty(self) -> bool:
        return _is_pty(os.fstat(self.fd))

    def _switch_transmitter(self) -> None:
        """Ask the driver for RS-485 mode. Both levels of RTS while sending are tried, because some UARTs support only
        one.
        """
        from serial.rs485 import RS485Settings

        for level in (True, False):
            try:
                self._serial.rs485_mode = RS485Settings(rts_level_for_tx=level, rts_level_for_rx=not level)
            except (ValueError, OSError) as error:
                self.notes["rs485"] = f"refused: {error}"
                # otherwise pyserial would try RS-485 mode again at every later change of speed, and fail
                self._serial._rs485_mode = None
            else:
                self.notes["rs485"] = f"on, RTS {'high' if level else 'low'} while sending"
                return

    def close(self) -> None:
        self._serial.close()
        self.fd = -1  # the system may reuse the number for another file from now on


async def open_port(config: LineConfig, target: Target, setting: SerialSetting | None) -> Port:
    """Open a line's port. The caller limits the time to ``OPEN_TIMEOUT_S``. If a host name has several addresses, each
    gets an equal share of this time.

    Raises OSError. For serial ports this may be pyserial's subclass of OSError.
    """
    place = f"{target.host}{f':{target.port}' if target.port else ''}"
    where = f"{config.where} ({place})" if config.name else config.where
    if target.scheme == "serial":
        return _SerialPort(where, target.host, setting or SerialSetting.parse(config.serial, where), config.rs485)
    kind = socket.SOCK_DGRAM if target.scheme == "udp" else socket.SOCK_STREAM
    addresses = _literal(target) or await _resolve(target, kind)
    begin = target.first % len(addresses)
    *others, last = addresses[begin:] + addresses[:begin]
    for failed, other in enumerate(others):
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S / (1 + len(others))):
                port = await _connect(where, kind, *other)
        except OSError:  # this includes TimeoutError
            continue  # a name may have an IPv6 address although the device listens on IPv4 only
        port.failed_addresses = failed
        return port
    port = await _connect(where, kind, *last)
    port.failed_addresses = len(others)
    return port


async def _connect(where: str, kind: int, family: socket.AddressFamily, address: tuple[str, int]) -> Port:
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:  # close the socket even if the connect was cancelled
        sock.close()
        raise
    return _SocketPort(where, sock)


def _literal(target: Target) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The address in ``target``. Empty if it is a host name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, target.host)
        except OSError:
            continue
        return [(family, (target.host, target.port))]
    return []


async def _resolve(target: Target, kind: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """All addresses of a host name, in the order in which they are to be tried."""
    found = await asyncio.get_running_loop().getaddrinfo(target.host, target.port, type=kind)
    return [(family, (str(address[0]), target.port)) for family, _, _, _, address in found]
