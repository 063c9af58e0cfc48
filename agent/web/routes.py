"""The routes of the page. Each kind of request has a handler."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote, urlencode
from zoneinfo import ZoneInfo

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from agent.cli.common import show_age
from agent.cli.control import no_answer
from agent.cli.findings import Silence, silent_devices
from agent.cli.questions import given
from agent.cli.report.labels import own_text, silent_since
from agent.config import PageConfig, WebConfig, load_page_config
from agent.config.web import listen_address
from agent.web.day_view import before_start, day_links, day_of, device_day, site_day, why_nothing
from agent.web.figures_view import PERIODS, figures, neighbours, no_figures
from agent.web.guard import Access, Guard, cookie_of, host_names, may_see, session_of
from agent.web.labels import label
from agent.web.live import LiveData, Moment
from agent.web.page_base import COOKIE_AGE_S, html, language_of, missing, set_cookie, static_answer, static_files
from agent.web.password import LoginLimiter, PasswordChecker, PasswordHash, Sessions, TryLater
from agent.web.render import Renderer, in_language
from agent.web.site_data import SiteData
from agent.web.source_view import pack_view, source
from agent.web.unsealed import with_unsealed
from agent.web.views import device_href, device_view, frames_view, now_view, shown
from drivers.model import ConfigError, GatewayError, UsageError, clean_text

log = logging.getLogger("meterhouse.web")
T = TypeVar("T")
ASKERS: Final = 6  # number of threads that wait for answers of the agent
# a viewer waits this long for an answer of the agent; a later answer is still kept for other viewers
LONGEST_S: Final = 30.0
BODY_S: Final = 10.0  # the body of a login request must arrive within this time
# templates that show answers of the agent
OF_THE_AGENT: Final = ("day.html", "figures.html", "source.html", "pack.html")
LIVE: Final = ("frames.html", "source.html")  # templates with live data that are not rendered by ``live_page``
KEPT_PAGES: Final = 48  # number of rendered live pages that are kept for other viewers
NEXT = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?&=:+-]{0,500}\Z")


def settings_of(
    config_file: Path, runtime_dir: Path | None, listen: str | None, environ: Mapping[str, str]
) -> PageConfig:
    """Read the configuration and apply the options of the command line.

    If the file does not exist but ``runtime_dir`` is given, the page shows that directory with default settings.
    Raises ConfigError, UsageError.
    """
    try:
        found = load_page_config(config_file, runtime_dir=runtime_dir, environ=environ)
    except ConfigError:
        if runtime_dir is None or config_file.exists():
            raise
        found = PageConfig(WebConfig(), "UTC", runtime_dir)
    if runtime_dir is not None:  # ignore the file, because the directory may belong to another agent
        found = replace(found, file=None)
    if listen is None:
        return found
    host, port = given("--listen", listen_address, listen)
    web = replace(found.web, host=host, port=port)
    if not web.is_loopback and (web.certificate is None or web.password is None):
        hint = "`meterhouse web --setup` makes a certificate and a password"
        raise UsageError(
            "other machines can reach this address, so the page needs a certificate with its key, and a password",
            where="--listen",
            hint=hint,
        )
    return replace(found, web=web)


class Page:
    """The request handlers and the state that they share."""

    def __init__(self, config: PageConfig, access: Access, checker: PasswordChecker | None, data: SiteData) -> None:
        self.config, self.access, self.checker = config, access, checker
        self.sessions = Sessions()
        self.certificate_ends: float | None = None
        self.live = LiveData(config.runtime_dir, config.file, config.labels)
        self.data = data
        self.static = static_files()
        self.renderer = Renderer({name: one.tag for name, one in self.static.items()}, access.password)
        self.askers = ThreadPoolExecutor(ASKERS, "question")
        self._asked: dict[tuple[Any, ...], asyncio.Future[Any]] = {}  # the queries in progress, by their arguments
        # line -> (key of the view, view); a view with an old key is replaced
        self._frames: dict[str, tuple[tuple[int, str, str], dict[str, Any]]] = {}
        self._kept: OrderedDict[tuple[str, str, bool, int], bytes] = OrderedDict()

    # --- rendering of all pages

    def render(
        self, request: Request, template: str, status: int = 200, answer: Mapping[str, Any] | None = None, **facts: Any
    ) -> Response:
        """Return the response with a page in the viewer's language. A refresh gets only the content of <main>.

        Args:
            answer: the answer of the agent that the page shows with its age; None if the page shows no answer.
        """
        language = language_of(request)
        fragment = bool(request.headers.get("x-refresh"))
        moment = self.live.moment
        if template == "login.html" or not may_see(request.headers, self.access, self.sessions):
            moment, facts = Moment(), {**facts, "nav": False}  # without a login, no page may reveal any data
        silent = self.data.silence is not None and template in OF_THE_AGENT
        as_of = "" if answer is None else self._answer_as_of(answer, moment, silent, language)
        if template in LIVE and "time" in moment.snapshot:
            as_of = self._as_of(moment.time, moment.age_s, language)
        text = self.renderer.render(template, language, request.url, fragment, moment, facts, silent, as_of)
        return html(request, gzip.compress(text.encode(), 1, mtime=0), status, language, self.access.tls)

    def _answer_as_of(self, answer: Mapping[str, Any], moment: Moment, silent: bool, language: str) -> str:
        """Return a text with the age of an answer.

        Returns "" for a closed period if the agent answers, because an answer about a closed period is final.
        """
        if answer.get("closed", True) and not (silent or moment.stopped):
            return ""
        return self._as_of(time.time(), self.data.age_s(answer), language)

    def _as_of(self, now: float, age_s: float, language: str) -> str:
        """Return a text with the time and the age of the data. The time stays true on a page that is left open."""
        age_s = min(max(age_s, 0.0), now)
        at = datetime.fromtimestamp(now - age_s, ZoneInfo(self.config.timezone))
        return label("as_of.time", language, time=f"{at:%Y-%m-%d %H:%M:%S}", age=show_age(age_s, language))

    def _aside(self, moment: Moment, from_s: float, language: str) -> str:
        """Return a text about the damaged database that has the data from before it was set aside.

        Returns "" if there is none, or if the period that begins at ``from_s`` (UTC s) has no data of it.
        """
        damaged = (moment.snapshot.get("store") or {}).get("damaged")
        if not damaged or from_s >= float(damaged["at"]):
            return ""
        at = datetime.fromtimestamp(float(damaged["at"]), ZoneInfo(self.config.timezone))
        return label("aside", language, time=f"{at:%Y-%m-%d %H:%M:%S}", file=clean_text(str(damaged["file"]), 300))

    def _begin(self, day: date) -> float:
        """Return the start of a day in UTC s."""
        return datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(self.config.timezone)).timestamp()

    async def live_page(
        self, request: Request, template: str, view: Callable[[Moment, str], dict[str, Any]]
    ) -> Response:
        """Return the response with a page of live values. The page is rendered once for all viewers."""
        moment, language = await self.live.now(), language_of(request)
        fragment = bool(request.headers.get("x-refresh"))
        key = (str(request.url.path), language, fragment, moment.number)
        body = self._kept.get(key)
        if body is None:
            # other viewers get the same page, so it must not contain this viewer's query
            facts, url = view(moment, language), request.url.replace(query="")
            as_of = self._as_of(moment.time, moment.age_s, language) if "time" in moment.snapshot else ""
            text = self.renderer.render(template, language, url, fragment, moment, facts, as_of=as_of)
            body = gzip.compress(text.encode(), 5, mtime=0)
            self._kept[key] = body
            while len(self._kept) > KEPT_PAGES:
                self._kept.popitem(last=False)
        return html(request, body, 200, language, self.access.tls)

    # --- pages

    async def now(self, request: Request) -> Response:
        """Return the first page, with findings, devices, lines and destinations."""
        return await self.live_page(
            request, "now.html", lambda moment, lang: now_view(moment, lang, self.live.labels, self.certificate_ends)
        )

    async def device(self, request: Request) -> Response:
        """Return the page with all points of a device."""
        name = request.path_params["device"]
        moment = await self.live.now()
        if name not in moment.snapshot.get("devices", {}):
            return self._unknown(request, moment)
        return await self.live_page(
            request, "device.html", lambda moment, lang: device_view(moment, lang, name, self.live.labels)
        )

    def _unknown(self, request: Request, moment: Moment) -> Response:
        """Return the response for an unknown device or line: 404, or 503 if no agent ran since the page started."""
        if moment.snapshot or moment.error is None:
            raise HTTPException(404)
        return self.render(request, "error.html", 503, text=in_language(moment.error, language_of(request)))

    def _no_date(self, request: Request, text: str) -> Response:
        language = language_of(request)
        return self.render(request, "error.html", 404, text=label("day.no_date", language, text=clean_text(text, 40)))

    async def first_line(self, request: Request) -> Response:
        """Redirect to the frames of the first line."""
        moment = await self.live.now()
        for name in moment.snapshot.get("lines", {}):
            return RedirectResponse(f"/frames/{quote(name, safe='')}", 303)
        return self.render(request, "error.html", text=label("frames.none", language_of(request)))

    async def frames(self, request: Request) -> Response:
        """Return the page with the last frames of a line."""
        moment, name = await self.live.now(), request.path_params["line"]
        if name not in moment.snapshot.get("lines", {}):
            return self._unknown(request, moment)
        language = language_of(request)
        key, kept = (moment.number, name, language), self._frames.get(name)
        if kept is None or kept[0] != key:
            view = await asyncio.to_thread(frames_view, self.live.folder, moment, name, self.config.timezone, language)
            kept = self._frames[name] = (key, view)
        return self.render(request, "frames.html", **kept[1])

    # --- pages that need a query to the agent: days, figures, sources of values, packs

    async def day(self, request: Request) -> Response:
        """Return the page of a day, for the site or for one device."""
        moment, language, query = await self.live.now(), language_of(request), request.query_params
        device, text = query.get("device", "")[:80], query.get("date", "")
        wanted = day_of(text) if text else None
        if text and wanted is None:
            return self._no_date(request, text)
        days = await self._days()
        names = [*moment.snapshot.get("devices", {})]
        labels = {name: own_text(text, language) for name, text in self.live.labels.items()}

        def page(view: Mapping[str, Any], shown_day: date, answer: Mapping[str, Any] | None = None) -> Response:
            aside = self._aside(moment, self._begin(shown_day), language)
            return self.render(
                request,
                "day.html",
                answer=answer,
                aside=aside,
                day=view,
                before_start=before_start(answer, days[0][0] if days[0] else "", device, language) if answer else "",
                date=str(shown_day),
                device=device,
                device_label=labels.get(device, ""),
                choices=[
                    (name, labels.get(name, "")) for name in (*names, *([device] if device not in ("", *names) else ()))
                ],
                links=day_links(shown_day, *days, {"device": device} if device else {}),
                nothing="" if aside else self._why_nothing(moment, shown_day, *days, language),
            )

        if wanted is not None and not _is_within(wanted, 10, *days):
            if device and device not in names:
                raise HTTPException(404)
            return page({"series": [], "length": ""}, wanted)
        try:
            answer: Mapping[str, Any] = await self._ask(self.data.day, _unless_today(wanted, *days), device)
        except UsageError:
            if (silence := _silent(moment, math.inf).get(device)) is None:
                raise HTTPException(404) from None
            text = f"{clean_text(device, 80)}{label('colon', language)}"  # no pack of this device exists yet
            text += silent_since(silence, self.config.timezone, language)
            return self.render(request, "error.html", 404, text=text)
        shown_day = day_of(answer["day"])
        if shown_day is None or (device and not answer["devices"]):
            raise HTTPException(404)
        silent = _silent(moment, answer["to"])
        answer = with_unsealed(answer, silent, moment.snapshot)
        if device:
            view = device_day(answer, language, [name[:200] for name in query.getlist("point")], silent)
        else:
            view = site_day(answer, language, labels, silent)
        return page(view, shown_day, answer)

    async def _ask(self, question: Callable[..., T], *what: Any) -> T:
        """Query the agent in a separate thread pool, so that live pages do not wait for the agent.

        Viewers with the same question share one query.
        """
        key = (question.__name__, *what)
        asked: asyncio.Future[T] | None = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.get_running_loop().run_in_executor(self.askers, question, *what)
            asked.add_done_callback(lambda one: self._answered(key, one))
        done, _ = await asyncio.wait({asked}, timeout=LONGEST_S)
        if not done:
            raise no_answer(self.config.runtime_dir, "The agent is starting, is busy or hangs. See `meterhouse status`")
        return asked.result()

    def _answered(self, key: tuple[Any, ...], asked: asyncio.Future[Any]) -> None:
        """Forget a finished query, so that the next viewer starts a new one.

        Reading its exception keeps asyncio from logging an error that no viewer waits for.
        """
        del self._asked[key]
        if not asked.cancelled():
            asked.exception()

    async def _days(self) -> tuple[list[str], str]:
        """Return (days with intervals, today).

        If the agent does not answer, the list is empty; kept answers about days can still be shown.
        """
        try:
            found = await self._ask(self.data.days)
        except GatewayError:
            return [], str(datetime.now(ZoneInfo(self.config.timezone)).date())
        return found["days"], found["today"]

    def _why_nothing(
        self, moment: Moment, shown_day: date | None, days: list[str], today: str, language: str, of: str = "day"
    ) -> str:
        """Return the text of ``day_view.why_nothing``.

        Returns "" if the agent does not answer, because ``days`` is then unreliable.
        """
        unknown = moment.stopped or self.data.silence is not None
        return "" if unknown else why_nothing(shown_day, days, today, language, of)

    async def figures(self, request: Request) -> Response:
        """Return the page with the park's figures of a period."""
        query, language = request.query_params, language_of(request)
        period, text = PERIODS.get(query.get("period", "day")), query.get("date", "")
        wanted = day_of(text) if text else None
        if period is None:
            raise HTTPException(404)
        if text and wanted is None:
            return self._no_date(request, text)
        days, today = await self._days()
        moment = await self.live.now()  # this state tells whether the agent runs
        if wanted is not None and not _is_within(wanted, {"day": 10, "month": 7}.get(period, 4), days, today):
            nothing = no_figures(wanted, period, days[0], today)
            aside = self._aside(moment, self._begin(wanted), language)
            why = "" if aside else self._why_nothing(moment, wanted, days, today, language, "period")
            return self.render(
                request, "figures.html", **nothing, nothing=why, aside=aside, period=period, periods=PERIODS
            )
        page = await self._ask(self.data.report, period, _unless_today(wanted, days, today))
        view = figures(page, period, language, _silent(moment, page["period"]["to"]))
        links = neighbours(page, period, days[0] if days else today, today)
        aside = self._aside(moment, page["period"]["from"], language)
        why = "" if aside else self._why_nothing(moment, wanted or day_of(today), days, today, language, "period")
        return self.render(
            request,
            "figures.html",
            answer=page,
            **view,
            nothing=why,
            aside=aside,
            period=period,
            periods=PERIODS,
            links=links,
        )

    async def source(self, request: Request) -> Response:
        """Return the page that shows where a point's values come from."""
        moment, language = await self.live.now(), language_of(request)
        device, point = request.path_params["device"], request.path_params["point"]
        found = [one for one in moment.points.get(device, ()) if one.point.name == point]
        answer = await self._ask(self.data.birth, device)
        view = source(answer, point, language)
        if not found and not view["register"]:
            raise HTTPException(404)
        return self.render(
            request,
            "source.html",
            answer=answer,
            refreshes=True,
            device=device,
            point=point,
            shown=shown(found[0], moment, language) if found else None,
            register=view["register"],
            facts_device=view["device"],
            pack=view["pack"],
            pack_href=f"/pack/{quote(device, safe='')}/{view['seq']}" if view["seq"] else "",
            device_href=device_href(device),
            day_href=f"/day?{urlencode({'device': device, 'point': point})}",
        )

    async def pack(self, request: Request) -> Response:
        """Return the page with a pack as it was signed."""
        device, seq = request.path_params["device"], request.path_params["seq"]
        if not 0 < seq < 1 << 53:
            raise HTTPException(404)
        await self.live.now()
        answer = await self._ask(self.data.pack, device, seq)
        view = await asyncio.to_thread(pack_view, answer, self.config.timezone, language_of(request))
        front = f"/pack/{quote(device, safe='')}"
        return self.render(
            request,
            "pack.html",
            answer=answer,
            device=device,
            seq=seq,
            **view,
            earlier=f"{front}/{seq - 1}" if seq > 1 else "",
            later=f"{front}/{seq + 1}",
            device_href="" if device.startswith("_") else device_href(device),
        )

    # --- login

    async def login(self, request: Request) -> Response:
        """Return the login form, or check the password that was entered in it."""
        target = request.query_params.get("next", "/")
        target = target if NEXT.match(target) else "/"
        if self.checker is None:
            return RedirectResponse(target, 303)
        if request.method != "POST":
            return self.render(request, "login.html", target=target, problem="")
        client = request.client.host if request.client else "?"
        try:
            body = await asyncio.wait_for(request.body(), BODY_S)
            form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=8)
            token = cookie_of(request.headers, self.access.known_cookie)
            good = await self.checker.check(client, form.get("password", [""])[0], token)
        except (TimeoutError, ValueError, ClientDisconnect):
            return Response(status_code=400)
        except TryLater as later:
            log.warning("%s: too many login attempts", client)
            response = self.render(request, "login.html", 429, target=target, problem="login.later")
            response.headers["retry-after"] = str(max(1, round(later.seconds)))
            return response
        if not good:
            log.warning("%s: login attempt with a wrong password", client)
            return self.render(request, "login.html", 403, target=target, problem="login.wrong")
        response = RedirectResponse(target, 303)
        set_cookie(response, self.access.cookie, self.sessions.begin(), self.access.tls)
        known = self.checker.known_browser()
        set_cookie(response, self.access.known_cookie, known, self.access.tls, COOKIE_AGE_S)
        return response

    async def logout(self, request: Request) -> Response:
        """End the session."""
        self.sessions.end(session_of(request.headers, self.access))
        response = RedirectResponse("/login", 303)
        response.delete_cookie(self.access.cookie, path="/", secure=self.access.tls, httponly=True, samesite="strict")
        return response

    # --- files and errors

    async def file(self, request: Request) -> Response:
        """Return a static file."""
        return static_answer(self.static, request)

    async def http_error(self, request: Request, error: Exception) -> Response:
        """Return the page for an unknown URL or an invalid request."""
        await self.live.now()
        status, text = missing(request, error, label)
        return self.render(request, "error.html", status, text=text)

    async def gateway_error(self, request: Request, error: Exception) -> Response:
        """Return the page for an error of the agent: it does not answer, or it refuses a query."""
        assert isinstance(error, GatewayError)
        moment, language = await self.live.now(), language_of(request)
        text, status = in_language(error, language), 400 if isinstance(error, UsageError) else 503
        # the pack may be in a database that was set aside
        aside = self._aside(moment, 0.0, language) if request.url.path.startswith("/pack/") else ""
        return self.render(request, "error.html", status, text=text, aside=aside)

    async def bug(self, request: Request, error: Exception) -> Response:
        """Return the page for an internal error. It has one sentence for the viewer; the details go to the log."""
        log.error("%s: internal error", request.url.path, exc_info=error)
        return Response("internal error; the log of meterhouse-web has the details\n", 500, media_type="text/plain")


