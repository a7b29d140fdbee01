"""RuntimeContext against a core worker made of facts: driver, task, actor, async actor."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api import backend, runtime_context
from beamlet.api.public_ids import ActorID, JobID, NodeID, TaskID
from beamlet.api.runtime_context import RuntimeContext

JOB = bytes([1, 0, 0, 0])
ACTOR = b"a" * 12 + JOB
TASK = b"t" * 8 + ACTOR


def core(**more: Any) -> Any:
    identity = SimpleNamespace(
        node_id=b"n" * 28,
        worker_id=b"w" * 28,
        job_id=JOB,
        namespace="tests",
        session_dir="/tmp/beamlet-0/session_x",
    )
    context = SimpleNamespace(
        task_id=TASK, name="shown", function_name="module.f", resources={"CPU": 10_000}, cancelled=False
    )
    work = SimpleNamespace(spec=None, incarnation=0)
    return SimpleNamespace(
        identity=identity, context=lambda: context, is_driver=True, work=work, job=None, env_vars={}, **more
    )


def actor(is_async: bool = False, incarnation: int = 0) -> Any:
    spec = SimpleNamespace(actor_id=ACTOR, name="", is_async=is_async, lifetime_resources={"GPU": 5_000})
    return SimpleNamespace(spec=spec, incarnation=incarnation)


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> Any:
    def be(kind: str, **more: Any) -> RuntimeContext:
        made = core()
        if kind != "driver":
            made.is_driver = False
        if kind == "actor":
            made.work = actor(**more)
        monkeypatch.setattr(backend, "_current", made)
        return runtime_context.get_runtime_context()

    return be


def test_a_driver(become: Any, caplog: pytest.LogCaptureFixture) -> None:
    here = become("driver")
    assert (here.get_job_id(), here.get_node_id(), here.get_worker_id()) == (
        "01000000",
        "6e" * 28,
        "77" * 28,
    )
    with caplog.at_level(logging.WARNING, "beamlet"):
        assert here.get_task_id() is None
    assert "this is a driver" in caplog.text
    assert here.get_task_name() is here.get_task_function_name() is here.get_actor_id() is None
    assert here.get_actor_name() is here.get_placement_group_id() is None
    assert here.get_session_name() == "session_x"
    assert here.get_temp_dir() == "/tmp/beamlet-0"
    assert here.namespace == "tests"


@pytest.mark.parametrize("member", ["current_actor", "was_current_actor_reconstructed"])
def test_what_only_actors_have(become: Any, member: str) -> None:
    for kind in ("driver", "task"):
        with pytest.raises(RuntimeError, match="for code that runs in an actor"):
            getattr(become(kind), member)


def test_what_only_tasks_have(become: Any) -> None:
    driver = become("driver")
    with pytest.raises(AssertionError):
        driver.get_assigned_resources()
    with pytest.raises(RuntimeError, match="driver cannot be cancelled"):
        driver.is_canceled()
    with pytest.raises(AssertionError), pytest.warns(DeprecationWarning, match="deprecated"):
        _ = driver.task_id


def test_a_task(become: Any) -> None:
    here = become("task")
    assert here.get_task_id() == TASK.hex()
    assert (here.get_task_name(), here.get_task_function_name()) == ("shown", "module.f")
    assert here.get_assigned_resources() == {"CPU": 1.0}
    assert here.is_canceled() is False
    backend.current().context().cancelled = True
    assert here.is_canceled() is True
    assert here.get_actor_id() is None
    assert here.runtime_env == {}


def test_an_actor(become: Any) -> None:
    here = become("actor")
    assert here.get_actor_id() == ACTOR.hex()
    assert here.get_actor_name() == ""
    assert here.get_assigned_resources() == {"GPU": 0.5}
    backend.current().job = SimpleNamespace(env_vars={"A": "1", "B": "1"})
    backend.current().env_vars = {"B": "own"}
    assert here.runtime_env == {"env_vars": {"A": "1", "B": "own"}}
    assert here.get_runtime_env_string() == '{"env_vars": {"A": "1", "B": "own"}}'
    assert here.was_current_actor_reconstructed is False
    assert become("actor", incarnation=1).was_current_actor_reconstructed is True


def test_async_actors_learn_of_cancellation_another_way(become: Any) -> None:
    with pytest.raises(RuntimeError, match=r"asyncio\.CancelledError"):
        become("actor", is_async=True).is_canceled()


def test_the_older_names_give_id_objects_and_warn(become: Any) -> None:
    here = become("actor")
    with pytest.warns(DeprecationWarning, match=r"use get_job_id\(\)"):
        assert here.job_id == JobID(JOB)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert (here.node_id, here.actor_id, here.task_id) == (
            NodeID(b"n" * 28),
            ActorID(ACTOR),
            TaskID(TASK),
        )
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert here.get()["actor_id"] == ActorID(ACTOR)
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert here.current_placement_group_id is None


def test_before_init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_current", None)
    here = RuntimeContext()
    with pytest.raises(RuntimeError, match=r"beamlet\.init\(\) first"):
        here.get_job_id()
    with pytest.raises(AssertionError):
        here.get_temp_dir()


@pytest.mark.parametrize(
    ("visible", "found"),
    [(None, []), ("", []), ("NoDevFiles", []), ("0, 2", [0, 2]), ("GPU-ab,1", ["GPU-ab", "1"])],
)
def test_gpu_ids_are_those_made_visible(
    visible: str | None, found: list[Any], become: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = become("task")
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert runtime_context.get_gpu_ids() == found
    assert here.get_accelerator_ids()["GPU"] == [str(each) for each in found]
    assert here.get_accelerator_ids()["TPU"] == []
