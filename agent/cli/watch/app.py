"""Runs `watch` on the full screen of a terminal.

Only this file and ``row_list.py`` import Textual, as it loads slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Final
from zoneinfo import ZoneInfo

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static
from textual.worker import WorkerFailed

from agent.cli.common import NoAgent, is_alive, say_at, show_age
from agent.cli.findings import STALE_S, Finding, find
from agent.cli.watch.frames import FrameJoiner, frame_text, frames_path, read_frames
from agent.cli.watch.live_view import LiveView
from agent.cli.watch.pages import Page, Pages
from agent.cli.watch.row_list import RowList
from agent.cli.watch.texts import KEYS, LANGUAGES, word
from agent.cli.watch.trends import Trends
from drivers.model import GatewayError, clean_text

EVERY_S: Final = 1.0
SLICE_S: Final = 0.02  # a full ring is read in slices of this time, so that keys are handled between the slices
REST_S: Final = 0.005  # pause between two slices, because the event loop needs several turns to handle a key
PAGES: Final = ("devices", "values", "lines", "destinations", "findings")
# actions with letter keys; while a search is typed, these keys are text
LETTER_KEYS: Final = frozenset({"page", "search", "trouble", "keys"})
MOST_FRAMES: Final = 2000
CTRL_C: Final = 130


class WatchApp(App[int]):
    """The full screen.

    Args:
        devices: names of the devices whose values are shown; an empty sequence means all devices.
        patterns: globs; only points that match one of them are shown. An empty sequence means all points.
        seconds: the screen ends after this time; None means that only the user ends it.
        every_s: seconds between two reads of new values, or between two searches for an agent if none runs. The
            snapshot is read half as often.
        labels: device name -> label.
        read_labels: returns the labels after a reload; raises GatewayError if the files are invalid.
        timezone: time zone in which the times of frames are shown; "" means the time zone of this machine.
        on_disk: errors in the configuration files, which are shown until the agent reloads the files.
    """

    CSS = """
    Screen { background: ansi_default; color: ansi_default; overflow: hidden; }
    Static { height: 1; background: ansi_default; color: ansi_default; text-wrap: nowrap; text-overflow: ellipsis; }
    #help { height: 1fr; display: none; }
    Input { height: 1; border: none; padding: 0; display: none; background: ansi_default; color: ansi_default; }
    Input:focus { border: none; background-tint: ansi_default 0%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # all keys have priority over the focused widget, so that keys that are typed quickly are handled in order
        *(Binding(str(n), f"page('{name}')", show=False, priority=True) for n, name in enumerate(PAGES, 1)),
        Binding("tab", "next_page(1)", show=False, priority=True),
        Binding("shift+tab", "next_page(-1)", show=False, priority=True),
        Binding("slash", "search", show=False, priority=True),
        Binding("t", "trouble", show=False, priority=True),
        Binding("question_mark,h,f1", "keys", show=False, priority=True),
        Binding("escape", "step_back", show=False, priority=True),
        Binding("q,Q", "leave(0)", show=False, priority=True),
        Binding("ctrl+q", "leave(0)", show=False, priority=True),
        Binding("ctrl+c", f"leave({CTRL_C})", show=False, priority=True),
        Binding("ctrl+z", "suspend_process", show=False, priority=True),
    ]
    ENABLE_COMMAND_PALETTE = False
    ESCAPE_TO_MINIMIZE = False

    def __init__(
        self,
        folder: Path,
        devices: Sequence[str] = (),
        patterns: Sequence[str] = (),
        language: str = "en",
        seconds: float | None = None,
        every_s: float = EVERY_S,
        on_disk: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        read_labels: Callable[[], Mapping[str, str]] | None = None,
        timezone: str = "",
    ) -> None:
        super().__init__(ansi_color=True)
        self._folder, self._wanted, self._language = folder, (devices, patterns), language
        self._seconds, self._every_s = seconds, every_s
        self.view: LiveView | None = None
        self._trends, self._pages = Trends(), Pages(language, labels)
        self._searches: dict[str, str] = {}  # page -> its search text
        self._findings: list[Finding] = []
        self._zone = ZoneInfo(timezone) if timezone else None
        self._timezone = timezone or self._word("machine time")
        self._on_disk, self._read_labels = on_disk, read_labels
        self._config: object = None  # the member ``config`` of the snapshot, which changes at a reload
        self._reads = 0
        self._is_here = False  # True: an agent is running; False: the values on the screen are old
        self._trouble = ""  # the reason why no agent is running
        self._is_catching_up = False
        self._shown = "values" if devices or patterns else "devices"
        # the page of values shows only this device; "" means all devices
        self._device = devices[0] if len(devices) == 1 else ""
        self._line = ""  # the page of frames shows the frames of this line
        self.fault: BaseException | None = None
        self._texts: dict[str, Text] = {}  # the texts above and below the list of rows
        self._joiner, self._frames = FrameJoiner(), deque[str](maxlen=MOST_FRAMES)

    # --- the screen

    def compose(self) -> ComposeResult:
        """Create the widgets: head, names of the pages, rows, detail of the selected row, search, keys."""
        yield Static(id="head", markup=False)
        yield Static(id="pages", markup=False)
        yield RowList()
        yield Static(id="help", markup=False)
        yield Static(id="detail", markup=False)
        yield Input(id="search", placeholder=self._word("search"), compact=True, select_on_focus=False)
        yield Static(id="keys", markup=False)

    def on_mount(self) -> None:
        """Start to read the agent's values."""
        self.theme = "ansi-dark"  # use the terminal's own colours
        self.screen.set_focus(self._list)
        if self._seconds is not None:
            self.set_timer(self._seconds, lambda: self.exit(0))
        self.run_worker(self._follow(), exit_on_error=True)

    def run_in_terminal(self) -> int:
        """Run until the user quits. Returns the exit code. The terminal is restored in every case."""
        # Textual must not use the mouse, so that the user can select and copy text in the terminal
        code = self.run(mouse=False)
        if self.fault is not None:
            raise self.fault
        return code if code is not None else self.return_code or 0

    @property
    def _list(self) -> RowList:
        return self.query_one(RowList)

    def _word(self, key: str, **values: object) -> str:
        return word(key, self._language, **values)

    # --- the agent

    async def _follow(self) -> None:
        """Follow the agent while the screen is open. Continues after restarts of the agent."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            try:
                loop.add_signal_handler(number, self.exit, 128 + number)
            except (ValueError, RuntimeError):  # this is not the main thread, for example in tests
                break
        try:
            while True:
                try:
                    await self._read()
                except GatewayError as error:
                    self._lose(error)
                self._paint()
                await asyncio.sleep(self._every_s)
        finally:
            if self.view is not None:
                self.view.close()

    async def _read(self) -> None:
        """Read all new records of the ring in slices, and the snapshot if it is due. Raises GatewayError."""
        if self.view is None or not self._is_here:
            fresh = LiveView(self._folder, *self._wanted, keeps_history=True, snapshot_every_s=2 * self._every_s)
            if self.view is not None:
                self.view.close()
            self.view, self._is_here, self._reads = fresh, True, -1
        now = time.monotonic()
        until, paint_at = now + SLICE_S, now + 2 * SLICE_S
        for count, _ in enumerate(self.view.news()):
            if count % 64 == 0 and (now := time.monotonic()) > until:
                if now > paint_at:
                    self._is_catching_up, paint_at = True, now + EVERY_S
                    self._paint()
                await asyncio.sleep(REST_S)
                until = time.monotonic() + SLICE_S
        self._is_catching_up = False
        if self.view.reads != self._reads:
            self._reads = self.view.reads
            snapshot = self.view.snapshot
            self._trends.add(snapshot)
            before, self._config = self._config, snapshot.get("config")
            if before not in (None, self._config):  # after a reload, the agent itself reports errors of the files
                self._on_disk = ()
                if self._read_labels is not None:
                    with contextlib.suppress(GatewayError):
                        self._pages.name_devices(self._read_labels())
            free, alive = shutil.disk_usage(self._folder).free, is_alive(snapshot.get("pid"))
            self._findings = find(snapshot, time.time(), alive, self._on_disk, free)
        if self._shown == "frames":
            self._read_frames(self.view)

    def _read_frames(self, view: LiveView) -> None:
        try:
            path = frames_path(self._folder, self._line, view.snapshot)
            pieces = read_frames(path, self._line, self._joiner)
            self._frames += [frame_text(frame, self._zone) for frame in self._joiner.join(pieces, time.time_ns())]
        except GatewayError as error:
            self._frames.clear()
            self._frames.append(clean_text(say_at(error.where, error.what), 200))

    def _lose(self, error: GatewayError) -> None:
        """Record that the agent has ended, or that its files cannot be read.

        The last values stay and are marked as old.
        """
        if isinstance(error, NoAgent):
            self._trouble = self._word("ended" if self.view else "no agent", folder=clean_text(str(self._folder), 200))
        else:
            self._trouble = clean_text(say_at(error.where, error.what), 300)
        self._is_here = self._is_catching_up = False

    def _handle_exception(self, error: Exception) -> None:
        """Close the screen after an internal error.

        ``run_in_terminal`` then raises the error without Textual's traceback.
        """
        self.fault = self.fault or (error.error if isinstance(error, WorkerFailed) else error)
        self.exit(1)

    # --- drawing

    def _paint(self) -> None:
        """Update the screen."""
        if not self.is_running or not self.screen.is_mounted:
            return
        self._put("head", self._head())
        self._put("pages", self._tabs())
        if self.view is None:
            self._list.show("none", Page((), 0, lambda at: ()), "")
        else:
            page = self._page(self.view)
            is_filtered = bool(self._pages.search or self._pages.trouble_only)
            empty = self._word("no match" if is_filtered else "no frames" if self._shown == "frames" else "nothing")
            kind = f"{self._shown} {self._device} {self._line}"
            self._list.show(kind, page, empty, is_tail=self._shown == "frames")
        self._paint_bottom()

    def _put(self, name: str, text: Text) -> None:
        """Set the text of the widget ``name`` if the text has changed."""
        if self._texts.get(name) != text:
            self._texts[name] = text
            self.query_one(f"#{name}", Static).update(text, layout=False)

    def _page(self, view: LiveView) -> Page:
        pages, now = self._pages, time.time()
        pages.outdated = self._is_outdated(view, now)
        if self._shown == "devices":
            return pages.devices(view, now)
        if self._shown == "values":
            return pages.values(view, time.time_ns(), self._device)
        if self._shown == "lines":
            return pages.lines(view, self._trends)
        if self._shown == "destinations":
            return pages.destinations(view, self._trends)
        if self._shown == "findings":
            return pages.findings(view, self._findings, now, self._list.size.width)
        return pages.frames(self._frames)

    def _is_outdated(self, view: LiveView, now: float) -> bool:
        gone = not self._is_here or any(one.code == "agent-gone" for one in self._findings)
        return gone or now - float(view.snapshot.get("time", 0)) > STALE_S

    def _head(self) -> Text:
        head = Text(no_wrap=True, overflow="ellipsis")
        view = self.view
        if view is not None:
            snapshot, devices = view.snapshot, view.snapshot.get("devices", {}).values()
            head.append(clean_text(f"{snapshot.get('site', '?')}/{snapshot.get('gateway', '?')}", 60), "bold")
            head.append("  ")
        if not self._is_here:
            return head.append(self._trouble, "bold red")
        assert view is not None
        if any(one.code == "agent-gone" for one in self._findings):  # the agent was killed, so its files still exist
            return head.append(self._word("ended"), "bold red")
        if self._is_catching_up:
            return head.append(self._word("reading"))
        age = time.time() - float(snapshot.get("time", 0))
        is_stale = age > STALE_S
        if not is_stale:
            states = [device.get("life") for device in devices]
            head.append(self._word("answering", alive=states.count("alive"), count=len(states)))
            if asleep := states.count("asleep"):
                head.append(self._word("dozing", count=asleep))
            head.append("  ")
        faults = sum(one.exit_code > 0 for one in self._findings)
        shown = self._word("faults", count=faults) if faults else self._word("no faults")
        head.append(shown, "bold red" if faults else "green")
        words = self._word("stale" if is_stale else "heard", age=show_age(age, self._language))
        return head.append("  ").append(words, "bold red" if is_stale else "dim")

    def _tabs(self) -> Text:
        tabs = Text(no_wrap=True, overflow="ellipsis")
        for n, name in enumerate(PAGES, 1):
            is_shown = name == self._shown or (name == "lines" and self._shown == "frames")
            title = self._word(name)
            if is_shown and self._shown == "frames":
                title += f" › {clean_text(self._line, 30)} ({self._timezone})"
            elif is_shown and name == "values" and self._device:
                title += f" › {clean_text(self._device, 30)}"
            tabs.append(f" {n} {title} ", Style.parse("reverse bold") if is_shown else Style.parse("dim"))
            tabs.append(" ")
        return tabs

    def _paint_bottom(self) -> None:
        rows = self._list
        detail = rows.page.detail(rows.cursor) if rows.page.count and self.view is not None else ""
        if self._shown == "frames" and cell_len(detail) <= rows.size.width:
            detail = ""  # no detail is needed, because the row itself shows the whole text
        self._put("detail", Text(detail, "dim", no_wrap=True, overflow="ellipsis"))
        line = Text(no_wrap=True, overflow="ellipsis")
        if self.view is not None:
            at = rows.cursor + 1 if rows.page.count else 0
            line.append(f"{at}/{rows.page.count}", "bold")
            line.append("  ")
        if self._pages.search:
            line.append(self._word("searched", text=" ".join(self._pages.search)), "bold yellow").append("  ")
        if self._pages.trouble_only:
            line.append(self._word("only trouble"), "bold yellow").append("  ")
        trouble = self._word("t all" if self._pages.trouble_only else "t trouble")
        line.append(f"{self._word('keys')}  {trouble}", "dim")
        self._put("keys", line)

    def on_row_list_moved(self) -> None:
        """Show the detail of the row to which the cursor has moved."""
        self._paint_bottom()

    def on_resize(self) -> None:
        """Wrap the texts of findings again for the new width."""
        self.call_after_refresh(self._paint)

    # --- keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return False for actions of letter and digit keys while a search is typed. These keys are text then."""
        is_typing = isinstance(self.focused, Input)
        return not (is_typing and (action in LETTER_KEYS or (action, parameters) == ("leave", (0,))))

    def action_page(self, name: str) -> None:
        """Show a page. If the page of values is shown already, show all devices in it."""
        if name == "values" and self._shown == "values":
            self._device = ""
        self._show(name)

    def action_next_page(self, step: int) -> None:
        """Show the next page (``step`` 1) or the previous one (-1)."""
        at = PAGES.index("lines" if self._shown == "frames" else self._shown)
        self._show(PAGES[(at + step) % len(PAGES)])

    def _show(self, name: str) -> None:
        self._shown = name
        self._search_for(self._searches.get(name, ""))
        self._close_keys()
        self._paint()

    def on_row_list_opened(self, message: RowList.Opened) -> None:
        """Handle the key Enter: on a device, show its values; on a line, show its frames."""
        if self.view is None:
            return
        if self._shown in ("devices", "values"):
            self._device = message.name
            self._searches.pop("values", None)
            self._show("values")
        elif self._shown == "lines":
            self._line, self._joiner = message.name, FrameJoiner()
            self._frames.clear()
            self._read_frames(self.view)
            self._show("frames")

    def action_step_back(self) -> None:
        """Go one step back: close the list of keys, the search, the filter, or the page of one line or device."""
        if self.query_one("#help").display:
            self._close_keys()
        elif self.query_one("#search").display or self._pages.search:
            self._search_for("")
        elif self._pages.trouble_only:
            self._pages.trouble_only = False
        elif self._shown == "frames":
            self._show("lines")
        elif self._shown == "values" and self._device:
            self._device = ""
            self._show("devices")
        self._paint()

    def action_trouble(self) -> None:
        """Switch between rows with trouble and all rows."""
        self._pages.trouble_only = not self._pages.trouble_only
        self._paint()

    def action_search(self) -> None:
        """Open the input line of the search."""
        if self._shown == "frames":
            return
        box = self.query_one("#search", Input)
        box.display, self.query_one("#keys").display = True, False
        self.screen.set_focus(box)  # the focus must change at once, because the next letter may have been typed already

    def _search_for(self, text: str) -> None:
        box = self.query_one("#search", Input)
        if box.value != text:
            box.value = text
        self._searches[self._shown] = text
        self._pages.search = tuple(text.casefold().split())
        self._close_search()

    def _close_search(self) -> None:
        self.query_one("#search").display, self.query_one("#keys").display = False, True
        self.screen.set_focus(self._list)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter the list after each letter of a search."""
        self._searches[self._shown] = message.value
        self._pages.search = tuple(message.value.casefold().split())
        self._paint()

    def on_input_submitted(self) -> None:
        """Keep the search and close its input line, so that keys work again."""
        self._close_search()
        self._paint()

    def action_keys(self) -> None:
        """Show or hide the list of keys."""
        page = self.query_one("#help", Static)
        if page.display:
            self._close_keys()
            return
        at = 1 + LANGUAGES.index(self._language)
        page.update(Text("\n".join(f"{row[0]:<18}{row[at]}" for row in KEYS)))
        page.display, self._list.display = True, False

    def _close_keys(self) -> None:
        self.query_one("#help").display, self._list.display = False, True
        self.screen.set_focus(self._list)

    def action_leave(self, code: int) -> None:
        """End the screen."""
        self.exit(code)
