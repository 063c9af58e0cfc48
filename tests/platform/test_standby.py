"""A database with a synchronous standby: the other is gone for good, and nothing that was acknowledged is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from receiver.database import connect, create_tables
from receiver.fleet_state import fleet_state
from receiver.keeper import Keeper
from receiver.private_postgres import NoPostgres, PrivatePostgres
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.broker import until
from tests.kits.fleet_faults import Feed, make


@pytest.fixture
def pair() -> Iterator[tuple[PrivatePostgres, PrivatePostgres]]:
    """A server and the standby that it waits for at each commit, as docs/platform.md advises it."""
    try:
        first = PrivatePostgres(settings=["fsync=off"])
        first.start()
    except NoPostgres as error:
        pytest.skip(str(error))
    second = PrivatePostgres(settings=["fsync=off"], standby_of=first)
    try:
        second.start()
        with connect(first.dsn) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
            states = "SELECT sync_state FROM pg_stat_replication"
            until(lambda: connection.execute(states).fetchall() == [("sync",)])
        yield first, second
    finally:
        first.stop()
        second.stop()


def test_a_server_is_lost_and_its_standby_has_all_that_was_acknowledged(
    pair: tuple[PrivatePostgres, PrivatePostgres],
) -> None:
    first, second = pair
    both = f"{first.dsn} target_session_attrs=read-write".replace(
        f"host={first.folder}", f"host={second.folder},{first.folder}"
    )
    create_tables(both)
    made = [make("whole", number) for number in range(8)]
    with connect(both) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
    keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
    early, late = Feed([*keys, *(b.sent[n] for n in range(6) for b in made)]), [b.sent[n] for n in (6, 7) for b in made]
    now = [0.0]
    worker = Worker(early, [Store(both)], lambda: now[0])
    while len(early.acknowledged) < 7 * 8:
        worker.step(0)
    first.stop("immediate")  # and never comes back
    early.left = Feed(late).left
    early.acknowledged.clear()
    for _ in range(4):
        worker.step(0)
        now[0] += 20.0
    assert worker.totals.failures and not early.acknowledged, "nobody takes a write now"
    second.promote()
    for _ in range(20):
        worker.step(0)
        now[0] += 20.0
    assert len(early.acknowledged) == len(late)
    keeper = Keeper(both)
    while keeper.step():
        pass
    keeper.close()
    with connect(both) as connection:
        assert connection.execute("SELECT count(*) FROM packs").fetchone() == (8 * 8,)
        assert {one.verdict for one in fleet_state(connection).gateways} == {"verified"}
