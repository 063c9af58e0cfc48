"""A PostgreSQL for the whole run, a database of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="the extra `platform` is not installed")

import psycopg

from receiver.database import create_tables
from receiver.private_postgres import NoPostgres, PrivatePostgres

_NUMBERS = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.platform)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """Without fsync: nobody cuts its power."""
    try:
        server = PrivatePostgres(settings=["fsync=off", "synchronous_commit=off"])
        server.start()
    except NoPostgres as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def dsn(postgres: PrivatePostgres) -> str:
    """A database with our tables."""
    name = f"test{next(_NUMBERS)}"
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    made = postgres.dsn.replace("dbname=postgres", f"dbname={name}")
    create_tables(made)
    return made
