# SPDX-License-Identifier: Apache-2.0
"""Errors, by who must act.  Everything that an operator or the network can cause is one of these."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Actor(StrEnum):
    """Who has to do something before an error goes away."""

    OPERATOR = "operator"
    CLOUD = "cloud"
    NOBODY = "nobody"  # it is retried


@dataclass(frozen=True, slots=True)
class Problem:
    """An object that cannot be served as the store wants it.

    ``object_id`` is as in ``Group.object_id`` (``port:<uuid>``); ``field`` is the
    column or setting at fault; ``text`` is a full sentence for people.
    """

    object_id: str
    field: str
    text: str
    actor: Actor

    def __str__(self) -> str:
        return f"{self.object_id}: {self.field}: {self.text} (to act: {self.actor})"


class AgentError(Exception):
    """Base of all errors of ours; ``actor`` says who must act."""

    actor: Actor = Actor.OPERATOR


class ConfigError(AgentError):
    """A setting is wrong; the daemon exits with status 2 before it touches anything."""


class StoreError(AgentError):
    """The store cannot be reached or refused; the dataplane stays as it is, retried."""

    actor = Actor.NOBODY


class InputError(AgentError):
    """A command argument, YAML file or API value is wrong; names object and field."""


class ApplyError(AgentError):
    """The kernel or Open vSwitch refused an item; retried with back-off."""

    actor = Actor.NOBODY


class VerifyError(AgentError):
    """An item was applied but reads back differently; retried after a resync."""

    actor = Actor.NOBODY


class AwayError(AgentError):
    """A process that is started again by itself is not there at this moment: news only if that lasts."""

    actor = Actor.NOBODY


class CommandError(ApplyError):
    """An external command failed.

    Carries what an operator needs to repeat it: ``argv``, ``returncode`` (None when
    it ran out of time) and ``stderr``.
    """

    def __init__(self, argv: tuple[str, ...], returncode: int | None, stderr: str) -> None:
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr
        how = "timed out" if returncode is None else f"exit status {returncode}"
        super().__init__(f"{' '.join(argv)}: {how}: {stderr.strip() or 'no message'}")
