"""`meterhouse web`: serves the gateway's page, or sets up access from other machines."""

from __future__ import annotations

import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

import click

from agent.cli.common import say
from agent.cli.options import DEFAULT_CONFIG, EXISTING_FILE, FOLDER, lang_option


@click.command()
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    default=DEFAULT_CONFIG,
    envvar="MH_CONFIG",
    show_default=True,
    help="The configuration; its table [web] sets the address to listen on.",
)
@click.option("--runtime-dir", type=FOLDER, help="The runtime directory of the agent that the page shows.")
@click.option(
    "--listen", metavar="ADDRESS:PORT", help="Address to listen on; default: [web] listen, else 127.0.0.1:8080."
)
@click.option(
    "--setup",
    is_flag=True,
    help="Create a certificate, a password and the table [web], for access from other machines.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="With --setup: one more name or address for the certificate; names of the earlier certificate are kept.",
)
@click.option(
    "--folder",
    type=FOLDER,
    help="With --setup: folder for certificate, key and password; default: the folder of systemd's credentials.",
)
@click.option(
    "--password-file",
    type=EXISTING_FILE,
    help="With --setup: file whose first line is the password; default: ask for the password.",
)
@click.option("--yes", is_flag=True, help="With --setup: do not ask before writing.")
@lang_option
def web(
    config_file: Path,
    runtime_dir: Path | None,
    listen: str | None,
    setup: bool,
    names: tuple[str, ...],
    folder: Path | None,
    password_file: Path | None,
    yes: bool,
    lang: str,
) -> None:
    """Serve the gateway's web page: live values, gaps, computed figures and frames.

    The page is read-only and a separate process: it reads shared memory and queries the running agent. By default only
    this machine can connect; other machines need TLS and a password, which --setup creates.

    \b
    Examples:
      meterhouse web
      ssh -L 8080:127.0.0.1:8080 gateway    then open http://127.0.0.1:8080
      sudo meterhouse web --setup --listen 0.0.0.0:8443
      sudo systemctl enable --now meterhouse-web

    \b
    Exit codes: 0 stopped by a signal; 1 the web server cannot listen on its address; 2 wrong usage; 3 bad
    configuration, certificate or password.
    """
    if setup:
        from agent.web.setup import set_up

        set_up(config_file, listen, names, folder, password_file, yes, lang)
        return
    import ext.memory
    from agent.certificates import expiry_text
    from agent.cli.common import as_complaint
    from agent.cli.logs import set_up_logging
    from agent.web.routes import make_app, settings_of
    from agent.web.server import open_socket, serve, tls_context

    ext.memory.stay_small()  # without this call, the process would keep twice the 16 MB that a login needs
    settings = settings_of(config_file, runtime_dir, listen, os.environ)
    tls = tls_context(settings.web)
    app = make_app(settings)
    for note in settings.notes:
        click.echo(as_complaint("warning", note), err=True)
    certificate = settings.web.certificate
    # if the certificate is in a plain file, settings.notes already has a warning about its expiry
    is_credential = certificate is not None and certificate.file is None
    if certificate and is_credential and (text := expiry_text(certificate.path(os.environ).read_bytes())):
        place, hint = (
            settings.web.places.get("certificate", "[web]"),
            "`meterhouse web --setup` makes a new certificate",
        )
        click.echo(as_complaint("warning", f"{place}: the certificate {text}. {hint}"), err=True)
    set_up_logging(False)
    with open_socket(settings.web) as sock:
        scheme = "https" if tls is not None else "http"
        address = settings.web.address
        if ip_address(settings.web.host).is_unspecified:  # 0.0.0.0 and [::] are not addresses that a browser can open
            address = f"{socket.gethostname()}:{settings.web.port}"
            click.echo(say(f"The page listens on every address of this machine, port {settings.web.port}"), err=True)
        click.echo(say(f"The page is at {scheme}://{address}/. Press Ctrl-C to stop this command"), err=True)
        sys.stderr.flush()
        serve(app, sock, tls)
