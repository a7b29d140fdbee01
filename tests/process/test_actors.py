"""Actors: state between calls, the order of calls, handles, and what classes may contain."""

from __future__ import annotations

import copy
import os
import pickle
from typing import Any
from unittest import mock

import actor_module
import numpy as np
import pytest
from conformance import DEADLINE_S, beamlet_only, get

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
class Counter:
    """Counts; most tests need no more."""

    def __init__(self, start: int = 0) -> None:
        self.n = start

    def add(self, by: int = 1) -> int:
        self.n += by
        return self.n

    def read(self) -> int:
        return self.n

    def fail(self) -> None:
        raise ValueError("on purpose")


def test_state_is_kept_between_calls() -> None:
    counter = Counter.remote()
    assert [get(counter.add.remote()) for _ in range(3)] == [1, 2, 3]


def test_constructor_arguments() -> None:
    assert get(Counter.remote(5).read.remote()) == 5
    assert get(Counter.remote(start=6).read.remote()) == 6


def test_constructor_arguments_may_be_refs() -> None:
    assert get(Counter.remote(ray.put(7)).read.remote()) == 7


def test_each_actor_has_its_own_state_and_process() -> None:
    @ray.remote
    class Own:
        def pid(self) -> int:
            return os.getpid()

    first, second = Own.remote(), Own.remote()
    pids = get([first.pid.remote(), second.pid.remote(), first.pid.remote()])
    assert pids[0] == pids[2] != pids[1]
    assert os.getpid() not in pids


def test_calls_of_one_caller_run_in_order() -> None:
    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[int] = []

        def add(self, i: int) -> None:
            self.seen.append(i)

        def read(self) -> list[int]:
            return self.seen

    log = Log.remote()
    for i in range(500):
        log.add.remote(i)
    assert get(log.read.remote()) == list(range(500))


def test_order_is_kept_when_an_earlier_call_waits_for_its_argument(gate: Any) -> None:
    @ray.remote
    def late() -> str:
        gate.wait()
        return "first"

    @ray.remote
    class Log:
        def __init__(self) -> None:
            self.seen: list[str] = []

        def add(self, what: str) -> list[str]:
            self.seen.append(what)
            return self.seen

    log = Log.remote()
    first = log.add.remote(late.remote())
    second = log.add.remote("second")
    gate.open()
    assert get([first, second])[1] == ["first", "second"]


def test_calls_before_the_constructor_has_run_are_kept(gate: Any) -> None:
    @ray.remote
    class Slow:
        def __init__(self) -> None:
            gate.wait()

        def ping(self) -> str:
            return "pong"

    refs = [Slow.remote().ping.remote()]
    gate.open()
    assert get(refs) == ["pong"]


def test_remote_called_on_a_class() -> None:
    class Plain:
        def ping(self) -> str:
            return "pong"

    assert get(ray.remote(Plain).remote().ping.remote()) == "pong"
    assert get(ray.remote(num_cpus=0)(Plain).remote().ping.remote()) == "pong"


def test_a_class_without_constructor() -> None:
    @ray.remote
    class Empty:
        pass

    assert "Empty" in repr(Empty.remote())


def test_an_error_in_a_method_leaves_the_actor_alive() -> None:
    counter = Counter.remote()
    get(counter.add.remote())
    with pytest.raises(ValueError, match="on purpose"):
        get(counter.fail.remote())
    assert get(counter.add.remote()) == 2


def test_the_message_of_a_method_error_names_class_and_method() -> None:
    with pytest.raises(ValueError) as caught:
        get(Counter.remote().fail.remote())
    assert "Counter.fail" in str(caught.value)


def test_inherited_methods() -> None:
    class Base:
        def greet(self) -> str:
            return f"hello from {self.name()}"

        def name(self) -> str:
            return "base"

    @ray.remote
    class Child(Base):
        def name(self) -> str:
            return f"child of {super().name()}"

    assert get(Child.remote().greet.remote()) == "hello from child of base"


