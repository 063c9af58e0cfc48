"""Why a broker cannot be reached or refuses, in words for a technician."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Final

from drivers.model import BrokerError, clean_text

NO_SUBSCRIBERS: Final = 0x10
UNSUPPORTED_VERSION: Final = 0x84
NOT_AUTHORIZED: Final = 0x87
TAKEN_OVER: Final = 0x8E
TOPIC_INVALID: Final = 0x90
ID_IN_USE: Final = 0x91
TOO_LARGE: Final = 0x95
QUOTA: Final = 0x97
BAD_FORMAT: Final = 0x99

_CONNACK: Final = {
    0x81: ("the broker calls our request malformed", "Is this really an MQTT broker?"),
    0x82: ("the broker calls our request a protocol error", "Is this really an MQTT broker?"),
    UNSUPPORTED_VERSION: ("the broker speaks neither MQTT 5 nor 3.1.1", "It is too old for this agent"),
    0x85: ("the broker refuses the client id", "Set client_id as the operator of the broker demands"),
    0x86: ("user name or password is wrong", "Compare username and password file with what the operator gave you"),
    NOT_AUTHORIZED: (  # what mosquitto says of a wrong password too
        "the broker does not authorise us",
        "Are username and password right? Else ask the operator to allow this user or certificate",
    ),
    0x88: ("the broker is not available", "It will be tried again"),
    0x89: ("the broker is busy", "It will be tried again"),
    0x8A: ("the broker has banned us", "Ask its operator why"),
    0x8C: (
        "the broker demands another way to log in",
        "Ask its operator: we have user name, password, certificate",
    ),
    0x97: ("the broker says a quota is used up", "Ask its operator"),
    0x9B: ("the broker does not take QoS 1", "Readings cannot be confirmed there; ask its operator"),
    0x9C: ("the broker sends us to another server", "Put the new address into url"),
    0x9D: ("the broker has moved", "Put the new address into url"),
    0x9F: ("we connect too often for this broker", "It will be tried again more slowly"),
}
_PUBACK: Final = {
    NO_SUBSCRIBERS: ("nobody subscribes to our packs", "They wait here; is the platform running and subscribed?"),
    NOT_AUTHORIZED: ("the broker does not let us publish", "Ask its operator for write access to"),
    TOPIC_INVALID: ("the broker refuses the topic", "Ask its operator for write access to"),
    QUOTA: ("the broker says a quota is used up", "Packs wait here; ask its operator"),
    TOO_LARGE: ("a pack is too large for the broker", "Lower [pack] max_size, or let the operator allow more"),
    BAD_FORMAT: ("the broker refuses a pack's format", "Ask its operator what it checks"),
}
_DISCONNECT: Final = {
    0x87: ("the broker ended the connection: not authorised", "Ask its operator what changed"),
    0x8B: ("the broker shuts down", "It will be tried again"),
    0x8D: ("the broker heard nothing from us in time", "Is the network slow or this machine overloaded?"),
    TAKEN_OVER: (
        "another client took over our connection",
        "A second gateway runs with the same site and gateway name, or a copy of this one",
    ),
    0x93: ("the broker says we send too much at once", "It will be tried again"),
    TOO_LARGE: ("the broker ended the connection: a pack was too large", "Lower [pack] max_size"),
    0x97: ("the broker ended the connection: a quota is used up", "Ask its operator"),
    0x98: ("the broker's operator ended the connection", "It will be tried again"),
}


def refused(code: int, url: str) -> BrokerError:
    """A CONNACK that is not success; ``code`` as in MQTT 5."""
    what, hint = _CONNACK.get(code, (f"the broker refuses (code 0x{code:02X})", "Ask its operator"))
    return BrokerError(what, where=url, hint=hint)


def unanswered(code: int, topic: str, url: str) -> BrokerError:
    """A PUBACK that is not success."""
    what, hint = _PUBACK.get(code, (f"the broker refuses packs (code 0x{code:02X})", "Packs wait here"))
    if hint.endswith(" to"):
        hint = f"{hint} {topic}"
    return BrokerError(what, where=url, hint=hint)


def disconnected(code: int, url: str) -> BrokerError:
    """A connection that ended; 0 where the broker gave no reason."""
    what, hint = _DISCONNECT.get(code, ("the connection was lost", "It will be tried again"))
    if code and code not in _DISCONNECT:
        what = f"the broker ended the connection (code 0x{code:02X})"
    return BrokerError(what, where=url, hint=hint)


def disobeyed(fault: str, url: str) -> BrokerError:
    """A connection that we cut: the broker sent what it must not."""
    hint = "Is something large retained on ack or replay/request? Its operator can clear it and limit packets"
    return BrokerError(f"the broker sent {fault}; the connection was cut", where=url, hint=hint)


def hung_up(code: int, url: str, tls: bool, has_certificate: bool) -> BrokerError:
    """A connection that ended before the broker's first word; ``code`` as in MQTT 5, 0: none."""
    if code:
        return disconnected(code, url)
    what = "the broker hung up before it said anything"
    if tls:  # TLS 1.3 tells a client that its certificate is missing or wrong only now
        hint = (
            "Does it accept our certificate?" if has_certificate else "Does it want a client certificate (cert_file)?"
        )
    else:
        hint = "Does this port want TLS (mqtts://)?"
    return BrokerError(what, where=url, hint=hint)


