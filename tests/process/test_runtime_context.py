"""What a program can learn about where it runs: ids, names, resources, nodes, and the timeline."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get, wait_until

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


def context() -> Any:
    return ray.get_runtime_context()


@ray.remote
class Actor:
    def ids(self) -> dict[str, Any]:
        here = ray.get_runtime_context()
        return {
            "actor": here.get_actor_id(),
            "task": here.get_task_id(),
            "job": here.get_job_id(),
            "node": here.get_node_id(),
            "worker": here.get_worker_id(),
            "name": here.get_actor_name(),
            "task_name": here.get_task_name(),
            "resources": here.get_assigned_resources(),
            "namespace": here.namespace,
        }


def test_ids_of_the_driver() -> None:
    assert len(context().get_job_id()) == 8
    assert len(context().get_node_id()) == 56
    assert len(context().get_worker_id()) == 56
    assert context().get_actor_id() is None
    assert context().get_task_id() is None


def test_ids_of_a_task() -> None:
    @ray.remote
    def ids() -> Any:
        here = ray.get_runtime_context()
        return (
            here.get_task_id(),
            here.get_job_id(),
            here.get_node_id(),
            here.get_worker_id(),
            here.get_actor_id(),
        )

    ref = ids.remote()
    task, job, node, worker, actor = get(ref)
    assert task == ref.task_id().hex()
    assert len(task) == 48
    assert job == context().get_job_id()
    assert node == context().get_node_id()
    assert worker != context().get_worker_id()
    assert actor is None


def test_ids_of_an_actor() -> None:
    actor = Actor.remote()
    first, second = get([actor.ids.remote(), actor.ids.remote()])
    assert first["actor"] == second["actor"] == actor._actor_id.hex()
    assert len(first["actor"]) == 32
    assert first["task"] != second["task"]
    assert first["worker"] == second["worker"]
    assert first["namespace"] == "tests"


def test_names_of_tasks_and_actors() -> None:
    named = Actor.options(name="context-name").remote()
    assert get(named.ids.remote())["name"] == "context-name"
    assert get(named.ids.remote())["task_name"] == "Actor.ids"
    assert get(Actor.remote().ids.remote())["name"] == ""


def test_the_task_function_name() -> None:
    @ray.remote
    def named() -> Any:
        return ray.get_runtime_context().get_task_function_name()

    assert get(named.remote()).endswith("named")


def test_assigned_resources() -> None:
    @ray.remote
    def resources() -> Any:
        return ray.get_runtime_context().get_assigned_resources()

    assert get(resources.remote()) == {"CPU": 1.0}
    assert get(resources.options(num_cpus=0.5, resources={"widget": 1}).remote()) == {
        "CPU": 0.5,
        "widget": 1.0,
    }
    assert get(Actor.remote().ids.remote())["resources"] == {}
    assert get(Actor.options(num_cpus=1).remote().ids.remote())["resources"] == {"CPU": 1.0}


def test_namespace_of_the_driver() -> None:
    assert context().namespace == "tests"


def test_current_actor_outside_an_actor_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError):
        _ = context().current_actor


def test_was_current_actor_reconstructed_is_false_at_first() -> None:
    @ray.remote
    class Asks:
        def ask(self) -> bool:
            return ray.get_runtime_context().was_current_actor_reconstructed

    assert get(Asks.remote().ask.remote()) is False


def test_gpu_ids_without_gpus() -> None:
    @ray.remote
    def gpus() -> Any:
        return ray.get_gpu_ids()

    assert get(gpus.remote()) == []


def test_nodes() -> None:
    (node,) = ray.nodes()
    assert node["Alive"] is True
    assert node["NodeID"] == context().get_node_id()
    assert node["Resources"]["CPU"] == 2
    assert node["NodeManagerHostname"]


def test_cluster_resources() -> None:
    resources = ray.cluster_resources()
    assert resources["CPU"] == 2
    assert resources["widget"] == 2
    assert resources["memory"] > 0
    assert resources["object_store_memory"] > 0
    assert resources["node:__internal_head__"] == 1
    assert any(name.startswith("node:") and name != "node:__internal_head__" for name in resources)


def test_available_resources_fall_and_rise(gate: Any) -> None:
    @ray.remote(num_cpus=1, resources={"widget": 2})
    def holds() -> None:
        gate.wait()

    ref = holds.remote()
    wait_until(lambda: ray.available_resources().get("CPU") == 1, "the task to hold its CPU")
    assert "widget" not in ray.available_resources()
    gate.open()
    get(ref)
    wait_until(lambda: ray.available_resources().get("widget") == 2, "the task to give back its widgets")


def test_available_object_store_memory_falls_and_rises() -> None:
    def available() -> float:
        return ray.available_resources()["object_store_memory"]

    total = ray.cluster_resources()["object_store_memory"]
    wait_until(lambda: available() == total, "what others stored here to be gone")
    size = 20 * 2**20
    ref = ray.put(b"x" * size)
    wait_until(lambda: total - 2 * size < available() <= total - size, "the object to take its room")
    del ref
    wait_until(lambda: available() == total, "the room to be free again")


def test_get_runtime_context_of_ids_as_strings() -> None:
    assert int(context().get_job_id(), 16) > 0
    assert int(context().get_node_id(), 16) > 0


def test_timeline_names_the_tasks(tmp_path: Path) -> None:
    @ray.remote
    def seen_in_the_timeline() -> None:
        pass

    get([seen_in_the_timeline.remote() for _ in range(3)])
    wait_until(
        lambda: any("seen_in_the_timeline" in event["name"] for event in ray.timeline()),
        "the task in the timeline",
    )
    ray.timeline(filename=str(tmp_path / "timeline.json"))
    events = json.loads((tmp_path / "timeline.json").read_text())
    assert all({"name", "ph", "pid"} <= set(event) for event in events)


def test_each_worker_process_has_one_worker_id() -> None:
    @ray.remote
    def who() -> tuple[int, str]:
        return os.getpid(), ray.get_runtime_context().get_worker_id()

    seen = set(get([who.remote() for _ in range(20)]))
    assert len({pid for pid, _ in seen}) == len(seen) == len({worker for _, worker in seen})


@beamlet_only
def test_version() -> None:
    assert ray.__version__.count(".") == 2


def test_assigned_resources_of_the_driver_is_an_assertion_error() -> None:
    with pytest.raises(AssertionError):
        context().get_assigned_resources()


def test_the_runtime_env_of_a_task_and_of_an_actor() -> None:
    @ray.remote(runtime_env={"env_vars": {"BEAMLET_TEST_LEVEL": "7"}})
    def task() -> tuple[Any, Any]:
        return ray.get_runtime_context().runtime_env["env_vars"], os.environ.get("BEAMLET_TEST_LEVEL")

    @ray.remote(runtime_env={"env_vars": {"BEAMLET_TEST_LEVEL": "8"}})
    class Other:
        def look(self) -> tuple[Any, Any]:
            return ray.get_runtime_context().runtime_env["env_vars"], os.environ.get("BEAMLET_TEST_LEVEL")

    assert get(task.remote()) == ({"BEAMLET_TEST_LEVEL": "7"}, "7")
    assert get(Other.remote().look.remote()) == ({"BEAMLET_TEST_LEVEL": "8"}, "8")
    assert context().runtime_env == {}


def test_an_actors_own_handle() -> None:
    @ray.remote
    class Tells:
        def me(self) -> Any:
            return ray.get_runtime_context().current_actor

        def answer(self) -> int:
            return 42

    actor = Tells.remote()
    own = get(actor.me.remote())
    assert own == actor
    assert get(own.answer.remote()) == 42
