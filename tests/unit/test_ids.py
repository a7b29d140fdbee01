"""Identifiers: how one names another, and that children are named the same every time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from beamlet.base import ids
from beamlet.base.ids import ActorId, ChildIds, JobId, NodeId, TaskId, WorkerId

JOB = ids.job_id_of_int(7)
ACTORS = st.binary(min_size=12, max_size=12).map(lambda raw: ActorId(raw + JOB))
TASKS = st.builds(lambda raw, actor: TaskId(raw + actor), st.binary(min_size=8, max_size=8), ACTORS)


@given(TASKS, st.integers(1, ids.PUT_INDEX_BASE - 1))
def test_an_object_names_its_task_actor_and_job(task: TaskId, index: int) -> None:
    returned, put = ids.return_id(task, index), ids.put_id(task, index)
    assert returned != put
    for object_id in (returned, put):
        assert len(object_id) == ids.OBJECT_ID_BYTES
        assert ids.task_of_object(object_id) == task
    assert ids.index_of_object(returned) == index
    assert ids.index_of_object(put) == ids.PUT_INDEX_BASE + index
    assert ids.job_of_task(task) == JOB == ids.job_of_actor(ids.actor_of_task(task))


def test_the_first_return_has_a_short_spelling() -> None:
    task = ids.driver_task_id(JOB)
    assert task + ids.FIRST_RETURN == ids.return_id(task, 1)


def test_an_actor_and_its_handles_name_each_other() -> None:
    actor = ActorId(b"a" * 12 + JOB)
    object_id = ids.actor_handle_object(actor)
    assert ids.actor_of_task(ids.task_of_object(object_id)) == actor
    assert not ids.is_nil_actor(actor)
    assert ids.is_nil_actor(ids.actor_of_task(ids.driver_task_id(JOB)))


def test_an_address_is_a_node_and_a_worker() -> None:
    node, worker = ids.new_node_id(), ids.new_worker_id()
    address = ids.make_address(node, worker)
    assert (ids.node_of(address), ids.worker_of(address)) == (node, worker)
    assert ids.new_node_id() != node
    assert len(ids.short(address)) == 8


def test_processes_name_what_they_make_themselves_differently() -> None:
    first, second = (ids.own_task_id(WorkerId(bytes([n]) * 28), JOB) for n in (1, 2))
    assert first != second
    assert ids.job_of_task(first) == JOB
    assert ids.is_nil_actor(ids.actor_of_task(first))


@given(TASKS, st.lists(st.sampled_from(["task", "call", "actor"]), max_size=30))
def test_children_are_named_the_same_every_time_and_apart(task: TaskId, steps: list[str]) -> None:
    actor = ActorId(b"x" * 12 + JOB)

    def name_all() -> list[bytes]:
        children = ChildIds(task)
        names = {
            "task": children.next_task,
            "call": lambda: children.next_call(actor),
            "actor": children.next_actor,
        }
        return [names[step]() for step in steps]

    first = name_all()
    assert first == name_all()
    assert len(set(first)) == len(first)
    assert all(name[-4:] == JOB for name in first)


@given(TASKS, st.integers(0, 3), st.integers(0, 3))
def test_what_two_attempts_of_a_task_make_is_named_apart(task: TaskId, one: int, other: int) -> None:
    def name_all(attempt: int) -> set[bytes]:
        children = ChildIds(task, attempt)
        assert children.parent == task
        put = ids.put_id(ids.attempt_id(task, attempt), 1)
        names = {children.next_task(), children.next_actor(), put}
        assert {name[-4:] for name in names - {put}} == {JOB}
        assert ids.job_of_task(ids.task_of_object(put)) == JOB
        return names

    assert name_all(one) == name_all(other) if one == other else not name_all(one) & name_all(other)


def test_sizes_are_what_the_format_says() -> None:
    children = ChildIds(ids.driver_task_id(JobId(b"\1\0\0\0")))
    assert len(children.next_task()) == ids.TASK_ID_BYTES == 24
    assert len(children.next_actor()) == ids.ACTOR_ID_BYTES == 16
    assert len(ids.make_address(NodeId(b"n" * 28), WorkerId(b"w" * 28))) == 56
