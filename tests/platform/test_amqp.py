"""The AMQP source against a RabbitMQ of our own: nothing is dropped, and no message of a stranger stops a worker."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from drivers.model import UsageError
from receiver.database import connect
from receiver.private_rabbitmq import NoRabbit, PrivateRabbit
from receiver.sources import Message, hosts_of, open_source
from receiver.sources.amqp import AmqpSource
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.authority import Authority
from tests.kits.broker import until
from tests.kits.fleet_faults import make, publish_all
from tests.kits.ports import free_port

NUMBERS = count(1)
TLS_PORTS: list[int] = []  # of the node
TOPIC = "meterhouse/v1/park7/gw01/m1/readings"


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    with tempfile.TemporaryDirectory(prefix="mh-amqps-") as folder:
        Path(folder).chmod(0o755)
        yield Authority(Path(folder), "ca")


@pytest.fixture(scope="module")
def rabbit(authority: Authority) -> Iterator[PrivateRabbit]:
    """One node for all tests of this file, on TLS too; each test takes a queue of its own."""
    certificate, key = authority.issue("server")
    key.chmod(0o644)  # RabbitMQ has a user of its own
    try:
        made = PrivateRabbit(
            settings=[
                f"listeners.ssl.1 = 127.0.0.1:{(port := free_port())}", f"ssl_options.cacertfile = {authority.file}",
                f"ssl_options.certfile = {certificate}", f"ssl_options.keyfile = {key}",
            ]
        )  # fmt: skip
    except NoRabbit as error:
        pytest.skip(str(error))
    TLS_PORTS.append(port)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def queue(rabbit: PrivateRabbit) -> Iterator[str]:
    """A name for a queue, which is bound to all topics once a source connects; gone after the test."""
    name = f"q{next(NUMBERS)}"
    yield name
    for one in (name, f"{name}.again", f"{name}.shard1", f"{name}.shard2"):
        _channel(rabbit).queue_delete(one)


def opened(rabbit: PrivateRabbit, queue: str, name: str = "w1") -> Any:
    source = open_source(rabbit.amqp_url(queue), name)
    until(lambda: source.take(0, 0) == [] and not source.problem(), what=source.problem)
    return source


def taken(source: Any, wanted: int) -> list[Message]:
    found: list[Message] = []
    until(lambda: found.extend(source.take(100, 0.1)) or len(found) >= wanted, what=lambda: (len(found), wanted))  # type: ignore[func-returns-value]
    return found


def published(rabbit: PrivateRabbit, *sent: tuple[str, bytes]) -> list[int]:
    return publish_all(rabbit.nodes[0].mqtt_port, sent)


def left(rabbit: PrivateRabbit, queue: str) -> int:
    """Messages that are ready in a queue."""
    return int(_channel(rabbit).queue_declare(queue, passive=True).method.message_count)


def _channel(rabbit: PrivateRabbit) -> Any:
    import pika

    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", rabbit.nodes[0].amqp_port)).channel()


def test_over_tls_the_broker_is_who_its_certificate_says(
    rabbit: PrivateRabbit, authority: Authority, queue: str, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text("guest\n")
    base = f"amqps://guest@127.0.0.1:{TLS_PORTS[0]}/%2F?queue={queue}&password_file={password}"
    source = open_source(f"{base}&ca={authority.file}", "w1")
    until(lambda: source.take(0, 0) == [] and not source.problem(), what=source.problem)
    published(rabbit, (TOPIC, b"one"), (TOPIC, b"two"))
    assert [message.body for message in taken(source, 2)] == [b"one", b"two"]
    source.close()
    for wrong, words in (
        (base, "does not verify: give the file of its CA with &ca=FILE"),
        (f"{base}&ca={Authority(tmp_path, 'other').file}", "does not verify"),
        (f"{base}&ca={authority.file}".replace("127.0.0.1", "127.0.0.2"), "127.0.0.2:{port}: [Errno 111] Connection"),
        (
            f"amqps://guest@127.0.0.1:{rabbit.nodes[0].amqp_port}/%2F?queue={queue}&ca={authority.file}",
            "does not speak TLS: amqps:// needs the broker's TLS port",
        ),
    ):
        refused = open_source(wrong, "w1")
        until(lambda refused=refused: refused.take(0, 0) == [] and "not connected yet" not in refused.problem())
        assert words.format(port=TLS_PORTS[0]) in refused.problem(), (wrong, refused.problem())
        refused.close()
    with pytest.raises(UsageError, match="Does the file exist"):
        open_source(f"{base}&ca={tmp_path / 'none.pem'}", "w1")


def test_workers_share_a_queue_and_store_all_of_it(rabbit: PrivateRabbit, queue: str, dsn: str) -> None:
    """Keys come to one worker only, the other has them from the database; a PUBACK is that of the queue."""
    made = [make("whole", number) for number in range(20)]
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
    sources = [opened(rabbit, queue, name) for name in ("w1", "w2")]
    crew = [Worker(source, [Store(dsn)]) for source in sources]
    sent = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
    sent += [message for b in made for message in b.sent]
    assert set(published(rabbit, *sent)) == {0}

    def stored() -> bool:
        for worker in crew:
            worker.step(0.1)
        with connect(dsn) as connection:
            return connection.execute("SELECT count(*) FROM packs").fetchall()[0][0] == 20 * 12

    until(stored, what=lambda: [worker.report() for worker in crew])
    for worker in crew:
        until(lambda: worker.step(0.1) == 0 and not worker.waiting, what=worker.report)  # noqa: B023
        assert not worker.totals.refused and not worker.totals.failures
    for source in sources:
        source.close()
    assert left(rabbit, queue) == left(rabbit, f"{queue}.again") == 0


def test_what_was_not_acknowledged_comes_again_without_end(rabbit: PrivateRabbit, queue: str) -> None:
    """A quorum queue of RabbitMQ 4 drops a message after twenty returns: a worker that dies often lost good packs."""
    source = opened(rabbit, queue)
    published(rabbit, *((TOPIC, b"%d" % number) for number in range(5)))
    for life in range(25):
        assert {message.body for message in taken(source, 5)} == {b"0", b"1", b"2", b"3", b"4"}, life
        source.close()
        source = opened(rabbit, queue)
    first, *rest = taken(source, 5)
    source.acknowledge(rest)  # the oldest one is still out
    source.close()
    source = opened(rabbit, queue)
    (again,) = taken(source, 1)
    assert (again.topic, again.body) == (TOPIC, first.body)
    source.acknowledge([again])
    source.close()
    assert left(rabbit, queue) == left(rabbit, f"{queue}.again") == 0


def test_a_topic_that_amqp_cannot_carry_stops_nobody(rabbit: PrivateRabbit, queue: str, dsn: str) -> None:
    """More than 255 bytes: RabbitMQ ends each channel to which it would deliver it, for ever."""
    b = make("whole", 1)
    with connect(dsn) as connection:
        enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid])])
    source = opened(rabbit, queue)
    worker = Worker(source, [Store(dsn)])
    rng = random.Random(5)
    long = [f"meterhouse/v1/{b.gateway.name}/{'x' * 300}/readings", f"meterhouse/v1/a/{'y' * 4000}/keys"]
    hostile = [(topic, rng.randbytes(40)) for topic in long]
    hostile += [("meterhouse/v1/a/b/\u00e9\u4e2d/readings", b"{"), ("meterhouse/v1////readings", b"")]
    hostile += [(b.topic, rng.randbytes(200_000)), (b.topic, b"{" * 100_000), (b.topic, b"")]
    published(rabbit, *hostile[:1], (f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]), *b.sent, *hostile)

    def stored() -> bool:
        worker.step(0.1)
        with connect(dsn) as connection:
            packs, refused = connection.execute(
                "SELECT (SELECT count(*) FROM packs), (SELECT sum(times) FROM refused)"
            ).fetchall()[0]
        return packs == 12 and worker.totals.messages == 13 + 1 + len(hostile) and bool(refused)

    until(stored, what=lambda: (worker.report(), source.problem()))
    source.close()
    assert left(rabbit, queue) == left(rabbit, f"{queue}.again") == 0
    assert worker.totals.refused["internal"] == 0


def test_a_queue_that_is_deleted_is_made_again(rabbit: PrivateRabbit, queue: str) -> None:
    source = opened(rabbit, queue)
    _channel(rabbit).queue_delete(queue)
    until(lambda: source.take(1, 0.1) == [] and source.problem(), what="the worker notices")
    until(lambda: source.take(1, 0.1) == [] and not source.problem(), what=source.problem)
    assert published(rabbit, (TOPIC, b"1")) == [0]
    source.acknowledge(taken(source, 1))
    source.close()


def test_a_queue_of_somebody_else_is_named_with_what_to_do(rabbit: PrivateRabbit, queue: str) -> None:
    _channel(rabbit).queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
    source = open_source(rabbit.amqp_url(queue), "w1")
    until(lambda: source.take(1, 0.1) == [] and "inequivalent arg" in source.problem(), what=source.problem)
    assert "?queue=" in source.problem()
    source.close()


def test_messages_of_a_shard_that_is_away_wait_in_a_queue_of_their_own(rabbit: PrivateRabbit, queue: str) -> None:
    source = opened(rabbit, queue)
    assert isinstance(source, AmqpSource)
    long = f"meterhouse/v1/a/{'z' * 300}/keys"
    published(rabbit, *((TOPIC, b"%d" % number) for number in range(6)), (long, b"l"))
    source.deliver_shard(1, True)
    messages = taken(source, 7)
    source.deliver_shard(1, False)
    fresh = {id(message) for message in source.set_aside(1, messages)}
    assert fresh == {id(message) for message in messages}
    source.acknowledge(messages)
    published(rabbit, (TOPIC, b"of the other"))
    (other,) = taken(source, 1)
    assert other.body == b"of the other", "it holds up nobody"
    source.deliver_shard(1, True)
    back = taken(source, 7)
    assert sorted((one.topic, one.body) for one in back) == sorted((one.topic, one.body) for one in messages)
    source.acknowledge([other, *back])
    source.close()
    assert left(rabbit, queue) == left(rabbit, f"{queue}.shard2") == 0


@pytest.mark.slow  # rabbitmqctl alone takes seconds of a processor
def test_a_full_queue_refuses_the_newest_and_keeps_what_it_has(rabbit: PrivateRabbit, queue: str) -> None:
    """A limit by policy: without ours the oldest, confirmed already, would be dropped."""
    source = opened(rabbit, queue)
    source.close()
    rabbit.control("set_policy", "bound", f"^{queue}$", '{"max-length":10}', "--apply-to", "quorum_queues")
    reasons = [reason for _ in range(4) for reason in published(rabbit, *[(TOPIC, b"x")] * 10)]
    kept = reasons.count(0)
    assert 10 <= kept < 40, reasons
    source = opened(rabbit, queue)
    assert len(taken(source, kept)) == kept, "each that was confirmed"
    assert source.take(100, 1.0) == [], "and none of the others"
    source.close()


def test_urls_that_are_wrong_say_what_is_right(tmp_path: Path) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for url, told in (
        ("amqp://h:x/", "not a host with a port"), ("amqp://h,,i/", "not a host with a port"),
        ("amqp://h/%2F?que=x", 'unknown option "que"'), ("amqp://h/?password_file=/nowhere", "No such file"),
        ("amqps://h/?ca=/nowhere", "No such file.*'/nowhere'"),
        ("mqtts://h/?ca=/nowhere", "No such file.*'/nowhere'"), (f"amqps://h/?ca={text}", f"ca={text}: "),
        (f"mqtts://h/?certificate={text}&key={text}", f"certificate={text}, key={text}: "),
        (f"mqtts://h/?ca={text}", f"ca={text}: "), ("mqtt://h?queue=x", 'unknown option "queue"'),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=told.replace("?", r"\?")):
            open_source(url, "w")
    assert hosts_of(urlsplit("mqtt://u:p@a,b:7,[::1]:8/x"), 1883) == [("a", 1883), ("b", 7), ("::1", 8)]
    secret = tmp_path / "secret"
    secret.write_text("p@ss\n")
    source = open_source(f"amqp://u%40x@h1,h2:7/v%2F1?password_file={secret}&queue=q", "w")
    assert isinstance(source, AmqpSource)
    assert [(one.host, one.port, one.virtual_host) for one in source._hosts] == [("h1", 5672, "v/1"), ("h2", 7, "v/1")]
    assert (source._hosts[0].credentials.username, source._hosts[0].credentials.password) == ("u@x", "p@ss")
