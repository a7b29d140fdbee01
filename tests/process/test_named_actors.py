"""Actors with names: looking them up, namespaces, get-or-create, and lives longer than handles."""

from __future__ import annotations

import contextlib
import gc
import os
from typing import Any

import pytest
from conformance import get, process_is_gone, wait_until

import beamlet as ray
from beamlet.exceptions import ActorAlreadyExistsError, ActorDiedError

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self) -> int:
        self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> Any:
    """A name that no other test uses; its actor is gone afterwards."""
    yield request.node.name
    with contextlib.suppress(ValueError):  # the test may have ended it
        ray.kill(ray.get_actor(request.node.name))


def name_is_free(name: str, **where: str) -> bool:
    try:
        ray.get_actor(name, **where)
    except ValueError:
        return True
    return False


def test_a_named_actor_is_found(name: str) -> None:
    counter = Counter.options(name=name).remote(5)
    found = ray.get_actor(name)
    assert found == counter
    assert get(found.add.remote()) == 6


def test_name_in_the_decorator() -> None:
    @ray.remote(name="decorated-name")
    class Named:
        def ping(self) -> str:
            return "pong"

    actor = Named.remote()
    assert get(ray.get_actor("decorated-name").ping.remote()) == "pong"
    del actor


def test_a_missing_name_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nobody-has-this-name"):
        ray.get_actor("nobody-has-this-name")


def test_an_empty_name_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        ray.get_actor("")
    with pytest.raises(ValueError):
        Counter.options(name="").remote()


def test_a_name_that_is_no_string_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Counter.options(name=5).remote()


def test_a_taken_name_is_an_error_at_the_call(name: str) -> None:
    counter = Counter.options(name=name).remote()
    with pytest.raises(ActorAlreadyExistsError):
        Counter.options(name=name).remote()
    assert issubclass(ActorAlreadyExistsError, ValueError)
    del counter


def test_a_name_is_free_again_after_kill(name: str) -> None:
    ray.kill(Counter.options(name=name).remote())
    wait_until(lambda: name_is_free(name), "the name to be free")
    again = Counter.options(name=name).remote(3)
    assert get(again.add.remote()) == 4


def test_a_name_is_free_again_when_its_actor_goes_out_of_scope(name: str) -> None:
    counter = Counter.options(name=name).remote()
    get(counter.add.remote())
    del counter
    gc.collect()
    wait_until(lambda: name_is_free(name), "the name to be free")


def test_a_looked_up_handle_does_not_keep_the_actor(name: str) -> None:
    counter = Counter.options(name=name).remote()
    pid = get(counter.pid.remote())
    found = ray.get_actor(name)
    del counter
    gc.collect()
    wait_until(lambda: process_is_gone(pid), "the actor to end")
    with pytest.raises(ActorDiedError):
        get(found.add.remote())


def test_a_named_actor_is_found_from_a_task(name: str) -> None:
    @ray.remote
    def look_up() -> int:
        return ray.get(ray.get_actor(name).add.remote())

    counter = Counter.options(name=name).remote(10)
    assert get(look_up.remote()) == 11
    del counter


def test_a_task_makes_a_detached_actor_that_outlives_it(name: str) -> None:
    @ray.remote
    def make() -> None:
        Counter.options(name=name, lifetime="detached").remote(7)

    get(make.remote())
    assert get(ray.get_actor(name).add.remote()) == 8


def test_a_detached_actor_outlives_its_handles(name: str) -> None:
    counter = Counter.options(name=name, lifetime="detached").remote()
    pid = get(counter.pid.remote())
    del counter
    gc.collect()
    assert get(ray.get_actor(name).add.remote()) == 1
    assert not process_is_gone(pid)


def test_get_if_exists_creates_or_gets(name: str) -> None:
    first = Counter.options(name=name, get_if_exists=True).remote(100)
    assert get(first.add.remote()) == 101
    second = Counter.options(name=name, get_if_exists=True).remote(0)
    assert second == first
    assert get(second.add.remote()) == 102


def test_get_if_exists_needs_a_name() -> None:
    with pytest.raises(ValueError):
        Counter.options(get_if_exists=True).remote()


def test_many_tasks_get_or_create_one_actor(name: str) -> None:
    @ray.remote
    def get_or_create() -> int:
        actor = Counter.options(name=name, get_if_exists=True, lifetime="detached").remote()
        return ray.get(actor.add.remote())

    assert sorted(get([get_or_create.remote() for _ in range(10)])) == list(range(1, 11))


def test_names_are_apart_by_namespace(name: str) -> None:
    here = Counter.options(name=name).remote(1)
    there = Counter.options(name=name, namespace="elsewhere").remote(2)
    assert ray.get_actor(name) == here
    assert ray.get_actor(name, namespace="elsewhere") == there
    assert ray.get_actor(name, namespace="tests") == here
    assert here != there


def test_another_namespace_is_not_searched(name: str) -> None:
    counter = Counter.options(name=name, namespace="hidden").remote()
    with pytest.raises(ValueError):
        ray.get_actor(name)
    del counter


def test_a_bad_namespace_is_an_error() -> None:
    with pytest.raises(TypeError):
        ray.get_actor("any", namespace=5)
    with pytest.raises(ValueError):
        ray.get_actor("any", namespace="")


def test_an_unknown_lifetime_is_a_value_error() -> None:
    with pytest.raises(ValueError):
        Counter.options(lifetime="forever")


def test_list_named_actors(name: str) -> None:
    counter = Counter.options(name=name).remote()
    assert name in ray.util.list_named_actors()
    assert {"name": name, "namespace": "tests"} in ray.util.list_named_actors(all_namespaces=True)
    del counter
