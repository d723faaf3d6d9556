"""Which hosts an operator lets connections reach, as a pure decision over names and resolved addresses.

Guarantee: link-local, multicast, unspecified and cloud metadata addresses are refused in every form that IPv6 can
write an IPv4 address in, whatever the lists say.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from synqx_dagster.errors import ConfigurationError

ALLOWED_VARIABLE = "SYNQX_ALLOWED_HOSTS"
DENIED_VARIABLE = "SYNQX_DENIED_HOSTS"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: Where no database is, and where clouds hand out their machines' credentials.
_NEVER: tuple[tuple[Network, str], ...] = tuple(
    (ipaddress.ip_network(text), reason)
    for text, reason in (
        ("169.254.0.0/16", "a link-local address; clouds serve credentials there"),
        ("fe80::/10", "a link-local address"),
        ("100.100.100.200/32", "a cloud's metadata service"),  # Alibaba
        ("192.0.0.192/32", "a cloud's metadata service"),  # Oracle
        ("168.63.129.16/32", "a cloud's metadata service"),  # Azure
        ("fd00:ec2::/32", "a cloud's metadata service"),  # AWS
        ("fd20:ce::254/128", "a cloud's metadata service"),  # Google
        ("0.0.0.0/8", "an unspecified address"),
        ("::/128", "an unspecified address"),
        ("224.0.0.0/4", "a multicast address"),
        ("ff00::/8", "a multicast address"),
        ("240.0.0.0/4", "a reserved or broadcast address"),
    )
)

#: Denied by name too: behind an SSH tunnel a name is not resolved here.
_NEVER_NAMES = (
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data.ec2.internal",
)

_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_LOOKS_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)$")


def normalise_host(host: str) -> str:
    """A host as it is compared: lower case, ASCII, without brackets and a trailing dot."""
    text = host.strip()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    # NFKC: what looks like digits or dots to a resolver looks so here. What is no name of any is compared as it is.
    with contextlib.suppress(UnicodeError):
        text = text.encode("idna").decode("ascii")
    return text.rstrip(".").casefold()


def parse_address(text: str) -> Address | None:
    """The address that a text is, a scope (``%eth0``) apart; None when it is a name."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def is_local(host: str) -> bool:
    """Whether traffic to a host stays on this machine: a socket's path, ``localhost`` or a loopback address."""
    if host.startswith(("/", "@")):
        return True
    name = normalise_host(host)
    address = parse_address(name)
    return name == "localhost" if address is None else any(form.is_loopback for form in _forms(address))


def _forms(address: Address) -> Iterator[Address]:
    """An address and every IPv4 address that is written inside it, in the ways that systems take apart."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    if address.ipv4_mapped is not None:
        yield address.ipv4_mapped
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
    number = int(address)
    if any(address in network for network in _NAT64) or (address in _IPV4_COMPATIBLE and number > 1):
        yield ipaddress.IPv4Address(number & 0xFFFFFFFF)


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(form in network for form in _forms(address) for network in networks)


def _names_match(name: str, patterns: Iterable[str]) -> bool:
    return any(name == pattern or (pattern[0] == "*" and name.endswith(pattern[1:])) for pattern in patterns)


@dataclass(frozen=True)
class HostPolicy:
    """An operator's two lists of hosts. Without an allow-list every host is allowed that is not denied.

    Attributes:
        allowed: Networks and names of which one must fit; None where there is no allow-list.
        denied: Networks and names of which none may fit; stronger than `allowed`.
    """

    allowed_networks: tuple[Network, ...] = ()
    allowed_names: tuple[str, ...] = ()
    denied_networks: tuple[Network, ...] = ()
    denied_names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, allowed: str | None, denied: str | None) -> HostPolicy:
        """Read two lists of names, ``*.names``, addresses and networks, split by commas or blanks.

        Raises:
            ConfigurationError: An entry is none of these; nothing is let through by a list that cannot be read.
        """
        allowed_networks, allowed_names = _parse_list(allowed or "", ALLOWED_VARIABLE)
        denied_networks, denied_names = _parse_list(denied or "", DENIED_VARIABLE)
        return cls(allowed_networks, allowed_names, denied_networks, denied_names)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> HostPolicy:
        """The lists of ``SYNQX_ALLOWED_HOSTS`` and ``SYNQX_DENIED_HOSTS``."""
        return cls.parse(environ.get(ALLOWED_VARIABLE), environ.get(DENIED_VARIABLE))

    @property
    def has_allow_list(self) -> bool:
        """Whether a host must be listed to be reached."""
        return bool(self.allowed_networks or self.allowed_names)

    def why_name_refused(self, host: str) -> str | None:
        """Why a host is refused by its name alone, whatever its addresses are; None when it is not."""
        name = normalise_host(host)
        if name in _NEVER_NAMES:
            return "it is a cloud's metadata service"
        if _names_match(name, self.denied_names):
            return f"{DENIED_VARIABLE} denies it"
        return None

    def allows_name(self, host: str) -> bool:
        """Whether the allow-list, if there is one, has a host by its name."""
        return not self.has_allow_list or _names_match(normalise_host(host), self.allowed_names)

    def why_address_refused(self, address: Address) -> str | None:
        """Why an address is never or not by this policy to be reached; None when it may be."""
        for network, reason in _NEVER:
            if _within(address, (network,)):
                return f"it is {reason}"
        if _within(address, self.denied_networks):
            return f"{DENIED_VARIABLE} denies it"
        return None

    def allows_address(self, address: Address) -> bool:
        """Whether the allow-list, if there is one, has an address."""
        return not self.has_allow_list or _within(address, self.allowed_networks)


def _parse_list(text: str, variable: str) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    networks: list[Network] = []
    names: list[str] = []
    for entry in (part for part in re.split(r"[\s,]+", text) if part):
        bare = entry[1:-1] if entry.startswith("[") and entry.endswith("]") else entry
        try:
            networks.append(ipaddress.ip_network(bare))
            continue
        except ValueError:
            pass  # A name, or a mistake.
        wildcard = "*." if entry.startswith("*.") else ""
        name = wildcard + normalise_host(entry.removeprefix("*."))
        if "/" in entry or ":" in entry or not _NAME.fullmatch(name) or _LOOKS_NUMERIC.search(name.rpartition(".")[2]):
            raise ConfigurationError(
                f"{variable}: {entry!r} is not a name, an address or a network",
                hint="such as db.example.org, *.example.org, 10.0.0.5 or 10.0.0.0/8; a network has no host bits",
            )
        names.append(name)
    return tuple(networks), tuple(names)
