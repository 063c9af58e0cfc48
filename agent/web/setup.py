"""`meterhouse web --setup`: creates a certificate, a password hash, and the table [web] that names their files."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from agent.cli.common import say
from agent.cli.options import first_line
from agent.cli.questions import asked, confirmed, given, is_terminal
from agent.config import WebConfig
from agent.config.web import listen_address
from agent.web.password import LONGEST, SHORTEST, PasswordHash
from drivers.files import write_atomic
from drivers.model import GatewayError, UsageError
from drivers.toml.parsers import InvalidValue

if TYPE_CHECKING:
    from cryptography.x509 import GeneralName

CREDENTIALS: Final = Path("/etc/credstore")  # systemd passes files of this folder to units with ImportCredential=
CREDENTIAL_NAMES: Final = ("meterhouse-web.certificate", "meterhouse-web.key", "meterhouse-web.password")
FILE_NAMES: Final = ("certificate.pem", "key.pem", "password")
KEYS: Final = ("certificate", "key", "password")
LISTEN: Final = "0.0.0.0:8443"
DAYS: Final = 820  # phone browsers refuse certificates valid for longer than 825


@dataclass(frozen=True, slots=True)
class MadeCertificate:
    """A certificate and its key as PEM, the SHA-256 that browsers show for it, and the end of its validity."""

    certificate: bytes
    key: bytes
    fingerprint: str
    ends: datetime


def make_certificate(names: Iterable[str], now: datetime) -> MadeCertificate:
    """Make a P-256 key and a self-signed certificate for these names and addresses."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meterhouse gateway")])
    ends = now + timedelta(days=DAYS)
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # the clock of the phone that opens the page may be slow
        .not_valid_after(ends)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    digest = certificate.fingerprint(hashes.SHA256()).hex().upper()
    fingerprint = ":".join(digest[n : n + 2] for n in range(0, len(digest), 2))
    return MadeCertificate(certificate.public_bytes(pem), private, fingerprint, ends)


