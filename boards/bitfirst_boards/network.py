"""Addresses of a device on Ethernet."""

import ipaddress
import re
from dataclasses import dataclass

from .errors import FlowError

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_PREFIX = "02:b1:7f"  # locally administered: nobody's
_GROUP_BIT = 0x01  # of a MAC address' first byte


@dataclass(frozen=True)
class Network:
    """`address` of IPv4, `mac` six bytes: 192.168.1.50 and 02:b1:7f:a8:01:32."""

    address: str
    mac: str

    @property
    def mac_number(self) -> int:
        return int(self.mac.replace(":", ""), 16)


def network(address: str = "192.168.1.50", mac: str | None = None) -> Network:
    """The addresses; by default a MAC address that is nobody's, and other for each device of a network.

    Raises `FlowError` where one is none that a device can have.
    """
    try:
        number = ipaddress.IPv4Address(address)
    except ValueError:
        raise FlowError(f"--address {address!r} is none of IPv4; give one such as 192.168.1.50") from None
    if number.is_multicast or number.is_loopback or number.is_unspecified or number.is_reserved:
        raise FlowError(f"--address {address} is no device's; give one of your network such as 192.168.1.50")
    if mac is None:
        mac = ":".join([_PREFIX, *(f"{byte:02x}" for byte in number.packed[1:])])
    mac = mac.lower()
    if not _MAC.fullmatch(mac):
        raise FlowError(f"--mac {mac!r} is no MAC address; give one such as 02:b1:7f:00:00:01")
    made = Network(str(number), mac)
    if made.mac_number == 0 or made.mac_number >> 40 & _GROUP_BIT:
        raise FlowError(f"--mac {mac} is no single device's; give one with an even first byte: 02:b1:7f:00:00:01")
    return made


DEFAULT = network()
