"""Packs leave, are acknowledged, and only then count as delivered."""

from __future__ import annotations

from collections.abc import Callable

from delivery_kit import BASE, Desk, Listener, Maker, Mosquitto, To, until

from agent.uplink import Uplink


def test_packs_arrive_as_the_identical_bytes_and_leave_the_outbox(
    broker: Callable[..., Mosquitto],
    listen: Callable[..., Listener],
    desk: Callable[..., Desk],
    uplink: Callable[..., Uplink],
) -> None:
    """Confirmed means acknowledged by the broker, not handed to a library. # field pain 50"""
    port = broker().port
    heard, at = listen(port), desk()
    up = uplink(at, To(port))
    make = Maker()
    at.commit(make(birth=True))
    for _ in range(50):
        at.commit(make())
    until(lambda: len(heard.packs("readings")) == 51)
    assert [m.payload for m in heard.heard if m.topic == f"{BASE}/inv1/readings"] == [p.data for p in make.made]
    assert not heard.packs("backfill")
    until(lambda: at.pending() == 0)
    state = up.state()
    assert (state.connected, state.mqtt, state.confirm, state.error) == (True, "5", "subscriber", None)
    assert state.confirmed == 51 and state.refused == 0
