"""Which PostgreSQL of this machine the demo and the tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver import private_postgres
from receiver.private_postgres import NoPostgres, find_programs


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which Debian keeps the versions of PostgreSQL; none is there, and none in PATH."""
    monkeypatch.setattr(private_postgres, "PROGRAMS", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "usr"))
    return tmp_path


def install(folder: Path, script: str) -> Path:
    """Put an ``initdb`` there. Returns its folder."""
    folder.mkdir(parents=True)
    (folder / "initdb").write_text(script)
    (folder / "initdb").chmod(0o755)
    return folder


def says(version: str) -> str:
    return f"#!/bin/sh\necho 'initdb (PostgreSQL) {version}'\n"


BROKEN = "#!/bin/sh\necho 'error while loading shared libraries: libpq.so.5' >&2\nexit 127\n"


def test_the_newest_version_whose_initdb_runs_is_used(programs: Path) -> None:
    (programs / "18" / "bin").mkdir(parents=True)  # only the client is installed
    install(programs / "17" / "bin", BROKEN)
    install(programs / "9" / "bin", says("9.6.24"))
    usable = install(programs / "16" / "bin", says("16.4 (Debian 16.4-1)"))
    install(programs / "15" / "bin", says("15.8"))

    assert find_programs() == usable


def test_an_initdb_in_path_is_used_if_it_is_new_enough(programs: Path) -> None:
    install(programs / "17" / "bin", BROKEN)
    usable = install(programs / "usr", says("15beta2"))

    assert find_programs() == usable


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (BROKEN, r"does not run: error while loading shared libraries: libpq\.so\.5.*apt-get install --reinstall"),
        ("#!/no/such/shell\n", r"does not run: .*No such file"),
        ("echo initdb", "does not run: "),
        (says("14.9"), "PostgreSQL 15 or later was not found"),
    ],
)
def test_an_initdb_that_cannot_be_used_is_named_with_the_reason(programs: Path, script: str, message: str) -> None:
    install(programs / "17" / "bin", script)

    with pytest.raises(NoPostgres, match=message) as error:
        find_programs()

    assert "17/bin/initdb" in error.value.where or "15 or later" in error.value.what


def test_a_machine_without_postgresql_gets_the_command_that_installs_it(programs: Path) -> None:
    with pytest.raises(NoPostgres, match=r"PostgreSQL 15 or later was not found.*apt-get install postgresql"):
        find_programs()
