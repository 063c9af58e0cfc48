"""The page's own texts in English and Chinese. Texts of findings and reasons are in ``agent.cli``, shared with
`status`.
"""

from __future__ import annotations

from typing import Final

from agent.cli.finding_words import LANGUAGES
from agent.roles import ROLES
from drivers.model import clean_text
from drivers.texts import Catalogue

__all__ = ["LABELS", "LANGUAGES", "label"]

LABELS: Final = Catalogue(__package__, "page")

FACTS: Final = Catalogue(__package__, "facts")  # titles of the members of packs and birth tables

FLAGS: Final = Catalogue(__package__, "flags")


# texts for values; a key is the last part of the member's name, a blank and the value
VALUES: Final = Catalogue(__package__, "values")


def fact_name(member: str, language: str) -> str:
    """Return the title of a member, such as "role ac" for ``roles.ac``. An unknown member keeps its name."""
    titles = FACTS[language]
    if member in titles:
        return titles[member]
    front, _, inner = member.partition(".")
    return f"{titles[front]} {titles.get(inner, inner)}" if front in titles and inner else member


def value_word(member: str, value: str, language: str) -> str:
    """Return the text for a value of a member. If there is no text, return the value without control characters."""
    if member.partition(".")[0] == "roles" and value in ROLES:
        return f"{ROLES[value][LANGUAGES.index(language)]} ({value})"
    key = value if value in VALUES else f"{member.rpartition('.')[2]} {value}"
    return VALUES[language][key] if key in VALUES else clean_text(value, 400)


def label(key: str, language: str, **values: object) -> str:
    """Return the text with this key in a language. Raises KeyError for a key that does not exist."""
    return LABELS.text(key, language, **values)
