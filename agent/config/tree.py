"""The configuration as frozen objects. Everything in it is checked; it holds no secrets, only their locations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from agent.settings import Secret, UplinkConfig
from drivers.encoding import base64url, exact_text
from drivers.model import BYTE_SCHEMES, DEFAULT_PERIODS_MS, PACES, ConfigError, GatewayError, Limits
from drivers.night import Night
from drivers.serial_setting import DEFAULT_SERIAL


def gathered(errors: Sequence[GatewayError], where: str) -> ConfigError:
    """One error that contains all of these; a single one unchanged."""
    found = [
        one if isinstance(one, ConfigError) else ConfigError(one.what, where=one.where, hint=one.hint)
        for error in errors
        for one in getattr(error, "complaints", (error,))
    ]
    if len(found) == 1:
        return found[0]
    return ConfigError(f"{len(found)} errors", where=where, complaints=tuple(found))


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """Something that works but deserves attention."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """The limits of the store: sizes, and how long data is kept."""

    max_size_bytes: int = 8 << 30
    keep_delivered_s: int = 30 * 86400
    keep_intervals_s: int = 400 * 86400


@dataclass(frozen=True, slots=True)
class PackConfig:
    """How often packs are sealed, and their maximum size."""

    every_ms: int = 10_000
    max_size_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class RingConfig:
    """The ring in shared memory; ``agent/config/ring_size.py`` has the rule for its size."""

    size_bytes: int | None = None  # None: auto
    max_bytes: int = 256 << 20  # for a computed size; a configured one may be larger


@dataclass(frozen=True, slots=True)
class IntervalConfig:
    """Intervals of energy; the length divides a day. A demand window is a whole number of slips."""

    length_ms: int = 900_000
    max_gap_ms: int = 300_000  # between readings; the amount over a longer gap is known only as a total
    demand_period_ms: int = 900_000
    demand_slip_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class IndicatorsConfig:
    """The park's plan; None: the default set. ``plan_hash``: SHA-256 of the file, hex; "" without a file."""

    plan: Path | None = None
    plan_hash: str = ""


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Who may make changes through the control socket, besides root and the agent's user."""

    group: str = "meterhouse-control"


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Where `meterhouse web` listens, and its secrets; not used by the agent itself.

    ``password``: a line made by `meterhouse web --setup`, not the password itself.
    """

    host: str = "127.0.0.1"  # an address
    port: int = 8080
    certificate: Secret | None = None
    key: Secret | None = None
    password: Secret | None = None
    places: Mapping[str, str] = field(default_factory=dict, compare=False)  # of the secrets, such as agent.toml:9: ...

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        return ip_address(self.host).is_loopback

    @property
    def address(self) -> str:
        """``127.0.0.1:8080``, ``[::]:8443``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LineEntry:
    """One line as configured; ``line_config`` makes the driver's object of it."""

    name: str
    url: str
    serial: str = DEFAULT_SERIAL
    bus_baud: int | None = None
    limits: Limits = field(default_factory=Limits)
    echo: bool = False
    rs485: bool = False
    phase_ms: int = 0
    label: str = ""

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @property
    def carries_bytes(self) -> bool:
        """True for raw bytes without framing: the configuration then sets the serial parameters."""
        return self.scheme in BYTE_SCHEMES


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device as configured; ``device_spec`` combines it with its profile."""

    name: str
    line: str
    address: str
    profile: str
    label: str = ""
    params: Mapping[str, int | str | bool] = field(default_factory=dict)
    periods_ms: tuple[int, ...] = tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES)  # by pace number
    phase_ms: int = 0  # the line's if the device has none
    points: tuple[str, ...] = ("*",)
    roles: Mapping[str, str] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    ratio_ct: Decimal = Decimal(1)
    ratio_pt: Decimal = Decimal(1)
    reversed: frozenset[str] = frozenset()
    serial: str = ""  # empty: as for the line
    limits: Limits = field(default_factory=Limits)
    accuracy: Mapping[str, str] = field(default_factory=dict)  # classes by part; "" is the whole device


@dataclass(frozen=True, slots=True)
class DerivedConfig:
    """A value computed from points per interval: a sum of counters, or heat from flow and temperatures.

    ``terms`` of a sum: (sign, device, point); a heat has ``device`` and three of its points.
    """

    name: str
    terms: tuple[tuple[int, str, str], ...] = ()
    device: str = ""
    flow: str = ""
    supply: str = ""
    back: str = ""
    role: str = ""  # for a heat: with a role it counts in figures


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``files``: in the order of reading; ``notes`` are not errors."""

    site: str
    gateway: str
    timezone: str
    key: Secret
    state_dir: Path
    runtime_dir: Path
    profiles_dir: Path  # the site's own profiles
    files: tuple[Path, ...]
    site_label: str = ""
    place: Night | None = None  # where the site is: inverters there may sleep while it is dark
    store: StoreConfig = StoreConfig()
    pack: PackConfig = PackConfig()
    ring: RingConfig = RingConfig()
    interval: IntervalConfig = IntervalConfig()
    indicators: IndicatorsConfig = IndicatorsConfig()
    control: ControlConfig = ControlConfig()
    web: WebConfig = WebConfig()
    uplinks: tuple[UplinkConfig, ...] = ()
    lines: tuple[LineEntry, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    derived: tuple[DerivedConfig, ...] = ()
    roleless: tuple[str, ...] = ()  # devices that measure energy or amounts but count in no figure
    notes: tuple[ConfigWarning, ...] = ()
    places: Mapping[str, tuple[str, int | None]] = field(default_factory=dict, compare=False)  # see ``at``
    digest: str = field(
        default="", compare=False
    )  # set for a loaded configuration, so that 400 births need not compute it again
    line_index: dict[str, LineEntry] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def base(self) -> str:
        """``park7/gw01``: the prefix of every stream name."""
        return f"{self.site}/{self.gateway}"

    def at(self, key: str) -> str:
        """A key or table such as ``device.inv1`` in the form used in complaints, with its file and line."""
        file, line = self.places.get(key, ("", None))
        place = f"{file}:{line}" if line else file
        return f"{place}: {key}" if place else key

    @property
    def path(self) -> Path:
        """The main file."""
        return self.files[0]

    @property
    def store_path(self) -> Path:
        """The database."""
        return self.state_dir / "store.db"

    @property
    def snapshot_path(self) -> Path:
        """The status of the running agent, replaced atomically."""
        return self.runtime_dir / "snapshot.json"

    @property
    def wants_figures(self) -> bool:
        """True if the park has a plan or any part with a role."""
        return self.indicators.plan is not None or any(device.roles for device in self.devices)

    def line(self, name: str) -> LineEntry:
        """The line of that name. Raises KeyError."""
        if len(self.line_index) != len(self.lines):
            self.line_index.update({line.name: line for line in self.lines})
        return self.line_index[name]

    def effective(self) -> dict[str, Any]:
        """Everything that affects readings and delivery, as plain JSON values, without secrets or their locations."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def hash(self) -> str:
        """SHA-256 of ``effective`` in canonical JSON, base64url without padding.

        It contains only strings, whole numbers, booleans and null, with ASCII keys, so that sorted keys and compact
        separators give the canonical form of RFC 8785.
        """
        if self.digest:
            return self.digest
        text = json.dumps(self.effective(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        return base64url(digest)


# Folders, file names, the page and access to the control socket do not affect readings; a moved key is the same key.
_LEFT_OUT = {
    "control",
    "web",
    "key",
    "password",
    "state_dir",
    "runtime_dir",
    "profiles_dir",
    "files",
    "plan",
    "roleless",
    "notes",
    "places",
    "digest",
    "line_index",
    "key_file",
    "cert_file",
}


# Keys added later: without them a configuration keeps its hash.
_ADDED = {"streams": (), "compress": ""}


def _plain(value: Any) -> Any:
    out = value
    if is_dataclass(value):
        given = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in _LEFT_OUT}
        out = {name: _plain(item) for name, item in given.items() if name not in _ADDED or item != _ADDED[name]}
    elif isinstance(value, Mapping):
        out = {str(key): _plain(item) for key, item in value.items()}
    elif isinstance(value, frozenset):
        out = sorted(value)
    elif isinstance(value, tuple):
        out = [_plain(item) for item in value]
    elif isinstance(value, float):
        out = exact_text(Decimal(repr(value)))
    elif isinstance(value, (Decimal, Path)):
        out = str(value)
    return out
