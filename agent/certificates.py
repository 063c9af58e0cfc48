"""When the configured certificates of a destination expire; no network access."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.settings import UplinkConfig
from drivers.model import clean_text

WARN_DAYS = 30


def stamps(uplinks: Iterable[UplinkConfig]) -> list[tuple[str, str, int]]:
    """Changes with the files that ``expiries`` reads and with the destinations: name, file and its time in ns."""
    return [(name, str(file), _changed_ns(file)) for name, file, _ in _files(uplinks)]


def _changed_ns(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return -1


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate. ``ends`` is UTC seconds; None if it cannot be read, with the reason in ``error``."""

    destination: str
    file: Path
    what: str  # whose it is
    ends: float | None
    error: str = ""

    def days(self, now_s: float) -> float | None:
        """Days until it expires."""
        return None if self.ends is None else (self.ends - now_s) / 86_400


def expiries(uplinks: Iterable[UplinkConfig]) -> list[Expiry]:
    """All certificates that these destinations name."""
    return [found for name, file, what in _files(uplinks) for found in _read(name, file, what)]


def _files(uplinks: Iterable[UplinkConfig]) -> Iterator[tuple[str, Path, str]]:
    """(destination, file, whose it is)."""
    for uplink in uplinks:
        for file, what in ((uplink.cert_file, "our certificate"), (uplink.ca_file, "the authority")):
            if file is not None:
                yield uplink.name, file, what


def expiry_text(data: bytes) -> str:
    """``expired 3 days ago`` or ``expires in 5 days`` of the first certificate; "" of a good one, or of none."""
    from cryptography.x509 import load_pem_x509_certificate

    try:
        days = (load_pem_x509_certificate(data).not_valid_after_utc.timestamp() - time.time()) / 86_400
    except ValueError:
        return ""
    if days > WARN_DAYS:
        return ""
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
