# SPDX-License-Identifier: Apache-2.0
"""EC2's metadata: ``/<version>/meta-data/...`` and ``/<version>/user-data``, as Nova has them.

A listing has a line for each entry, in order, and a slash behind those that have entries
of their own.  Below ``public-keys`` it is ``0=NAME``, without a slash, and the key is at
``public-keys/0/openssh-key``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from agent.metadata.answers import OCTETS, Answer
from agent.metadata.data import ContentData, MetadataData

LATEST: Final = "latest"
VERSIONS: Final = (
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15"),
    *("2008-02-01", "2008-09-01", "2009-04-04"),
)
_KEY = "openssh-key"

Tree: TypeAlias = Mapping[str, "Tree | str"]


def answer_ec2(port: MetadataData, content: ContentData, path: tuple[str, ...]) -> Answer | None:
    """Return what is at *path*, whose first part is a version; None if nothing is."""
    if not path:
        return Answer(200, "\n".join((*VERSIONS, LATEST)).encode())
    version = VERSIONS[-1] if path[0] == LATEST else path[0]
    if version not in VERSIONS:
        return None
    match path[1:]:
        case ():
            return Answer(200, b"meta-data/\nuser-data" if content.user_data else b"meta-data/")
        case ("user-data",) if content.user_data:
            return Answer(200, content.user_data, OCTETS)
        case ("meta-data", *rest):
            return _find(meta_data(port, content, version), rest)
    return None


def meta_data(port: MetadataData, content: ContentData, version: str) -> Tree:
    """Return the tree that this version of the API has; what is not known is not in it."""
    name = content.fqdn or content.hostname
    address = next((address for address in port.addresses if ":" not in address), "")
    since: list[tuple[str, str, Tree | str]] = [
        ("1.0", "ami-launch-index", "0"),
        ("1.0", "instance-id", port.instance_id),
        ("1.0", "hostname", name),
        ("1.0", "local-ipv4", address),
        ("1.0", "public-keys", {str(index): {_KEY: key} for index, key in enumerate(content.ssh_keys)}),
        ("2007-01-19", "local-hostname", name),
        ("2007-01-19", "public-hostname", name),
        ("2007-08-29", "instance-type", content.instance_type),
        ("2008-02-01", "placement", _some("availability-zone", content.availability_zone)),
        ("2008-09-01", "instance-action", "none"),
    ]
    return {key: value for first, key, value in since if first <= version and value}


def _some(key: str, value: str) -> Tree:
    return {key: value} if value else {}


def _find(tree: Tree | str, path: list[str]) -> Answer | None:
    where = ""
    for where in path:
        if isinstance(tree, str) or where not in tree:
            return None
        tree = tree[where]
    if isinstance(tree, str):
        return Answer(200, tree.encode())
    if where == "public-keys":
        return Answer(200, "\n".join(f"{index}=key{index}" for index in tree).encode())
    lines = (key if isinstance(value, str) else f"{key}/" for key, value in sorted(tree.items()))
    return Answer(200, "\n".join(lines).encode())
