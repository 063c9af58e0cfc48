"""docs/devices.md is generated: it must say what the profiles say."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_devices_is_what_the_profiles_give() -> None:
    spec = spec_from_file_location("make_devices", ROOT / "tools" / "make_devices.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run `python tools/make_devices.py` and commit"
