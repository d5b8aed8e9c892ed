# SPDX-License-Identifier: Apache-2.0
"""What an instance is called: by its port, or after its address as Neutron has it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class InstanceName(NamedTuple):
    """A host name, one label, and the domain that it is in; each may be empty."""

    host: str
    domain: str

    @property
    def fqdn(self) -> str:
        """Both together, as far as they are known."""
        return ".".join(part for part in self if part)


def instance_name(hostname: str, addresses: Iterable[str], dns_domain: str) -> InstanceName:
    """Return what the instance of a port is called.

    *hostname* is the port's, perhaps with a domain, which then counts more than
    *dns_domain*, the network's.  Without one it is made of the first IPv4 address among
    *addresses*, else of the first (``host-10-0-0-5``); "" if there is none.
    """
    host, _, domain = hostname.rstrip(".").partition(".")
    return InstanceName(host or _after_address(tuple(addresses)), domain or dns_domain.rstrip("."))


def _after_address(addresses: tuple[str, ...]) -> str:
    address = next((text for text in addresses if ":" not in text), addresses[0] if addresses else "")
    if not address:
        return ""
    digits = address.replace(".", "-").replace(":", "-")
    return f"host-{digits}0" if digits.endswith("-") else f"host-{digits}"  # a label may not end so (RFC 1123, 2.1)
