# SPDX-License-Identifier: Apache-2.0
"""OpenStack's metadata: ``/openstack/<version>/...``, with the versions and their differences as Nova has them."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping
from typing import Final

from agent.metadata.answers import JSON, OCTETS, Answer
from agent.metadata.data import ContentData, MetadataData

FOLSOM, GRIZZLY, HAVANA, LIBERTY = "2012-08-10", "2013-04-04", "2013-10-17", "2015-10-15"
NEWTON_ONE, NEWTON_TWO, OCATA, ROCKY, VICTORIA = "2016-06-30", "2016-10-06", "2017-02-22", "2018-08-27", "2020-10-14"
LATEST: Final = "latest"
VERSIONS: Final = (FOLSOM, GRIZZLY, HAVANA, LIBERTY, NEWTON_ONE, NEWTON_TWO, OCATA, ROCKY, VICTORIA)
_SEED_LENGTH = 512  # octets

# Since which version there is what, in the order of Nova's listing.
_FILES: Mapping[str, str] = {
    "meta_data.json": FOLSOM,
    "user_data": FOLSOM,
    "password": GRIZZLY,
    "vendor_data.json": HAVANA,
    "network_data.json": LIBERTY,
    "vendor_data2.json": NEWTON_TWO,
}


def answer_openstack(port: MetadataData, content: ContentData, path: tuple[str, ...]) -> Answer | None:
    """Return what is at *path* below ``/openstack``, None if nothing is."""
    if not path:
        return Answer(200, "\n".join((*VERSIONS, LATEST)).encode())
    version = VERSIONS[-1] if path[0] == LATEST else path[0]
    if version not in VERSIONS or len(path) > 2:
        return None
    there = [name for name, since in _FILES.items() if since <= version and _is_there(name, content)]
    if len(path) == 1:
        return Answer(200, "\n".join(there).encode())
    return _file(port, content, version, path[1]) if path[1] in there else None


def _is_there(name: str, content: ContentData) -> bool:
    # Without network_data.json cloud-init asks DHCP; of an empty one it would make no interface at all.
    return bool({"user_data": content.user_data, "network_data.json": content.network_data}.get(name, True))


def _file(port: MetadataData, content: ContentData, version: str, name: str) -> Answer | None:
    match name:
        case "meta_data.json":
            return Answer(200, json.dumps(_meta_data(port, content, version)).encode(), JSON)
        case "user_data":
            return Answer(200, content.user_data, OCTETS)
        case "password":
            return Answer(200, b"")  # none has been set; only Nova could keep one
        case "vendor_data.json":
            return Answer(200, (content.vendor_data or "{}").encode(), JSON)
        case "vendor_data2.json":
            return Answer(200, b"{}", JSON)
        case "network_data.json":
            return Answer(200, content.network_data.encode(), JSON)
    return None


def _meta_data(port: MetadataData, content: ContentData, version: str) -> dict[str, object]:
    found: dict[str, object] = {"uuid": port.instance_id}
    if content.meta:
        found["meta"] = dict(content.meta)
    if content.ssh_keys:
        keys = {key_name(index): key for index, key in enumerate(content.ssh_keys)}
        found["public_keys"] = keys
        found["keys"] = [{"name": name, "type": "ssh", "data": key} for name, key in keys.items()]
    found["hostname"] = content.fqdn or content.hostname
    found["name"] = port.name or content.hostname
    found["launch_index"] = 0
    found["availability_zone"] = content.availability_zone
    if version >= GRIZZLY:
        found["random_seed"] = base64.b64encode(os.urandom(_SEED_LENGTH)).decode()
    if version >= LIBERTY:
        found["project_id"] = port.project
    if version >= NEWTON_ONE:
        found["devices"] = []
    if version >= VICTORIA:
        found["dedicated_cpus"] = []
    return found


def key_name(index: int) -> str:
    """Return the name of a key: the store has none, and comments in keys need not tell them apart."""
    return f"key{index}"
