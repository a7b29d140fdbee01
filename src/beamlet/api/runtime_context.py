"""What a program can learn about where it runs: ``get_runtime_context()``.

Facts of the core worker, of the task whose code asks and of the actor it runs in, under Ray's names.  Not
here: the cluster as a whole (``cluster_state.py``).
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from beamlet.api import backend
from beamlet.api.actor import ActorHandle
from beamlet.api.public_ids import ActorID, JobID, NodeID, TaskID
from beamlet.api.runtime_env import RuntimeEnv
from beamlet.base.environment import from_wire
from beamlet.base.resources import to_floats
from beamlet.protocol.gcs import ActorSpec, NodeInfo, QueryCluster

if TYPE_CHECKING:
    from beamlet.core_worker.core_worker import CoreWorker

logger = logging.getLogger("beamlet")

#: Accelerators that tasks can be given, as Ray names them.
ACCELERATORS = ("GPU", "TPU", "NPU", "HPU", "neuron_cores", "RBLN", "FURIOSA")
_VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"


class RuntimeContext:
    """Facts about the process, task and actor that ask. One object serves all threads: it keeps nothing."""

    # -- this process ----------------------------------------------------------------------------

    def get_job_id(self) -> str:
        """The job that this code belongs to, in hex. Raises RuntimeError before ``init()``."""
        return str(_core("get_job_id()").identity.job_id.hex())

    def get_node_id(self) -> str:
        """The node that this code runs on, in hex. Raises RuntimeError before ``init()``."""
        return str(_core("get_node_id()").identity.node_id.hex())

    def get_worker_id(self) -> str:
        """This process, in hex. Raises RuntimeError before ``init()``."""
        return str(_core("get_worker_id()").identity.worker_id.hex())

    @property
    def namespace(self) -> str:
        """Where this job's named actors live unless they say otherwise."""
        return str(_core("namespace").identity.namespace)

    @property
    def gcs_address(self) -> str:
        """What another driver of this user passes to ``init(address=…)``."""
        return _own_node("gcs_address").socket_path

    def get_node_labels(self) -> dict[str, str]:
        return dict(_own_node("get_node_labels()").labels)

    def get_session_name(self) -> str:
        return Path(_core("get_session_name()").identity.session_dir).name

    def get_temp_dir(self) -> str:
        """The directory of this user's sessions. Raises AssertionError, as Ray does, before ``init()``."""
        core = backend.current_or_none()
        assert core is not None, _not_started("get_temp_dir()")
        return str(Path(core.identity.session_dir).parent)

    # -- the task --------------------------------------------------------------------------------

    def get_task_id(self) -> str | None:
        """The running task, in hex; None, with a warning, in a driver."""
        core = _core("get_task_id()")
        if core.is_driver:
            logger.warning("get_task_id() is None here: this is a driver, not a task.")
            return None
        return str(core.context().task_id.hex())

    def get_task_name(self) -> str | None:
        """The option ``name``, else "f" or "Class.method"; None in a driver."""
        core = _core("get_task_name()")
        return None if core.is_driver else str(core.context().name)

    def get_task_function_name(self) -> str | None:
        """The function that runs, or "Class.method"; None in a driver."""
        core = _core("get_task_function_name()")
        return None if core.is_driver else str(core.context().function_name)

    def is_canceled(self) -> bool:
        """Whether ``cancel()`` was called on the running task: it should end soon.

        Raises RuntimeError in a driver (nothing there can be cancelled) and in async actors (there the
        coroutine gets CancelledError).
        """
        core = _core("is_canceled()")
        if core.is_driver:
            raise RuntimeError("is_canceled() is for tasks: a driver cannot be cancelled.")
        spec = _actor_spec(core)
        if spec is not None and spec.is_async:
            raise RuntimeError(
                "is_canceled() is not for async actors: a cancelled call gets asyncio.CancelledError at its "
                "next await."
            )
        return bool(core.context().cancelled)

    def get_assigned_resources(self) -> dict[str, float]:
        """What the task or actor holds: {"CPU": 1.0}. Raises AssertionError in a driver."""
        core = _core("get_assigned_resources()")
        assert not core.is_driver, (
            "get_assigned_resources() is for tasks and actors: a driver is assigned no resources."
        )
        spec = _actor_spec(core)
        return to_floats(spec.lifetime_resources if spec is not None else core.context().resources or {})

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The devices assigned to this worker, by kind: {"GPU": ["0"], "TPU": [], …}."""
        _core("get_accelerator_ids()")
        return {kind: _visible_gpus() if kind == "GPU" else [] for kind in ACCELERATORS}

    def get_placement_group_id(self) -> str | None:
        """None: no task belongs to a placement group yet."""
        _core("get_placement_group_id()")
        return None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        _core("should_capture_child_tasks_in_placement_group")
        return False

    @property
    def runtime_env(self) -> RuntimeEnv:
        """What this process was given: the job's environment, with the task's or actor's own on top."""
        core = _core("runtime_env")
        of_job = core.job.env_vars if core.job is not None else {}
        return RuntimeEnv(env_vars=from_wire(of_job | core.env_vars))

    def get_runtime_env_string(self) -> str:
        """``runtime_env`` as JSON, keys sorted."""
        return json.dumps(dict(self.runtime_env), sort_keys=True)

    # -- the actor -------------------------------------------------------------------------------

    def get_actor_id(self) -> str | None:
        """The actor that this code runs in, in hex; None outside one."""
        spec = _actor_spec(_core("get_actor_id()"))
        return None if spec is None else str(spec.actor_id.hex())

    def get_actor_name(self) -> str | None:
        """The actor's name, "" if it has none; None outside an actor."""
        spec = _actor_spec(_core("get_actor_name()"))
        return None if spec is None else str(spec.name)

    @property
    def current_actor(self) -> Any:
        """A handle of the actor that this code runs in; it does not keep the actor alive.

        Raises RuntimeError outside an actor.
        """
        spec = _actor_spec(_core("current_actor"))
        if spec is None:
            raise RuntimeError("current_actor is for code that runs in an actor; this is a driver or a task.")
        return ActorHandle(spec.actor_id, None, pickle.loads(spec.handle_info))

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor was restarted after a crash. Raises RuntimeError outside an actor."""
        core = _core("was_current_actor_reconstructed")
        if _actor_spec(core) is None:
            raise RuntimeError(
                "was_current_actor_reconstructed is for code that runs in an actor; "
                "this is a driver or a task."
            )
        return core.work.incarnation > 0

    # -- older names -----------------------------------------------------------------------------

    def get(self) -> dict[str, Any]:
        """Deprecated: the ids as one dictionary."""
        _deprecated("get()", "the get_*_id() methods")
        found = {"job_id": self._job_id, "node_id": self._node_id, "namespace": self.namespace}
        core = _core("get()")
        if not core.is_driver:
            found["task_id"] = TaskID(core.context().task_id)
            if (actor := self._actor_id) is not None:
                found["actor_id"] = actor
        return found

    @property
    def job_id(self) -> JobID:
        """Deprecated: ``get_job_id()``."""
        _deprecated("job_id", "get_job_id()")
        return self._job_id

    @property
    def node_id(self) -> NodeID:
        """Deprecated: ``get_node_id()``."""
        _deprecated("node_id", "get_node_id()")
        return self._node_id

    @property
    def task_id(self) -> TaskID:
        """Deprecated: ``get_task_id()``. Raises AssertionError in a driver."""
        _deprecated("task_id", "get_task_id()")
        core = _core("task_id")
        assert not core.is_driver, "task_id is for tasks and actors: no task runs in a driver."
        return TaskID(core.context().task_id)

    @property
    def actor_id(self) -> ActorID | None:
        """Deprecated: ``get_actor_id()``."""
        _deprecated("actor_id", "get_actor_id()")
        return self._actor_id

    @property
    def current_placement_group_id(self) -> None:
        """Deprecated: ``get_placement_group_id()``."""
        _deprecated("current_placement_group_id", "get_placement_group_id()")

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Deprecated: ``get_accelerator_ids()``."""
        _deprecated("get_resource_ids()", "get_accelerator_ids()")
        return self.get_accelerator_ids()

    @property
    def _job_id(self) -> JobID:
        return JobID(_core("job_id").identity.job_id)

    @property
    def _node_id(self) -> NodeID:
        return NodeID(_core("node_id").identity.node_id)

    @property
    def _actor_id(self) -> ActorID | None:
        spec = _actor_spec(_core("actor_id"))
        return None if spec is None else ActorID(spec.actor_id)


