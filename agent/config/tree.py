"""The configuration as frozen objects. Everything in it was checked; nothing in it is a secret, only where one lies."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.model import DEFAULT_PERIODS_MS, PACES, ConfigError, GatewayError, Limits
from drivers.night import Night

# What each part of a device can be in the park's balance. A site's own roles start with "x.".
ROLES: Mapping[str, str] = {
    "generation.pv": "photovoltaic generation",
    "generation.wind": "wind generation",
    "generation.hydro": "hydro generation",
    "generation.chp": "combined heat and power",
    "generation": "other generation",
    "grid": "exchange with the public grid",
    "direct": "direct line from a green producer",
    "storage": "battery or other electric storage",
    "load": "consumption",
    "load.charging": "vehicle charging",
    "transformer": "a meter inside the tree: a transformer, a feeder, a board",
    "check": "a second meter that measures what its parent measures",
    "heat.available": "residual heat that could be used",
    "heat.recovered": "residual heat that is used",
    "heat.supplied": "heat bought",
    "heat.sold": "heat sold",
    "heat.load": "heat consumption",
    "cold.available": "residual cold that could be used",
    "cold.recovered": "residual cold that is used",
    "cold.load": "cold consumption",
    "pressure.available": "residual pressure that could be used",
    "pressure.recovered": "residual pressure that is used",
    "water.fresh": "fresh water",
    "water.reused": "reused water",
    "water.waste": "waste water",
    "gas": "fuel gas",
    "steam": "steam",
    "weather": "irradiance, temperature, wind",
}


class Complaint(ConfigError):
    """One wrong place in the configuration: file, line (None where the file has no such place), key path."""

    def __init__(self, what: str, *, file: str, line: int | None, key: str, hint: str = "") -> None:
        place = file if line is None else f"{file}:{line}"
        super().__init__(what, where=f"{place}: {key}" if key else place, hint=hint)
        self.file, self.line, self.key = file, line, key


def gathered(errors: Sequence[GatewayError], where: str) -> ConfigError:
    """One error for all that is wrong, to be raised; the only one itself, where there is one."""
    found = [
        one if isinstance(one, ConfigError) else ConfigError(one.what, where=one.where, hint=one.hint)
        for error in errors
        for one in getattr(error, "complaints", (error,))
    ]
    if len(found) == 1:
        return found[0]
    return ConfigError(f"{len(found)} things are wrong", where=where, complaints=tuple(found))


@dataclass(frozen=True, slots=True)
class Note:
    """Something that works and should still be looked at."""

    where: str
    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f". {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret lies: a systemd credential by name, or a file."""

    credential: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return f"credential {self.credential}" if self.credential else f"file {self.file}"

    def path(self, environ: Mapping[str, str]) -> Path:
        """The file to read. Raises ConfigError where systemd gave no credential of this name."""
        if self.file is not None:
            return self.file
        folder = environ.get("CREDENTIALS_DIRECTORY", "")
        if folder and (Path(folder) / self.credential).is_file():
            return Path(folder) / self.credential
        hint = f"Add LoadCredential={self.credential}:/etc/meterhouse/{self.credential} to the unit, or name a file"
        raise ConfigError("systemd gave no such credential", where=f"credential {self.credential}", hint=hint)

    def read(self, environ: Mapping[str, str]) -> bytes:
        """The secret itself, at most 64 KiB. Raises ConfigError naming the file, never its content."""
        path = self.path(environ)
        try:
            with path.open("rb") as stream:
                return stream.read(65536)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """What is kept on disk, and for how long."""

    max_size_bytes: int = 8 << 30
    keep_delivered_s: int = 30 * 86400
    keep_intervals_s: int = 400 * 86400


@dataclass(frozen=True, slots=True)
class PackConfig:
    """How often packs are sealed, and how large one may be."""

    every_ms: int = 10_000
    max_size_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class RingConfig:
    """The ring in shared memory."""

    size_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class IntervalConfig:
    """Stretches of energy; the length divides a day. A demand window is a whole number of slips."""

    length_ms: int = 900_000
    max_gap_ms: int = 300_000  # between readings; what lies further apart is known in total only
    demand_period_ms: int = 900_000
    demand_slip_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class IndicatorsConfig:
    """The park's plan: None is the plain set. ``plan_hash`` is the SHA-256 of the file, hex; "" without one."""

    plan: Path | None = None
    plan_hash: str = ""


