"""Sources of messages: connections to brokers. The broker keeps a message until it is acknowledged.

To support another broker (Kafka, NATS), write a class with the four methods of ``Source``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from drivers.model import UsageError

TLS_FILES: Final = frozenset({"ca", "certificate", "key"})
LOGIN: Final = TLS_FILES | {"password_file"}  # options that the URL of every scheme may have
FILE_HINT: Final = "Does the file exist, and may this user read it?"


@dataclass(slots=True)
class Message:
    """A message from a broker. ``token`` identifies its delivery, and only the source uses it."""

    topic: str  # the topic with slashes, as in MQTT
    body: bytes
    token: Any
    content_type: str = ""  # the type that the publisher states; "": it states none


class Source(Protocol):
    """A connection to a broker that reconnects by itself.

    Messages that were not acknowledged are delivered again, perhaps to another worker.
    """

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Return up to ``most`` messages. Waits at most ``wait_s``."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge messages that are committed or finally rejected. Deliveries of an earlier connection are
        ignored.
        """

    def problem(self) -> str:
        """Why there is no connection, in one sentence. "" while there is a connection."""

    def close(self) -> None:
        """Close the connection. The broker keeps messages that were not acknowledged."""


@runtime_checkable
class ShardQueues(Protocol):
    """A source whose broker also has a queue for each shard.

    These queues hold messages while the database of the shard cannot be reached.
    """

    def set_aside(self, shard: int, messages: Sequence[Message]) -> list[Message]:
        """Move messages to the queue of their shard.

        Returns the messages that may now be acknowledged, because the broker has confirmed that they are in that queue.
        """

    def deliver_shard(self, shard: int, wanted: bool) -> None:
        """Start or stop deliveries from the queue of a shard. This remains in effect after a reconnect."""


def open_source(url: str, name: str) -> Source:
    """Make the source for a URL with ``mqtt://``, ``mqtts://``, ``amqp://`` or ``amqps://``.

    Args:
        name: name of the worker. An MQTT broker keeps the worker's session under this name.

    Raises:
        UsageError: the URL has another scheme, or no host.
    """
    parts = urlsplit(url)
    if parts.scheme in ("mqtt", "mqtts"):
        from receiver.sources.mqtt import MqttSource

        return MqttSource(parts, name)
    if parts.scheme in ("amqp", "amqps"):
        from receiver.sources.amqp import AmqpSource

        return AmqpSource(parts, name)
    raise UsageError(
        f'unknown scheme "{parts.scheme}"', where="--from", hint="Allowed schemes: mqtt, mqtts, amqp and amqps"
    )


def hosts_of(url: SplitResult, default_port: int) -> list[tuple[str, int]]:
    """The hosts in ``scheme://user@host[:port][,host[:port] ...]/``, in the order in which they are tried.

    Raises:
        UsageError: a host is missing, or a port is invalid.
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
    """User, password and all options from the URL of a broker."""

    user: str
    password: str
    options: dict[str, str]


def login_of(url: SplitResult, more: Collection[str] = ()) -> Login:
    """Read user, password and options from ``//user@host?password_file=FILE``.

    Args:
        more: names of valid options besides those of ``LOGIN``.

    Raises:
        UsageError: the URL contains a password or an unknown option, or a file cannot be read.
    """
    options = dict(parse_qsl(url.query))
    user, _, password = url.netloc.rpartition("@")[0].partition(":")
    if password:
        hint = "Use USER@HOST and ?password_file=FILE: other users can see the command line in the list of processes"
        raise UsageError("a broker URL must not contain a password", where=f"{url.scheme}://", hint=hint)
    known = sorted(LOGIN | set(more))
    if unknown := options.keys() - known:
        hint = f"Allowed options: {', '.join(known[:-1])} and {known[-1]}"
        raise UsageError(f'unknown option "{min(unknown)}"', where=f"{url.scheme}://", hint=hint)
    try:
        for name in TLS_FILES & options.keys():
            # check the files here, because an error of the TLS library does not name the file
            Path(options[name]).open("rb").close()
        if "password_file" in options:
            return Login(unquote(user), Path(options["password_file"]).read_text().strip(), options)
    except (OSError, ValueError) as error:
        raise UsageError(str(error), where=f"{url.scheme}://", hint=FILE_HINT) from None
    return Login(unquote(user), "", options)


def tls_error(url: SplitResult, options: Mapping[str, str], error: Exception) -> UsageError:
    """The error for TLS files that cannot be used. It names the files."""
    named = ", ".join(f"{name}={options[name]}" for name in sorted(TLS_FILES & options.keys()))
    return UsageError(
        f"{named}: {error}",
        where=f"{url.scheme}://",
        hint="Expected PEM files; the private key must belong to the certificate",
    )
