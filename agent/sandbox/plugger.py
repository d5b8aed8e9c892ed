# SPDX-License-Identifier: Apache-2.0
"""Make instances on a simulated host; runs inside its namespaces as a program of its own.

Reads ``{"database": ..., "instances": [{"name": ..., "port": {...}}]}`` on standard
input (the fields of ``PortView``), makes the namespaces that are missing, plugs each
into its port, and prints ``{port id: error}`` of those that failed.
"""

from __future__ import annotations

import json
import sys

from agent.cli.plug_devices import NETNS_FOLDER, Plug, PortView
from agent.cli.plug_many import plug_many
from agent.cli.plug_switch import Switch
from agent.core.errors import AgentError
from agent.sandbox.tools import run


def main() -> int:
    """Do what standard input asks for; 1 with a message if nothing could be done."""
    order = json.load(sys.stdin)
    names = [instance["name"] for instance in order["instances"]]
    missing = [name for name in names if not (NETNS_FOLDER / name).exists()]
    views = [_view(instance["port"]) for instance in order["instances"]]
    wishes = [Plug(view, NETNS_FOLDER / name, hybrid=view.filtered) for name, view in zip(names, views, strict=True)]
    try:
        if missing:
            run(["ip", "-batch", "-"], stdin="".join(f"netns add {name}\n" for name in missing))
        failed = plug_many(wishes, Switch(order["database"]))
    except AgentError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    json.dump({port: str(err) for port, err in failed.items()}, sys.stdout)
    return 0


def _view(fields: dict[str, object]) -> PortView:
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return PortView(**{**fields, **lists})  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
