"""The descriptor of a protocol: everything the rest of the code needs to know about it, in one place.

Each protocol's folder has a ``PROTOCOL``, listed in ``drivers/registry.py``. A descriptor is light: an expensive
import is given as ``"package.module:name"`` and is imported when it is first used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from typing import Protocol as Interface

from drivers.model import BYTE_SCHEMES, DeviceSpec, PlanSummary, PollResult, Reading, clean_text

if TYPE_CHECKING:
    from drivers.explain import Explainer
    from drivers.framing import FrameScanner
    from drivers.line import Line, Request
    from drivers.line.owner import Link
    from drivers.scan.device_search import DeviceSearch
    from drivers.sim.simulation import Simulate
    from drivers.sim.slots import ParkSlot
    from ext.ring import Ring


class Driver(Interface):
    """What a driver can do; ours derive from ``drivers.base.Device``, which implements most of it.

    It may also have ``probe_within(timeout_s)``: ``probe`` without retries, within this time. Without it a
    silent device costs its line a whole timeout at every new attempt.
    """

    protocol: ClassVar[str]
    spec: DeviceSpec
    table: int

    def __init__(self, spec: DeviceSpec, line: Line, ring: Ring, table: int) -> None:
        """Raises ConfigError or ProfileError; touches no device."""

    def use_ring(self, ring: Ring, table: int) -> None:
        """Write into another ring from now on, under this table. Not while a poll is under way."""

    async def poll(self, tick_ms: int, paces: int) -> PollResult:
        """Read the due points; readings and gaps go into the ring."""

    async def probe(self) -> None:
        """One cheap request. Raises LineError if the device is silent."""

    async def read_points(self, names: Sequence[str]) -> dict[str, Reading]:
        """Values for a person. Raises LineError if the device is silent."""

    def read_sample(self, words: Mapping[int, Mapping[int, int]], frames: Mapping[str, str]) -> dict[str, Reading]:
        """The readings in recorded answers; sends nothing. See ``drivers.samples.read_sample``."""

    def plan_summary(self, paces: int) -> PlanSummary:
        """The cost of one visit."""


DRIVER_METHODS = ("poll", "probe", "read_points", "read_sample", "plan_summary", "use_ring")


@dataclass(frozen=True, slots=True)
class InvalidAddress:
    """Why a device cannot be read. ``key`` is the setting to change: its address, or its line."""

    key: str
    what: str
    hint: str


def invalid_address(address: str, name: str, hint: str) -> InvalidAddress:
    """``name`` with its article: "a Snail"."""
    return InvalidAddress("address", f'"{clean_text(address, 40)}" is not {name} address', hint)


@dataclass(frozen=True, slots=True)
class SearchOption:
    """An option of `scan` that only one protocol has, as ``--NAME``. The value is a choice, "" if it is not given."""

    name: str
    choices: tuple[str, ...]
    help: str


@dataclass(frozen=True, slots=True)
class LineScheme:
    """The url scheme of lines with their own framing; the device behind such a line passes on no other bytes.

    Args:
        name: of the scheme.
        title: of the frames, in sentences.
        port: TCP port if the url has none.
        link: the class of its ``drivers.line.owner.Link``.
        recognizes: whether bytes received on a line of bytes are one of its frames.
        hint: for a line of bytes that should have this scheme.
        other_hint: for a line of this scheme that should carry bytes.
        aliases: wrong names that people use for it.
    """

    name: str
    title: str
    port: int
    link: str
    recognizes: Callable[[bytes], bool]
    hint: str
    other_hint: str
    aliases: tuple[str, ...] = ()

    def link_class(self) -> Callable[..., Link]:
        """Creates a link over a port."""
        return cast("Callable[..., Link]", _imported(self.link))


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol. Fields with a default may be left out; the text of each says what is then not possible.

    Args:
        name: in profiles, births and `--protocol`, such as "snail".
        title: in sentences, such as "Snail".
        device: the driver's class, see ``Driver``.
        frames: every kind of frame that driver and scan may send -> what it does. All of them only read.
        check_address: address and the scheme of the line ("" where no line is known) -> what is wrong, or None.
        serial_settings: the usual ones, likeliest first, such as "2400 8E1".
        schemes: of the urls of lines that it can use.
        line_schemes: schemes defined by this protocol.
        maps_registers: points of its profiles have function, address and type; else a protocol-specific ``key``.
        has_registers: devices hold registers: they can be dumped, and samples of profiles are registers.
        register_request: (unit, function, address, count, where) -> a ``drivers.line.Request`` that reads registers.
        any_address: addresses the only device on a line, whichever it is; samples that are frames are read with it.
        resolution: of counters without a scale in the profile, in the point's unit.
        one_answer: all points come in one answer, so reading only some saves nothing.
        tells_its_model: any answer proves that the profile is right, whatever the manufacturer.
        parser: its ``FrameScanner``, if it has its own frames on lines of bytes.
        request_parser: the ``FrameScanner`` of requests, if they look different; for simulators.
        search: its ``DeviceSearch``; without one, `scan` does not find its devices, `identify` and `adopt` do.
        wire: the protocol on the wire if it is a different one, whose search finds the devices.
        searched_by_default: `scan` looks for it on lines of bytes unless told otherwise.
        search_options: options of `scan` that only it has.
        explainers: a tuple of ``Explainer``: what `decode` shows.
        example_address: of a simulated device if none is given.
        simulate: a ``Simulate`` function: a device of a profile for `simulate`.
        demo: a ``drivers.sim.slots.ParkSlot``: its device on the line "meters" of the demo park.
        libraries: packages it uses; a report contains their versions.
        profiles: a folder VENDOR/FAMILY.toml of profiles that come with it; ours lie in firmware_profiles.
        chinese: the file with the Chinese of its texts, as agent/cli/chinese describes it.
    """

    name: str
    title: str
    device: str
    frames: Mapping[str, str]
    check_address: Callable[[str, str], InvalidAddress | None]
    serial_settings: tuple[str, ...] = ("9600 8N1",)
    schemes: tuple[str, ...] = BYTE_SCHEMES
    line_schemes: tuple[LineScheme, ...] = ()
    maps_registers: bool = False
    has_registers: bool = False
    register_request: str = ""
    any_address: str = ""
    resolution: Decimal | None = None
    one_answer: bool = False
    tells_its_model: bool = False
    parser: str = ""
    request_parser: str = ""
    search: str = ""
    wire: str = ""
    searched_by_default: bool = False
    search_options: tuple[SearchOption, ...] = field(default=())
    explainers: str = ""
    example_address: str = "1"
    simulate: str = ""
    demo: str = ""
    libraries: tuple[str, ...] = ()
    profiles: Path | None = None
    chinese: Path | None = None

    @property
    def wire_name(self) -> str:
        """The protocol on the wire, by which its devices are found: mostly its own."""
        return self.wire or self.name

    def driver(self) -> type[Driver]:
        """The class of its driver. Raises ImportError or AttributeError."""
        return cast("type[Driver]", _imported(self.device))

    def new_parser(self) -> FrameScanner[Any] | None:
        """A parser of its frames; None if it has no frames of its own."""
        return cast("FrameScanner[Any]", _imported(self.parser)()) if self.parser else None

    def new_request_parser(self) -> FrameScanner[Any] | None:
        """A parser of what its devices are sent."""
        return cast("FrameScanner[Any]", _imported(self.request_parser)()) if self.request_parser else self.new_parser()

    def make_register_request(self) -> Callable[[int, int, int, int, str], Request]:
        """Makes requests for registers, of a protocol that has them."""
        return cast("Callable[[int, int, int, int, str], Request]", _imported(self.register_request))

    def search_class(self) -> type[DeviceSearch] | None:
        """How its devices are found on a line; None if they cannot be searched for."""
        return cast("type[DeviceSearch]", _imported(self.search)) if self.search else None

    def all_explainers(self) -> tuple[Explainer, ...]:
        """The explainers of `decode` for this protocol."""
        return cast("tuple[Explainer, ...]", _imported(self.explainers)) if self.explainers else ()

    def simulation(self) -> Simulate | None:
        """Makes a simulated device of a profile; None where there is none."""
        return cast("Simulate", _imported(self.simulate)) if self.simulate else None

    def demo_slot(self) -> ParkSlot | None:
        """Its device in the demo park."""
        return cast("ParkSlot", _imported(self.demo)) if self.demo else None


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def plate_digits(most: int, name: str, hint: str) -> Callable[[str, str], InvalidAddress | None]:
    """The address rule of meters addressed by the digits on their nameplate; A stands for any digit."""

    def check(address: str, scheme: str) -> InvalidAddress | None:
        return None if re.fullmatch(f"[0-9Aa]{{1,{most}}}", address) else invalid_address(address, name, hint)

    return check