def test_a_constructor_that_calls_super() -> None:
    class Base:
        def __init__(self, x: int) -> None:
            self.x = x

    @ray.remote
    class Child(Base):
        def __init__(self, x: int) -> None:
            super().__init__(x * 2)

        def read(self) -> int:
            return self.x

    assert get(Child.remote(4).read.remote()) == 8


def test_static_and_class_methods() -> None:
    @ray.remote
    class Mixed:
        kind = "mixed"

        @staticmethod
        def add(a: int, b: int) -> int:
            return a + b

        @classmethod
        def name(cls) -> str:
            return cls.kind

    mixed = Mixed.remote()
    assert get(mixed.add.remote(1, 2)) == 3
    assert get(mixed.name.remote()) == "mixed"


def test_private_methods_can_be_called() -> None:
    @ray.remote
    class Private:
        def _hidden(self) -> str:
            return "found"

    assert get(Private.remote()._hidden.remote()) == "found"


def test_special_methods_can_be_called_by_name() -> None:
    @ray.remote
    class Mapping:
        def __init__(self) -> None:
            self.items: dict[str, int] = {}

        def __getitem__(self, key: str) -> int:
            return self.items[key]

        def __setitem__(self, key: str, value: int) -> None:
            self.items[key] = value

        def __len__(self) -> int:
            return len(self.items)

        def __deepcopy__(self, memo: object) -> object:
            raise AssertionError("not of the handle")

        def __repr__(self) -> str:
            return "the instance"

    mapping: Any = Mapping.remote()
    get(mapping.__setitem__.remote("a", 1))
    assert get([mapping.__getitem__.remote("a"), mapping.__len__.remote()]) == [1, 1]
    assert repr(mapping).startswith("Actor(Mapping"), "a handle has some of its own"
    assert copy.copy(mapping) == mapping == copy.deepcopy(mapping)
    with pytest.raises(TypeError):
        len(mapping)


def test_class_attributes_belong_to_each_actor() -> None:
    @ray.remote
    class Shared:
        values: list[int] = []

        def add(self, x: int) -> list[int]:
            self.values.append(x)
            return self.values

    first, second = Shared.remote(), Shared.remote()
    assert get(first.add.remote(1)) == [1]
    assert get(second.add.remote(2)) == [2]


def test_method_num_returns() -> None:
    @ray.remote
    class Pair:
        @ray.method(num_returns=2)
        def both(self) -> tuple[int, int]:
            return 1, 2

        def whole(self) -> tuple[int, int]:
            return 3, 4

    pair = Pair.remote()
    a, b = pair.both.remote()
    assert get([a, b]) == [1, 2]
    c, d = pair.whole.options(num_returns=2).remote()
    assert get([c, d]) == [3, 4]
    assert get(pair.whole.remote()) == (3, 4)


def test_a_method_with_no_results(gate: Any) -> None:
    @ray.remote
    class Silent:
        @ray.method(num_returns=0)
        def run(self) -> None:
            gate.open()

    assert Silent.remote().run.remote() is None
    gate.wait()


def test_methods_take_and_return_large_arrays() -> None:
    @ray.remote
    class Scale:
        def double(self, array: np.ndarray) -> np.ndarray:
            return array * 2

    assert (get(Scale.remote().double.remote(np.ones(500_000))) == 2).all()


def test_wrong_arguments_are_a_type_error_at_the_call() -> None:
    counter = Counter.remote()
    with pytest.raises(TypeError):
        counter.add.remote(1, 2)
    with pytest.raises(TypeError):
        counter.add.remote(unknown=1)
    with pytest.raises(TypeError):
        Counter.remote(1, 2, 3)


def test_an_unknown_method_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        Counter.remote().nothing.remote()


def test_attributes_of_the_instance_are_not_readable() -> None:
    with pytest.raises(AttributeError):
        _ = Counter.remote().n


