"""Every case of docs/vectors through a worker and the keeper: what is false is found, what holds stays clean."""

from __future__ import annotations

import psycopg
import pytest

from receiver.database import connect
from receiver.keeper import Keeper
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import Feed
from tests.verify.corpus import Case, all_cases

CASES = [case for case in all_cases() if case.trust and all(topic for topic, _ in case.objects)]


# The verifier listens to one broker in order and can prove that it was served something old. Workers see messages in
# any order, so an old object proves nothing there; it changes nothing either.
BY_ORDER = {
    "old_keys", "old_key_at_a_checkpoint", "page_replayed",
    "pinned_successor",  # packs before the pinned key: gateways send them again, as nobody acknowledged them
    "two_gateways_under_bare_pins",  # enrolment always names the gateway
}  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pins_of(case: Case) -> list[Enrolment]:
    found: dict[str, Enrolment] = {}
    for pin in case.trust:
        gateway, _, thumb = pin.rpartition("=")
        for name in [gateway] if gateway else ["park7/gw01", "park7/gw02"]:
            found.setdefault(name, Enrolment(name)).thumbprints.append(thumb)
    return list(found.values())


def tables_say(dsn: str, case: Case) -> tuple[str, str]:
    """The verdict, and why."""
    with connect(dsn) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'meterhouse'").fetchall()
        for table in {name for (name,) in tables} - {"schema_version", "trust_changes"}:
            connection.execute(f"TRUNCATE {table}".encode())
        enrol(connection, pins_of(case))
        clock = Clock()
        worker, keeper = Worker(Feed(case.objects), [Store(dsn)], clock), Keeper(dsn)
        for _ in range(4):
            worker.step(0)
            clock.now += 40.0
        for _ in range(3):
            keeper.step()
        bad = connection.execute(
            "SELECT code FROM all_findings UNION ALL SELECT code FROM refused ORDER BY 1"
        ).fetchall()
        if bad:
            return "failed", " ".join(code for (code,) in bad)
        unknown = connection.execute("SELECT count(*) FROM unknown_gateways").fetchone()
        if unknown and unknown[0]:
            return "failed", "unknown"
        open_ = connection.execute(
            "SELECT (SELECT count(*) FROM holes WHERE NOT isempty(missing)) + "
            "(SELECT count(*) FROM packs WHERE due IS NULL)"
        ).fetchone()
        assert open_ is not None
        return ("incomplete" if open_[0] else "verified"), ""


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(dsn_of_all: str, case: Case) -> None:
    verdict, why = tables_say(dsn_of_all, case)
    same = (verdict == "failed") == (case.verdict == "failed")
    assert same == (case.name not in BY_ORDER), (case.about, verdict, why, case.verdict, case.reason)


@pytest.fixture(scope="module")
def dsn_of_all(postgres: object) -> str:
    from receiver.database import create_tables
    from receiver.private_postgres import PrivatePostgres

    assert isinstance(postgres, PrivatePostgres)
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute("CREATE DATABASE vectors")
    made = postgres.dsn.replace("dbname=postgres", "dbname=vectors")
    create_tables(made)
    return made
