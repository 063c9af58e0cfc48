"""Private RabbitMQ nodes on loopback, for tests and for trying out a cluster.

The RabbitMQ service of the machine is not affected.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from drivers.model import GatewayError

PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")
# The nodes do not run as root. If we are root, they run as this user, which Debian's package creates.
USER: Final = "rabbitmq"
START_S: Final = 120.0  # time limit for the start of a node, which takes long on a busy machine
PLUGINS: Final = "[rabbitmq_mqtt].\n"
COMMON: Final = """\
mqtt.allow_anonymous = true
anonymous_login_user = guest
anonymous_login_pass = guest
cluster_partition_handling = pause_minority
vm_memory_high_watermark.absolute = 600MiB
disk_free_limit.absolute = 200MB
raft.wal_max_size_bytes = 67108864
log.file.level = warning
log.console = false
"""


class NoRabbit(GatewayError):
    """RabbitMQ is not installed on this machine, or does not start."""

    exit_code = 3


def find_programs() -> Path:
    """The folder with ``rabbitmq-server`` and ``rabbitmqctl``. Raises NoRabbit."""
    if (PROGRAMS / "rabbitmq-server").exists() and shutil.which("epmd"):
        return PROGRAMS
    raise NoRabbit("no RabbitMQ", where=str(PROGRAMS), hint="apt-get install --no-install-recommends rabbitmq-server")


class RabbitNode:
    """One RabbitMQ node. Its ports stay the same when it restarts."""

    def __init__(self, cluster: PrivateRabbit, number: int) -> None:
        self.number, self.name = number, f"r{number}@localhost"
        self.amqp_port, self.mqtt_port, self._distribution_port = free_ports(3)
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The PID of the node's process. 0 if the node was not started."""
        return self._process.pid if self._process is not None else 0

    @property
    def is_running(self) -> bool:
        """Whether the node was started and its process still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the node, and do not wait for it. ``wait`` returns when the node accepts connections."""
        folder = self._cluster.folder
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{node.number} = {node.name}\n" for node in self._cluster.nodes
        )
        if len(self._cluster.nodes) > 1:
            peers += "cluster_formation.peer_discovery_backend = classic_config\n"
        config = folder / f"r{self.number}.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp_port}\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.mqtt_port}\n"
            + COMMON + peers + "".join(f"{line}\n" for line in self._cluster.settings)
        )  # fmt: skip
        environment = self._cluster.environment | {
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.amqp_port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_CONFIG_FILE": str(config),
            # the start script then replaces itself with the node, so that signals to our process reach the node
            "detached": "1",
        }
        with (folder / f"r{self.number}.out").open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._cluster.programs / "rabbitmq-server")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=environment, cwd=folder, user=self._cluster.user or None,
                extra_groups=[] if self._cluster.user else None, start_new_session=True,
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until the node accepts connections on both ports. Raises NoRabbit, with the last lines of the node's
        log.
        """
        until = time.monotonic() + START_S
        for port in (self.amqp_port, self.mqtt_port):
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if not self.is_running or time.monotonic() > until:
                    output = (self._cluster.folder / f"r{self.number}.out").read_text(errors="replace").strip()
                    raise NoRabbit(
                        " ".join(output.splitlines()[-3:]) or "it does not answer", where=self.name,
                        hint=f"See {self._cluster.folder}/log",
                    )  # fmt: skip
                time.sleep(0.1)

    def kill(self) -> None:
        """Kill the node with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Shut the node down cleanly."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        with suppress(ProcessLookupError):  # the node's helper programs (Erlang calls them ports) may still run
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None


class PrivateRabbit:
    """One node, or a cluster of nodes. Each node has its own ports for AMQP and MQTT. ``stop`` removes all data.

    Args:
        nodes: number of nodes, 1 or 3.
        settings: additional lines of rabbitmq.conf.

    Raises:
        NoRabbit: RabbitMQ is not installed.
    """

    def __init__(self, nodes: int = 1, settings: Sequence[str] = ()) -> None:
        self.programs = find_programs()
        self.settings = settings
        self.user = USER if os.geteuid() == 0 else ""
        self.folder = Path(tempfile.mkdtemp(prefix="meterhouse-rabbitmq-"))
        (self.folder / "plugins").write_text(PLUGINS)
        if self.user:
            shutil.chown(self.folder, self.user)
        (self._epmd_port,) = free_ports(1)
        self._epmd: subprocess.Popen[bytes] | None = None
        self.nodes = [RabbitNode(self, number) for number in range(1, nodes + 1)]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the nodes and for ``rabbitmqctl``."""
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        return {
            "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),  # the folder has .erlang.cookie, with which the nodes authenticate each other
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none {loopback}",
            "RABBITMQ_CTL_ERL_ARGS": loopback,
        }

    def start(self) -> None:
        """Start all nodes and wait until they are one cluster. Raises NoRabbit."""
        self._epmd = subprocess.Popen(
            ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            user=self.user or None, extra_groups=[] if self.user else None, cwd=self.folder,
        )  # fmt: skip
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(f"{random.SystemRandom().getrandbits(128):032x}")
        cookie.chmod(0o400)
        if self.user:
            shutil.chown(cookie, self.user)
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait()

    def stop(self) -> None:
        """Stop all nodes and remove their folder."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def amqp_url(self, queue: str = "meterhouse") -> str:
        """The URL for ``--from``. It names all nodes, which are tried in turn. The user is RabbitMQ's default user
        guest.
        """
        hosts = ",".join(f"127.0.0.1:{node.amqp_port}" for node in self.nodes)
        return f"amqp://{hosts}/%2F?queue={queue}"

    def mqtt_url(self) -> str:
        """The URL for ``--broker``. It names all nodes, which are tried in turn."""
        return "mqtt://" + ",".join(f"127.0.0.1:{node.mqtt_port}" for node in self.nodes)

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` for a running node and return its output. If it fails, raises NoRabbit with the
        output.
        """
        node = next(node for node in self.nodes if node.is_running)
        done = subprocess.run(
            [str(self.programs / "rabbitmqctl"), "-q", "-n", node.name, *arguments], capture_output=True, text=True,
            env=self.environment, cwd=self.folder, user=self.user or None, check=False,
            extra_groups=[] if self.user else None,
        )  # fmt: skip
        if done.returncode:
            raise NoRabbit((done.stderr or done.stdout).strip(), where=f"rabbitmqctl {' '.join(arguments)}")
        return done.stdout

    def leader_of(self, queue: str) -> tuple[RabbitNode, list[RabbitNode]]:
        """Return (leader of a quorum queue, all nodes on which the queue is online). Raises NoRabbit if the queue is
        unknown.
        """
        listed = json.loads(self.control("list_queues", "name", "leader", "online", "--formatter", "json"))
        for one in listed:
            if one["name"] == queue:
                by_name = {node.name: node for node in self.nodes}
                return by_name[one["leader"]], [by_name[name] for name in one["online"]]
        raise NoRabbit(f'no queue "{queue}"', where="list_queues")


def free_ports(count: int) -> list[int]:
    """Free ports on loopback. They are outside of the range that the kernel uses for outgoing connections."""
    found: list[int] = []
    while len(found) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