@beamlet_only
def test_attributes_of_the_instance_or_its_class_cannot_be_set_from_here() -> None:
    """They would look as if they had been, and the actor would never see it."""
    counter = Counter.remote()
    with pytest.raises(AttributeError, match=r"cannot set 'n' on a handle of actor Counter.*Add a method"):
        counter.n = 1
    with pytest.raises(
        AttributeError, match=r"cannot set 'limit' on actor class Counter.*__ray_actor_class__"
    ):
        Counter.limit = 1  # type: ignore[attr-defined]
    with mock.patch.object(counter, "add"), mock.patch.object(Counter, "remote"):
        counter.add(1)
        Counter.remote("replaced, as tests do it")
    counter._mine = 1
    assert get(counter.add.remote()) == 1


def test_calling_a_method_directly_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Counter.remote().add()


def test_calling_the_class_directly_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        Counter()


def test_subclassing_an_actor_class_is_a_type_error() -> None:
    with pytest.raises(TypeError):

        class Child(Counter):
            pass


def test_a_method_of_a_temporary_handle() -> None:
    assert get(Counter.remote(3).read.remote()) == 3


def test_a_bound_method_keeps_the_actor() -> None:
    add = Counter.remote(3).add
    assert get(add.remote()) == 4


def test_a_handle_passed_to_a_task() -> None:
    @ray.remote
    def use(counter: Any) -> int:
        return ray.get(counter.add.remote(10))

    counter = Counter.remote()
    assert get(use.remote(counter)) == 10
    assert get(counter.read.remote()) == 10


def test_a_handle_inside_a_container() -> None:
    @ray.remote
    def use(box: dict[str, Any]) -> int:
        return ray.get(box["counter"].add.remote(10))

    assert get(use.remote({"counter": Counter.remote()})) == 10


def test_a_handle_captured_by_a_closure() -> None:
    counter = Counter.remote()

    @ray.remote
    def use() -> int:
        return ray.get(counter.add.remote(2))

    get([use.remote() for _ in range(5)])
    assert get(counter.read.remote()) == 10


def test_a_handle_returned_by_a_task() -> None:
    @ray.remote
    def make() -> Any:
        return Counter.remote(9)

    assert get(get(make.remote()).read.remote()) == 9


def test_a_handle_put_into_the_store() -> None:
    assert get(get(ray.put(Counter.remote(8))).read.remote()) == 8


def test_an_actor_calls_another() -> None:
    @ray.remote
    class Caller:
        def __init__(self, target: Any) -> None:
            self.target = target

        def call(self) -> int:
            return ray.get(self.target.add.remote(100))

    assert get(Caller.remote(Counter.remote()).call.remote()) == 100


def test_an_actor_creates_another() -> None:
    @ray.remote
    class Parent:
        def __init__(self) -> None:
            self.child = Counter.remote(50)

        def call(self) -> int:
            return ray.get(self.child.add.remote())

    assert get(Parent.remote().call.remote()) == 51


def test_an_actor_gives_out_its_own_handle() -> None:
    @ray.remote
    class Self:
        def me(self) -> Any:
            return ray.get_runtime_context().current_actor

        def ping(self) -> str:
            return "pong"

    actor = Self.remote()
    myself = get(actor.me.remote())
    assert myself == actor
    assert get(myself.ping.remote()) == "pong"


def test_handles_of_one_actor_are_equal() -> None:
    counter, other = Counter.remote(), Counter.remote()
    copy = get(ray.put(counter))
    assert copy == counter
    assert hash(copy) == hash(counter)
    assert counter != other


def test_repr_of_a_handle_names_class_and_id() -> None:
    counter = Counter.remote()
    assert repr(counter) == f"Actor(Counter, {counter._actor_id.hex()})"


def test_dir_of_a_handle_lists_the_methods() -> None:
    assert {"add", "read", "fail"} <= set(dir(Counter.remote()))


def test_many_callers_of_one_actor() -> None:
    @ray.remote
    def add_ten(counter: Any) -> None:
        ray.get([counter.add.remote() for _ in range(10)])

    counter = Counter.remote()
    get([add_ten.remote(counter) for _ in range(10)])
    assert get(counter.read.remote()) == 100


def test_results_of_actor_calls_are_arguments_of_tasks() -> None:
    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    counter = Counter.remote()
    assert get(double.remote(counter.add.remote(21))) == 42


