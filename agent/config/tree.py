"""The configuration as frozen objects. All values are checked. Secrets are not in the objects, only their locations."""

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
from drivers.toml import KeyPath, TomlSource

Place = tuple[TomlSource, KeyPath]  # a key or table in a file


def gathered(errors: Sequence[GatewayError], where: str) -> ConfigError:
    """Combine errors into one ConfigError, whose ``complaints`` lists them. A single error is not wrapped."""
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
    """A warning about a setting that works but is perhaps a mistake."""

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

    size_bytes: int | None = None  # None: the size is computed from the devices (size = "auto")
    max_bytes: int = 256 << 20  # limit of a computed size; a configured size may be larger


@dataclass(frozen=True, slots=True)
class IntervalConfig:
    """The lengths of energy intervals and demand windows. A day is a multiple of the length of an interval.

    A new demand window starts every ``demand_slip_ms``, so windows can overlap.
    """

    length_ms: int = 900_000
    # if two readings are further apart, the growth between them is spread evenly, and its intervals get the flag SPREAD
    max_gap_ms: int = 300_000
    demand_period_ms: int = 900_000
    demand_slip_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class IndicatorsConfig:
    """The file of the park's plan. If ``plan`` is None, the default set of figures is used.

    ``plan_hash``: SHA-256 of the file in hex; "" without a file. ``plan_text``: the bytes of the file when the
    configuration was read. A running agent uses these, because the file may be edited before the next reload.
    """

    plan: Path | None = None
    plan_hash: str = ""
    plan_text: bytes = field(default=b"", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """The group whose members may make changes through the control socket. Root and the agent's user always may."""

    group: str = "meterhouse-control"


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The address where `meterhouse web` listens, and the locations of its secrets. The agent itself does not use them.

    The file at ``password`` does not hold the password itself, but a hash of it, made by `meterhouse web --setup`.
    """

    host: str = "127.0.0.1"  # an IP address
    port: int = 8080
    certificate: Secret | None = None
    key: Secret | None = None
    password: Secret | None = None
    places: Mapping[str, str] = field(
        default_factory=dict, compare=False
    )  # secret -> place of its key, such as agent.toml:9: ...

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can connect."""
        return ip_address(self.host).is_loopback

    @property
    def address(self) -> str:
        """Address and port, such as ``127.0.0.1:8080`` or ``[::]:8443``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LineEntry:
    """One ``[[line]]`` as configured. ``line_config`` converts it to the ``LineConfig`` that drivers use."""

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
        """True if the url leads to a serial bus as raw bytes. The configuration then sets the serial parameters."""
        return self.scheme in BYTE_SCHEMES


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device as configured. ``device_spec`` combines it with its profile."""

    name: str
    line: str
    address: str
    profile: str
    label: str = ""
    params: Mapping[str, int | str | bool] = field(default_factory=dict)
    # the period of each pace, in the order of ``PACES``
    periods_ms: tuple[int, ...] = tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES)
    phase_ms: int = 0  # if the device sets no phase, this is the phase of its line
    points: tuple[str, ...] = ("*",)
    roles: Mapping[str, str] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    ratio_ct: Decimal = Decimal(1)
    ratio_pt: Decimal = Decimal(1)
    reversed: frozenset[str] = frozenset()
    serial: str = ""  # empty: the device uses the setting of its line
    limits: Limits = field(default_factory=Limits)
    accuracy: Mapping[str, str] = field(
        default_factory=dict
    )  # part of the device -> accuracy class; the part "" is the whole device


@dataclass(frozen=True, slots=True)
class DerivedConfig:
    """A value that is computed from points for each interval.

    It is a sum of counters, or heat from flow and temperatures.

    A sum has ``terms`` of the form (sign, device, point). A heat has a ``device`` and the names of three of its points:
    ``flow``, ``supply`` and ``back``. The key of ``back`` in agent.toml is ``return``.
    """

    name: str
    terms: tuple[tuple[int, str, str], ...] = ()
    device: str = ""
    flow: str = ""
    supply: str = ""
    back: str = ""
    role: str = ""  # only a heat can have a role; a heat without a role is not included in figures


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``files`` has the files in the order of reading.

    ``notes`` has warnings, but no errors.
    """

    site: str
    gateway: str
    timezone: str
    key: Secret
    state_dir: Path
    runtime_dir: Path
    profiles_dir: Path  # the site's own profiles
    files: tuple[Path, ...]
    site_label: str = ""
    place: Night | None = None  # location of the site; inverters may sleep while it is dark there
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
    roleless: tuple[str, ...] = ()  # devices that measure energy or amounts, but that no figure includes
    notes: tuple[ConfigWarning, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict, compare=False)  # ``at`` uses this
    digest: str = field(
        default="", compare=False
    )  # the hash is set once by ``load_config``, because hundreds of births need it
    line_index: dict[str, LineEntry] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def base(self) -> str:
        """The prefix of every stream name, such as ``park7/gw01``."""
        return f"{self.site}/{self.gateway}"

    def at(self, key: str) -> str:
        """Return a key or table, such as ``device.inv1``, with its file and line, as complaints show it."""
        if key not in self.places:
            return key
        source, path = self.places[key]
        line = source.line(path)  # found only now, because this reads the whole file
        return f"{source.name}:{line}: {key}" if line else f"{source.name}: {key}"

    @property
    def path(self) -> Path:
        """The main configuration file, agent.toml."""
        return self.files[0]

    @property
    def store_path(self) -> Path:
        """The file of the database."""
        return self.state_dir / "store.db"

    @property
    def snapshot_path(self) -> Path:
        """The file with the agent's status. The running agent replaces this file atomically."""
        return self.runtime_dir / "snapshot.json"

    @property
    def wants_figures(self) -> bool:
        """True if figures are computed, because the park has a plan or a part with a role."""
        return self.indicators.plan is not None or any(device.roles for device in self.devices)

    def line(self, name: str) -> LineEntry:
        """Return the line with this name. Raises KeyError."""
        if len(self.line_index) != len(self.lines):
            self.line_index.update({line.name: line for line in self.lines})
        return self.line_index[name]

    def effective(self) -> dict[str, Any]:
        """Return all settings that affect readings and delivery, as JSON values, without the locations of secrets."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def hash(self) -> str:
        """Return the SHA-256 of ``effective`` in canonical JSON, as base64url without padding.

        ``effective`` has only strings, whole numbers, booleans and null, and its keys are ASCII. For such values, JSON
        with sorted keys and compact separators is the canonical form of RFC 8785.
        """
        if self.digest:
            return self.digest
        text = json.dumps(self.effective(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        return base64url(digest)


# Fields that the hash leaves out, because they do not affect readings: folders, file names, the page, and access to the
# control socket. The signing key may move to another file without a new hash, because it is still the same key.
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
    "plan_text",
    "roleless",
    "notes",
    "places",
    "digest",
    "line_index",
    "key_file",
    "cert_file",
}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):  # first, since most values are of these types
        return value
    out = value
    if is_dataclass(value):
        out = {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name not in _LEFT_OUT}
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
