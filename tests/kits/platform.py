"""Workers and a keeper as processes, with private databases, and a check of the packs that they have stored."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import psycopg

from receiver.database import check_place, connect, create_tables, shard_of
from receiver.private_postgres import PrivatePostgres
from receiver.trust import Enrolment, enrol
from tests.kits.broker import DEADLINE_S, until

Key = tuple[int, int, int]  # identifies a pack as in the tables: stream, boot, seq


class Platform:
    """Databases, workers and a keeper. ``close`` ends all of them.

    Args:
        source: ``--from`` of the workers.
        broker: ``--broker`` of the keeper.
    """

    def __init__(self, folder: Path, source: str, broker: str, shards: int = 1, workers: int = 2) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self._source, self._broker = folder, source, broker
        self.servers = [PrivatePostgres() for _ in range(shards)]
        self.workers = [f"w{number + 1}" for number in range(workers)]
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        for place, server in enumerate(self.servers):
            server.start()
            create_tables(server.dsn)
            with connect(server.dsn) as connection:
                check_place(connection, server.dsn, place, len(self.servers))
        for name in [*self.workers, "keeper"]:
            self.start_process(name)

    def enrol(self, rows: list[Enrolment]) -> None:
        for place, server in enumerate(self.servers):
            with connect(server.dsn) as connection:
                enrol(connection, [row for row in rows if shard_of(row.gateway, len(self.servers)) == place])

    def start_process(self, name: str) -> None:
        """Start the worker with this name, or ``keeper``."""
        command = (
            ["keep", "--broker", self._broker, "--name", name]
            if name == "keeper"
            else ["work", "--from", self._source, "--name", name]
        )
        databases = [part for server in self.servers for part in ("--db", server.dsn)]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "agent.cli.main", "platform", *command, *databases],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, name: str) -> None:
        """Kill a process with SIGKILL. It must not have ended before."""
        process = self._running.pop(name)
        assert process.poll() is None, self.said()
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)

    def said(self) -> str:
        return "\n".join(
            f"{file.name}: {file.read_text(errors='replace')[-1500:]}" for file in sorted(self.folder.glob("*.log"))
        )

    def close(self) -> None:
        """End all processes. Fails if a process failed, or if a log has a traceback."""
        try:
            for process in self._running.values():
                process.terminate()
            codes = {name: process.wait(DEADLINE_S) for name, process in self._running.items()}
            assert not any(codes.values()), (codes, self.said())
            assert "Traceback" not in "".join(file.read_text() for file in self.folder.glob("*.log")), self.said()
        finally:
            for process in self._running.values():
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for server in self.servers:
                server.stop()

    # --- what is stored

    def stored(self, shard: int | None = None) -> Counter[tuple[Key, bytes]]:
        """How often each pack is stored. A pack is counted with the first 16 bytes of its hash."""
        found: Counter[tuple[Key, bytes]] = Counter()
        for place, server in enumerate(self.servers):
            if shard in (None, place):
                with connect(server.dsn) as connection:
                    for stream, boot, seq, digest in connection.execute("SELECT stream, boot, seq, hash FROM packs"):
                        found[(stream, boot, seq), digest.bytes] += 1
        return found

    def names(self) -> dict[int, str]:
        """Streams by id."""
        made: dict[int, str] = {}
        for server in self.servers:
            with connect(server.dsn) as connection:
                made |= dict(connection.execute("SELECT id, name FROM streams").fetchall())
        return made

    def count(self, query: str) -> int:
        """The sum of a number over all databases."""
        total = 0
        for server in self.servers:
            with connect(server.dsn) as connection:
                total += int(connection.execute(query.encode()).fetchall()[0][0] or 0)
        return total

    def holds(self, sealed: Mapping[Key, bytes], shard: int | None = None) -> bool:
        """Is every one of these packs stored?"""
        try:
            return self.stored(shard).keys() >= set(sealed.items())
        except psycopg.Error:
            return False

    def settle(self, sealed: Mapping[Key, bytes], readings: int, others: str = "") -> dict[str, int]:
        """Wait until all packs are stored and checked. Returns the number of errors by kind; each must be 0.

        Args:
            sealed: what was sealed by the streams that are counted.
            others: a gateway whose streams are not counted here, because it still seals.
        """
        wanted = set(sealed.items())
        until(lambda: self.holds(sealed), 120, lambda: (self._gone(wanted), self.said()))
        waiting = "SELECT (SELECT count(*) FROM lots WHERE checked IS NULL)"
        until(lambda: self.count(waiting) == 0, 60, self.said)
        foreign = {stream for stream, name in self.names().items() if others and name.startswith(f"{others}/")}
        stored = {pack: times for pack, times in self.stored().items() if pack[0][0] not in foreign}
        mine = f"stream NOT IN (SELECT id FROM streams WHERE gateway = '{others}')"
        return {
            "lost": len(wanted - stored.keys()),
            "twice": sum(times - 1 for times in stored.values()) + len(stored) - len({key for key, _ in stored}),
            "differ": len(stored.keys() - wanted),
            "counted_wrong": abs(self.count(f"SELECT sum(packs) FROM days WHERE {mine}") - len(wanted))
            + abs(self.count(f"SELECT sum(readings) FROM days WHERE {mine}") - readings),
            "findings": self.count("SELECT count(*) FROM all_findings"),
            "forks": self.count("SELECT count(*) FROM forks"),
            "holes": self.count(f"SELECT count(*) FROM holes WHERE {mine}"),
            "refused": self.count("SELECT count(*) FROM refused"),
            "unsettled": self.count(f"SELECT count(*) FROM packs WHERE due IS NULL AND {mine}"),
        }

    def _gone(self, wanted: set[tuple[Key, bytes]]) -> str:
        return f"{len(wanted - self.stored().keys())} of {len(wanted)} packs are not stored"
