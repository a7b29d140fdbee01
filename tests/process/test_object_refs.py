"""`ObjectRef` as a thing of its own: identity, futures, `await`, and pickling inside values."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import pickle
from typing import Any

import pytest
from conformance import DEADLINE_S, beamlet_only, get

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


@ray.remote
def value_of(x: Any) -> Any:
    return x


@ray.remote
def fails() -> None:
    raise ValueError("failed")


def test_remote_and_put_give_object_refs() -> None:
    assert isinstance(ray.put(1), ray.ObjectRef)
    assert isinstance(value_of.remote(1), ray.ObjectRef)


def test_object_id_is_the_older_name() -> None:
    assert ray.ObjectID is ray.ObjectRef


def test_hex_and_binary_name_the_same_28_bytes() -> None:
    ref = ray.put(1)
    assert len(ref.binary()) == 28
    assert ref.hex() == ref.binary().hex()


def test_str_and_repr_show_the_id() -> None:
    ref = ray.put(1)
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    assert str(ref) == repr(ref)


def test_different_objects_have_different_refs() -> None:
    refs = [ray.put(1), ray.put(1), value_of.remote(1), value_of.remote(1)]
    assert len(set(refs)) == 4


def test_a_ref_equals_its_copy_from_a_value() -> None:
    ref = ray.put(1)
    (copy,) = get(ray.put([ref]))
    assert copy == ref
    assert hash(copy) == hash(ref)


def test_a_ref_is_not_equal_to_something_else() -> None:
    ref = ray.put(1)
    assert ref != 1
    assert ref != ref.hex()


def test_refs_are_keys_of_dictionaries() -> None:
    refs = [ray.put(i) for i in range(5)]
    table = {ref: i for i, ref in enumerate(refs)}
    assert [table[ref] for ref in refs] == list(range(5))


def test_job_id_and_task_id_are_there() -> None:
    ref = value_of.remote(1)
    assert ref.job_id().hex() == ray.get_runtime_context().get_job_id()
    assert ref.binary().startswith(ref.task_id().binary())


def test_future_gives_the_value() -> None:
    future = value_of.remote(5).future()
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(timeout=DEADLINE_S) == 5


def test_future_gives_the_error() -> None:
    with pytest.raises(ValueError, match="failed"):
        fails.remote().future().result(timeout=DEADLINE_S)


def test_futures_can_be_waited_for_together() -> None:
    futures = [value_of.remote(i).future() for i in range(10)]
    done = concurrent.futures.as_completed(futures, timeout=DEADLINE_S)
    assert sorted(future.result() for future in done) == list(range(10))


def test_await_gives_the_value() -> None:
    async def main() -> Any:
        return await value_of.remote("awaited")

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE_S)) == "awaited"


def test_await_gives_the_error() -> None:
    async def main() -> Any:
        await fails.remote()

    with pytest.raises(ValueError, match="failed"):
        asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


def test_gather_awaits_many() -> None:
    async def main() -> Any:
        return await asyncio.gather(*[value_of.remote(i) for i in range(20)])

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE_S)) == list(range(20))


def test_awaiting_an_actor_call() -> None:
    @ray.remote
    class Echo:
        def say(self, x: Any) -> Any:
            return x

    async def main() -> Any:
        return await Echo.remote().say.remote("hello")

    assert asyncio.run(asyncio.wait_for(main(), DEADLINE_S)) == "hello"


def test_a_large_value_can_be_awaited() -> None:
    async def main() -> Any:
        return await value_of.remote(b"x" * 3_000_000)

    assert len(asyncio.run(asyncio.wait_for(main(), DEADLINE_S))) == 3_000_000


def test_a_ref_pickled_by_hand_still_works_here() -> None:
    ref = ray.put("by hand")
    assert get(pickle.loads(pickle.dumps(ref))) == "by hand"


def test_a_ref_inside_an_object_of_ones_own() -> None:
    class Box:
        def __init__(self, ref: Any) -> None:
            self.ref = ref

    @ray.remote
    def open_box(box: Any) -> Any:
        return ray.get(box.ref)

    assert get(open_box.remote(Box(ray.put("inside")))) == "inside"


def test_a_closure_may_hold_a_ref() -> None:
    ref = ray.put("captured")

    @ray.remote
    def reads() -> Any:
        return ray.get(ref)

    assert get(reads.remote()) == "captured"


def test_refs_of_one_task_know_they_are_of_one_task() -> None:
    a, b = value_of.options(num_returns=2).remote((1, 2))
    assert a.task_id() == b.task_id()
    assert a != b


def test_a_ref_made_of_an_id_is_one_more_ref() -> None:
    """Its end is not that of the value, which the first still needs."""
    ref = ray.put(list(range(100_000)))
    for again in (ray.ObjectRef.from_binary(ref.binary()), ray.ObjectRef.from_hex(ref.hex())):
        assert again == ref
        assert len(get(again)) == 100_000
    del again
    gc.collect()
    assert len(get(ref)) == 100_000


@beamlet_only
def test_a_ref_cannot_be_made_of_what_nobody_here_refers_to() -> None:
    with pytest.raises(
        ValueError, match=r"no reference of this process has the id .*Pass the reference itself"
    ):
        ray.ObjectRef.from_binary(b"x" * 28)
    with pytest.raises(TypeError, match=r"made from bytes, not from a str 'ab'"):
        ray.ObjectRef.from_binary("ab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'xy' is not a string of hex digits"):
        ray.ObjectRef.from_hex("xy")


@beamlet_only
def test_a_ref_that_was_not_to_be_made_takes_no_value_with_it() -> None:
    """Python ends what its constructor refused, too: it was counted down without having been counted."""
    ref = ray.put("kept")
    for arguments, named in [
        ((ref.binary(),), {}),
        ((ref.binary(), b"", 3), {}),
        ((ref.binary(),), {"x": 1}),
    ]:
        with pytest.raises(TypeError):
            ray.ObjectRef(*arguments, **named)  # type: ignore[call-arg, arg-type]
    with pytest.raises(TypeError, match=r"ObjectRef\.from_binary\(ref\.binary\(\)\)"):
        ray.ObjectRef(ref.binary())  # type: ignore[call-arg, arg-type]
    get(ray.put("counts down what died"))
    assert get(ref) == "kept"
    again = ray.ObjectRef.from_binary(ref.binary())
    assert again == ref
    assert hash(again) == hash(ref)


@beamlet_only
def test_a_borrowers_ref_made_of_an_id_is_one_more_ref() -> None:
    @ray.remote
    def reads(held: list[Any]) -> int:
        (ref,) = held
        again = ray.ObjectRef.from_binary(ref.binary())
        assert again == ref
        del ref, held[:]
        gc.collect()
        return len(ray.get(again))

    ref = ray.put(list(range(100_000)))
    assert get(reads.remote([ref])) == 100_000
    assert len(get(ref)) == 100_000


@beamlet_only
def test_the_reference_to_nothing_travels() -> None:
    nothing = ray.ObjectRef.nil()
    (back,) = get(value_of.remote([nothing]))
    assert back.is_nil()
    assert get(ray.put([nothing]))[0].is_nil()
    assert pickle.loads(pickle.dumps(nothing)).is_nil()
