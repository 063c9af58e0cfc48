"""Delivery of packs to MQTT brokers, one uplink for each destination."""

import agent.uplink.late_urllib  # noqa: F401  before anything imports paho
from agent.outbox import Ack, Outbox, OutboxItem
from agent.uplink.messages import UplinkState
from agent.uplink.uplink import Uplink

__all__ = ["Ack", "Outbox", "OutboxItem", "Uplink", "UplinkState"]
