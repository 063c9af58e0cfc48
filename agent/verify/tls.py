"""TLS for connections to a broker. Not in ``mqtt.py``, because that module imports paho, which may be missing."""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that checks a broker's certificate: its DNS names and addresses count, its common name never."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.hostname_checks_common_name = False  # RFC 9525, section 2
    return context
