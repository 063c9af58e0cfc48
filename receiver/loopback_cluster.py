"""``make platform-cluster``: starts three RabbitMQ nodes and two databases on loopback, so that docs/platform.md can be
tried out.

Runs until Ctrl-C, then removes everything.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import ExitStack
from urllib.parse import quote

from drivers.model import GatewayError
from receiver.private_postgres import USER, PrivatePostgres
from receiver.private_rabbitmq import PrivateRabbit

SHARDS = 2


def url_of(server: PrivatePostgres) -> str:
    """The DSN of a database in the form of a URL. It contains no space, because spaces separate the DSNs in
    METERHOUSE_DB.
    """
    user = f"{USER}@" if os.geteuid() == 0 else ""
    return f"postgresql://{user}/postgres?host={quote(str(server.folder), safe='')}"


def main() -> int:
    """Start the servers, print their addresses, and wait for a signal. Exit codes: 0 stopped, 3 a server is not
    installed.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        rabbit = PrivateRabbit(3)
        stack.callback(rabbit.stop)
        rabbit.start()
        servers = []
        for _ in range(SHARDS):
            server = PrivatePostgres()
            stack.callback(server.stop)
            server.start()
            servers.append(server)
        print(f"export METERHOUSE_DB='{' '.join(map(url_of, servers))}'")
        print(f"export AMQP='{rabbit.amqp_url()}'")
        print(f"export MQTT='{rabbit.mqtt_url()}'")
        for node in rabbit.nodes:
            print(f"# {node.name}: process {node.pid}, AMQP {node.amqp_port}, MQTT {node.mqtt_port}")
        print("# Ctrl-C stops and removes everything", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except GatewayError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
