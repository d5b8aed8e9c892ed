# SPDX-License-Identifier: Apache-2.0
"""Is a port up, or why not?  Pure: from what is wanted, plugged in and not done.

A port is up when every *gate* lets it.  Gates are asked in order and the first that
objects gives the reason that operators see.  A port that is up has a reason when its
security groups let less pass than the store says, or when what it is answered by DHCP or
as metadata is not all that the store says: who is up does not go down for that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from agent.core import naming, service_identity
from agent.core.errors import Problem
from agent.core.model import HostSnapshot, NetworkId, Port, PortId, SecurityGroup, SecurityGroupId, SwitchView
from agent.core.report import PortState

FOR_FILTERS = frozenset(("bridges", "ipset", "iptables", "members", "zones"))  # drivers that only hybrid plugs need
FOR_SERVICES = frozenset(("netns", "responder", "routes"))  # drivers that only ports need that are answered
NUMBERLESS = "has no OpenFlow port number yet"
_OF_GROUPS = ("security_group:", "members:")
# End what is no longer allowed, keep things fair, or are of routers: a port that waits for one of these is up.
NOT_FOR_PORTS = frozenset(("conntrack", "connects", "nat", "fallback", "translations"))


@dataclass(frozen=True, slots=True)
class PortFacts:
    """What the gates look at.

    ``unfinished`` has the first reason by object id, ``unusable`` the drivers that
    cannot be read or written, ``lost`` those of them that have been so for long,
    ``problems`` the first text by object id.  ``services`` tells whether this host answers
    DHCP and metadata requests.
    """

    snapshot: HostSnapshot
    switch: SwitchView
    unfinished: Mapping[str, str] = field(default_factory=dict)
    unusable: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    problems: Mapping[str, str] = field(default_factory=dict)
    services: bool = False

    def says_the_same(self, other: PortFacts) -> bool:
        """Tell whether the states of the ports are those of *other*; a snapshot may differ in what is not theirs."""
        mine, others = self.snapshot, other.snapshot
        return self.switch is other.switch and mine.ports is others.ports and self.says_the_same_around(other)

    def says_the_same_around(self, other: PortFacts) -> bool:
        """Tell whether ports that are the same in both, and plugged in alike, have the same states."""
        mine, others = self.snapshot, other.snapshot
        return (
            mine.networks is others.networks
            and (mine.subnets is others.subnets or not self.services)
            and mine.problems == others.problems
            and self.services == other.services
            and (self.switch.ofports == other.switch.ofports or not self.services)
            and self.unfinished == other.unfinished
            and (self.unusable, self.lost) == (other.unusable, other.lost)
            and self.problems == other.problems
            and (mine.security_groups is others.security_groups or not (self.unfinished or self.problems))
        )

    def has_same(self, port: PortId, other: PortFacts) -> bool:
        """Tell whether *port* is in both the same object, plugged in alike."""
        interface = self.switch.interfaces.get(port)
        return self.snapshot.ports.get(port) is other.snapshot.ports.get(port) and (
            interface is other.switch.interfaces.get(port)
        )


def first_by_object(problems: tuple[Problem, ...]) -> dict[str, str]:
    """Return object id -> text of the first problem of each object."""
    texts: dict[str, str] = {}
    for problem in problems:
        texts.setdefault(problem.object_id, problem.text)
    return texts


_ANSWERS: Mapping[str, str] = {"dhcp": "DHCP", "metadata": "the metadata service"}


def concerned(owner: str) -> str:
    """Return the object whose ports wait for what is not finished of *owner*.

    A network's flood groups are the network's own business, but without what is
    answered on it, its ports still have the network.
    """
    base, _, part = owner.partition("/")
    return owner if part in _ANSWERS or part == "services" else base


def _wanted_up(port: Port, facts: PortFacts) -> str | None:
    if not port.admin_state_up:
        return "administratively down"
    network = facts.snapshot.networks.get(port.network)
    if network is None:
        return f"network {port.network} is not in the store"
    return None if network.admin_state_up else f"network {network.name} is administratively down"


def _without_problem(port: Port, facts: PortFacts) -> str | None:
    return facts.problems.get(f"port:{port.id}") or facts.problems.get(f"network:{port.network}")


def _plugged(port: Port, facts: PortFacts) -> str | None:
    interface = facts.switch.interfaces.get(port.id)
    if interface is None:
        return f"not plugged in: no interface on {naming.INTEGRATION_BRIDGE} has external_ids:iface-id={port.id}"
    if interface.error:
        return f"interface {interface.name}: {interface.error}"
    if interface.ofport is None:
        return f"interface {interface.name} {NUMBERLESS}"
    return None


def _installed(port: Port, facts: PortFacts) -> str | None:
    return facts.unfinished.get(f"port:{port.id}") or facts.unfinished.get(f"network:{port.network}")


def _usable(port: Port, facts: PortFacts, before: PortState | None) -> str | None:
    """Object if what the port needs cannot be written.

    A port that was up, and is plugged in as it was, does not go down for a moment's
    failure: its flows are as they were.
    """
    interface = facts.switch.interfaces.get(port.id)
    missing = (facts.lost if _was_up(port, facts, before) else facts.unusable) - NOT_FOR_PORTS
    if not missing:
        return None
    if interface is None or not naming.is_hybrid_interface(interface.name):
        missing -= FOR_FILTERS
    if not _is_served(port, facts):
        missing -= FOR_SERVICES
    return f"{', '.join(sorted(missing))} cannot be used at the moment, retried" if missing else None


def _was_up(port: Port, facts: PortFacts, before: PortState | None) -> bool:
    """Tell whether a port was up and is plugged in as it was."""
    interface = facts.switch.interfaces.get(port.id)
    return before is not None and before.up and interface is not None and before.ofport == interface.ofport


def _is_served(port: Port, facts: PortFacts) -> bool:
    """Tell whether the port is answered anything here: without subnets there is nothing to say."""
    if not facts.services or not facts.snapshot.subnets.get(port.network):
        return False
    return service_identity.is_served(port.device_owner)


def _unanswered(port: Port, facts: PortFacts) -> str | None:
    """Say what is missing of what answers the port, None if nothing is."""
    if not _is_served(port, facts):
        return None
    for part, name in _ANSWERS.items() if facts.unfinished else ():
        for owner in (f"port:{port.id}/{part}", f"host:{part}"):
            if owner in facts.unfinished:
                return f"{name} is not in place: {facts.unfinished[owner]}"
    if (text := facts.unfinished.get(f"network:{port.network}/services")) is not None:
        return f"DHCP is not in place: {text}"
    for device in (service_identity.DHCP_DEVICE, service_identity.METADATA_DEVICE):
        if facts.switch.ofports.get(device, 0) < 1:
            return f"{device} {NUMBERLESS}"
    return facts.problems.get(f"responder:{port.id}")


def _answered_less(port: Port, facts: PortFacts) -> str:
    """Say what the port is answered less than the store says, "" if nothing."""
    if not facts.problems or not _is_served(port, facts):
        return ""
    found = (facts.problems.get(f"port:{port.id}/{part}") for part in _ANSWERS)
    return next((text for text in found if text is not None), "")


def _impaired_groups(facts: PortFacts) -> dict[SecurityGroupId, str]:
    """Return why security groups let less pass than they should; their ports need not go down for that."""
    troubled = {key for texts in (facts.problems, facts.unfinished) for key in texts if key.startswith(_OF_GROUPS)}
    if not troubled:
        return {}
    found = ((group, _impairment(group, troubled, facts)) for group in facts.snapshot.security_groups.values())
    return {group.id: text for group, text in found if text is not None}


def _impairment(group: SecurityGroup, troubled: Collection[str], facts: PortFacts) -> str | None:
    own = f"security_group:{group.id}"
    owners = (f"members:{rule.remote_owner}" for rule in group.rules if rule.remote_owner is not None)
    for key in (own, *owners):
        if key in troubled:
            missing = f"security group {group.name or group.id} is not all in place: {facts.unfinished.get(key)}"
            return facts.problems.get(key) or missing
    return None


GATES: tuple[Callable[[Port, PortFacts], str | None], ...] = (_wanted_up, _without_problem, _plugged, _installed)


def port_states(
    facts: PortFacts, previous: Mapping[PortId, PortState], now: float, then: PortFacts | None = None
) -> dict[PortId, PortState]:
    """Return the state of each port of the host, those with a row that makes no sense included.

    ``since`` is *now* (Unix seconds) for a port whose state or reason changed; an
    unchanged state is the same object as in *previous*.  *then* are the facts that
    *previous* was made from, if it was: what is as it was then is not looked at again.
    """
    states: dict[PortId, PortState] = {}
    impaired = _impaired_groups(facts)
    known = then if then is not None and facts.says_the_same_around(then) else None
    for port in facts.snapshot.ports.values():
        before = previous.get(port.id)
        if known is not None and before is not None and facts.has_same(port.id, known):
            states[port.id] = before
            continue
        less = next((impaired[group] for group in port.security_groups if group in impaired), "")
        states[port.id] = _kept(before, _state_of(port, facts, before, less, now))
    for problem in facts.snapshot.problems:
        noun, _, uuid = problem.object_id.partition(":")
        port_id = PortId(uuid)
        if noun == "port" and "/" not in uuid and port_id not in states:
            state = PortState(port_id, "", NetworkId(""), up=False, reason=problem.text, since=now)
            states[port_id] = _kept(previous.get(port_id), state)
    return states


def _state_of(port: Port, facts: PortFacts, before: PortState | None, less: str, now: float) -> PortState:
    """Return the state of one port; *less* is what its groups let pass less than they should, if anything."""
    objections = (gate(port, facts) for gate in GATES)
    reason = next((text for text in objections if text is not None), None) or _usable(port, facts, before) or ""
    remark = less or _answered_less(port, facts)
    unanswered = _unanswered(port, facts) if not reason else None
    if unanswered is not None and not _was_up(port, facts, before):
        reason = unanswered
    elif unanswered is not None and facts.unusable.isdisjoint(FOR_SERVICES):
        remark = unanswered  # else it is a moment's failure, and nobody's news
    interface = facts.switch.interfaces.get(port.id)
    return PortState(
        port.id,
        port.name,
        port.network,
        up=not reason,
        reason=reason or remark,
        since=now,
        interface=None if interface is None else interface.name,
        ofport=None if interface is None else interface.ofport,
    )


def is_news(ports: Mapping[PortId, PortState], before: Mapping[PortId, PortState]) -> bool:
    """Tell whether *ports* differ from *before* by more than that some are about to come up.

    Open vSwitch numbers an interface within moments; who waits for the port wants to
    know what comes then, which need not wait behind a write that says that it comes.
    """
    if ports.keys() != before.keys():
        return True
    return any(state is not before[port] and not _is_coming(state, before[port]) for port, state in ports.items())


def _is_coming(state: PortState, before: PortState) -> bool:
    return not before.up and not state.up and state.reason.endswith(NUMBERLESS)


def _kept(before: PortState | None, state: PortState) -> PortState:
    """Return *before* if nothing changed, else *state*, with the old time while up and reason are the same."""
    if before is None or (before.up, before.reason) != (state.up, state.reason):
        return state
    since = before.since
    same = PortState(state.id, state.name, state.network, state.up, state.reason, since, state.interface, state.ofport)
    return before if before == same else same
