# SPDX-License-Identifier: Apache-2.0
"""``hostplane port``."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from agent.cli.fields import PORT
from agent.cli.objects import Filter, Verbs, of, with_names
from agent.cli.output import Row
from agent.store import metadata_form
from agent.store.document import PortFields
from agent.store.records import PortRecord
from agent.store.writer import Writer

_NOT_FILTERED = "not filtered"


def _shown(record: PortRecord) -> Row:
    row = with_names(record, "network")
    del row["security_group_ids"]
    row["security_groups"] = _NOT_FILTERED if record.security_groups is None else list(record.security_groups)
    row["fixed_ips"] = [fixed_ip.address for fixed_ip in record.fixed_ips]
    row["metadata"] = metadata_form.brief(record.metadata)
    row["dhcp_options"] = [f"{name}={value}" for name, value in record.dhcp_options.items()]
    if record.since is not None:
        row["since"] = datetime.fromtimestamp(record.since, UTC).isoformat(sep=" ", timespec="seconds")
    return row


VERBS: Verbs[PortFields, PortRecord] = Verbs(
    noun=PORT,
    list_all=Writer.list_ports,
    get=Writer.get_port,
    create=Writer.create_port,
    change=lambda writer, ref, fields, name: writer.set_port(ref, fields, name=name),
    delete=Writer.delete_port,
    shown=_shown,
    filters=(
        Filter("host", "only those on this host", lambda record, value: record.host == value),
        of("network", lambda record: (record.network, record.network_name)),
        Filter(
            "security-group",
            "only those with this one (name or id)",
            lambda record, value: value in (*(record.security_groups or ()), *record.security_group_ids),
        ),
    ),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs."""
    VERBS.configure(parser)
