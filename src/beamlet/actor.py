"""Names Ray has in ``ray.actor``."""

from __future__ import annotations

from beamlet.api.actor import (
    ActorClass,
    ActorHandle,
    exit_actor,
    method,
)
from beamlet.api.actor_methods import ActorMethod
from beamlet.exceptions import ActorClassInheritanceException

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "exit_actor",
    "method",
]
