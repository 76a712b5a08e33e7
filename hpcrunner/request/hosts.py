"""Which hosts a message may have the gateway contact. Pure.

A message names artifacts, stores, a database, images and package indexes by their addresses. What
the gateway fetches or writes there it does from the login node, which reaches services that are
nobody else's business: of its own (loopback), of the cloud that it runs in (link-local addresses
give out the machine's credentials), and of the network behind it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

PUBLIC = "public"
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# Whatever a site says: addresses at which clouds tell a machine its credentials (AWS and most
# others have 169.254.169.254, AWS fd00:ec2::254, Alibaba 100.100.100.200, Azure 168.63.129.16),
# all of link-local, and what is no single host.
_NEVER = tuple(
    ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
        "0.0.0.0/8",
        "::/128",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "ff00::/8",
    )
)
# An address of IPv4 is the end of these (NAT64, SIIT, and what RFC 4291 calls IPv4-compatible).
_HOLDING_IPV4 = tuple(map(ip_network, ("64:ff9b::/96", "::ffff:0:0:0/96", "::/96")))
_LOOPBACK = ip_address("::1")
# Of a site's own network, whatever Python's list of private ones says.
_OF_SITES = tuple(map(ip_network, ("fec0::/10", "64:ff9b:1::/48")))
_NAME = re.compile(
    r"\.?[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*", re.ASCII
)


@dataclass(frozen=True, slots=True)
class HostRule:
    """Hosts by name (``s3.example.org``, ``.example.org`` for all below it), address or network.

    ``public`` stands for every address of the internet. A name that is listed stands for all
    addresses that it has, except those that are refused always.
    """

    allowed: tuple[str, ...] = (PUBLIC,)

    def names(self, host: str) -> bool:
        """Whether a host is allowed by its name."""
        name = host.rstrip(".").lower()
        return any(
            name == entry != PUBLIC or (entry.startswith(".") and name.endswith(entry))
            for entry in self.allowed
        )

    def allows(self, host: str, address: str) -> bool:
        """Whether a connection to this address, which ``host`` has, may be made."""
        if refused_always(address):
            return False
        found = _plain(ip_address(address.partition("%")[0]))
        if self.names(host) or any(found in network for network in _networks(self.allowed)):
            return True
        inside = any(found in network for network in _OF_SITES)
        return PUBLIC in self.allowed and found.is_global and not inside


ANYWHERE = HostRule((PUBLIC, "0.0.0.0/0", "::/0"))  # but for what is refused always


def parse_host(text: str) -> str:
    """An entry of a site's list in normal form. Raises ValueError."""
    entry = text.strip().lower()
    if re.fullmatch(r"[0-9a-f:.]+(?:/[0-9]+)?", entry) and re.search(r":|^[0-9./]+$", entry):
        network = ip_network(entry)  # raises ValueError for bits behind the mask, too
        if any(network.version == never.version and network.subnet_of(never) for never in _NEVER):  # type: ignore[arg-type]
            raise ValueError(f"{entry} is refused always")
        return str(network)
    if not _NAME.fullmatch(entry):
        raise ValueError(f"{entry} is no host")
    return entry


def refused_always(address: str) -> bool:
    """Whether no site can allow that address."""
    found = _plain(ip_address(address.partition("%")[0]))
    return any(found in network for network in _NEVER)


def is_address(host: str) -> bool:
    """Whether a host is written as an address."""
    try:
        ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


@lru_cache(maxsize=64)
def _networks(allowed: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ip_network(entry) for entry in allowed if is_address(entry.partition("/")[0]))


def _plain(address: Address) -> Address:
    """An IPv4 address that is written as one of IPv6 (mapped, 6to4, NAT64 …) as what it is."""
    if isinstance(address, IPv4Address) or address == _LOOPBACK:
        return address
    if any(address in network for network in _HOLDING_IPV4):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
