"""Converts MQTT reason codes and network errors to BrokerError, with a hint for the technician. Also logs faults."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from drivers.model import BrokerError, clean_text

log = logging.getLogger("meterhouse.uplink")
CLEAR_S: Final = 10.0  # if no fault occurs for this long, the destination counts as recovered
MOST_KINDS: Final = 20
LOG_AGAIN_S: Final = 3600.0  # if a fault still occurs after this time, it is logged again
# reason codes of MQTT 5, section 2.4
NO_SUBSCRIBERS: Final = 0x10
FAILURE: Final = 0x80  # codes from this one on are failures
UNSUPPORTED_VERSION: Final = 0x84
NOT_AUTHORIZED: Final = 0x87
TAKEN_OVER: Final = 0x8E
TOPIC_INVALID: Final = 0x90
ID_IN_USE: Final = 0x91
TOO_LARGE: Final = 0x95
QUOTA: Final = 0x97
BAD_FORMAT: Final = 0x99
QOS_UNSUPPORTED: Final = 0x9B

_RETRY: Final = "The agent retries"
_REASON: Final = "Ask the broker's operator for the reason"
_QUOTA: Final = "Ask the broker's operator to raise the quota"
_CONNACK: Final = {
    0x81: ("broker rejected the connection: malformed packet", "Is this an MQTT broker?"),
    0x82: ("broker rejected the connection: protocol error", "Is this an MQTT broker?"),
    UNSUPPORTED_VERSION: ("broker supports neither MQTT 5 nor 3.1.1", "This broker is too old for the agent"),
    0x85: ("broker rejected the client id", "Set client_id to the value that the broker's operator requires"),
    0x86: ("wrong user name or password", "Compare username and password file with what the operator gave you"),
    NOT_AUTHORIZED: (  # mosquitto also sends this code for a wrong password
        "broker rejected the connection: not authorized",
        "Check user name and password. If they are right, ask the operator to allow this user or certificate",
    ),
    0x88: ("broker unavailable", _RETRY),
    0x89: ("broker busy", _RETRY),
    0x8A: ("broker has banned this client", _REASON),
    0x8C: (
        "broker requires another authentication method",
        "Ask the broker's operator to allow a user name with password, or a client certificate: the agent supports "
        "only these methods",
    ),
    QUOTA: ("broker rejected the connection: quota exceeded", _QUOTA),
    QOS_UNSUPPORTED: (
        "broker does not support QoS 1",
        "Without QoS 1, delivery cannot be confirmed. Ask the broker's operator to allow QoS 1",
    ),
    0x9C: ("broker redirects to another server", "Set url to the new address"),
    0x9D: ("broker has moved", "Set url to the new address"),
    0x9F: ("broker limits the connection rate", "The agent waits longer before each new attempt"),
}
_PUBACK: Final = {
    NO_SUBSCRIBERS: (
        "no subscriber for the agent's packs",
        "The agent keeps the packs. Is the platform running and subscribed?",
    ),
    NOT_AUTHORIZED: (
        "broker does not allow this client to publish",
        "Ask the broker's operator for write access to {}",
    ),
    TOPIC_INVALID: ("broker rejected the topic", "Ask the broker's operator for write access to {}"),
    QUOTA: ("broker quota exceeded", "The agent keeps the packs. " + _QUOTA),
    TOO_LARGE: ("pack too large for the broker", "Lower [pack] max_size, or ask the operator for a larger limit"),
    BAD_FORMAT: (
        "broker rejected the payload format of a pack",
        "Ask the broker's operator which rule the pack violates",
    ),
}
_DISCONNECT: Final = {
    NOT_AUTHORIZED: (
        "broker disconnected: not authorized",
        "Ask the broker's operator whether permissions were changed",
    ),
    0x8B: ("broker is shutting down", _RETRY),
    0x8D: ("broker disconnected: keepalive timeout", "Is the network slow, or is this machine overloaded?"),
    TAKEN_OVER: (
        "another client took over the session",
        "Another gateway, or a copy of this one, runs with the same site and gateway name",
    ),
    0x93: ("broker disconnected: receive maximum exceeded", _RETRY),
    TOO_LARGE: ("broker disconnected: pack too large", "Lower [pack] max_size"),
    QUOTA: ("broker disconnected: quota exceeded", _QUOTA),
    0x98: ("broker disconnected: administrative action", _RETRY),
}


def connect_refused(code: int, url: str) -> BrokerError:
    """Return the error for a CONNACK that is not a success. ``code`` is the reason code as in MQTT 5."""
    what, hint = _CONNACK.get(code, (f"broker rejected the connection (reason code 0x{code:02X})", _REASON))
    return BrokerError(what, where=url, hint=hint)


def publish_refused(code: int, topic: str, url: str) -> BrokerError:
    """Return the error for a PUBACK that is not a success."""
    what, hint = _PUBACK.get(code, (f"broker rejected a pack (reason code 0x{code:02X})", "The agent keeps the packs"))
    return BrokerError(what, where=url, hint=hint.format(topic))


def retained_too_large(topic: str, url: str) -> BrokerError:
    """Return the error for a retained message, such as ``keys``, that exceeds the broker's packet limit."""
    hint = f"Ask the broker's operator for a larger limit. Until then, {topic} is missing at the broker"
    return BrokerError("retained message too large for the broker", where=url, hint=hint)


