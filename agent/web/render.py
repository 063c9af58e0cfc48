"""Renders templates to HTML. Every inserted text is escaped, because names and error texts may contain markup."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from jinja2 import PackageLoader
from starlette.datastructures import URL

from agent.web.labels import LANGUAGES, label
from agent.web.live import Moment
from agent.web.page_base import templates
from drivers.model import GatewayError, clean_text

REFRESH_MS: Final = 2000


@lru_cache(maxsize=4096)
def point_title(point: str, language: str) -> str:
    """Return the title of a point from the vocabulary, in a language; "" if the vocabulary lacks the point.

    The first call loads the vocabulary.
    """
    from drivers.profile import vocabulary

    entry = vocabulary().find(point)
    return "" if entry is None else entry.zh if language == "zh" else entry.en


def short_title(point: str, language: str) -> str:
    """Return the title of a point without its remark about signs.

    If the vocabulary lacks the point, return its name.
    """
    title = point_title(point, language)
    return clean_text(title.partition("（")[0].partition(", ")[0], 80) or clean_text(point, 80)


def in_language(error: GatewayError, language: str) -> str:
    """Return the text of an error, `WHERE: WHAT. WHAT TO DO`, in a language and without control characters."""
    if language == "zh":
        from agent.cli.chinese import describe

        return clean_text(describe(error.where, error.what, error.hint), 2000)
    return clean_text(str(error), 2000)


class Renderer:
    """Makes the text of pages.

    Args:
        tags: the hash of each static file by name. The hash is part of the file's URL, so that browsers reload a
            changed file.
        password: True if the page has a login. The page then shows a button to log out.
    """

    def __init__(self, tags: Mapping[str, str], password: bool) -> None:
        self._password = password
        self._templates = templates(PackageLoader("agent.web"), lambda name: f"/static/{name}?v={tags[name]}")

    def render(
        self, template: str, language: str, url: URL, fragment: bool, moment: Moment, facts: Mapping[str, Any],
        silent: bool = False, as_of: str = "",
    ) -> str:  # fmt: skip
        """Return the whole page as HTML; if ``fragment`` is True, only the content of its <main>.

        Args:
            silent: True if the agent did not answer, so that the page shows an earlier answer.
            as_of: a sentence that says how old the data are; "" for none.
        """

        def t(key: str, **values: object) -> str:
            return label(key, language, **values)

        snapshot, notice = moment.snapshot, moment.notice
        if notice in ("", "hangs"):  # on now.html, a finding already says that the agent hangs
            notice = "silent" if silent else "" if template == "now.html" else notice
        return self._templates.get_template(template).render(
            t=t,
            titled=lambda point: point_title(point, language),
            short=lambda point: short_title(point, language),
            lang=language,
            other_language=next(one for one in LANGUAGES if one != language),
            other_url=str(url.include_query_params(lang=next(one for one in LANGUAGES if one != language)).replace(
                scheme="", netloc="")),
            layout="fragment.html" if fragment else "base.html",
            refresh_ms=REFRESH_MS,
            path=url.path,
            place=f"{snapshot.get('site', '')}/{snapshot.get('gateway', '')}" if snapshot else "meterhouse",
            version=snapshot.get("version", ""),
            password=self._password,
            notice=notice,
            as_of=as_of,
            **facts,
        )  # fmt: skip
