"""ClickHouse's engine with an HTTP interface, for tests. The package chdb has the engine; no package has the server.

    python -m tests.kits.clickhouse_front FOLDER PORT

Statements, settings and data go to the engine unchanged. After ``POST /hold``, the next insert is done, but its answer
is lost. After ``POST /refuse`` with a text, every statement fails with this text, until an empty text is sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from receiver.clickhouse import ClickHouse
from receiver.database import connect

ROOT = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    """Runs one statement per request."""

    session: ClassVar[Any] = None
    hold: ClassVar[bool] = False
    refusal: ClassVar[str] = ""

    def do_POST(self) -> None:
        parts, body = urlsplit(self.path), self._body()
        if parts.path == "/hold":
            Handler.hold = True
            return self._answer(200, b"")
        if parts.path == "/refuse":
            Handler.refusal = body.decode()
            return self._answer(200, b"")
        if Handler.refusal:
            return self._answer(500, Handler.refusal.encode())
        statement = "".join(parse_qs(parts.query)["query"]) + body.decode()
        try:
            made = bytes(self.session.query(statement, "TabSeparated").bytes() or b"")
        except Exception as error:  # noqa: BLE001 the engine's error is the answer
            return self._answer(500, str(error).encode())
        if Handler.hold and statement.startswith("INSERT") and body:
            Handler.hold = False
            self.close_connection = True
            return None
        return self._answer(200, made)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do not log requests."""


class Front:
    """This module as a process, which can be killed and started again on the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """The URL for ``--clickhouse``."""
        return f"http://127.0.0.1:{self._port}/fleet"

    def start(self) -> None:
        """Start the process. Its port is the same each time."""
        command = [sys.executable, "-m", "tests.kits.clickhouse_front", str(self._folder), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def cpu_s(self) -> float:
        """CPU seconds of the engine so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def post(self, path: str, body: str = "") -> str:
        """Send ``/hold``, ``/refuse`` or a statement. Returns the answer."""
        url = f"http://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST"), timeout=60) as answer:
            return str(answer.read().decode())


def asked(front: Front, query: str) -> list[list[str]]:
    """Run a query. Returns its rows as texts."""
    answer = ClickHouse(front.url).execute(query)
    return [line.split("\t") for line in answer.splitlines()]


def in_postgres(dsn: str) -> list[list[str]]:
    """The rows of the view `readings` in PostgreSQL, sorted."""
    query = (
        "SELECT stream, point, round(extract(epoch FROM at) * 1000)::bigint::text, value::text, unit, "
        "coalesce(quality, ''), coalesce(exact, ''), coalesce(text, ''), seq::text FROM readings"
    )
    with connect(dsn) as connection:
        return sorted([*row[:3], repr(float(row[3])), *row[4:]] for row in connection.execute(query.encode()))


def in_clickhouse(front: Front) -> list[list[str]]:
    """The rows of the table `readings` in ClickHouse, in the same form."""
    query = (
        "SELECT stream, point, toUnixTimestamp64Milli(at), value, unit, quality, exact, text, seq FROM fleet.readings"
    )
    return sorted([*row[:3], repr(float(row[3])), *row[4:]] for row in asked(front, query))


def main() -> int:
    Handler.session = import_module("chdb.session").Session(sys.argv[1])
    server = HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
