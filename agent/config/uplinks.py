"""Reads [[uplink]] tables, which are the destinations of packs, and the locations of secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from agent.config import parsers as v
from agent.config.lines import is_first, place_of
from agent.config.tree import ConfigWarning
from agent.settings import Secret, UplinkConfig
from agent.verify.agreed import is_asked
from drivers.files import others_may_use
from drivers.toml import TomlTable
from drivers.toml import parsers as p

_AGENT = "owned by the user that runs the agent"
_DEFAULTS = UplinkConfig("", "", "", 0, False)
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NO_SECRETS = {
    "password": "Do not write secrets here; use password_file or password_credential (a systemd credential)",
    "key": "Set key_file to the path of the key file",
    "tls": "Write mqtts:// in the url",
    "port": "Write host and port in the url",
    "host": "Write host and port in the url",
}


def read_secret(table: TomlTable, credential_key: str, file_key: str) -> Secret | None:
    """Return the location of a secret; None if the table has neither of the two keys. Complains if it has both."""
    none: Path | None = None
    credential = table.take(credential_key, v.credential, "")
    file = table.take(file_key, v.path_in(folder_of(table, file_key)), none)
    if table.has(credential_key) and table.has(file_key):
        table.complain(None, file_key, f"conflicts with {credential_key}", "Keep only one of the two")
    if credential:
        return Secret(credential=credential)
    return Secret(file=file) if file else None


def folder_of(table: TomlTable, key: str) -> Path:
    """Return the folder of the file that sets ``key``. A relative path in ``key`` starts in this folder."""
    found = table.find(key)
    return found[0].source.folder if found else Path()


def read_uplinks(
    tables: list[TomlTable], notes: list[ConfigWarning], agents: os.stat_result | None, devices: Sequence[str]
) -> tuple[UplinkConfig, ...]:
    """Read all destinations, in file order.

    Args:
        agents: status of the state directory; see ``open_secret``.
        devices: names of all devices, for notes on ``streams``.
    """
    out: list[UplinkConfig] = []
    names: dict[str, TomlTable] = {}
    for table in tables:
        uplink = _uplink(table)
        if is_first(names, table, uplink.name):
            out.append(uplink)
        if uplink.host and not uplink.tls and uplink.host not in _LOOPBACK:
            notes.append(
                ConfigWarning(
                    place_of(table, "url"),
                    "the connection to this destination is not encrypted",
                    "Write mqtts:// in the url to protect the password and the readings",
                )
            )
        notes += _open_secrets(table, uplink, agents)
        notes += _unmatched_streams(table, uplink, devices)
    notes += _unsent_streams(out, devices)
    return tuple(out)


def _unmatched_streams(table: TomlTable, uplink: UplinkConfig, devices: Sequence[str]) -> list[ConfigWarning]:
    """Return notes on patterns that match no stream.

    Such a pattern is not an error, because it may name a removed device whose packs still wait for delivery.
    """
    known = (*devices, "_gateway", "_indicators")
    return [
        ConfigWarning(
            place_of(table, "streams"),
            f'"{pattern}" matches no stream of this gateway',
            p.did_you_mean(pattern, known, "Streams"),
        )
        for pattern in uplink.streams
        if not any(is_asked(name, (pattern,)) for name in known if name != "_gateway" or pattern == name)
    ]


def _unsent_streams(uplinks: Sequence[UplinkConfig], devices: Sequence[str]) -> list[ConfigWarning]:
    """If destinations are configured, return a note on the devices whose packs are not sent to any of them."""
    unsent = [name for name in devices if not any(is_asked(name, uplink.streams) for uplink in uplinks)]
    if not uplinks or not unsent:
        return []
    names = ", ".join(unsent[:5]) + (f" and {len(unsent) - 5} more" if len(unsent) > 5 else "")
    hint = (
        "The agent deletes the packs of these streams after the time set by keep_delivered in [store]. To send "
        'these streams, add them to the key "streams" of an [[uplink]]'
    )
    return [ConfigWarning("uplink", f"these streams are not sent to any destination: {names}", hint)]


def _open_secrets(table: TomlTable, uplink: UplinkConfig, agents: os.stat_result | None) -> list[ConfigWarning]:
    """Return notes on secrets that other users may read.

    Errors could stop delivery after an upgrade, so these are notes.
    """
    password = uplink.password.file if uplink.password else None
    files = (("password_file", password, "set another password"), ("key_file", uplink.key_file, "make a new key"))
    notes = (open_secret(table, key, path, remedy, agents) for key, path, remedy in files if path is not None)
    return [note for note in notes if note is not None]


def open_secret(
    table: TomlTable, key: str, path: Path, remedy: str, agents: os.stat_result | None, reader: str = _AGENT
) -> ConfigWarning | None:
    """Return a note if other users may read or change a secret; None if they may not, or if the file does not exist.

    A file that belongs to root may be readable by its group, because packages install secrets like this. The group
    must not be the agent's group, because the members of that group may query the agent but not read its secrets.

    Args:
        agents: status of the state directory, whose owner and group are the agent's; None if unknown.
        reader: the user that needs the secret, for the hint.
    """
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    mode, what = stat.S_IMODE(found.st_mode), ""
    if not stat.S_ISREG(found.st_mode):
        return None
    if others_may_use(found):
        what = f"others may read or change {path} (mode {mode:04o})"
    elif agents is not None and mode & 0o040 and found.st_gid == agents.st_gid != 0:
        what = f"any user in the agent's read-only group may read {path} (mode {mode:04o})"
    elif agents is not None and found.st_uid not in (0, agents.st_uid):
        what = f"{path} belongs to user {found.st_uid}, who is neither root nor the agent's user"
    if not what:
        return None
    hint = f"Run chmod 600 {path}; the file must be {reader}. If other users could read the file, {remedy}"
    return ConfigWarning(place_of(table, key), what, hint)


def _uplink(table: TomlTable) -> UplinkConfig:
    none: Path | None = None

    def file(key: str) -> Path | None:
        return table.take(key, v.path_in(folder_of(table, key)), none)

    url = table.need("url", v.uplink_url, "", "Write mqtts://HOST:8883")
    parts = urlsplit(url)
    keepalive_ms = _DEFAULTS.keepalive_s * 1000
    uplink = UplinkConfig(
        name=table.need("name", v.name, "", 'Add this key, for example name = "platform"'),
        url=url,
        host=parts.hostname or "",
        port=parts.port or 0,
        tls=parts.scheme == "mqtts",
        username=table.take("username", p.label, _DEFAULTS.username),
        password=read_secret(table, "password_credential", "password_file"),
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
        client_id=table.take("client_id", v.site_name, _DEFAULTS.client_id),
        confirm=table.take("confirm", p.choice("platform", "subscriber", "broker"), _DEFAULTS.confirm),
        keepalive_s=table.take("keepalive", p.duration_ms(5000, 3_600_000, "30 s"), keepalive_ms) // 1000,
        backfill_rate=table.take("backfill_rate", p.whole(1, 10_000), _DEFAULTS.backfill_rate),
        in_flight=table.take("in_flight", p.whole(1, 1000), _DEFAULTS.in_flight),
        streams=table.items("streams", v.stream_pattern) or (),
        compress=table.take("compress", p.choice("zstd"), _DEFAULTS.compress),
    )
    table.done(_NO_SECRETS)
    if table.has("streams") and table.layers[0].raw["streams"] == []:
        hint = 'Leave this key out to send all streams, or write a list such as ["inv1", "meter-*", "_indicators"]'
        table.complain(None, "streams", "is an empty list, which selects no streams", hint)
    for key in ("ca_file", "cert_file", "key_file"):
        if url and not uplink.tls and table.has(key):
            table.complain(None, key, "has no effect without TLS", "Write mqtts:// in the url")
    if table.has("cert_file") != table.has("key_file"):
        missing = "key_file" if table.has("cert_file") else "cert_file"
        table.complain(None, "", f"{missing} is missing", "A client certificate needs cert_file and key_file")
    if uplink.password and not table.has("username"):
        table.complain(
            None, "", "has a password but no username", 'Add the key username, for example username = "park7-gw01"'
        )
    return uplink
