"""TLS for connections to a broker.

This is not in ``mqtt.py``, because that module imports paho, which may be missing.
"""

from __future__ import annotations

import ssl
from pathlib import Path


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return a context that checks a broker's certificate.

    Only its DNS names and addresses count, not its common name.
    """
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    context.hostname_checks_common_name = False  # RFC 9525, section 2, forbids common names
    return context
