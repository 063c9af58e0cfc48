"""The configuration of a line: its address, its serial setting, and the options of requests to a device on it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from drivers.model import BYTE_SCHEMES, NO_LIMITS, ConfigError, Limits
from drivers.registry import find_scheme, line_urls
from drivers.serial_setting import DEFAULT_SERIAL, SerialSetting, silence_ns


@dataclass(frozen=True, slots=True)
class LineConfig:
    """One line. ``name`` is "" for a line that no configuration contains.

    ``serial`` applies to serial lines only. ``bus_baud`` is the speed of the bus behind a TCP gateway.
    """

    name: str
    url: str
    serial: str = DEFAULT_SERIAL
    bus_baud: int | None = None
    limits: Limits = NO_LIMITS
    echo: bool = False  # whether the adapter echoes the bytes that we send
    rs485: bool = False  # whether the kernel's driver is asked to switch the transmitter on and off (RS-485 mode)

    @property
    def where(self) -> str:
        """The name of the line for messages. A line that is not configured has no name; its url is used."""
        return f"line {self.name}" if self.name else self.url


@dataclass(frozen=True, slots=True)
class Target:
    """A line's address, split into its parts. For a serial line, ``host`` is the path of the port.

    If a host name has several addresses, the address with the number ``first`` is tried first. The numbers wrap around.
    """

    scheme: str
    host: str
    port: int = 0
    first: int = 0

    @property
    def carries_bytes(self) -> bool:
        """Whether the line carries arbitrary bytes, because it has no framing of its own."""
        return self.scheme in BYTE_SCHEMES


def target(config: LineConfig) -> Target:
    """Parse the address of a line. Raises a ConfigError that names the line and shows the correct form."""
    where = config.where
    hint = f"Write {line_urls()}"
    if config.url.startswith("serial:"):
        path = config.url.removeprefix("serial:")
        if not path.startswith("/"):
            raise ConfigError(f"url {config.url!r} has no device path", where=where, hint=hint)
        SerialSetting.parse(config.serial, where)
        return Target("serial", path)
    try:
        parts = urlsplit(config.url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"url {config.url!r}: {error}", where=where, hint=hint) from error
    framed = find_scheme(parts.scheme)
    if (framed is None and parts.scheme not in BYTE_SCHEMES) or not host or parts.path.strip("/") or parts.query:
        raise ConfigError(f"url {config.url!r} is not the url of a line", where=where, hint=hint)
    if port is None:
        if framed is None:
            raise ConfigError(f"url {config.url!r} has no port", where=where, hint=hint)
        port = framed.port
    return Target(parts.scheme, host, port)


@dataclass(frozen=True, slots=True)
class RequestOptions:
    """How requests are sent to one device on a line."""

    timeout_s: float = 1.0  # longest time from the end of the request to the start of the answer
    quiet_s: float = 0.0  # silence before each request
    late_s: float = 0.0  # time after a timeout in which the answer may still arrive
    retries: int = 0  # number of retries after a timeout; after a broken frame there is always at least one retry
    setting: SerialSetting | None = None  # the device's serial setting; None: not a serial line
    connect_delay_s: float = 0.0  # silence after the connection is opened; applies to all devices on the connection
    connections: int | None = None  # most connections that the host allows; None: no limit


def request_options(config: LineConfig, limits: Limits = NO_LIMITS, serial: str = "") -> RequestOptions:
    """The options for a device. Its ``limits`` replace those of the line.

    ``serial`` is the device's own setting; "": the line's setting. Raises ConfigError if the device has its own setting
    on a line that cannot switch.
    """
    where = target(config)
    both = limits.over(config.limits)
    setting = None
    quiet_s = 0.0
    if where.scheme == "serial":
        setting = SerialSetting.parse(serial or config.serial, config.where)
        quiet_s = setting.quiet_s
    elif serial and serial.upper().split() != config.serial.upper().split():
        raise ConfigError(
            f"the serial setting {serial!r} cannot be set over {where.scheme}",
            where=config.where,
            hint="Set the serial server to one speed, and connect devices with another speed to a separate line",
        )
    elif where.carries_bytes and config.bus_baud:
        quiet_s = silence_ns(config.bus_baud) / 1e9
    late_s = 1.0 if where.scheme in ("tcp", "udp") else 0.0
    return RequestOptions(
        timeout_s=1.0 if both.timeout_s is None else both.timeout_s,
        quiet_s=quiet_s if both.quiet_s is None else both.quiet_s,
        late_s=late_s if both.late_s is None else both.late_s,
        retries=both.retries or 0,
        setting=setting,
        connect_delay_s=both.connect_delay_s or 0.0,
        connections=both.connections,
    )
