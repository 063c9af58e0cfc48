"""An MQTT client that limits what a broker can send. paho itself has no limit and accepts messages of 256 MiB.

MQTT 5 has the property Maximum Packet Size, but a broker may ignore it. MQTT 3.1.1 has no such property. So this client
checks the header of each packet as soon as the header has arrived. If the packet is too large, the client closes the
connection before it stores the packet.

The client also closes the connection if a message arrives at QoS 2. We never subscribe at QoS 2, and paho would keep
such messages without limit until the broker releases them. ``fault`` gives the reason why the connection was closed.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

READ: Final = 16 << 10  # bytes that are read at once; paho allocates memory for all bytes that it wants to read
# limit of the packets that wait to be sent, because a broker that does not read must not fill our memory
MAX_ANSWERS: Final = 4096
TOO_LARGE, QOS_REFUSED, QUOTA = 0x95, 0x9B, 0x97  # reason codes of DISCONNECT
_PUBLISH, _KIND, _QOS_2 = 0x30, 0xF0, 0x04  # values and masks for the first byte of a packet


def hang_up(client: Client) -> None:
    """Disconnect, and return when paho's thread has ended."""
    client.disconnect()
    with contextlib.suppress(AttributeError):  # paho's thread can end between paho's check and its join
        client.loop_stop()


class LimitExceeded(ConnectionError):
    """The broker violated a limit."""


class BoundedClient(Client):
    """paho's client with limits for what the broker may send.

    Args:
        most: limit of the bytes in a packet, without the fixed header.
        more: further arguments of paho's client.
    """

    def __init__(self, protocol: MQTTProtocolVersion, most: int, client_id: str = "", **more: Any) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id, protocol=protocol, **more)
        self._most = most
        self.fault = ""  # why the connection was closed

    def reach(self, host: str, port: int, keepalive_s: int) -> None:
        """Connect with a clean session and with our packet limit. Raises OSError, ValueError."""
        self.fault = ""
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            self.connect(host, port, keepalive_s)
            return
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = self._most
        self.connect(host, port, keepalive_s, clean_start=True, properties=limits)

    def follow(self, *topics: str, retained: bool) -> int:
        """Subscribe at QoS 1. Returns the packet id; 0 if the connection is closed.

        ``retained``: True to receive retained messages. With MQTT 3.1.1, brokers always send them.
        """
        if self.protocol != MQTTProtocolVersion.MQTTv5:
            return self.subscribe([(topic, 1) for topic in topics])[1] or 0
        handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if retained else SubscribeOptions.RETAIN_DO_NOT_SEND
        return self.subscribe([(topic, SubscribeOptions(qos=1, retainHandling=handling)) for topic in topics])[1] or 0

    def unsent_bytes(self) -> int:
        """Return how many bytes of the queued packets paho has not passed to the kernel yet."""
        return sum(packet["to_process"] for packet in self._out_packet)

    def _sock_recv(self, bufsize: int) -> bytes:
        """Read bytes for paho, and check the packet to which they belong.

        paho first reads the first byte of a packet, then its length, then all the rest.
        """
        packet = self._in_packet
        if packet["command"] & _KIND == _PUBLISH and packet["command"] & _QOS_2:
            self._cut(QOS_REFUSED, "a message at QoS 2 on a subscription for QoS 1")
        if packet["have_remaining"] and packet["remaining_length"] > self._most:
            self._cut(TOO_LARGE, f"a packet of {packet['remaining_length']:,} bytes, at most {self._most:,} are taken")
        if len(self._out_packet) > MAX_ANSWERS:
            self._cut(QUOTA, f"packets and reads none of our {len(self._out_packet):,} answers")
        return self._receive(min(bufsize, READ))

    def _receive(self, most: int) -> bytes:
        """Return at most ``most`` received bytes; b"" at the end. Raises BlockingIOError if there are none."""
        return super()._sock_recv(most)

    def _cut(self, code: int, fault: str) -> None:
        """Send DISCONNECT and raise an error. paho treats the error as the end of the connection, and closes it."""
        self.fault = fault
        # False if a packet was only partly sent, so that DISCONNECT would become a part of this packet
        between = not self._out_packet or not self._out_packet[0]["pos"]
        sock = self.socket()
        if self.protocol == MQTTProtocolVersion.MQTTv5 and sock is not None and between:
            with contextlib.suppress(OSError):
                # DISCONNECT with a reason code, after which the broker still publishes our will
                sock.send(bytes((0xE0, 1, code)))
        raise LimitExceeded(fault)
