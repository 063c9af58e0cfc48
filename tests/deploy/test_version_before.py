"""Configuration and site profiles that were written for an older commit still mean the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import load_config
from drivers.profile import load_profile


@pytest.fixture(scope="module")
def older(from_older: Callable[..., Path]) -> Path:
    """What an operator has from it: its examples, and its profiles copied as his own."""
    return from_older("docs", "firmware_profiles", "systemd/agent.toml")


def test_the_whole_example_of_the_older_documentation_loads(older: Path, tmp_path: Path) -> None:
    page = (older / "docs" / "configuration.md").read_text()
    (text,) = re.findall(r"## A whole example\n+```toml\n(.*?)```", page, re.S)
    path = tmp_path / "agent.toml"
    path.write_text(text + f'\n[paths]\nprofiles_dir = "{older / "firmware_profiles"}"\n')
    config = load_config(path, environ={})
    assert {device.name for device in config.devices} == set(re.findall(r'\[\[device\]\]\nname = "(.*?)"', text))
    assert config.site == "park7" and [uplink.name for uplink in config.uplinks] == ["platform"]


def test_the_older_packages_example_loads(older: Path, tmp_path: Path) -> None:
    text = (older / "systemd" / "agent.toml").read_text()
    path = tmp_path / "agent.toml"
    path.write_text(re.sub(r"^#(?=\[|\w+ = )", "", text, flags=re.M))
    config = load_config(path, environ={})
    assert len(config.devices) == len(config.lines) == len(config.uplinks) == 1


def test_all_older_profiles_load_as_site_profiles(older: Path) -> None:
    folder = older / "firmware_profiles"
    loaded = [load_profile(path, (folder,)) for path in sorted(folder.glob("*/*.toml"))]
    assert len(loaded) > 50 and all(profile.points for profile in loaded)
