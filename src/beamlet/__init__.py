"""Beamlet: Ray's programming model in pure Python. ``import beamlet as ray`` and go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from beamlet import exceptions
from beamlet.api.actor import ActorClass, ActorHandle, get_actor, kill, method
from beamlet.api.cluster_state import available_resources, cluster_resources, nodes, timeline
from beamlet.api.generators import ObjectRefGenerator
from beamlet.api.init import init, is_initialized, shutdown
from beamlet.api.logging_config import LoggingConfig
from beamlet.api.object_ref import ObjectRef
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
from beamlet.base.version import VERSION as __version__

if TYPE_CHECKING:
    from beamlet import (  # noqa: I001 — a list, not ten statements
        actor as actor,
        cloudpickle as cloudpickle,
        experimental as experimental,
        internal as internal,
        job_config as job_config,
        remote_function as remote_function,
        runtime_context as runtime_context,
        runtime_env as runtime_env,
        types as types,
        util as util,
    )
else:

    def __getattr__(name: str) -> Any:
        """Modules that ``import ray`` binds, too; here they are loaded when they are first named."""
        if name not in _LAZY_MODULES:
            raise AttributeError(f"module 'beamlet' has no attribute {name!r}")
        import importlib

        return importlib.import_module(f"beamlet.{name}")


_LAZY_MODULES = (
    *("actor", "cloudpickle", "experimental", "internal", "job_config", "remote_function", "runtime_context"),
    *("runtime_env", "types", "util"),
)
#: Ray's older name.
ObjectID = ObjectRef
__commit__ = ""
SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(4)

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