@dataclass(frozen=True, slots=True)
class ControlConfig:
    """Who may change something through the control socket, beside root and the agent's own user."""

    group: str = "meterhouse-control"


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """One destination. ``confirm`` empty: subscriber where the broker speaks MQTT 5, else broker."""

    name: str
    url: str  # with its port
    host: str
    port: int
    tls: bool
    username: str = ""
    password: Secret | None = None
    ca_file: Path | None = None  # None with tls: the system's authorities
    cert_file: Path | None = None
    key_file: Path | None = None
    client_id: str = ""  # empty: made of site and gateway
    confirm: str = ""
    keepalive_s: int = 30
    backfill_rate: int = 0  # packs a second of backlog, at most; 0: 200, or 25 times what comes fresh
    in_flight: int = 20  # packs sent and not acknowledged, at most


@dataclass(frozen=True, slots=True)
class LineEntry:
    """One line as configured; ``line_config`` makes the driver's own object of it."""

    name: str
    url: str
    serial: str = "9600 8N1"
    bus_baud: int | None = None
    limits: Limits = field(default_factory=Limits)
    echo: bool = False
    rs485: bool = False
    phase_ms: int = 0
    label: str = ""

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    """One device as configured; ``device_spec`` joins it with its profile."""

    name: str
    line: str
    address: str
    profile: str
    label: str = ""
    params: Mapping[str, int | str | bool] = field(default_factory=dict)
    periods_ms: tuple[int, ...] = tuple(DEFAULT_PERIODS_MS[pace] for pace in PACES)  # by pace number
    phase_ms: int = 0  # the line's where the device says none
    points: tuple[str, ...] = ("*",)
    roles: Mapping[str, str] = field(default_factory=dict)
    parent: Mapping[str, str] = field(default_factory=dict)
    ratio_ct: Decimal = Decimal(1)
    ratio_pt: Decimal = Decimal(1)
    reversed: frozenset[str] = frozenset()
    serial: str = ""  # empty: as the line
    limits: Limits = field(default_factory=Limits)
    accuracy: Mapping[str, str] = field(default_factory=dict)  # classes by part, "" is the whole device


@dataclass(frozen=True, slots=True)
class DerivedConfig:
    """A value that is computed from points, by interval: a sum of counters, or heat from flow and temperatures.

    ``terms`` of a sum: (sign, device, point); a heat has ``device`` and three of its points.
    """

    name: str
    terms: tuple[tuple[int, str, str], ...] = ()
    device: str = ""
    flow: str = ""
    supply: str = ""
    back: str = ""
    role: str = ""  # of a heat: then it counts in figures


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration. ``files`` were read, in this order; ``notes`` are no errors."""

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
    uplinks: tuple[UplinkConfig, ...] = ()
    lines: tuple[LineEntry, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    derived: tuple[DerivedConfig, ...] = ()
    notes: tuple[Note, ...] = ()
    places: Mapping[str, tuple[str, int | None]] = field(default_factory=dict, compare=False)  # see ``at``
    digest: str = field(
        default="", compare=False
    )  # of a loaded configuration, so that 400 births need not make it anew

    @property
    def base(self) -> str:
        """``park7/gw01``: the front of every stream name."""
        return f"{self.site}/{self.gateway}"

    def at(self, key: str) -> str:
        """A key or a table as a complaint names it, with the file and line where it stands: ``device.inv1``."""
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
        """What the running agent says of itself, replaced atomically."""
        return self.runtime_dir / "snapshot.json"

    def line(self, name: str) -> LineEntry:
        """The line of that name. Raises KeyError."""
        for line in self.lines:
            if line.name == name:
                return line
        raise KeyError(name)

    def effective(self) -> dict[str, Any]:
        """All that shapes readings and their delivery, as plain JSON values; no secret, nor where one lies."""
        plain: dict[str, Any] = _plain(self)
        return plain

    def hash(self) -> str:
        """SHA-256 of ``effective`` in canonical JSON, base64url without padding.

        Only strings, whole numbers, booleans and null are in it, with ASCII keys, so that sorted keys
        and tight separators are the canonical form of RFC 8785.
        """
        if self.digest:
            return self.digest
        text = json.dumps(self.effective(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


# Folders, file names and who may use the control socket change nothing about a reading; a moved key is the same key.
_LEFT_OUT = {
    "control",
    "key",
    "password",
    "state_dir",
    "runtime_dir",
    "profiles_dir",
    "files",
    "plan",
    "notes",
    "places",
    "digest",
    "key_file",
    "cert_file",
}


def _plain(value: Any) -> Any:
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
        out = format(Decimal(repr(value)).normalize(), "f")
    elif isinstance(value, (Decimal, Path)):
        out = str(value)
    return out
