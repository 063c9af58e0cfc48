"""ClickHouse's own engine behind its HTTP interface, for tests: chdb holds the engine, no package has the server.

    python -m tests.kits.clickhouse_front FOLDER PORT

What it is sent runs as it is: statements, settings and data. ``POST /hold`` lets the next insert be done and its answer
be lost; ``POST /refuse`` with a text lets everything fail with it, until it is sent empty.
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
    """One statement a request."""

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
        except Exception as error:  # noqa: BLE001 whatever the engine says is the answer
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
        """Nothing: the tests say what happened."""


class Front:
    """The program above as a process that can be killed and started again on the same folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        """For ``--clickhouse``."""
        return f"http://127.0.0.1:{self._port}/fleet"

    def start(self) -> None:
        """Run it; the same port each time."""
        command = [sys.executable, "-m", "tests.kits.clickhouse_front", str(self._folder), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """kill -9."""
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
        """``/hold``, ``/refuse`` or a statement."""
        url = f"http://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(urllib.request.Request(url, body.encode(), method="POST"), timeout=60) as answer:
            return str(answer.read().decode())


def asked(front: Front, query: str) -> list[list[str]]:
    """Rows of texts."""
    answer = ClickHouse(front.url).execute(query)
    return [line.split("\t") for line in answer.splitlines()]


def in_postgres(dsn: str) -> list[list[str]]:
    """The view `readings`, sorted."""
    query = (
        "SELECT stream, point, round(extract(epoch FROM at) * 1000)::bigint::text, value::text, unit, "
        "coalesce(quality, ''), coalesce(exact, ''), coalesce(text, ''), seq::text FROM readings"
    )
    with connect(dsn) as connection:
        return sorted([*row[:3], repr(float(row[3])), *row[4:]] for row in connection.execute(query.encode()))


def in_clickhouse(front: Front) -> list[list[str]]:
    """The table `readings` in the same form."""
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
