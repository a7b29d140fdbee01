"""● Names of Ray that Beamlet has not: what each is, and what to use instead.

Asked when a name was not found: by ``__getattr__`` of the packages for ``ray.tune``, by a finder for ``import
ray.tune`` and ``from ray import tune``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Missing(NamedTuple):
    what: str
    instead: str = ""


_GRAPHS = Missing(
    "task graphs that are built before they run",
    "`g.remote(f.remote(x))` passes the reference on, and runs the same graph",
)
_STATE = Missing(
    "the State API",
    "`nodes()`, `util.list_named_actors()`, `timeline()` and `beamlet status -v` tell much of it",
)
_CLIENT = Missing("drivers on another machine", "run the driver on the cluster's own, with `init('auto')`")
_JAVA = Missing("tasks in Java and C++", "a task may start a program, or load a library with ctypes")
_DEBUGGER = Missing("Ray's debuggers", "see docs/guide/debugging.md, or run the call here with `f.local(…)`")
_TENSORS = Missing(
    "tensors from device to device", "send them as arrays, or use `torch.distributed` between actors"
)
_LOCATIONS = Missing("where objects lie", "there is one node, and it has them all")
_LIBRARIES = Missing("what Ray's libraries share, and they are not here")
_GONE = "gone from Ray, too"

#: Name below ``ray.`` → what it is, and what to do.
NOT_HERE: Mapping[str, Missing] = MappingProxyType(
    {
        "data": Missing("Ray Data", "run tasks over files or chunks with `util.map_unordered`"),
        "train": Missing("Ray Train", "start actors and join them with `torch.distributed`, as it does"),
        "tune": Missing(
            "Ray Tune",
            "make each trial a task, `get([trial.remote(c) for c in configs])`; let Optuna choose configs",
        ),
        "serve": Missing("Ray Serve", "await calls of actors in FastAPI, see docs/guide/async.md"),
        "rllib": Missing("RLlib", "examples/cartpole.py and examples/simulator_pool.py show such loops"),
        "llm": Missing("Ray's LLM library", "let an actor hold the engine"),
        "air": _LIBRARIES,
        "sgd": Missing(_GONE),
        "workflow": Missing(_GONE, "write results to files, and skip tasks whose file is there"),
        "dag": _GRAPHS,
        "autoscaler": Missing("nodes that come and go", "there is one node in this release"),
        "job_submission": Missing(
            "jobs over HTTP", "start the program on the machine; `init('auto')` joins the cluster"
        ),
        "dashboard": Missing("the web page", "use `beamlet status -v` and `beamlet timeline`"),
        "client": _CLIENT,
        "client_builder": _CLIENT,
        "ClientBuilder": _CLIENT,
        "cluster_utils": Missing(
            "clusters of several nodes for tests", "`init(num_cpus=…, resources=…)` makes one of one node"
        ),
        "cross_language": _JAVA,
        "java_function": _JAVA,
        "java_actor_class": _JAVA,
        "Language": _JAVA,
        "widgets": Missing("what notebooks show of Ray's objects"),
        "worker": Missing("private to Ray", "`get_runtime_context()` has what programs look for in it"),
        "state": Missing("private to Ray", "`nodes()`, `cluster_resources()` and `timeline()` are public"),
        "services": Missing(_GONE, "use `util.get_node_ip_address()`"),
        "DynamicObjectRefGenerator": Missing(
            "its class for num_returns='dynamic'", "that gives an ObjectRefGenerator here"
        ),
        "register_custom_serializer": Missing(_GONE, "use `util.register_serializer`"),
        "util.multiprocessing": Missing(
            "a Pool of actors",
            "use `[f.remote(x) for x in xs]`, `util.map_unordered`, `util.ActorPool`, or the standard Pool, "
            "which reaches all cores of this machine",
        ),
        "util.joblib": Missing("a backend for joblib", "joblib's own reaches all cores of this machine"),
        "util.dask": Missing("a scheduler for Dask", "Dask's own reaches all cores of this machine"),
        "util.spark": Missing("Ray on Spark", "there is one node in this release"),
        "util.collective": Missing("collective operations", "use `torch.distributed` between actors"),
        "util.metrics": Missing("metrics for Prometheus", "prometheus_client exports what a process counts"),
        "util.state": _STATE,
        "util.iter": Missing(_GONE, "generator tasks and `util.map_unordered` stream"),
        "util.actor_group": Missing("groups of actors", "use a list of them"),
        "util.client": _CLIENT,
        "util.client_connect": _CLIENT,
        "util.connect": _CLIENT,
        "util.disconnect": _CLIENT,
        "util.pdb": _DEBUGGER,
        "util.rpdb": _DEBUGGER,
        "util.debugpy": _DEBUGGER,
        "util.ray_debugpy": _DEBUGGER,
        "util.tracing": Missing("spans for OpenTelemetry", "`timeline()` shows what ran where and when"),
        "util.timer": Missing("a stopwatch of RLlib's", "use `time.perf_counter()`"),
        "util.helpers": _LIBRARIES,
        "util.tpu": Missing("slices of TPUs over several nodes", "there is one node in this release"),
        "util.get_node_instance_id": Missing("what a cloud calls the node"),
        "util.sgd": Missing(_GONE),
        "util.xgboost": Missing(_GONE),
        "util.lightgbm": Missing(_GONE),
        "util.horovod": Missing(_GONE),
        "experimental.tqdm_ray": Missing(
            "progress bars that the driver draws",
            "put tqdm around `util.as_completed(refs)` in the driver; in a task it prints lines",
        ),
        "experimental.channel": _GRAPHS,
        "experimental.compiled_dag_ref": _GRAPHS,
        "experimental.collective": _TENSORS,
        "experimental.rdt": _TENSORS,
        "experimental.gpu_object_manager": _TENSORS,
        "experimental.locations": _LOCATIONS,
        "experimental.get_object_locations": _LOCATIONS,
        "experimental.get_local_object_locations": _LOCATIONS,
        "experimental.dynamic_resources": Missing(
            "resources that change while a cluster runs", "name them in `init(resources=…)`"
        ),
        "experimental.state": _STATE,
        "experimental.sandbox": Missing("sandboxes", "a task may start one with subprocess"),
        "experimental.async_api": Missing(_GONE, "`await ref`, or use `ref.as_future()`"),
        "experimental.queue": Missing("an old name", "it is `util.queue`"),
        "experimental.ActorPool": Missing("an old name", "it is `util.ActorPool`"),
        "experimental.get_actor": Missing("an old name", "it is `get_actor`"),
    }
)


def why_not(name: str) -> str | None:
    """A sentence for a name below ``ray.``; None: Ray has no such name, or Beamlet has it."""
    missing = NOT_HERE.get(name)
    return None if missing is None else _sentence(f"ray.{name}", missing)


def refuse_attribute(package: str, name: str) -> AttributeError:
    """What ``__getattr__`` of ``package``, such as beamlet.util, is to raise."""
    below = package.partition(".")[2]
    why = why_not(f"{below}.{name}" if below else name)
    text = why or f"module {package!r} has no attribute {name!r}"
    return AttributeError(text, name=name, obj=sys.modules.get(package))


def refuse_module(name: str) -> None:
    """Raises ModuleNotFoundError if Ray has the module ``name``.

    The error has no ``name``: by that, ``from … import`` would take the module for a missing attribute,
    and say no more.
    """
    why = why_not(name)
    if why is not None:
        raise ModuleNotFoundError(why)


def refuse_bind(target: str) -> AttributeError:
    return AttributeError(_sentence(f"{target}.bind", _GRAPHS), name="bind")


def _sentence(name: str, missing: Missing) -> str:
    instead = f" Instead: {missing.instead}." if missing.instead else ""
    return f"{name} ({missing.what}) is not in Beamlet, which has Ray's core on one machine.{instead}"
