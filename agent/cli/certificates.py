"""`meterhouse check --certificates`: which of the configured certificates end soon?"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drivers.model import clean_text

if TYPE_CHECKING:
    from agent.config import Config

WARN_DAYS = 30


@dataclass(frozen=True, slots=True)
class Expiry:
    """One certificate. ``ends`` is UTC seconds; None if it cannot be read, with the reason in ``error``."""

    destination: str
    file: Path
    what: str  # whose it is
    ends: float | None
    error: str = ""

    def days(self, now_s: float) -> float | None:
        """How long it is good for."""
        return None if self.ends is None else (self.ends - now_s) / 86_400

    def complaint(self, now_s: float) -> str:
        """The problem with it; "" if there is none."""
        days = self.days(now_s)
        where = f"destination {self.destination}: {self.what} {self.file}"
        if days is None:
            return f"{where} cannot be read: {self.error}"
        if days <= 0:
            return f"{where} expired {-days:.0f} days ago; replace it, no restart is needed"
        if days <= WARN_DAYS:
            return f"{where} expires in {days:.0f} days; replace it, no restart is needed"
        return ""


def expiries(config: Config) -> list[Expiry]:
    """All certificates that the configuration names; nothing is asked over the network."""
    return [
        found
        for uplink in config.uplinks
        for key, what in (("cert_file", "our certificate"), ("ca_file", "the authority"))
        if (path := getattr(uplink, key)) is not None
        for found in _read(uplink.name, Path(path), what)
    ]


def _read(destination: str, path: Path, what: str) -> Iterable[Expiry]:
    from cryptography.x509 import load_pem_x509_certificates

    try:
        for certificate in load_pem_x509_certificates(path.read_bytes()):
            yield Expiry(destination, path, what, certificate.not_valid_after_utc.timestamp())
    except OSError as error:
        yield Expiry(destination, path, what, None, error.strerror or str(error))
    except ValueError as error:
        yield Expiry(destination, path, what, None, clean_text(str(error), 120))


def report(config: Config, as_json: bool) -> int:
    """Print all, complain of those that end soon; the exit code: 0 good, 5 a destination will be lost."""
    import click

    from agent.cli.common import as_line

    now_s = time.time()
    found = expiries(config)
    complaints = [text for expiry in found if (text := expiry.complaint(now_s))]
    if as_json:
        rows: list[dict[str, Any]] = [
            {"destination": e.destination, "file": str(e.file), "what": e.what, "ends": e.ends, "days": e.days(now_s)}
            for e in found
        ]
        click.echo(as_line({"ok": not complaints, "certificates": rows, "complaints": complaints}))
    else:
        for expiry in found:
            days = expiry.days(now_s)
            click.echo(f"{expiry.destination}  {expiry.file}  {'-' if days is None else f'{days:.0f} days'}")
        if not found:
            click.echo("No destination has a client certificate.")
    journal = "<4>" if "JOURNAL_STREAM" in os.environ and not sys.stderr.isatty() else "warning: "
    for text in complaints:
        click.echo(f"{journal}{text}", err=True)
    return 5 if complaints else 0
