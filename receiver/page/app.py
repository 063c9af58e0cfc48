"""The routes of the fleet's page: a handler for each kind of request."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import msgspec
import psycopg
from jinja2 import ChoiceLoader, PackageLoader
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.verify.topics import GATEWAY, STREAM
from agent.web.day_view import day_of
from agent.web.guard import Access, Guard, host_names
from agent.web.labels import LANGUAGES
from agent.web.page_base import html, language_of, missing, static_answer, static_files, templates
from agent.web.password import Sessions
from agent.web.render import in_language, point_title
from drivers.model import GatewayError, clean_text
from receiver.page.data import IDLE_S, FleetData, PackRow
from receiver.page.figures import QUARTER_MS, Figures
from receiver.page.labels import label
from receiver.page.views import (
    Choice,
    fleet_view,
    gateway_href,
    gateway_view,
    one_pack_view,
    packs_view,
    stream_href,
    stream_view,
)

log = logging.getLogger("meterhouse.platform")
T = TypeVar("T")
ASKERS: Final = 6  # number of threads that wait for answers of databases
MOST_LISTED: Final = 1000  # a page lists at most this many packs
MOST_SPAN_MS: Final = 86_400_000
LAST_MS: Final = 7_258_032_000_000  # 2199-12-31, the last day that the page can show in every time zone (``day_of``)
REFRESH_MS: Final = 10_000


class Page:
    """The request handlers and their shared state.

    Args:
        root: path under which a reverse proxy shows the page, such as ``/fleet``; "" for none.
        zone: time zone of all times that the page shows.
        version: version of the program, for the footer.
    """

    def __init__(self, data: FleetData, root: str, zone: ZoneInfo, version: str) -> None:
        self.data, self.root, self.zone, self.version = data, root, zone, version
        self.static = static_files() | static_files("receiver.page")
        self.askers = ThreadPoolExecutor(ASKERS, "question")
        self._templates = templates(
            ChoiceLoader([PackageLoader("receiver.page"), PackageLoader("agent.web")]),
            lambda name: f"{root}/static/{name}?v={self.static[name].tag}",
        )

    async def _ask(self, question: Callable[..., T], *what: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.askers, question, *what)

    async def _render(self, request: Request, template: str, facts: Mapping[str, Any], status: int = 200) -> Response:
        language = language_of(request)
        other = next(one for one in LANGUAGES if one != language)
        url = request.url.include_query_params(lang=other)
        base = "fragment.html" if request.headers.get("x-refresh") else "fleet_base.html"
        text = await self._ask(
            lambda: self._templates.get_template(template).render(
                t=lambda key, **values: label(key, language, **values),
                titled=lambda point: point_title(point, language),
                lang=language, other_url=f"{self.root}{url.path}?{url.query}", layout=base, root=self.root,
                zone=str(self.zone), program=self.version, refresh_ms=REFRESH_MS, notice="", **facts,
            )
        )  # fmt: skip
        body = await self._ask(lambda: gzip.compress(text.encode(), 3, mtime=0))
        return html(request, body, status, language, request.headers.get("x-forwarded-proto", "") == "https")

    async def follow(self) -> None:
        """Query the state of the fleet repeatedly, so that the next viewer gets a recent one."""
        while True:
            try:
                await self._ask(self.data.fleet)
            except (GatewayError, psycopg.Error) as error:
                log.warning("the state of the fleet cannot be read: %s", clean_text(str(error), 300))
            await asyncio.sleep(IDLE_S)

    # --- pages

    async def fleet(self, request: Request) -> Response:
        """The page with all gateways."""
        choice, language = Choice.of(request.query_params), language_of(request)
        fleet = await self._ask(self.data.fleet)
        return await self._render(request, "fleet.html", fleet_view(fleet, choice, self.root, language))

    async def gateway(self, request: Request) -> Response:
        """The page of one gateway."""
        name = "/".join(request.path_params[part] for part in ("site", "gateway"))
        facts = await self._ask(self.data.gateway, name) if GATEWAY.fullmatch(name) else None
        if facts is None:
            raise HTTPException(404)
        return await self._render(request, "gateway.html", gateway_view(facts, self.root, language_of(request)))

    async def stream(self, request: Request) -> Response:
        """The page of a stream. It shows one day of one of the stream's points."""
        stream, language, query = _stream_of(request), language_of(request), request.query_params
        known = await self._ask(self.data.stream_days, stream)
        if known is None:
            raise HTTPException(404)
        settled, points, newest_ms = known
        today = datetime.now(self.zone).date()
        if newest_ms is not None:
            newest = datetime.fromtimestamp(_shown_ms(newest_ms - 1) / 1000, self.zone).date()
        else:
            newest = settled[-1] if settled else today
        # the settled days are days of UTC; west of UTC, the first of them begins on the local day before
        first = datetime.combine(settled[0], time(), UTC).astimezone(self.zone).date() if settled else newest
        wanted = day_of(query.get("date", "")) if query.get("date") else newest
        if wanted is None:
            raise HTTPException(404)
        point = query.get("point", "")[:200]
        point = point if point in points else _main_point(points)
        between = self._day(wanted)
        figures = await self._ask(self.data.figures, stream, point, wanted, *between) if point else None
        shown = stream_view(figures, stream, wanted, between, self.zone, self.root, language)
        gateway = stream.rpartition("/")[0]
        near = {"point": point}
        facts = {
            **shown, "settled": bool(settled), "stream": stream, "name": stream.rpartition("/")[2], "gateway": gateway,
            "gateway_href": gateway_href(self.root, gateway), "points": points, "point": point, "date": str(wanted),
            "first_day": str(first), "last_day": str(max(newest, today)),
            "earlier": stream_href(self.root, stream, date=str(wanted - timedelta(days=1)), **near)
            if wanted > first else "",
            "later": stream_href(self.root, stream, date=str(wanted + timedelta(days=1)), **near)
            if wanted < today else "",
            "action": stream_href(self.root, stream),
        }  # fmt: skip
        return await self._render(request, "stream.html", facts)

    async def packs(self, request: Request) -> Response:
        """The page with the packs behind a figure."""
        stream, language, query = _stream_of(request), language_of(request), request.query_params
        low, high, point = _number(query.get("from", "")), _number(query.get("to", "")), query.get("point", "")[:200]
        if low is None or high is None or not low < high <= low + MOST_SPAN_MS:
            raise HTTPException(404)
        packs = await self._ask(self.data.packs_between, stream, low, high, MOST_LISTED)
        day = datetime.fromtimestamp(low / 1000, self.zone).date()
        figures: Figures | None = None
        if point and packs:
            figures = await self._ask(self.data.figures, stream, point, day, *self._day(day))
        found = [one for one in figures.rows if (one.from_ms, one.to_ms) == (low, high)] if figures else []
        view = packs_view(packs, found[0] if found else None, figures, MOST_LISTED, self.zone, self.root, language)
        facts = {
            **view, "stream": stream, "point": point,
            "back": stream_href(self.root, stream, date=str(day), **({"point": point} if point else {})),
            "from_time": f"{datetime.fromtimestamp(low / 1000, self.zone):%Y-%m-%d %H:%M}",
            "to_time": f"{datetime.fromtimestamp(high / 1000, self.zone):%H:%M}",
        }  # fmt: skip
        return await self._render(request, "packs.html", facts)

    async def pack(self, request: Request) -> Response:
        """The page with the packs that have a given sequence."""
        stream, seq = _stream_of(request), request.path_params["seq"]
        if not 0 < seq < 1 << 53:
            raise HTTPException(404)
        packs = await self._ask(self.data.packs_at, stream, seq)
        if not packs:
            raise HTTPException(404)
        language = language_of(request)
        shown = await self._ask(lambda: [self._one_pack(one, language) for one in packs])
        begin = datetime.fromtimestamp(_shown_ms(min(one.from_ms for one in packs)) / 1000, UTC)
        facts = {
            "stream": stream, "seq": seq, "packs": shown, "back": stream_href(self.root, stream),
            "earlier": f"{self.root}/pack/{stream}/{seq - 1}" if seq > 1 else "",
            "later": f"{self.root}/pack/{stream}/{seq + 1}",
            "day": begin.date(), "next_day": begin.date() + timedelta(days=1),
        }  # fmt: skip
        return await self._render(request, "packs_at.html", facts)

    def _one_pack(self, one: PackRow, language: str) -> dict[str, Any]:
        return one_pack_view(one, msgspec.json.decode(one.body or b"{}"), self.zone, self.root, language)

    async def raw(self, request: Request) -> Response:
        """A download: one pack as it was published."""
        stream, seq, wanted = _stream_of(request), request.path_params["seq"], request.query_params.get("hash", "")
        packs = await self._ask(self.data.packs_at, stream, seq) if 0 < seq < 1 << 53 else []
        for one in packs:
            if one.hash.hex() == wanted and one.body:
                name = f"{stream.replace('/', '_')}_{seq}.json"
                headers = {"content-disposition": f'attachment; filename="{name}"'}
                return Response(one.body, 200, headers, "application/json")
        raise HTTPException(404)

    def _day(self, day: date) -> tuple[int, int]:
        """The (beginning, end) of a day in the page's time zone, in UTC ms. Both are rounded down to whole quarters of
        an hour.
        """
        start = datetime(day.year, day.month, day.day, tzinfo=self.zone)
        end = start + timedelta(days=1)
        end = datetime(end.year, end.month, end.day, tzinfo=self.zone)
        low, high = (round(one.timestamp() * 1000) // QUARTER_MS * QUARTER_MS for one in (start, end))
        return low, high

    # --- files and errors

    async def file(self, request: Request) -> Response:
        """A static file."""
        return static_answer(self.static, request)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """The page for an unknown URL or an invalid request."""
        status, text = missing(request, error, label)
        return await self._render(request, "error.html", {"text": text}, status)

    async def database_error(self, request: Request, error: Exception) -> Response:
        """The page for an error of a database."""
        language = language_of(request)
        if isinstance(error, GatewayError):
            text = in_language(error, language)
        else:
            text = (
                f"{label('error.database', language)}: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
            )
        log.warning("%s: %s", request.url.path, clean_text(text, 300))
        return await self._render(request, "error.html", {"text": clean_text(text, 500)}, 503)

    async def bug(self, request: Request, error: Exception) -> Response:
        """The page for an internal error. Details go to the log; the viewer gets one sentence."""
        log.error("%s: internal error", request.url.path, exc_info=error)
        return Response("internal error; the log of the page has the details\n", 500, media_type="text/plain")


class UnderRoot:
    """ASGI middleware for a page behind a reverse proxy. It removes the root path from a URL, unless the proxy has
    removed it.
    """

    def __init__(self, app: ASGIApp, root: str) -> None:
        self._app, self._root = app, root

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._root and (scope["path"] + "/").startswith(self._root + "/"):
            path = scope["path"].removeprefix(self._root) or "/"
            raw = scope.get("raw_path", b"").removeprefix(self._root.encode()) or b"/"
            scope = {**scope, "path": path, "raw_path": raw}
        await self._app(scope, receive, send)


def make_app(
    dsns: Sequence[str], *, root: str = "", zone: ZoneInfo | None = None, names: Iterable[str] = ()
) -> ASGIApp:
    """Make the page as an ASGI application.

    Args:
        root: path under which a reverse proxy shows the page; "" for none.
        zone: time zone of all times that the page shows; None: UTC.
        names: additional host names under which viewers reach the page. IP addresses and the names of this machine
        always work.
    """
    from agent import __version__

    page = Page(FleetData(dsns), root, zone or ZoneInfo("UTC"), __version__)
    stream = "{site}/{gateway}/{stream}"

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(page.follow())
        yield
        task.cancel()
        page.data.close()
        page.askers.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/", page.fleet),
            Route("/gateway/{site}/{gateway}", page.gateway),
            Route(f"/stream/{stream}", page.stream),
            Route(f"/packs/{stream}", page.packs),
            Route(f"/pack/{stream}/{{seq:int}}", page.pack),
            Route(f"/raw/{stream}/{{seq:int}}", page.raw),
            Route("/static/{name:path}", page.file),
        ],
        exception_handlers={
            HTTPException: page.http_error, GatewayError: page.database_error, psycopg.Error: page.database_error,
            Exception: page.bug,
        },
        lifespan=lifespan,
    )  # fmt: skip
    app.router.redirect_slashes = False
    access = Access(tls=False, password=False, names=host_names(names))
    return UnderRoot(Guard(app, access, Sessions()), root)


def _shown_ms(ms: int) -> int:
    """The nearest time that the page can show. A gateway can sign any time, even one after the year 9999."""
    return max(0, min(ms, LAST_MS))


def _stream_of(request: Request) -> str:
    stream = "/".join(request.path_params[part] for part in ("site", "gateway", "stream"))
    if not STREAM.fullmatch(stream):
        raise HTTPException(404)
    return stream


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 15 else None


def _main_point(points: Sequence[str]) -> str:
    """The point that is shown first. This is the power of the whole device, if the list has it. "" if the list is
    empty.
    """
    ranked = sorted(points, key=lambda name: ("power.active" not in name, ".power" not in name, name.count("."), name))
    return ranked[0] if ranked else ""
