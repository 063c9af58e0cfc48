"""The settings of a destination. The configuration reads them, and the uplink uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.verify.agreed import is_asked
from drivers.model import ConfigError


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is stored: in a systemd credential, given by name, or in a file."""

    credential: str = ""
    file: Path | None = None

    def __str__(self) -> str:
        return f"credential {self.credential}" if self.credential else f"file {self.file}"

    def path(self, environ: Mapping[str, str]) -> Path:
        """Return the file that holds the secret. Raises ConfigError if systemd does not provide the credential."""
        if self.file is not None:
            return self.file
        folder = environ.get("CREDENTIALS_DIRECTORY", "")
        if folder and (Path(folder) / self.credential).is_file():
            return Path(folder) / self.credential
        hint = (
            f"Add LoadCredential={self.credential}:/etc/meterhouse/{self.credential} to the systemd unit, "
            "or write the path of a file instead"
        )
        raise ConfigError("systemd did not provide this credential", where=f"credential {self.credential}", hint=hint)

    def read(self, environ: Mapping[str, str]) -> bytes:
        """Return the secret itself, at most 64 KiB.

        Raises ConfigError; its message never shows the content of the file.
        """
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
    url: str  # URL with a port, even if the configuration gives none; messages show this URL
    host: str
    port: int
    tls: bool
    username: str = ""
    password: Secret | None = None
    ca_file: Path | None = None  # None: a tls connection uses the authorities of the system
    cert_file: Path | None = None
    key_file: Path | None = None
    client_id: str = ""  # empty: the id is derived from the names of site, gateway and destination
    confirm: str = ""  # "platform", "subscriber" or "broker"; empty: "subscriber" with MQTT 5, otherwise "broker"
    keepalive_s: int = 30
    backfill_rate: int = 0  # maximum backlog packs per second; 0: 200, or 25 times the live rate if that is higher
    in_flight: int = 20  # at most this many packs are sent but not acknowledged
    streams: tuple[str, ...] = ()  # names and patterns of the streams that are sent; empty: all streams are sent
    compress: str = ""  # "zstd", or "" for none

    def wants(self, stream: str) -> bool:
        """Return True if this destination gets stream ``<site>/<gateway>/<name>``.

        It always gets the gateway's own stream.
        """
        return is_asked(stream.rpartition("/")[2], self.streams)
