"""Where messages come from. A source delivers messages and gives one up only after ``acknowledge``.

Another one (Kafka, NATS) is a class with the four methods of ``Source``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from drivers.model import UsageError

TLS_FILES: Final = frozenset({"ca", "certificate", "key"})
LOGIN: Final = TLS_FILES | {"password_file"}  # options of every scheme
FILE_HINT: Final = "Is the file there, and readable?"


@dataclass(slots=True)
class Message:
    """``token`` is the source's own name of this delivery."""

    topic: str  # as MQTT writes it
    body: bytes
    token: Any
    content_type: str = ""  # as stated by the publisher; "" for none


class Source(Protocol):
    """A connection that reconnects by itself; unacknowledged messages are delivered again, to any worker."""

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Up to ``most`` messages; waits for the first one, at most ``wait_s``."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """These are committed, or will never be. Ignores deliveries of a connection that was lost."""

    def problem(self) -> str:
        """The reason why nothing arrives, in a sentence; empty while connected."""

    def close(self) -> None:
        """Close the connection; unacknowledged messages stay with the broker."""


@runtime_checkable
class ShardQueues(Protocol):
    """A source whose broker also has a queue per shard, for messages whose database is unreachable."""

    def set_aside(self, shard: int, messages: Sequence[Message]) -> list[Message]:
        """Move messages to the queue of their shard. Returns those confirmed there, which may be acknowledged."""

    def deliver_shard(self, shard: int, wanted: bool) -> None:
        """Start or stop the delivery of messages set aside for a shard; stays so after a reconnect."""


def open_source(url: str, name: str) -> Source:
    """The source behind ``mqtt://``, ``mqtts://``, ``amqp://`` or ``amqps://``.

    Args:
        name: of the worker; the broker keeps its session under this name.

    Raises:
        UsageError: another scheme, or no host.
    """
    parts = urlsplit(url)
    if parts.scheme in ("mqtt", "mqtts"):
        from receiver.sources.mqtt import MqttSource

        return MqttSource(parts, name)
    if parts.scheme in ("amqp", "amqps"):
        from receiver.sources.amqp import AmqpSource

        return AmqpSource(parts, name)
    raise UsageError(f'unknown scheme "{parts.scheme}"', where="--from", hint="mqtt, mqtts, amqp and amqps are known")


def hosts_of(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """The hosts of ``scheme://user@host[:port][,host[:port] ...]/``, in the order in which they are tried.

    Raises:
        UsageError: no host, or something that is not a port.
    """
    found = []
    for text in url.netloc.rpartition("@")[2].split(","):
        one = urlsplit(f"//{text}")
        try:
            port = one.port or default_port
        except ValueError:
            port = 0
        if not one.hostname or not port:
            hint = f"Expected a URL such as {url.scheme}://host1:{default_port},host2:{default_port}"
            raise UsageError(f'"{text}" is not a host with a port', where=f"{url.scheme}://", hint=hint)
        found.append((one.hostname, port))
    return found


@dataclass(frozen=True, slots=True)
class Login:
    """Options of a URL that name us, and the other options."""

    user: str
    password: str
    options: dict[str, str]


def login_of(url: SplitResult, more: Collection[str] = ()) -> Login:
    """Name and password from ``//user@host?password_file=FILE``, and the options. A password in the URL is refused.

    Args:
        more: names of options besides those of ``LOGIN``.

    Raises:
        UsageError: a password, a file that cannot be read, or an option that is not known.
    """
    options = dict(parse_qsl(url.query))
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    if password:
        hint = "Use USER@HOST and ?password_file=FILE: the list of processes shows the command line"
        raise UsageError("a broker URL must not contain a password", where=f"{url.scheme}://", hint=hint)
    known = sorted(LOGIN | set(more))
    if unknown := options.keys() - known:
        hint = f"{', '.join(known[:-1])} and {known[-1]} are known"
        raise UsageError(f'unknown option "{min(unknown)}"', where=f"{url.scheme}://", hint=hint)
    try:
        for name in TLS_FILES & options.keys():
            Path(options[name]).open("rb").close()  # the error of the TLS library names no file
        if "password_file" in options:
            return Login(unquote(user), Path(options["password_file"]).read_text().strip(), options)
    except (OSError, ValueError) as error:
        raise UsageError(str(error), where=f"{url.scheme}://", hint=FILE_HINT) from None
    return Login(unquote(user), "", options)


def tls_error(url: SplitResult, options: Mapping[str, str], error: Exception) -> UsageError:
    """For files of a URL that TLS cannot use, with their names."""
    named = ", ".join(f"{name}={options[name]}" for name in sorted(TLS_FILES & options.keys()))
    return UsageError(
        f"{named}: {error}", where=f"{url.scheme}://", hint="Expected PEM files; a key must fit its certificate"
    )
