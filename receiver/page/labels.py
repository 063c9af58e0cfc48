"""The texts that only this page uses, in English and Chinese. Texts that the gateway's page uses, too, are in
``agent.web.labels``.
"""

from __future__ import annotations

from typing import Final

from agent.web.labels import LABELS as SHARED
from drivers.texts import Catalogue

LABELS: Final = Catalogue(__package__, "page")


def label(key: str, language: str, **values: object) -> str:
    """A text in a language. Raises KeyError for an unknown key."""
    return (LABELS if key in LABELS else SHARED).text(key, language, **values)