def disconnects_at(topic: str, url: str) -> BrokerError:
    """Return the error for a message at which the broker closes the connection."""
    hint = f"Lower [pack] max_size, or ask the broker's operator for a larger limit and for write access to {topic}"
    return BrokerError("broker disconnects whenever it gets a certain message", where=url, hint=hint)


def subscribe_refused(code: int, topic: str, url: str) -> BrokerError:
    """Return the error for a SUBACK that is not a success."""
    if code in (NOT_AUTHORIZED, FAILURE):  # 0x80 is the only failure code of MQTT 3.1.1
        return BrokerError(
            f"broker does not allow this client to subscribe to {topic}",
            where=url,
            hint=f"Ask the broker's operator for read access to {topic}",
        )
    return BrokerError(
        f"broker rejected the subscription to {topic} (reason code 0x{code:02X})", where=url, hint=_REASON
    )


def disconnected(code: int, url: str) -> BrokerError:
    """Return the error for a connection that ended. ``code``: the reason code; 0 if the broker gave no reason."""
    what, hint = _DISCONNECT.get(code, ("connection lost", _RETRY))
    if code and code not in _DISCONNECT:
        what = f"broker disconnected (reason code 0x{code:02X})"
    return BrokerError(what, where=url, hint=hint)


def limit_exceeded(fault: str, url: str) -> BrokerError:
    """Return the error for a connection that we closed because the broker violated a limit. ``fault`` describes it."""
    hint = (
        "Is a large message retained on the topic ack or replay/request? The operator can delete this message and "
        "limit packet sizes"
    )
    return BrokerError(f"the agent closed the connection, because the broker sent {fault}", where=url, hint=hint)


def closed_before_connack(code: int, url: str, tls: bool, has_certificate: bool) -> BrokerError:
    """Return the error for a connection that ended before the CONNACK.

    ``code``: the reason code as in MQTT 5; 0 if the broker gave no reason.
    """
    if code:
        return disconnected(code, url)
    if not tls:
        hint = "Does this port require TLS (mqtts://)?"
    # with TLS 1.3, a client learns only after the handshake that its certificate is missing or rejected
    elif has_certificate:
        hint = "Does the broker accept the agent's certificate?"
    else:
        hint = "Does the broker require a client certificate (cert_file)?"
    return BrokerError("broker closed the connection before CONNACK", where=url, hint=hint)


def unreachable(error: OSError, url: str, port: int) -> BrokerError:
    """Return the error for an attempt that failed before MQTT began: in DNS, TCP or TLS."""
    if isinstance(error, ssl.SSLError):
        return _tls_failed(error, url)
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            hint = "Is this box connected to the network, and is its DNS server set correctly?"
            return BrokerError("DNS server not responding", where=url, hint=hint)
        return BrokerError("host name not found", where=url, hint="Check the spelling of the host in url")
    if isinstance(error, TimeoutError):
        hint = f"Is there a route from this network to the broker, and does the firewall allow port {port}?"
        return BrokerError("connection timed out", where=url, hint=hint)
    reset = (
        "connection reset while connecting",
        "Does a firewall close the connection, or does only one side use TLS (mqtt:// or mqtts://)?",
    )
    known = {
        errno.ECONNREFUSED: (
            "connection refused: nothing listens on this port",
            f"Is the broker running at this address, and is {port} its port?",
        ),
        errno.ENETUNREACH: (
            "network unreachable",
            "Is this box connected to the network? Check its IP address and its default gateway",
        ),
        errno.EHOSTUNREACH: (
            "host unreachable",
            "Is the broker's machine switched on, and is the address in url right?",
        ),
        errno.ECONNRESET: reset,
        errno.EPIPE: reset,
    }
    what, hint = known.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, ""))
    return BrokerError(clean_text(what, 120), where=url, hint=hint)


