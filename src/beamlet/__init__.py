"""Beamlet: Ray's programming model in pure Python. ``import beamlet as ray`` and go on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from beamlet.base.version import VERSION as __version__

__commit__ = ""
SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(4)

if TYPE_CHECKING:
    from beamlet import (  # noqa: I001 — a list, not ten statements
        actor as actor,
        cloudpickle as cloudpickle,
        exceptions as exceptions,
        experimental as experimental,
        internal as internal,
        job_config as job_config,
        remote_function as remote_function,
        runtime_context as runtime_context,
        runtime_env as runtime_env,
        types as types,
        util as util,
    )
    from beamlet.api.actor import ActorClass, ActorHandle, get_actor, kill, method
    from beamlet.api.cluster_state import available_resources, cluster_resources, nodes, timeline
    from beamlet.api.generators import ObjectRefGenerator as ObjectRefGenerator
    from beamlet.api.init import init, is_initialized, shutdown
    from beamlet.api.logging_config import LoggingConfig
    from beamlet.api.object_ref import ObjectID, ObjectRef
    from beamlet.api.public_ids import (
        ActorClassID,
        ActorID,
        ClusterID,
        FunctionID,
        JobID,
        NodeID,
        PlacementGroupID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from beamlet.api.remote import remote
    from beamlet.api.runtime_context import get_gpu_ids, get_runtime_context
    from beamlet.api.values import cancel, get, put, wait
else:

    def __getattr__(name: str) -> Any:
        """Loaded when first named: ``init()`` starts the head first, and loads the rest while that boots."""
        if name in _LAZY_MODULES:
            return import_module(f"beamlet.{name}")
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'beamlet' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"beamlet.api.{home}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES, *_LAZY_MODULES})


_LAZY_MODULES = (
    *("actor", "cloudpickle", "exceptions", "experimental", "internal", "job_config", "remote_function"),
    *("runtime_context", "runtime_env", "types", "util"),
)
#: Where in ``api`` each name lives.
_HOMES = {
    **dict.fromkeys(("ActorClass", "ActorHandle", "get_actor", "kill", "method"), "actor"),
    **dict.fromkeys(("available_resources", "cluster_resources", "nodes", "timeline"), "cluster_state"),
    **dict.fromkeys(("init", "is_initialized", "shutdown"), "init"),
    **dict.fromkeys(("ObjectID", "ObjectRef"), "object_ref"),
    **dict.fromkeys(("ActorClassID", "ActorID", "ClusterID", "FunctionID", "JobID", "NodeID"), "public_ids"),
    **dict.fromkeys(("PlacementGroupID", "TaskID", "UniqueID", "WorkerID"), "public_ids"),
    **dict.fromkeys(("get_gpu_ids", "get_runtime_context"), "runtime_context"),
    **dict.fromkeys(("cancel", "get", "put", "wait"), "values"),
    "ObjectRefGenerator": "generators",
    "LoggingConfig": "logging_config",
    "remote": "remote",
}

__all__ = [
    "ActorClass",
    "ActorClassID",
    "ActorHandle",
    "ActorID",
    "ClusterID",
    "FunctionID",
    "JobID",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "__commit__",
    "__version__",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "timeline",
    "wait",
]
