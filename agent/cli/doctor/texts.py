"""The texts of `doctor`, in English and Chinese."""

from __future__ import annotations

from typing import Final

from drivers.texts import Catalogue

# The key NAME has the text of a result, and the key NAME! has the advice for it.
TEXTS: Final = Catalogue(__package__, "doctor")


def text(lang: str, name: str, **facts: object) -> str:
    """Return the text ``name`` in one language, with its values inserted."""
    return TEXTS.text(name, lang, **facts)
