"""Out to the broker: besides the verifier the only room that speaks MQTT."""

import agent.uplink.spare  # noqa: F401 - before paho is imported
from agent.outbox import Ack, Outbox, OutboxItem
from agent.uplink.messages import Destination, UplinkState
from agent.uplink.uplink import Uplink

__all__ = ["Ack", "Destination", "Outbox", "OutboxItem", "Uplink", "UplinkState"]
