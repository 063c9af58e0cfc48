"""Code that the gateway's page and the fleet's page share, for static files, templates, languages and responses."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Final

from jinja2 import BaseLoader, Environment, StrictUndefined
from markupsafe import Markup, escape
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from agent.cli.common import show_age, show_unit
from agent.web.labels import LANGUAGES
from drivers.model import clean_text

COOKIE_AGE_S: Final = 365 * 86_400
_KINDS: Final = ("text/css", "text/javascript", "image/svg+xml")


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A static file of the package, held in memory. A URL selects it by its name, never by a path."""

    data: bytes
    kind: str
    tag: str


def static_files(package: str = "agent.web") -> dict[str, StaticFile]:
    """Return all static files of a package by name, such as ``vendor/uPlot.min.css``."""
    root = files(package) / "static"
    found: dict[str, StaticFile] = {}
    for folder, prefix in ((root, ""), (root / "vendor", "vendor/")):
        for item in folder.iterdir() if folder.is_dir() else ():
            kind, _ = mimetypes.guess_type(item.name)
            if item.is_file() and kind in _KINDS:
                data = item.read_bytes()
                found[prefix + item.name] = StaticFile(data, kind, hashlib.sha256(data).hexdigest()[:16])
    return found


def static_answer(found: Mapping[str, StaticFile], request: Request) -> Response:
    """Return the file that a URL names, or status 304 if the browser has the file already.

    Raises HTTPException for an unknown name.
    """
    one = found.get(request.path_params["name"])
    if one is None:
        raise HTTPException(404)
    headers = {"etag": f'"{one.tag}"', "cache-control": "private, max-age=86400"}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    kind = one.kind if one.kind.startswith("image/") else f"{one.kind}; charset=utf-8"
    return Response(one.data, headers=headers, media_type=kind)


def templates(loader: BaseLoader, address: Callable[[str], str]) -> Environment:
    """Return a Jinja environment for the templates, which escapes every inserted text.

    Args:
        address: returns the URL of a static file, given its name.
    """
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.globals["static"] = address
    made.filters.update(
        age=show_age, unit=show_unit, coded=coded, cut=lambda text, most=80: clean_text(str(text), most)
    )
    return made


def coded(text: str) -> Markup:
    """Return the text as HTML, with parts between backticks as ``<code>``."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # the backticks are not in pairs, so leave them as they are
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )


def html(request: Request, compressed: bytes, status: int, language: str, secure: bool) -> Response:
    """Return the response with a page, compressed if the browser accepts gzip.

    If the URL requests a language, the response stores it in a cookie.

    Args:
        compressed: the page, compressed with gzip.
        secure: True if the page is served with TLS; the cookie is then sent only with TLS.
    """
    headers = {"vary": "accept-encoding, accept-language, cookie, x-refresh", "content-language": language}
    body = compressed
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
    else:
        body = gzip.decompress(compressed)
    response = Response(body, status, headers, "text/html; charset=utf-8")
    if request.query_params.get("lang") in LANGUAGES:
        set_cookie(response, "language", language, secure, COOKIE_AGE_S)
    return response


def missing(request: Request, error: Exception, label: Callable[..., str]) -> tuple[int, str]:
    """Return (HTTP status, sentence) for a missing page or an invalid request. ``label`` gives the sentence by key."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    return status, label("error.404" if status == 404 else "error.other", language_of(request), status=status)


def set_cookie(response: Response, name: str, value: str, secure: bool, max_age: int | None = None) -> None:
    """Set a cookie that scripts cannot read and that browsers do not send for requests from other sites.

    Args:
        max_age: lifetime of the cookie in seconds; None means until the browser is closed.
    """
    response.set_cookie(name, value, max_age=max_age, path="/", secure=secure, httponly=True, samesite="strict")


def language_of(request: Request) -> str:
    """Return the language that the URL requests, else the language in the cookie, else the browser's preferred one."""
    for given_language in (request.query_params.get("lang"), request.cookies.get("language")):
        if given_language in LANGUAGES:
            return given_language
    return preferred(request.headers)


def preferred(headers: Headers) -> str:
    """Return the supported language with the highest weight in Accept-Language; ``en`` if no supported one is there."""
    best, weight = "en", 0.0
    for item in headers.get("accept-language", "")[:200].split(","):
        name, _, more = item.strip().partition(";")
        try:
            q = float(more.strip().removeprefix("q=")) if more else 1.0
        except ValueError:
            continue
        spoken = name.strip().lower().partition("-")[0]
        if spoken in LANGUAGES and weight < q <= 1:
            best, weight = spoken, q
    return best
