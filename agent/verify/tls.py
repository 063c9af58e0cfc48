"""TLS towards a broker. Apart from ``mqtt.py``, which needs paho: the verifier works without it until it subscribes."""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """How a broker's certificate is checked; only its DNS names and addresses count, never its common name."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.hostname_checks_common_name = False  # RFC 9525, section 2
    return context