def unreachable(error: OSError, url: str, port: int) -> BrokerError:
    """An attempt that never got as far as MQTT."""
    if isinstance(error, ssl.SSLError):
        return _tls(error, url)
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            hint = "Is this box connected, and is its DNS server right?"
            return BrokerError("the name service does not answer", where=url, hint=hint)
        return BrokerError("no machine has this name", where=url, hint="Compare the host in url letter by letter")
    if isinstance(error, TimeoutError):
        hint = f"Is there a way out of this network, and does a firewall let port {port} pass?"
        return BrokerError("no answer", where=url, hint=hint)
    known = {
        errno.ECONNREFUSED: ("the machine answers, but nothing listens there", f"Is {port} the right port?"),
        errno.ENETUNREACH: ("no way into that network", "Is this box connected? Look at its address and gateway"),
        errno.EHOSTUNREACH: ("no way to that machine", "Is it switched on, and is the address right?"),
        errno.ECONNRESET: (
            "the connection was reset at once",
            "A firewall, or TLS on one side only: mqtt:// or mqtts://?",
        ),
        errno.EPIPE: ("the connection was reset at once", "A firewall, or TLS on one side only: mqtt:// or mqtts://?"),
    }
    what, hint = known.get(error.errno or 0, (error.strerror or str(error) or type(error).__name__, ""))
    return BrokerError(clean_text(what, 120), where=url, hint=hint)


def _tls(error: ssl.SSLError, url: str) -> BrokerError:
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = clean_text(error.verify_message or str(error), 120)
        hints = {
            10: "It has expired: the operator must renew it. Or this box's clock is wrong",
            9: "It is not valid yet. Is this box's clock right?",
            62: "Does url name the host as the certificate does?",
            64: "Does url name the address as the certificate does?",
            18: "Put the broker's certificate authority into ca_file",
            19: "Put the broker's certificate authority into ca_file",
            20: "Put the broker's certificate authority into ca_file",
        }
        hint = hints.get(error.verify_code, "Compare ca_file with what the operator gave you")
        return BrokerError(f"the broker's certificate does not hold ({reason})", where=url, hint=hint)
    reason = (error.reason or "").replace("_", " ").lower() or str(error)
    if "wrong version number" in reason or "record layer failure" in reason:
        return BrokerError("no TLS is spoken there", where=url, hint="mqtt:// instead of mqtts://, or another port?")
    if "certificate required" in reason or "handshake failure" in reason:
        return BrokerError("the broker demands a client certificate", where=url, hint="Set cert_file and key_file")
    if "unknown ca" in reason or "bad certificate" in reason or "certificate unknown" in reason:
        return BrokerError("the broker does not accept our certificate", where=url, hint="Ask its operator to look why")
    if isinstance(error, ssl.SSLEOFError):
        return BrokerError("the broker hung up during TLS", where=url, hint="Does it want a client certificate?")
    return BrokerError(f"TLS failed: {clean_text(reason, 100)}", where=url, hint="Compare ca_file, cert_file, key_file")
