"""`meterhouse run`: runs the agent."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import time
from collections.abc import Callable

import click

import ext.memory
from agent.cli import EARLY_SIGNALS
from agent.cli.logs import set_up_logging
from agent.cli.options import ConfigOptions, config_options
from agent.config import Config
from agent.service.app import Service
from agent.service.runtime_dir import make_folder, note_end
from agent.service.systemd import notify
from agent.store import StoreFull
from drivers.model import ConfigError, GatewayError

log = logging.getLogger("meterhouse")
# Numbers of files that the agent keeps open.
EACH_LINE = 2  # files of a line: its port or connection, and its frames in shared memory
EACH_UPLINK = 4  # files of a destination: connection, wake-up pipe, poller, and briefly a certificate
# other files: event loop, database, ring, snapshot, log, connections of tools, and briefly files of libraries
SPARE = 48


def files_needed(config: Config) -> int:
    """Return the largest number of files that can be open at the same time."""
    return SPARE + EACH_LINE * len(config.lines) + EACH_UPLINK * len(config.uplinks)


def allow_files(config: Config) -> Config:
    """Raise this process's limit of open files if it is too low. Returns the configuration unchanged.

    Raises:
        ConfigError: the system allows too few open files for this many lines.
    """
    needed, (soft, hard) = files_needed(config), resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"{len(config.lines)} configured lines need up to {needed} open files, but this process may open only "
            f"{hard}",
            where="the limit of open files",
            hint=f"Set LimitNOFILE={max(1024, 2 * needed)} in the service: systemctl edit meterhouse",
        )
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    return config


def make_key(config: Config) -> None:
    """Create the signing key at the first start of a gateway, because a disk image for many gateways must have no key.

    Raises:
        GatewayError: the key or the state directory cannot be created.
    """
    file = config.key.file
    if file is None or file.exists():  # if no file is configured, the key is a credential, which systemd provides
        return
    # this is not a new gateway, so its key was lost, and verifiers would not trust another key
    if config.store_path.exists():
        return
    from agent.keys import create_key

    if file.parent == config.state_dir:
        make_folder(file.parent, 0o700)
    signer = create_key(file, int(time.time()))
    log.warning("created the signing key %s. Its thumbprint, for verifiers: %s", file, signer.kid)


async def serve(config: Config, load: Callable[[], Config]) -> None:
    """Run until SIGTERM or SIGINT. A second signal ends the process at once. SIGHUP reloads the configuration."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            # No reading is lost: sealed readings are on the disk, all others in the ring. With another code than 0,
            # systemd would count a stop by an impatient operator as a failure.
            os._exit(0)
        stop.set()
        notify("STOPPING=1\nSTATUS=sealing and sending pending readings")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)

    def ready() -> None:
        gc.collect(1)  # not the oldest objects: they have survived collections, and with 3,000 devices take 0.2 s
        ext.memory.give_back()
        gc.freeze()  # the objects that exist now are permanent, so the garbage collector need not check them again
        notify("READY=1")

    service = Service(config, ready, load)
    loop.add_signal_handler(signal.SIGHUP, service.reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
    await service.run(stop)


@click.command()
@config_options
@click.option("--create-key", is_flag=True, help="Create the signing key if its file is missing; for the first start.")
@click.option("-v", "--verbose", is_flag=True, help="Log more.")
def run(options: ConfigOptions, create_key: bool, verbose: bool) -> None:
    """Run the agent until it is stopped.

    SIGTERM or Ctrl-C stops polling; the agent then seals, stores and sends pending readings for a few seconds, and
    exits with 0. A second signal ends the agent at once, also with 0; the next start seals the readings left in the
    ring buffer.
    SIGHUP reloads the configuration; if it has errors, they are logged, and the previous configuration stays in
    effect.

    \b
    Example:
      meterhouse run -c /etc/meterhouse/agent.toml

    \b
    Exit codes: 0 stopped by a signal, 1 internal error, 3 bad configuration or profile.
    """
    ext.memory.stay_small()
    # with the default of 700, the polls of 100 devices would cause several collections in a second, and a start with
    # many devices would cause thousands
    gc.set_threshold(10_000)
    set_up_logging(verbose)

    def load() -> Config:
        return allow_files(options.load())

    config = load()
    try:
        if create_key:
            make_key(config)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            try:
                runner.run(serve(config, load))
            except BaseExceptionGroup as group:
                raise group.exceptions[0] from group
    except GatewayError as error:
        ended = _with_a_full_disk(error)
        note_end(config.runtime_dir, ended, config.timezone)
        raise ended from error


def _with_a_full_disk(error: GatewayError) -> GatewayError:
    """Return the same error, with an additional hint if the disk is full."""
    cause = error.__cause__
    if not isinstance(error, StoreFull) and not (isinstance(cause, OSError) and cause.errno == errno.ENOSPC):
        return error
    hint = "Free some space there, then start the agent again, unless systemd restarts the agent"
    return GatewayError(error.what, where=error.where, hint=hint)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the loop factory of uvloop or, if uvloop is not installed, of asyncio.

    uvloop halves the CPU time of a request.
    """
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop
    return new_event_loop