def test_a_failed_argument_fails_the_call_and_not_the_actor() -> None:
    counter = Counter.remote()
    with pytest.raises(ValueError, match="on purpose"):
        get(counter.add.remote(counter.fail.remote()))
    assert get(counter.add.remote()) == 1


def test_ray_ready_and_ray_call() -> None:
    counter = Counter.remote(5)
    assert get(counter.__ray_ready__.remote())
    assert get(counter.__ray_call__.remote(lambda self, by: self.n + by, 2)) == 7


def test_more_default_actors_than_cpus() -> None:
    counters = [Counter.remote(i) for i in range(8)]
    assert get([counter.read.remote() for counter in counters]) == list(range(8))


def test_tasks_run_while_default_actors_live() -> None:
    @ray.remote
    def ping() -> str:
        return "pong"

    counters = [Counter.remote() for _ in range(4)]
    get([counter.read.remote() for counter in counters])
    assert get(ping.remote()) == "pong"


def test_actor_options() -> None:
    named = Counter.options(name="options-counter", num_cpus=0).remote(3)
    assert get(ray.get_actor("options-counter").read.remote()) == 3
    del named


def test_generator_is_not_a_method_result_by_accident() -> None:
    @ray.remote
    class Lists:
        def squares(self, n: int) -> list[int]:
            return [i * i for i in range(n)]

    assert get(Lists.remote().squares.remote(4)) == [0, 1, 4, 9]


def test_handles_can_be_pickled_by_hand() -> None:
    counter = Counter.remote(1)
    assert get(pickle.loads(pickle.dumps(counter)).read.remote()) == 1


@beamlet_only
def test_an_actor_that_waits_for_itself_is_a_deadlock_error() -> None:
    @ray.remote
    class Narcissus:
        def outer(self) -> Any:
            return ray.get(ray.get_runtime_context().current_actor.inner.remote())

        def inner(self) -> None:
            pass

    actor = Narcissus.remote()
    with pytest.raises(Exception, match="inner") as caught:
        ray.get(actor.outer.remote(), timeout=DEADLINE_S)
    assert "DeadlockError" in type(caught.value).__name__


@beamlet_only
def test_a_class_decorated_in_a_module_is_one_class_in_its_actor() -> None:
    child: Any = actor_module.Child.remote()
    assert get(child.who.remote()) == "child of base"
    assert get(child.is_one.remote())
    assert [get(child.bump.remote()), get(child.bump.remote())] == [1, 2]
    assert get([child.made_by.remote(), child.double.remote(4)]) == ["Child", 8]
    grandchild: Any = actor_module.RemoteGrandchild.remote()
    assert get(grandchild.who.remote()) == "grandchild, child of base"


def test_special_methods_of_a_class_can_be_called() -> None:
    @ray.remote
    class Shelf:
        def __init__(self) -> None:
            self.items = [1, 2]

        def __len__(self) -> int:
            return len(self.items)

        def __getitem__(self, index: int) -> int:
            return self.items[index]

        def __iter__(self) -> Any:
            yield from self.items

        def __or__(self, other: int) -> int:
            return self.items[0] | other

        def __del__(self) -> None:
            self.items = []

    shelf: Any = Shelf.remote()
    assert get(shelf.__len__.remote()) == 2
    assert get(shelf.__getitem__.remote(1)) == 2
    assert [get(ref) for ref in shelf.__iter__.remote()] == [1, 2]
    assert get(shelf.__or__.remote(4)) == 5
    assert get(pickle.loads(pickle.dumps(shelf)).__len__.remote()) == 2


@beamlet_only
def test_special_methods_that_are_not_there_are_named() -> None:
    counter: Any = Counter.remote()
    with pytest.raises(AttributeError, match="actor Counter does not define '__len__'"):
        counter.__len__.remote()
    with pytest.raises(
        AttributeError, match=r"has no method 'ad'; it has add, fail, read; did you mean 'add'\?"
    ):
        counter.ad.remote()
    with pytest.raises(AttributeError, match=r"ActorMethod\.bind .*task graphs"):
        counter.add.bind()