_context = RuntimeContext()


def get_runtime_context() -> RuntimeContext:
    """Where the calling code runs: ids, names, resources. Starts a local cluster if there is none."""
    backend.current()
    return _context


def get_gpu_ids() -> list[int] | list[str]:
    """The GPUs that this task or actor may use; numbers, or strings where devices are named by UUID."""
    backend.current()
    found = _visible_gpus()
    return [int(each) for each in found] if all(each.isdigit() for each in found) else found


def _visible_gpus() -> list[str]:
    listed = os.environ.get(_VISIBLE_GPUS, "")
    return [] if listed == "NoDevFiles" else [each.strip() for each in listed.split(",") if each.strip()]


def _core(what: str) -> CoreWorker:
    core = backend.current_or_none()
    if core is None:
        raise RuntimeError(_not_started(what))
    return core


def _not_started(what: str) -> str:
    return f"RuntimeContext.{what} needs a running cluster: call beamlet.init() first."


def _actor_spec(core: CoreWorker) -> ActorSpec | None:
    """The actor that this process is."""
    return core.work.spec


def _own_node(what: str) -> NodeInfo:
    core = _core(what)
    for node in core.link.ask(QueryCluster(0)).nodes:
        if node.node_id == core.identity.node_id:
            found: NodeInfo = node
            return found
    _node_unknown(core.identity.node_id.hex())


def _node_unknown(node_id: str) -> NoReturn:
    raise RuntimeError(
        f"the GCS does not list node {node_id}, on which this code runs: it has been declared dead, "
        "and this process will end shortly."
    )


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"RuntimeContext.{old} is deprecated: use {new}.", DeprecationWarning, stacklevel=3)
