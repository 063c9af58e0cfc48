"""Reads the expiry dates of certificates from the configured files. Opens no network connection."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.settings import Secret, UplinkConfig
from drivers.model import clean_text

WARN_DAYS = 30
# systemd passes files of this folder to units that have ImportCredential=; `meterhouse web --setup` writes here
CREDENTIALS = Path("/etc/credstore")


def stamps(uplinks: Iterable[UplinkConfig]) -> list[tuple[str, str, int]]:
    """Return (destination, file, modification time in ns) of each certificate file; time -1: the file cannot be read.

    The caller compares this list with an earlier one, and calls ``expiries`` again only if the lists differ.
    """
    return [(name, str(file), _changed_ns(file)) for name, file, _ in _files(uplinks)]


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return -1


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate. ``ends``: when it expires, in UTC seconds.

    ``destination`` is "" for the certificate of the page. ``ends`` is None if the file cannot be
    read; ``error`` says why.
    """

    destination: str
    file: Path
    what: str  # the role of the certificate: "the client certificate", "the CA certificate", "the page's certificate"
    ends: float | None
    error: str = ""

    def days(self, now_s: float) -> float | None:
        """Return the days until the certificate expires; negative after that. None: the file cannot be read."""
        return None if self.ends is None else (self.ends - now_s) / 86_400


def expiries(uplinks: Iterable[UplinkConfig]) -> list[Expiry]:
    """Return the expiry of every certificate in the files of these destinations."""
    return [found for name, file, what in _files(uplinks) for found in _read(name, file, what)]


def page_expiries(certificate: Secret | None) -> list[Expiry]:
    """Return the expiry of the page's certificates. Empty if none is configured, or if this user may not read the file.

    Only the page needs this file, so this user may lack the right to read it.
    """
    if certificate is None:
        return []
    file = certificate.file or CREDENTIALS / certificate.credential
    try:
        file.open("rb").close()
    except PermissionError:
        return []
    except OSError:
        if certificate.file is None:  # the credential comes from another place
            return []
    return list(_read("", file, "the page's certificate"))


def _files(uplinks: Iterable[UplinkConfig]) -> Iterator[tuple[str, Path, str]]:
    """Yield (destination, file, role of the certificate) for each configured certificate file."""
    for uplink in uplinks:
        for file, what in ((uplink.cert_file, "the client certificate"), (uplink.ca_file, "the CA certificate")):
            if file is not None:
                yield uplink.name, file, what


def expiry_text(data: bytes) -> str:
    """Return a warning about the first certificate in PEM ``data``: ``expired 3 days ago`` or ``expires in 5 days``.

    Returns "" if more than ``WARN_DAYS`` are left, or if ``data`` holds no certificate.
    """
    from cryptography.x509 import load_pem_x509_certificate

    try:
        days = (load_pem_x509_certificate(data).not_valid_after_utc.timestamp() - time.time()) / 86_400
    except ValueError:
        return ""
    return "" if days > WARN_DAYS else days_text(days)


def days_text(days: float) -> str:
    """Return ``expired 3 days ago`` or ``expires in 5 days``. ``days``: days until the expiry; negative after it."""
    return f"expires in {days:.0f} days" if days > 0 else f"expired {-days:.0f} days ago"


def _read(destination: str, path: Path, what: str) -> Iterable[Expiry]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        for certificate in load_pem_x509_certificates(path.read_bytes()):
            yield Expiry(destination, path, what, certificate.not_valid_after_utc.timestamp())
    except OSError as error:
        yield Expiry(destination, path, what, None, error.strerror or str(error))
    except ValueError as error:
        yield Expiry(destination, path, what, None, clean_text(str(error), 120))
