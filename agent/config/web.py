"""Reads [web]: the address where the gateway's page listens, its certificate and its password."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from agent.certificates import expiry_text
from agent.config.lines import place_of
from agent.config.parsers import text_unseen
from agent.config.tree import ConfigWarning, WebConfig
from agent.config.uplinks import open_secret, read_secret
from drivers.toml import TomlTable
from drivers.toml.parsers import InvalidValue, show

_HINT = 'Give an address of this machine and a port, such as "127.0.0.1:8080", "0.0.0.0:8443" or "[::]:8443"'
_SETUP = "`meterhouse web --setup` makes a certificate and a password"
_PAGE = "owned by the user that runs `meterhouse web`"
_NEW_KEY = "make a new private key and certificate with `meterhouse web --setup`"
_ANOTHER = "set another password with `meterhouse web --setup`"
_SECRETS = {
    "certificate": "Write certificate_file, or certificate_credential (a systemd credential)",
    "key": "Write key_file, or key_credential (a systemd credential)",
    "password": f"Do not write secrets here; use password_file or password_credential. {_SETUP}",
    "port": 'Give the address and the port together in the key "listen"',
    "host": 'Give the address and the port together in the key "listen"',
}


def listen_address(value: object) -> tuple[str, int]:
    """Parse an address with a port, such as ``"0.0.0.0:8443"``; ``localhost`` is 127.0.0.1. Raises InvalidValue."""
    host, colon, port = text_unseen(value).strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else "127.0.0.1" if host == "localhost" else host
    try:
        found = ip_address(host)
        good = bool(colon) and (found.version == 6) == bracketed and port.isascii() and port.isdigit()
    except ValueError:
        good = False
    if not good or not 1 <= int(port) <= 65535:
        raise InvalidValue(f"{show(value)} is not an address with a port", _HINT)
    return str(found), int(port)


def _old_certificate(path: Path, place: str) -> list[ConfigWarning]:
    """Return a note if the certificate has expired or expires soon."""
    try:
        data = path.read_bytes()
    except OSError:  # no error, because only the process of the page needs the certificate
        return []
    if not (text := expiry_text(data)):
        return []
    return [ConfigWarning(place, f"{path} {text}", "`meterhouse web --setup` makes a new certificate")]


def read_web(table: TomlTable, notes: list[ConfigWarning] | None = None) -> WebConfig:
    """Read the table [web]. If other machines can reach the address, a certificate and a password are required.

    Args:
        notes: receives warnings about secrets that other users may read, and about a certificate that has expired or
            expires soon.
    """
    default = WebConfig()
    host, port = table.take("listen", listen_address, (default.host, default.port))
    names = ("certificate", "key", "password")
    certificate, key, password = (read_secret(table, f"{name}_credential", f"{name}_file") for name in names)
    table.done(_SECRETS)
    remedies = (("key_file", key, _NEW_KEY), ("password_file", password, _ANOTHER))
    for name, secret, remedy in remedies:
        if notes is not None and secret is not None and secret.file is not None:
            note = open_secret(table, name, secret.file, remedy, None, _PAGE)
            notes += [] if note is None else [note]
    written = {name: f"{name}_{'file' if table.has(f'{name}_file') else 'credential'}" for name in names}
    places = {name: place_of(table, key) for name, key in written.items() if table.has(key)}
    web = WebConfig(host, port, certificate, key, password, places)
    if notes is not None and certificate is not None and certificate.file is not None:
        notes += _old_certificate(certificate.file, places["certificate"])
    if (certificate is None) != (key is None):
        missing = "certificate" if certificate is None else "key"
        table.complain(None, "", f"the {missing} is missing", "TLS needs a certificate and its key")
    elif not web.is_loopback and (certificate is None or password is None):
        what = "other machines can reach this address, so the page needs a certificate with its key, and a password"
        table.complain(None, "listen", what, _SETUP)
    return web
