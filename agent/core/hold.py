# SPDX-License-Identifier: Apache-2.0
"""No mass suicide: is a new desired state too much of a loss to be believed at once?"""

from __future__ import annotations

from agent.core.model import HostSnapshot, SwitchView
from agent.core.report import HoldState


def check(
    accepted: HostSnapshot, new: HostSnapshot, switch: SwitchView, share: float, minimum: int, now: float
) -> HoldState | None:
    """Return why *new* must not be applied, None when it may.

    Counted are the ports of *accepted* that are plugged in now: what a removed port
    whose instance is gone loses is nothing.  Held is a state that would take away
    more than *share* (0..1) of them and at least *minimum*; at least one, if it is of
    another database.
    """
    plugged = {port for port in accepted.ports if port in switch.interfaces}
    removed = plugged - new.ports.keys()
    # Another database that does not know our ports is a mistake until somebody says that it is none.
    replaced = bool(accepted.generation) and new.generation != accepted.generation
    if len(removed) < (1 if replaced else max(minimum, 1)) or len(removed) <= share * len(plugged):
        return None
    text = (
        f"revision {new.revision} would remove {len(removed)} of the {len(plugged)} ports plugged in here; "
        f"revision {accepted.revision} stays in force until the store has them again "
        "or an operator says 'hostplane hold release'"
    )
    return HoldState(now, new.revision, len(plugged), len(removed), text)
