# SPDX-License-Identifier: Apache-2.0
"""What an instance is told from the store: OpenStack's and EC2's trees, as Nova has them."""

from __future__ import annotations

from agent.metadata import answers
from agent.metadata.answers import Answer
from agent.metadata.data import ContentData, MetadataData
from agent.metadata.ec2 import answer_ec2
from agent.metadata.openstack import answer_openstack


def answer_from_store(port: MetadataData, content: ContentData, segments: tuple[str, ...]) -> Answer:
    """Return what is at a path, ``answers.NOT_FOUND`` itself if nothing is."""
    match segments:
        case ("openstack", *rest):
            found = answer_openstack(port, content, tuple(rest))
        case ("ec2", *rest):
            found = answer_ec2(port, content, tuple(rest))
        case _:
            found = answer_ec2(port, content, segments)
    return found or answers.NOT_FOUND