def _tls_failed(error: ssl.SSLError, url: str) -> BrokerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = clean_text(error.verify_message or str(error), 120)
        hints = {  # by the name of the error in OpenSSL, X509_V_ERR_...
            10: "The broker's certificate has expired and the broker's operator must renew it, or the clock of this "
            "box is wrong",
            9: "The certificate is not valid yet. Is the clock of this box right?",
            62: "Is the host name in url the same as in the certificate?",
            64: "Is the address in url the same as in the certificate?",
            18: "Set ca_file to the broker's certificate authority",
            19: "Set ca_file to the broker's certificate authority",
            20: "Set ca_file to the broker's certificate authority",
        }
        hint = hints.get(error.verify_code, "Compare ca_file with what the operator gave you")
        return BrokerError(f"broker certificate verification failed ({reason})", where=url, hint=hint)
    reason = (error.reason or "").replace("_", " ").lower() or str(error)
    if "wrong version number" in reason or "record layer failure" in reason:
        return BrokerError(
            "broker does not use TLS on this port",
            where=url,
            hint="Use mqtt:// without TLS, or the port on which the broker uses TLS",
        )
    if "certificate required" in reason or "handshake failure" in reason:
        return BrokerError("broker requires a client certificate", where=url, hint="Set cert_file and key_file")
    if "unknown ca" in reason or "bad certificate" in reason or "certificate unknown" in reason:
        return BrokerError("broker rejected the agent's certificate", where=url, hint=_REASON)
    if isinstance(error, ssl.SSLEOFError):
        hint = "Does the broker require a client certificate?"
        return BrokerError("broker closed the connection during the TLS handshake", where=url, hint=hint)
    return BrokerError(
        f"TLS failed: {clean_text(reason, 100)}",
        where=url,
        hint="Compare ca_file, cert_file and key_file with what the operator gave you",
    )


class FaultLog:
    """Logs the faults of a destination in episodes. An episode ends after ``CLEAR_S`` without a fault.

    In an episode, the first connection, each new fault, and the end are logged. If a fault continues, it is logged
    every ``LOG_AGAIN_S`` seconds.
    """

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._monotonic = name, monotonic
        self._logged: dict[str, float] = {}  # fault -> the time when it was last logged
        self._count = 0
        self._last_s = self._began_s = monotonic()
        self._connected = False

    def fault(self, error: BrokerError) -> None:
        """Report a fault. It is logged if it is new, or was last logged at least ``LOG_AGAIN_S`` seconds ago."""
        now = self._last_s = self._monotonic()
        if not self._logged:
            self._began_s, self._connected = now, False
        self._count += 1
        logged_s = self._logged.get(error.what)
        skip = len(self._logged) >= MOST_KINDS if logged_s is None else now - logged_s < LOG_AGAIN_S
        if skip:
            return
        self._logged[error.what] = now
        more = "" if logged_s is None else f" (still occurring, {self._count} faults so far)"
        log.warning("%s: %s%s", self._name, error, more)

    def connected(self, text: str) -> None:
        """Report a new connection."""
        if not self._connected:
            self._connected = True
            log.info("%s: %s", self._name, text)

    def cleared(self) -> None:
        """Report that there is no fault at this moment. The episode ends if the last fault is old enough."""
        now = self._monotonic()
        if self._logged and now - self._last_s >= CLEAR_S:
            count = f", {self._count} faults" if self._count > len(self._logged) else ""
            faults = "; ".join(sorted(self._logged))
            log.info("%s: recovered after %.0f s (%s%s)", self._name, self._last_s - self._began_s, faults, count)
            self._logged.clear()
            self._count = 0
