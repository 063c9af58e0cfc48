"""A folder with a sound configuration and profiles of its own, to be broken."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agent.config import Config, load_config
from drivers.model import ConfigError

HERE = Path(__file__).parent
GOOD = (HERE / "good.toml").read_text()


class Site:
    """A folder like /etc/meterhouse; ``load`` reads it from inside, so that file names in messages are short."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(HERE / "profiles", folder / "profiles")

    def write(self, text: str | bytes, more: Mapping[str, str] | None = None) -> None:
        (self.folder / "agent.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        for name, content in (more or {}).items():
            (self.folder / "conf.d").mkdir(exist_ok=True)
            (self.folder / "conf.d" / name).write_text(content)

    def load(self, **how: object) -> Config:
        return load_config(Path("agent.toml"), environ={}, **how)  # type: ignore[arg-type]

    def complaints(self, **how: object) -> list[str]:
        """All complaints as lines; empty if there are none."""
        try:
            self.load(**how)
        except ConfigError as error:
            assert error.exit_code == 3
            return [str(one) for one in error.complaints]
        return []


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    return Site(tmp_path)


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def changed() -> Callable[[str, str], str]:
    """The sound configuration with one place changed; the place must be there."""

    def change(old: str, new: str) -> str:
        assert old in GOOD
        return GOOD.replace(old, new, 1)

    return change
