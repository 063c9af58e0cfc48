"""Serves metrics of the fleet for Prometheus over HTTP."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from drivers.model import UsageError

log = logging.getLogger("meterhouse.platform")

_HELP = {
    "gateways": "Enrolled gateways.",
    "verified": "Gateways without missing or invalid packs.",
    "incomplete": "Gateways with missing packs.",
    "failed": "Gateways with a finding: a pack that is invalid or contradicts others.",
    "silent": "Enrolled gateways that never sent a pack.",
    "late": "Gateways whose newest pack ended more than five minutes ago.",
    "unknown": "Gateways that publish but are not enrolled.",
    "packs": "Stored packs without a finding.",
    "readings": "Readings in stored packs without a finding.",
    "received": "Due readings in stored packs without a finding; states and texts are never due.",
    "due": "Readings that were due.",
    "due_missing": "Readings that were due in missing packs.",
    "gaps": "Due readings in stated gaps.",
    "missing_packs": "Missing packs.",
    "lost_packs": "Packs that gateways declare lost.",
    "refused": "Untrusted messages on topics of enrolled gateways, last 400 days.",
    "away": "Databases that do not answer; the other metrics leave out their gateways.",
    "lots_waiting": "Batches whose seams have not been checked.",
    "unsettled": "Packs whose completeness is unknown: their birth or another part is missing.",
}


def prometheus_text(summary: dict[str, Any]) -> str:
    """The metrics in the text format of Prometheus, made from ``FleetState.summary``."""
    lines = []
    for name, text in _HELP.items():
        lines += [f"# HELP meterhouse_platform_{name} {text}", f"# TYPE meterhouse_platform_{name} gauge"]
        lines.append(f"meterhouse_platform_{name} {summary[name]}")
    return "\n".join(lines) + "\n"


class MetricsServer:
    """Answers ``GET /metrics`` in a thread.

    Args:
        address: address to listen at, such as ``127.0.0.1:9108``.
        read: returns the text; it is called for each request.
    """

    def __init__(self, address: str, read: Callable[[], str]) -> None:
        host, _, port = address.rpartition(":")

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404)
                    return
                try:
                    body = read().encode()
                except Exception as error:  # noqa: BLE001 an error in a request must not end the keeper
                    log.warning("the metrics cannot be read: %s", str(error).strip().splitlines()[:1])
                    self.send_error(503)
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Do not log requests. Overrides the method of the base class."""

        try:
            self._server = ThreadingHTTPServer((host.strip("[]") or "127.0.0.1", int(port)), Handler)
        except (OSError, ValueError) as error:
            raise UsageError(str(error), where="--metrics", hint="Expected an address such as 127.0.0.1:9108") from None
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown()
        self._server.server_close()