def _silent(moment: Moment, before_s: float) -> Mapping[str, Silence]:
    """Return the silent devices (see ``agent.cli.findings.silent_devices``).

    If the agent has stopped, these are the devices that were silent then: the kept answers lack their gaps.
    """
    return silent_devices(moment.snapshot, before_s)


def _unless_today(wanted: date | None, days: Sequence[str], today: str) -> date | None:
    """Return None if ``wanted`` is today, so that queries with and without today's date are the same; else ``wanted``.

    If ``days`` is empty, the agent did not answer, and ``today`` comes from this process's clock, which may be wrong.
    ``wanted`` is then returned unchanged.
    """
    return None if days and str(wanted) == today else wanted


def _is_within(wanted: date, digits: int, days: Sequence[str], today: str) -> bool:
    """True if the period can contain intervals. If False, the agent is not queried.

    Without this check, a client could cause any number of queries with dates that have no data.

    Args:
        digits: length of the period's ISO date: 10 for a day, 7 for a month, 4 for a year.
    """
    return not days or days[0][:digits] <= str(wanted)[:digits] <= today[:digits]


def make_app(config: PageConfig, data: SiteData | None = None) -> ASGIApp:
    """Return the page as an ASGI application. Raises ConfigError for an invalid password file."""
    import os

    from agent.web.server import certificate_facts

    web = config.web
    checker = None
    if web.password is not None:
        place = web.places.get("password", "[web]")
        try:
            line = web.password.read(os.environ)
        except ConfigError as error:
            raise ConfigError(f"{error.where} {error.what}", where=place, hint=error.hint) from error
        hashed = PasswordHash.parse(line, f"{place}: {web.password}")
        checker = PasswordChecker(hashed, LoginLimiter())
    names, ends = certificate_facts(web)
    access = Access(web.certificate is not None, checker is not None, host_names(names))
    page = Page(config, access, checker, data or SiteData(config.runtime_dir))
    page.certificate_ends = ends

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with page.live.following():
            yield
        page.askers.shutdown(wait=False, cancel_futures=True)

    app = Starlette(
        routes=[
            Route("/", page.now),
            Route("/device/{device}", page.device),
            Route("/device/{device}/{point}", page.source),
            Route("/pack/{device}/{seq:int}", page.pack),
            Route("/day", page.day),
            Route("/figures", page.figures),
            Route("/frames", page.first_line),
            Route("/frames/{line}", page.frames),
            Route("/login", page.login, methods=["GET", "POST"]),
            Route("/logout", page.logout, methods=["POST"]),
            Route("/static/{name:path}", page.file),
        ],
        exception_handlers={HTTPException: page.http_error, GatewayError: page.gateway_error, Exception: page.bug},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    return Guard(app, access, page.sessions)
