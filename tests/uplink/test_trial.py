"""One trial of a destination, before the agent runs: what each broker answers, in words for a technician."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.settings import UplinkConfig
from agent.uplink import Uplink
from agent.uplink.trial import TrialResult, try_destination
from tests.kits.broker import free_port
from tests.kits.delivery import BASE, Listener, Mosquitto, StoreOutbox, destination, password, until
from tests.kits.fake_broker import FakeBroker

ROOT = Path(__file__).parents[2]
Brokers = Callable[..., Mosquitto]


def attempt(to: UplinkConfig, **more: Any) -> TrialResult:
    return try_destination(to, "park7", "gw01", "0.1", **{"publish": True, **more})


def problems(result: TrialResult) -> str:
    return "\n".join(map(str, result.problems))


def test_with_a_subscriber_all_is_well(broker: Brokers, listen: Callable[..., Listener]) -> None:
    port = broker().port
    platform = listen(port)
    result = attempt(destination(port))
    assert (result.mqtt, result.may_publish, result.has_subscriber, result.problems) == ("5", True, True, [])
    until(lambda: platform.heard)
    assert [m.topic for m in platform.heard] == [f"{BASE}/status"]
    assert platform.last("status") == {"gateway": "park7/gw01", "state": "offline", "v": 1, "version": "0.1"}
    late = listen(port)
    assert late.heard == []  # nothing of the trial is retained


def test_what_was_not_tried_is_all_that_the_agent_will_publish(broker: Brokers, tmp_path: Path) -> None:
    """A user who may publish his status alone passes the trial: it must not say more than it proved."""
    acl = tmp_path / "acl"
    acl.write_text(f"topic write {BASE}/status\ntopic read #\n")
    acl.chmod(0o600)
    result = attempt(destination(broker(f"acl_file {acl}").port))
    assert result.may_publish and not problems(result).count("write access")
    documented = (ROOT / "docs/deploy.md").read_text()
    writes = set(re.findall(r"^pattern write meterhouse/v1/%u/(\S+)$", documented, re.MULTILINE))
    assert {topic.removeprefix(f"{BASE}/") for topic in result.unproven} | {"status"} == writes


def test_nobody_subscribes(broker: Brokers) -> None:
    result = attempt(destination(broker().port))
    assert result.may_publish and result.has_subscriber is False
    assert f"no client subscribes to {BASE}/status" in problems(result)


def test_a_broker_that_speaks_only_3_1_1_cannot_report_subscribers(fake: Callable[..., FakeBroker]) -> None:
    result = attempt(destination(fake(only_v311=True).port))
    assert (result.mqtt, result.may_publish, result.has_subscriber, result.problems) == ("3.1.1", None, None, [])
    assert result.unproven[0] == f"{BASE}/status", "its PUBACK does not say whether the message was dropped"


def test_a_user_who_may_not_write_our_topics(broker: Brokers, tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    acl.chmod(0o600)
    result = attempt(destination(broker(f"acl_file {acl}").port))
    assert result.may_publish is False and result.has_subscriber is None
    assert f"Ask the broker's operator for write access to {BASE}/status" in problems(result)


def test_a_subscription_that_is_refused(fake: Callable[..., FakeBroker]) -> None:
    result = attempt(destination(fake(suback=0x87).port, confirm="platform"))
    assert f"read access to {BASE}/ack" in problems(result) and f"{BASE}/replay/request" in problems(result)


def test_the_agent_logs_a_subscription_that_is_refused(
    fake: Callable[..., FakeBroker],
    outbox: Callable[..., StoreOutbox],
    uplink: Callable[..., Uplink],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Otherwise acks and replay requests would never arrive, and nobody would know why."""
    uplink(outbox(), destination(fake(suback=0x87).port, confirm="platform"))
    until(lambda: caplog.text.count(". Ask the broker's operator for read access") == 2)


def test_a_broker_that_does_not_acknowledge(fake: Callable[..., FakeBroker]) -> None:
    result = attempt(destination(fake(answer=lambda sent: None).port), answer_s=0.2)
    assert "no acknowledgement from the broker" in problems(result)


@pytest.mark.parametrize(
    ("lines", "more", "what"),
    [
        (("allow_anonymous false",), {}, "not authorized"),
        ((), {"host": "nowhere.invalid"}, "host name not found|DNS server not responding"),
        ((), {"tls": True}, "does not use TLS on this port|TLS failed|does only one side use TLS"),
    ],
)
def test_what_keeps_a_connection_from_being_made(
    broker: Brokers, lines: tuple[str, ...], more: dict[str, Any], what: str
) -> None:
    result = attempt(destination(broker(*lines).port, **more))
    assert result.mqtt is None and len(result.problems) == 1
    assert any(words in problems(result) for words in what.split("|")), problems(result)


def test_a_port_without_a_broker_and_a_password_that_is_missing(tmp_path: Path) -> None:
    assert "nothing listens on this port" in problems(attempt(destination(free_port())))
    lost = password(tmp_path, "x")
    assert lost.file
    lost.file.unlink()
    result = attempt(destination(free_port(), username="gw", password=lost))
    assert "cannot be read" in problems(result) and str(lost.file) in problems(result)


def test_a_password_that_is_not_text_names_its_file(tmp_path: Path) -> None:
    """A file of an editor that writes UTF-16; the agent and the trial read it the same way."""
    secret = password(tmp_path, "x")
    assert secret.file
    secret.file.write_bytes("secret".encode("utf-16"))
    result = attempt(destination(free_port(), username="gw", password=secret))
    assert f"file {secret.file}: the password is not text in UTF-8" in problems(result)


def test_a_running_agent_keeps_its_session(broker: Brokers, listen: Callable[..., Listener]) -> None:
    """The trial connects under another client id, and without ``publish`` sends nothing."""
    port = broker().port
    platform, agent = listen(port), Listener(port)
    result = attempt(destination(port), publish=False)
    assert (result.mqtt, result.may_publish, result.problems) == ("5", None, [])
    assert platform.heard == [] and agent.client.is_connected()
    agent.close()
