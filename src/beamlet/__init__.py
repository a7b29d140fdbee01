"""Beamlet: Ray's programming model in pure Python. ``import beamlet as ray`` and go on."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
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
            raise import_module("beamlet.api.not_here").refuse_attribute("beamlet", name)
        value = globals()[name] = getattr(import_module(f"beamlet.api.{home}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES, *_LAZY_MODULES})


class _NotHere:
    """A finder behind all others: ``import ray.tune`` says what there is instead.

    Who only asks whether there is such a module (``importlib.util.find_spec``) hears no.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        package, _, below = name.partition(".")
        is_ours = sys.modules.get(package) is sys.modules.get("beamlet")  # "ray" may be an alias for us
        asker = sys._getframe(1).f_back
        if below and is_ours and asker is not None and asker.f_code.co_name == _IMPORTS:
            import_module("beamlet.api.not_here").refuse_module(below)


class _AsRay:
    """A finder before all others: where "ray" is an alias for us, ``import ray.util`` gives ``beamlet.util``
    itself, and not a copy, whose classes would be others.
    """

    @classmethod
    def find_spec(cls, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("ray.") or sys.modules.get("ray") is not sys.modules.get("beamlet"):
            return None
        try:
            ours = import_module(f"beamlet.{name.removeprefix('ray.')}")
        except ModuleNotFoundError:
            return None
        spec = ModuleSpec(name, cls(), origin=ours.__name__)  # type: ignore[arg-type]  # it has both methods
        spec.loader_state = ours.__spec__
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return sys.modules[spec.origin]  # type: ignore[index]

    def exec_module(self, module: ModuleType) -> None:
        """It has run. What importlib wrote over is put back."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.insert(0, _AsRay)

#: The function of importlib that asks finders for an ``import``.
_IMPORTS = "_find_and_load_unlocked"
sys.meta_path.append(_NotHere)

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
