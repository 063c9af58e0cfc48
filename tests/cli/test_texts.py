"""The catalogues of texts: how values are inserted, and what a broken text or a further language does."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import drivers.texts
from drivers.texts import Catalogue

ROOT = Path(__file__).resolve().parents[2]
TEXTS = """
[shop]
open = { en = "{count} {count:door|doors} open", zh = "{count} 扇门开着" }
broken = { en = "{count} of {total}", zh = "{total} 中的 {count}" }
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a catalogue, importable as ``shop_of_texts``."""
    folder = tmp_path / "shop_of_texts"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "texts.toml").write_text(TEXTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("shop_of_texts", None)
    drivers.texts._tables.cache_clear()
    drivers.texts._by_language.cache_clear()


@pytest.mark.parametrize(
    ("count", "english", "chinese"),
    [(0, "0 doors open", "0 扇门开着"), (1, "1 door open", "1 扇门开着"), ("2", "2 doors open", "2 扇门开着")],
)
def test_noun_after_a_number_is_singular_only_after_one(shop: Path, count: object, english: str, chinese: str) -> None:
    texts = Catalogue("shop_of_texts", "shop")

    assert texts.text("open", "en", count=count) == english
    assert texts.text("open", "zh", count=count) == chinese


def test_text_that_lacks_a_value_is_shown_as_its_key_and_values(shop: Path) -> None:
    text = Catalogue("shop_of_texts", "shop").text("broken", "en", count=3, what="a\x1b[31mb")

    assert text == "broken count=3 what=a\N{REPLACEMENT CHARACTER}[31mb"


def test_a_further_language_is_one_more_string_for_each_text(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers.texts, "LANGUAGES", ("en", "zh", "xx"))
    (shop / "texts.toml").write_text(re.sub(r', zh = "([^"]*)"', r', zh = "\1", xx = "«\1»"', TEXTS))

    assert Catalogue("shop_of_texts", "shop").text("open", "xx", count=2) == "«2 扇门开着»"


# their keys are names of members of packs, and values of these members
OPEN_TABLES = {("agent/web", "facts"), ("agent/web", "flags"), ("agent/web", "values")}


def is_inserted(key: str, sources: str) -> bool:
    """Return True if a part of the key is inserted, such as in f"state.{life}", f"{name}!" and 'short_' + name."""
    for cut in (place.end() for place in re.finditer("[ ._]|(?=!)", key)):
        front, back = re.escape(key[:cut]), re.escape(key[cut - (key[cut : cut + 1] != "!") :])
        forms = (rf"[\"']{front}(\{{|[\"'] [~+])", rf"(\}}|[~+] [\"']){back}[\"']")
        if any(re.search(form, sources) for form in forms):
            return True
    return False


def test_each_text_is_used() -> None:
    folders = (ROOT / "agent", ROOT / "receiver", ROOT / "drivers")
    files = [path for folder in folders for kind in ("*.py", "*.html") for path in folder.rglob(kind)]
    sources = "\n".join(path.read_text("utf-8") for path in files)
    unused = []
    for path in (path for folder in folders for path in folder.rglob("texts.toml")):
        where = path.parent.relative_to(ROOT).as_posix()
        for table, entries in tomllib.loads(path.read_text("utf-8")).items():
            for key in entries if (where, table) not in OPEN_TABLES else ():
                if not re.search(rf"[\"'.]{re.escape(key)}\b", sources) and not is_inserted(key, sources):
                    unused.append(f"{where} [{table}] {key}")
    assert not unused, "\n".join(unused)
