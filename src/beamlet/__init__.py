"""Beamlet: Ray's programming model in pure Python. ``import beamlet as ray`` and go on."""

from __future__ import annotations

from beamlet.api.actor import ActorClass, ActorHandle, get_actor, kill, method
from beamlet.api.init import init, is_initialized, shutdown
from beamlet.api.object_ref import ObjectRef
from beamlet.api.remote import remote
from beamlet.api.values import cancel, get, put, wait
from beamlet.base.version import VERSION as __version__

ObjectID = ObjectRef
__commit__ = ""

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ObjectID",
    "ObjectRef",
    "__commit__",
    "__version__",
    "cancel",
    "get",
    "get_actor",
    "init",
    "is_initialized",
    "kill",
    "method",
    "put",
    "remote",
    "shutdown",
    "wait",
]
