"""Reads agent.toml and conf.d/*.toml into one ``Config``. Each error becomes a complaint; all are reported at once."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path

from agent.config import parsers as v
from agent.config.devices import read_devices
from agent.config.lines import place_of, read_lines
from agent.config.metering import check_tree, read_derived
from agent.config.profiles import ProfileSource, check_profiles, role_note, roleless, site_profiles
from agent.config.ring_size import MAX_RING_BYTES, MIN_RING_BYTES
from agent.config.tree import (
    Config,
    ConfigWarning,
    ControlConfig,
    IndicatorsConfig,
    IntervalConfig,
    PackConfig,
    Place,
    RingConfig,
    StoreConfig,
    WebConfig,
)
from agent.config.uplinks import open_secret, read_secret, read_uplinks
from agent.config.web import read_web
from agent.settings import Secret
from drivers.model import ConfigError
from drivers.night import Night
from drivers.toml import Complaints, Layer, TomlSource, TomlTable, parse_source, read_source
from drivers.toml import parsers as p

STATE_DIR = Path("/var/lib/meterhouse")
RUNTIME_DIR = Path("/run/meterhouse")
PROFILES_DIR = Path("/etc/meterhouse/profiles")
TABLES = (
    "site",
    "key",
    "store",
    "pack",
    "ring",
    "interval",
    "indicators",
    "control",
    "web",
    "paths",
    "uplink",
    "line",
    "device",
    "derived",
)
LISTS = frozenset({"uplink", "line", "device", "derived"})
DAY_MS = 86_400_000
MAX_PACK_BYTES = 8 << 20  # the largest pack that receivers accept (docs/pack-format.md)
# A demand window is at most this many times as long as its slip, which is the time between the starts of two windows.
MAX_SLIPS = 60
_GROUP = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,31}")


def load_config(
    path: Path | str,
    overrides: Mapping[str, object] | None = None,
    *,
    state_dir: Path | None = None,
    runtime_dir: Path | None = None,
    profiles: ProfileSource | None = None,
    environ: Mapping[str, str] | None = None,
    drafts: Mapping[Path, str] | None = None,
) -> Config:
    """Read and check the configuration.

    Args:
        path: agent.toml; ``conf.d/*.toml`` beside it are added in order of names.
        overrides: values from the command line, by key: ``{"paths.state_dir": "/tmp/x", "pack.every": "1 s"}``.
            They take precedence over the files. Their relative paths are relative to the working directory.
        state_dir, runtime_dir: values that replace ``paths.state_dir`` and ``paths.runtime_dir``.
        profiles: a function that returns the profile with an id, or raises ProfileError. By default, the site's and the
            shipped profiles are searched.
        environ: environment variables; by default those of the process. RUNTIME_DIRECTORY and STATE_DIRECTORY, which
            systemd sets, are the default folders.
        drafts: texts of files that are about to be written, by path. They are checked as if the files existed.

    Raises:
        ConfigError: its ``complaints`` has one entry for each error, in order of files and lines.
    """
    complaints = Complaints()
    layers = _read_files(Path(path), complaints, drafts or {})
    if complaints.items:  # the configuration is incomplete now, so later checks would report false errors
        raise _verdict(complaints, layers)
    folders = {"paths.state_dir": state_dir, "paths.runtime_dir": runtime_dir}
    given = {**(overrides or {}), **{key: path for key, path in folders.items() if path is not None}}
    over = _overrides(given, complaints)
    config = _build(layers, over, complaints, os.environ if environ is None else environ, profiles)
    if complaints.items:
        raise _verdict(complaints, layers)
    return replace(config, digest=config.hash())


@dataclass(frozen=True, slots=True)
class PageConfig:
    """The part of the configuration that the gateway's page needs."""

    web: WebConfig
    timezone: str
    runtime_dir: Path
    labels: Mapping[str, str] = field(default_factory=dict)  # device name -> label
    file: Path | None = None  # path of agent.toml
    notes: tuple[ConfigWarning, ...] = ()  # warnings about the page's secrets and certificate


def load_page_config(
    path: Path | str, *, runtime_dir: Path | None = None, environ: Mapping[str, str] | None = None
) -> PageConfig:
    """Read only what the page needs, so that the page starts although other tables have errors.

    It needs [web], the time zone, the runtime directory and the labels of devices.

    Raises:
        ConfigError: a file cannot be read or parsed, or [web] has errors.
    """
    complaints = Complaints()
    layers = _read_files(Path(path), complaints, {})
    notes: list[ConfigWarning] = []
    web = read_web(_single(layers, {}, "web", complaints), notes)
    if complaints.items:
        raise _verdict(complaints, layers)
    ignored = Complaints()  # errors that the page ignores; `meterhouse check` reports them
    over = _overrides({"paths.runtime_dir": runtime_dir} if runtime_dir is not None else {}, ignored)
    folders = _folders(_single(layers, over, "paths", ignored), os.environ if environ is None else environ)
    zone = _single(layers, {}, "site", ignored).take("timezone", v.timezone, "UTC")
    devices = _many(layers, "device", ignored)
    labels = {device.text("name"): device.take("label", p.label, "") for device in devices}
    named = {name: text for name, text in labels.items() if text}
    return PageConfig(web, zone, folders["runtime_dir"], named, Path(path), tuple(notes))


def load_labels(path: Path | str) -> Mapping[str, str]:
    """Read the labels of the devices from the current files. Returns labels by device name. Raises ConfigError."""
    return load_page_config(path, environ={}).labels


def _read_files(path: Path, complaints: Complaints, drafts: Mapping[Path, str]) -> list[Layer]:
    def read(file: Path, order: int, hint: str = "") -> Layer:
        if file in drafts:
            source = TomlSource(str(file), file.parent, "", order)
            return Layer(source, (), parse_source(source, drafts[file].encode(), complaints))
        source, raw = read_source(file, complaints, order, hint=hint)
        return Layer(source, (), raw)

    layers = [read(path, 0, "Give the path of the configuration file with -c FILE; `meterhouse init` makes a new file")]
    folder = path.parent / "conf.d"
    new = {file for file in drafts if file.parent == folder}
    try:
        more = sorted({x for x in folder.iterdir() if x.suffix == ".toml" and not x.name.startswith(".")} | new)
    except (FileNotFoundError, NotADirectoryError):
        more = sorted(new)
    except OSError as error:
        complaints.add(TomlSource(str(folder), folder, ""), (), "", f"cannot be read: {error.strerror or error}")
        more = []
    return layers + [read(file, order) for order, file in enumerate(more, 1)]


def _overrides(overrides: Mapping[str, object], complaints: Complaints) -> dict[str, Layer]:
    source = TomlSource("command line", Path.cwd(), None)
    tables: dict[str, Layer] = {}
    for dotted, value in overrides.items():
        table, _, key = dotted.partition(".")
        if table not in TABLES or table in LISTS or not key:
            complaints.add(
                source, (), dotted, "cannot be set on the command line", p.did_you_mean(table, set(TABLES) - LISTS)
            )
            continue
        layer = tables.setdefault(table, Layer(source, (), {}))
        layer.raw[key] = str(value) if isinstance(value, Path) else value
    return tables


def _verdict(complaints: Complaints, layers: list[Layer]) -> ConfigError:
    orders = {layer.source.name: layer.source.order for layer in layers}
    items = sorted(complaints.items, key=lambda c: (orders.get(c.file, -1), c.line or 0))
    if len(items) == 1:
        only = items[0]
        return ConfigError(only.what, where=only.where, hint=only.hint, complaints=(only,))
    where = layers[0].source.name
    return ConfigError(f"{len(items)} errors", where=where, complaints=tuple(items))


def _single(layers: list[Layer], over: dict[str, Layer], name: str, complaints: Complaints) -> TomlTable:
    """Return the table ``[name]``, merged from all files."""
    table = TomlTable(name, [], complaints, over.get(name))
    for layer in layers:
        raw = layer.raw.get(name)
        if isinstance(raw, dict):
            table.layers.append(Layer(layer.source, (name,), raw))
        elif raw is not None:
            what = (
                "is a list of tables, but only one table is allowed"
                if isinstance(raw, list)
                else f"{p.show(raw)} is not a table"
            )
            complaints.add(layer.source, (name,), name, what, f"Write the table once, with single brackets: [{name}]")
    return table


def _many(layers: list[Layer], name: str, complaints: Complaints) -> list[TomlTable]:
    """Return the ``[[name]]`` tables of all files, in the order of the files."""
    return [table for layer in layers for table in TomlTable("", [layer], complaints).tables(name)]


def _build(
    layers: list[Layer],
    over: dict[str, Layer],
    complaints: Complaints,
    environ: Mapping[str, str],
    profiles: ProfileSource | None,
) -> Config:
    top = TomlTable("", layers, complaints, known=set(TABLES))
    top.done({f"{name}s": f"Write [[{name}]], without an s at the end" for name in LISTS - {"derived"}})
    notes: list[ConfigWarning] = []

    def single(name: str) -> TomlTable:
        return _single(layers, over, name, complaints)

    site = single("site")
    if not site.layers and not site.over:
        complaints.add(
            layers[0].source, (), "", "the table [site] is missing", "Add [site] with the keys id, gateway and timezone"
        )
        names, place = ("", "", "UTC", ""), None
    else:
        site.layers = site.layers or [Layer(layers[0].source, (), {})]
        names = (
            site.need("id", v.site_name, "", 'Add this key, for example id = "park7"'),
            site.need("gateway", v.site_name, "", 'Add this key, for example gateway = "gw01"'),
            site.need(
                "timezone",
                v.timezone,
                "UTC",
                'Add this key, for example timezone = "Asia/Shanghai"; energy intervals follow local time',
            ),
            site.take("label", p.label, ""),
        )
        place = _place(site)
        if trap := v.zone_trap(names[2]):
            hint = f'For China, write "{v.SHANGHAI}"; keep the present name if this offset is intended'
            notes.append(ConfigWarning(place_of(site, "timezone"), trap, hint))
    site.done()

    paths = single("paths")
    folders = _folders(paths, environ)
    paths.done()
    state_dir, runtime_dir, profiles_dir = (folders[key] for key in ("state_dir", "runtime_dir", "profiles_dir"))

    agents = _found(state_dir)
    key = single("key")
    secret = read_secret(key, "credential", "file")
    if secret is not None and secret.file is not None:
        note = open_secret(key, "file", secret.file, "make a new signing key with `meterhouse keys rotate`", agents)
        notes += [] if note is None else [note]
    key.done()

    tables = {name: _many(layers, name, complaints) for name in ("line", "device", "uplink")}
    kept = {name: single(name) for name in ("ring", "interval")}
    lines = read_lines(tables["line"], notes)
    devices = read_devices(tables["device"], lines, notes)
    if profiles is None:
        profiles = site_profiles(profiles_dir)
    checked = check_profiles(devices, {name: line.entry for name, line in lines.items()}, profiles, notes, place)
    check_tree(devices, notes)
    derived = read_derived(_many(layers, "derived", complaints), checked, profiles, notes)
    config = Config(
        site=names[0],
        gateway=names[1],
        timezone=names[2],
        site_label=names[3],
        place=place,
        key=secret or Secret(file=state_dir / "signing.key"),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        profiles_dir=profiles_dir,
        files=tuple(Path(layer.source.name) for layer in layers),
        store=_store(single("store")),
        pack=_pack(single("pack"), notes),
        ring=_ring(kept["ring"]),
        interval=_interval(kept["interval"]),
        indicators=_indicators(single("indicators")),
        control=_control(single("control")),
        web=read_web(single("web"), notes),
        uplinks=read_uplinks(tables["uplink"], notes, agents, [device.name for device in checked]),
        lines=tuple(line.entry for line in lines.values()),
        devices=checked,
        derived=derived,
        roleless=() if complaints.items else roleless(checked, derived, profiles),
        places=_places(tables, {"site": site, "paths": paths, "key": key, **kept}),
    )
    if config.wants_figures and config.roleless:
        notes.append(role_note(config.roleless))
    return replace(config, notes=tuple(notes))


def _folders(paths: TomlTable, environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the folders of [paths], by key. A relative path in a file is relative to the folder of that file."""

    def folder(key: str, variable: str, default: Path) -> Path:
        base = next(
            (x.source.folder for x in ([paths.over] if paths.over else []) + paths.layers if key in x.raw), Path()
        )
        given = environ.get(variable, "").split(":")[0]
        return paths.take(key, v.path_in(base), Path(given) if given else default)

    return {
        "state_dir": folder("state_dir", "STATE_DIRECTORY", STATE_DIR),
        "runtime_dir": folder("runtime_dir", "RUNTIME_DIRECTORY", RUNTIME_DIR),
        "profiles_dir": folder("profiles_dir", "", PROFILES_DIR),
    }


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except (OSError, ValueError):
        return None


def _places(lists: Mapping[str, list[TomlTable]], singles: Mapping[str, TomlTable]) -> dict[str, Place]:
    """Return the places of the tables in ``lists`` and of the keys in ``singles``.

    Later complaints show these places.
    """
    found: dict[str, Place] = {}
    for table in (table for tables in lists.values() for table in tables):
        layer = table.layers[0]
        found[table.name] = (layer.source, layer.path)
    for name, table in singles.items():
        for layer in table.layers:
            for key in layer.raw:
                found[f"{name}.{key}"] = (layer.source, (*layer.path, key))
    return found


def _place(site: TomlTable) -> Night | None:
    """Return the location of the site; None if it is not given."""
    none: Decimal | None = None
    latitude, longitude = site.take("latitude", v.degrees(90), none), site.take("longitude", v.degrees(180), none)
    for key, other in (("latitude", "longitude"), ("longitude", "latitude")):
        if site.has(key) and not site.has(other):
            site.complain(
                None,
                key,
                f"has no effect without {other}",
                f"Add {other} = ... too, or leave out both latitude and longitude",
            )
    return Night(latitude, longitude) if latitude is not None and longitude is not None else None


def _store(table: TomlTable) -> StoreConfig:
    default = StoreConfig()
    out = StoreConfig(
        max_size_bytes=table.take("max_size", v.size_bytes(16 << 20, 1 << 44), default.max_size_bytes),
        keep_delivered_s=_seconds(table, "keep_delivered", default.keep_delivered_s),
        keep_intervals_s=_seconds(table, "keep_intervals", default.keep_intervals_s),
    )
    table.done(
        {
            "buffer": "Remove this key: the store is always on disk and always durable",
            "path": "Set the folder of the store with state_dir in [paths]",
        }
    )
    return out


def _seconds(table: TomlTable, key: str, default: int) -> int:
    return table.take(key, p.duration_ms(0, 36500 * DAY_MS, "30 d"), default * 1000) // 1000


def _pack(table: TomlTable, notes: list[ConfigWarning]) -> PackConfig:
    default = PackConfig()
    every_ms = table.take("every", p.duration_ms(1000, 900_000, "10 s"), default.every_ms)
    written = table.take("max_size", v.size_bytes(4 << 10, 16 << 20, "64 KiB"), default.max_size_bytes)
    table.done()
    if written > MAX_PACK_BYTES:
        most = v.show_bytes(MAX_PACK_BYTES)
        what = f"receivers accept packs of at most {most}, so the agent splits packs at {most}"
        notes.append(ConfigWarning(place_of(table, "max_size"), what, f'Write max_size = "{most}" or less'))
    return PackConfig(every_ms, min(written, MAX_PACK_BYTES))


def _ring(table: TomlTable) -> RingConfig:
    written, default = v.size_bytes(MIN_RING_BYTES, MAX_RING_BYTES, "16 MiB"), RingConfig()

    def size(value: object) -> int | None:
        try:
            return None if value == "auto" else written(value)
        except p.InvalidValue as wrong:
            raise p.InvalidValue(wrong.what, f'{wrong.hint}; or write "auto"') from None

    out = RingConfig(
        size_bytes=table.take("size", size, default.size_bytes),
        max_bytes=table.take("max", v.size_bytes(MIN_RING_BYTES, MAX_RING_BYTES, "256 MiB"), default.max_bytes),
    )
    table.done({"max_size": 'Write max = "256 MiB"', "min": "Write size instead of min: size also sets the minimum"})
    return out


def _indicators(table: TomlTable) -> IndicatorsConfig:
    """Read [indicators] and load the plan that it names, so that errors of the plan are reported with all others."""
    found = table.find("plan")
    plan: Path | None = None
    if found is not None:
        plan = table.take("plan", v.path_in(found[0].source.folder), None)
    table.done(
        {
            "sets": "Write sets = [...] into the plan file, and plan = FILE into [indicators]",
            "file": "Write plan = FILE instead of file = FILE",
        }
    )
    if plan is None:
        return IndicatorsConfig()
    from agent.indicators.plan import load_plan

    try:
        raw = plan.read_bytes()
    except OSError as error:
        table.complain(None, "plan", f"{plan} cannot be read: {error.strerror}")
        return IndicatorsConfig()
    try:
        load_plan(raw, str(plan))
    except ConfigError as error:
        for one in error.complaints or (error,):
            table.complain(None, "plan", str(one))
    return IndicatorsConfig(plan, hashlib.sha256(raw).hexdigest(), raw)


def _control(table: TomlTable) -> ControlConfig:
    def group(value: object) -> str:
        name = p.text(value)
        if not _GROUP.fullmatch(name):
            raise p.InvalidValue(
                f"{p.show(value)} is not the name of a group", 'Write a name such as "meterhouse-control"'
            )
        return name

    out = ControlConfig(table.take("group", group, ControlConfig().group))
    table.done()
    return out


def _interval(table: TomlTable) -> IntervalConfig:
    def length(value: object) -> int:
        ms = p.duration_ms(60_000, DAY_MS, "15 min")(value)
        if DAY_MS % ms:
            raise p.InvalidValue(
                f"{p.show(value)} does not divide a day into equal intervals",
                "Write for example 5 min, 10 min, 15 min, 30 min or 1 h",
            )
        return ms

    default = IntervalConfig()
    length_ms = table.take("length", length, default.length_ms)
    gap_ms = table.take("max_gap", p.duration_ms(1_000, DAY_MS, "5 min"), default.max_gap_ms)
    period_ms, slip_ms = _demand(table, default)
    table.done(
        {"gap": "Write max_gap instead of gap", "demand_period": 'Write demand = { period = "15 min", slip = "1 min" }'}
    )
    return IntervalConfig(length_ms, gap_ms, period_ms, slip_ms)


def _demand(table: TomlTable, default: IntervalConfig) -> tuple[int, int]:
    """Return (length of a demand window, time between the starts of two windows), both in ms."""
    demand = table.table("demand")
    if demand is None:
        return default.demand_period_ms, default.demand_slip_ms
    period_ms = demand.take("period", p.duration_ms(60_000, 3_600_000, "15 min"), default.demand_period_ms)

    def slip(value: object) -> int:
        ms = p.duration_ms(1_000, 3_600_000, "1 min")(value)
        if period_ms % ms or period_ms // ms > MAX_SLIPS:
            what = (
                f"{p.show(value)} is not a valid sliding step: the demand period {p.show_ms(period_ms)} must be a "
                f"whole multiple of the step, and at most {MAX_SLIPS} times the step"
            )
            raise p.InvalidValue(what, 'Write for example slip = "1 min" for a period of 15 min')
        return ms

    slip_ms = demand.take("slip", slip, min(default.demand_slip_ms, period_ms))
    if period_ms % slip_ms:
        demand.complain(
            None,
            "period",
            f"the demand period {p.show_ms(period_ms)} is not a whole multiple of the sliding step "
            f'{p.show_ms(slip_ms)} (key "slip")',
            'Also set the key "slip", the sliding step: the period must be a whole multiple of it',
        )
        period_ms, slip_ms = default.demand_period_ms, default.demand_slip_ms
    demand.done()
    return period_ms, slip_ms
