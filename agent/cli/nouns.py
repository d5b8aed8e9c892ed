# SPDX-License-Identifier: Apache-2.0
"""All nouns that a file has a section of names for, and what else it may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from agent.cli.fields import (
    ADDRESS_GROUP,
    HOST,
    METADATA_SERVICE,
    NETWORK,
    PORT,
    SECURITY_GROUP,
    SUBNET,
    Noun,
)
from agent.cli.router_fields import ADDRESS_SCOPE, FLOATING_IP, PORT_FORWARDING, ROUTER, SUBNET_POOL
from agent.store.document import (
    AddressGroupFields,
    AddressScopeFields,
    FloatingIpFields,
    HostFields,
    NetworkFields,
    PortFields,
    RouterFields,
    SecurityGroupFields,
    SubnetFields,
    SubnetPoolFields,
)

AnyNoun: TypeAlias = (
    Noun[NetworkFields]
    | Noun[SubnetFields]
    | Noun[PortFields]
    | Noun[HostFields]
    | Noun[SecurityGroupFields]
    | Noun[AddressGroupFields]
    | Noun[RouterFields]
    | Noun[FloatingIpFields]
    | Noun[SubnetPoolFields]
    | Noun[AddressScopeFields]
)
NOUNS: Mapping[str, AnyNoun] = {
    noun.section: noun
    for noun in (
        NETWORK,
        SUBNET,
        PORT,
        HOST,
        SECURITY_GROUP,
        ADDRESS_GROUP,
        ROUTER,
        FLOATING_IP,
        SUBNET_POOL,
        ADDRESS_SCOPE,
    )
}
# Of the first there is a list, of the last only one, without a name.
SECTIONS = (*NOUNS, PORT_FORWARDING.section, METADATA_SERVICE.section)
