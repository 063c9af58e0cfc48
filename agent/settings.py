"""The settings of a destination, which the configuration reads and the uplink uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.verify.agreed import is_asked
from drivers.model import ConfigError


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is stored: a systemd credential by name, or a file."""

    credential: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return f"credential {self.credential}" if self.credential else f"file {self.file}"

    def path(self, environ: Mapping[str, str]) -> Path:
        """The file to read. Raises ConfigError where systemd provides no credential of this name."""
        if self.file is not None:
            return self.file
        folder = environ.get("CREDENTIALS_DIRECTORY", "")
        if folder and (Path(folder) / self.credential).is_file():
            return Path(folder) / self.credential
        hint = f"Add LoadCredential={self.credential}:/etc/meterhouse/{self.credential} to the unit, or name a file"
        raise ConfigError("systemd did not provide this credential", where=f"credential {self.credential}", hint=hint)

    def read(self, environ: Mapping[str, str]) -> bytes:
        """The secret itself, at most 64 KiB. Raises ConfigError naming the file, never its content."""
        path = self.path(environ)
        try:
            with path.open("rb") as stream:
                return stream.read(65536)
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class UplinkConfig:
    """One destination, as configured in ``[[uplink]]``."""

    name: str
    url: str  # with its port; for messages
    host: str
    port: int
    tls: bool
    username: str = ""
    password: Secret | None = None
    ca_file: Path | None = None  # None with tls: the system's authorities
    cert_file: Path | None = None
    key_file: Path | None = None
    client_id: str = ""  # empty: made of site, gateway and name
    confirm: str = ""  # platform, subscriber or broker; empty: subscriber where the broker speaks MQTT 5, else broker
    keepalive_s: int = 30
    backfill_rate: int = 0  # packs of backlog a second, at most; 0: 200, or 25 times the rate of live packs
    in_flight: int = 20  # packs sent and not acknowledged, at most
    streams: tuple[str, ...] = ()  # names and patterns of the streams that it gets; none: all
    compress: str = ""  # "zstd", or "" for none

    def wants(self, stream: str) -> bool:
        """Does it get this stream, ``<site>/<gateway>/<name>``? The gateway's own stream goes to all."""
        return is_asked(stream.rpartition("/")[2], self.streams)
