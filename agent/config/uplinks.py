"""[[uplink]] and [key]: where packs go, and where secrets lie."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.config import values as v
from agent.config.lines import is_first, place_of
from agent.config.reader import Table
from agent.config.tree import Note, Secret, UplinkConfig

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_NO_SECRETS = {
    "password": "Secrets do not stand here: use password_file or password_credential (a systemd credential)",
    "key": "Name the file with key_file",
    "tls": "Write mqtts:// in the url",
    "port": "It is part of the url",
    "host": "It is part of the url",
}


def read_secret(table: Table, credential_key: str, file_key: str) -> Secret | None:
    """Where a secret lies; None where the table says nothing. Both at once is a complaint."""
    none: Path | None = None
    credential = table.take(credential_key, v.credential, "")
    file = table.take(file_key, v.path_in(folder_of(table, file_key)), none)
    if table.has(credential_key) and table.has(file_key):
        table.complain(None, file_key, f"stands beside {credential_key}", "Keep one of the two")
    if credential:
        return Secret(credential=credential)
    return Secret(file=file) if file else None


def folder_of(table: Table, key: str) -> Path:
    """The folder that a relative path in ``key`` counts from."""
    found = table.find(key)
    return found[0].source.folder if found else Path()


def read_uplinks(tables: list[Table], notes: list[Note]) -> tuple[UplinkConfig, ...]:
    """All destinations, in the order of files."""
    out: list[UplinkConfig] = []
    names: dict[str, Table] = {}
    for table in tables:
        uplink = _uplink(table)
        if is_first(names, table, uplink.name):
            out.append(uplink)
        if uplink.host and not uplink.tls and uplink.host not in _LOOPBACK:
            notes.append(
                Note(
                    place_of(table, "url"),
                    "goes over the network unencrypted",
                    "mqtts:// protects password and readings",
                )
            )
    return tuple(out)


def _uplink(table: Table) -> UplinkConfig:
    none: Path | None = None

    def file(key: str) -> Path | None:
        return table.take(key, v.path_in(folder_of(table, key)), none)

    url = table.need("url", v.uplink_url, "", "Write mqtts://HOST:8883")
    parts = urlsplit(url)
    uplink = UplinkConfig(
        name=table.need("name", v.name, "", 'Add it, such as name = "platform"'),
        url=url,
        host=parts.hostname or "",
        port=parts.port or 0,
        tls=parts.scheme == "mqtts",
        username=table.take("username", v.label, ""),
        password=read_secret(table, "password_credential", "password_file"),
        ca_file=file("ca_file"),
        cert_file=file("cert_file"),
        key_file=file("key_file"),
        client_id=table.take("client_id", v.site_name, ""),
        confirm=table.take("confirm", v.choice("platform", "subscriber", "broker"), ""),
        keepalive_s=table.take("keepalive", v.duration_ms(5000, 3_600_000, "30 s"), 30_000) // 1000,
        backfill_rate=table.take("backfill_rate", v.whole(1, 10_000), 0),
        in_flight=table.take("in_flight", v.whole(1, 1000), 20),
    )
    table.done(_NO_SECRETS)
    for key in ("ca_file", "cert_file", "key_file"):
        if url and not uplink.tls and table.has(key):
            table.complain(None, key, "has no effect without TLS", "Write mqtts:// in the url")
    if table.has("cert_file") != table.has("key_file"):
        missing = "key_file" if table.has("cert_file") else "cert_file"
        table.complain(None, "", f"{missing} is missing", "A client certificate needs cert_file and key_file")
    if uplink.password and not table.has("username"):
        table.complain(None, "", "has a password and no username", 'Such as username = "park7-gw01"')
    return uplink