def _general_name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def own_names(host: str, more: Sequence[str]) -> list[str]:
    """Return the names for the certificate, without duplicates.

    These are the known names and addresses of this machine, ``host`` and ``more``. Raises UsageError for an invalid
    name.
    """
    name = socket.gethostname()
    found = [name, f"{name}.local", "localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(OSError):  # some machines cannot resolve their own name
        found += [str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(name, None)]
    found += [] if ipaddress.ip_address(host).is_unspecified else [host]
    for one in more:
        plain = one.strip().lower()
        if not plain or len(plain) > 253 or not plain.isascii() or not all(c.isalnum() or c in ".-:" for c in plain):
            hint = "Give a host name or an address, such as gw01.park7.example or 192.168.1.20"
            raise UsageError(f"invalid name {one[:60]!r}", where="--name", hint=hint)
        found.append(plain)
    return list(dict.fromkeys(n for n in found if n.isascii() and n))


def password_of(value: object) -> str:
    """Return the value if it is a valid password. Raises InvalidValue if it is too short or too long."""
    if not isinstance(value, str) or not SHORTEST <= len(value) <= LONGEST:
        raise InvalidValue("the password is too short or too long", f"Use {SHORTEST} to {LONGEST} characters")
    return value


def _password(file: Path | None) -> tuple[str, bool]:
    """Return (password, True if it was generated and must be shown to the user)."""
    if file is not None:
        return given("--password-file", password_of, first_line(file)), False
    if not is_terminal():
        hint = "Use --password-file FILE"
        raise UsageError("a password is needed, but stdin is not a terminal", where="--setup", hint=hint)
    question = say("Password for the page (leave empty to generate one)")
    first = asked(question, lambda value: password_of(value) if value else "", default="", hidden=True)
    if not first:
        return secrets.token_urlsafe(12), True
    while asked(say("Repeat the password"), str, default="", hidden=True) != first:
        click.echo(say("The two passwords differ."), err=True)
    return first, False


def set_up(
    config_file: Path,
    listen: str | None,
    names: Sequence[str],
    folder: Path | None,
    password_file: Path | None,
    yes: bool,
    language: str,
) -> None:
    """Create certificate, key and password hash, and write ``conf.d/web.toml``. Raises GatewayError.

    The address of an earlier setup is kept if ``listen`` is None. The names in the earlier certificate are always kept.
    """
    target = config_file.parent / "conf.d" / "web.toml"
    wanted = given("--listen", listen_address, listen) if listen is not None else None
    _refuse_double(config_file, target)
    places = [(folder or CREDENTIALS) / name for name in (FILE_NAMES if folder else CREDENTIAL_NAMES)]
    earlier = _earlier(target)
    host, port = wanted or listen_address(earlier.get("listen", LISTEN))
    found_names = own_names(host, names)
    kept_names = [name for name in _earlier_names(earlier, target.parent, places[0]) if name not in found_names]
    found_names += kept_names
    _show_earlier(earlier.get("listen", ""), _address(host, port), kept_names)
    for path in (*places, target):
        replaces = say(", which replaces the existing file") if path.exists() else ""
        click.echo(say(f"--setup will write {path}") + replaces, err=True)
    confirmed(yes, "web --setup", language)
    password, show = _password(password_file)
    made = make_certificate(found_names, datetime.fromtimestamp(int(time.time()), UTC))
    hashed = PasswordHash.of(password).line().encode()
    try:
        places[0].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, data in zip(places, (made.certificate, made.key, hashed), strict=True):
            write_atomic(path, data, 0o600, durable=True)
        target.parent.mkdir(exist_ok=True)
        write_atomic(target, _table(host, port, folder, places).encode(), 0o640, durable=True)
        if os.geteuid() == 0:
            os.chown(target, -1, config_file.stat().st_gid)
    except OSError as error:
        hint = "Run the command with sudo, or name a folder with --folder"
        where = str(error.filename or places[0].parent)
        raise GatewayError(f"the file cannot be written: {error.strerror}", where=where, hint=hint) from error
    _show(made, host, port, found_names, password if show else "")


def _refuse_double(config_file: Path, target: Path) -> None:
    import tomllib

    more = sorted(path for path in target.parent.glob("[!.]*.toml") if path != target)
    for path in (config_file, *more):
        try:
            table = tomllib.loads(path.read_text("utf-8-sig"))
        except OSError as error:
            if path == config_file and isinstance(error, FileNotFoundError):
                hint = "Give the path of the configuration file with -c FILE; `meterhouse init` makes a new file"
                raise UsageError("there is no such file", where=str(path), hint=hint) from None
            raise GatewayError(f"cannot be read: {error.strerror}", where=str(path)) from error
        except ValueError as error:
            hint = "`meterhouse check` shows the line with the error"
            raise GatewayError("is not valid TOML", where=str(path), hint=hint) from error
        if "web" in table:
            hint = f"Remove [web] from this file: --setup writes [web] into {target}"
            raise GatewayError("this file already has the table [web]", where=str(path), hint=hint)


def _earlier(target: Path) -> dict[str, str]:
    """Return the string values of [web] in the file that an earlier --setup wrote; empty if there is no such file.

    Raises GatewayError.
    """
    import tomllib

    hint = "Correct this file, or remove this file to begin anew"
    try:
        table = tomllib.loads(target.read_text("utf-8-sig")).get("web", {})
        found = {key: value for key, value in table.items() if isinstance(value, str)}
        if "listen" in found:
            listen_address(found["listen"])
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise GatewayError(f"cannot be read: {error.strerror}", where=str(target), hint=hint) from error
    except InvalidValue as error:
        raise GatewayError(error.what, where=str(target), hint=hint) from error
    except (ValueError, AttributeError) as error:
        raise GatewayError("is not valid TOML", where=str(target), hint=hint) from error
    return found if "listen" in found else {**found, "listen": WebConfig().address} if found else {}


def _earlier_names(earlier: Mapping[str, str], folder: Path, place: Path) -> list[str]:
    """Return the names and addresses in the earlier certificate; an empty list if the certificate cannot be read.

    Args:
        earlier: the result of ``_earlier``.
        folder: a relative ``certificate_file`` is relative to this folder.
        place: the certificate file that is read if ``earlier`` names none.
    """
    from cryptography import x509

    if "certificate_file" in earlier:
        place = folder / earlier["certificate_file"]
    elif "certificate_credential" in earlier:
        place = CREDENTIALS / earlier["certificate_credential"]
    try:
        certificate = x509.load_pem_x509_certificate(place.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]


def _show_earlier(before: str, listen: str, names: Sequence[str]) -> None:
    """Print which earlier settings are kept and which change. The user sees this before the confirmation."""
    if before and listen_address(before) == listen_address(listen):
        click.echo(say(f"--setup will keep the address {listen}"), err=True)
    elif before:
        click.echo(say(f"--setup will change the address from {before} to {listen}"), err=True)
    else:
        click.echo(say(f"the web server will listen on {listen}"), err=True)
    if names:
        click.echo(say(f"--setup will keep these names of the earlier certificate: {', '.join(names)}"), err=True)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _table(host: str, port: int, folder: Path | None, places: Sequence[Path]) -> str:
    lines = ["# made by `meterhouse web --setup`", "[web]", f'listen = "{_address(host, port)}"']
    for key, path in zip(KEYS, places, strict=True):
        if folder is None:
            lines.append(f'{key}_credential = "{path.name}"')
        else:
            text = str(path.resolve()).replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f'{key}_file = "{text}"')
    return "\n".join(lines) + "\n"


def _show(made: MadeCertificate, host: str, port: int, names: Sequence[str], password: str) -> None:
    from agent.cli.qr import can_show, terminal_qr

    own = socket.gethostname() if ipaddress.ip_address(host).is_unspecified else host
    shown = f"[{own}]" if ":" in own else own
    click.echo(say(f"The page will be at https://{shown}:{port}/"))
    click.echo(say(f"Names in the certificate: {', '.join(names)}"))
    click.echo(
        say(
            f"The certificate is valid until {made.ends:%Y-%m-%d}. If the browser warns, compare the SHA-256 that it "
            "shows with this one:"
        )
    )
    half = len(made.fingerprint) // 2 + 1
    click.echo(f"  {made.fingerprint[:half]}\n  {made.fingerprint[half:]}")
    if can_show():
        click.echo(terminal_qr(f"https://{shown}:{port}/ SHA-256 {made.fingerprint}", sys.stdout.isatty()))
    if password:
        click.echo(say(f"The password, which is shown only this once: {password}"))
    click.echo(
        say(
            "Start the page with `sudo systemctl enable --now meterhouse-web`; after a change run "
            "`sudo systemctl restart meterhouse-web`"
        )
    )
    click.echo(
        say(
            "The systemd unit must allow connections from the viewers' network: see the section \"The gateway's page\" "
            "in deploy.md"
        )
    )
