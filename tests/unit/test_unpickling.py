"""Values that fail halfway through being unpickled: every reference in them is let go exactly once."""

from __future__ import annotations

import gc
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from beamlet.api import backend
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId
from beamlet.exceptions import RayError
from beamlet.serialization.refs import released
from beamlet.serialization.remote_error import capture
from beamlet.serialization.unpickling import loads_counted
from beamlet.serialization.values import Serialized, pack, rebuild_packed, serialize, serialize_error, unpack

kept: list[Any] = []


class Faulty:
    """Raises when it is unpickled."""

    def __setstate__(self, state: Any) -> None:
        raise ZeroDivisionError("a mistake of the user's")

    def __getstate__(self) -> Any:
        return {"state": 1}


class Keeping:
    """Keeps what it holds when it is unpickled."""

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        return _keep, self.held


def _keep(*held: Any) -> None:
    kept.append(held)


class Inner:
    """Pickles what it holds in a pickle of its own."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        return _keep_inner, (cloudpickle.dumps(self.held),)


def _keep_inner(data: bytes) -> None:
    kept.append(pickle.loads(data))


class Once:
    """Pickles what it holds once, whatever it becomes part of."""

    def __init__(self, *held: Any) -> None:
        self.held = held
        self.data = b""

    def __reduce__(self) -> Any:
        self.data = self.data or cloudpickle.dumps(self.held)
        return pickle.loads, (self.data,)


class Lazy:
    """Unpickles what it holds when somebody asks for it."""

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __getstate__(self) -> bytes:
        return cloudpickle.dumps(self.held)

    def __setstate__(self, data: bytes) -> None:
        self.data = data

    def open(self) -> Any:
        return pickle.loads(self.data)


class Elsewhere:
    """Is unpickled by another thread than the one that decodes."""

    def __init__(self, *held: Any) -> None:
        self.held = held

    def __getstate__(self) -> bytes:
        return cloudpickle.dumps(self.held)

    def __setstate__(self, data: bytes) -> None:
        thread = threading.Thread(target=lambda: vars(self).update(held=pickle.loads(data)))
        thread.start()
        thread.join(10)


class Adopting:
    """The core worker, as far as references need it that find no count."""

    def __init__(self) -> None:
        self.adopted = ""

    def adopt_ref(self, object_id: ObjectId, owner: Address) -> ObjectRef[Any]:
        self.adopted += chr(object_id[0])
        return ObjectRef(object_id, owner)

    def take(self) -> str:
        """Of the references that counted themselves since the last look."""
        adopted, self.adopted = "".join(sorted(self.adopted)), ""
        return adopted


class Spoilt(Exception):
    """Raises when it is unpickled, before what it holds."""

    def __init__(self, *held: Any) -> None:
        super().__init__(Faulty(), *held)


def ref(letter: str) -> ObjectRef[Any]:
    return ObjectRef(ObjectId(letter.encode() * 28), Address(b"o" * 32))


def letters() -> str:
    """Of the references let go since the last look."""
    gc.collect()
    found = "".join(sorted(chr(object_id[0]) for object_id in released))
    released.clear()
    return found


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Adopting:
    core = Adopting()
    monkeypatch.setattr(backend, "_current", core)
    return core


@pytest.fixture(autouse=True)
def nothing_released() -> Iterator[None]:
    kept.clear()
    letters()
    yield
    kept.clear()
    letters()


def fail(serialized: Serialized) -> None:
    packed = unpack(pack(serialized))
    serialized.alive.clear()
    letters()  # those that were pickled
    with pytest.raises(ZeroDivisionError):
        rebuild_packed(packed)


def of_a_local_class() -> Any:
    class Local:
        def __init__(self, **held: Any) -> None:
            vars(self).update(held)

    return [Local(a=ref("a"), b={ref("b")}), Faulty(), Local(c=[ref("c")])]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: [ref("a"), Faulty(), ref("b"), {"c": ref("c")}], "abc"),
        (lambda: [Faulty(), *map(ref, "abc")], "abc"),
        (lambda: [*map(ref, "abc"), Faulty()], "abc"),
        (lambda: [(a := ref("a")), a, a, Faulty(), (b := ref("b")), b, ref("b")], "abb"),
        (of_a_local_class, "abc"),
    ],
    ids=["around", "behind", "before", "more than once", "in objects of a local class"],
)
def test_each_reference_is_let_go_once(make: Callable[[], Any], expected: str) -> None:
    fail(serialize(make()))
    assert letters() == expected


def test_a_reference_that_was_kept_by_users_code_is_not_let_go() -> None:
    fail(serialize([Keeping(ref("a")), Faulty(), Keeping(ref("b"))]))
    assert letters() == "b"
    kept.clear()
    assert letters() == "a"


def test_what_lies_in_a_pickle_of_the_users_own_is_theirs() -> None:
    """Whether it was opened nobody knows: rather counted for too long than freed under its holder."""
    fail(serialize([Inner(ref("a")), ref("b"), Faulty(), Inner(ref("c")), ref("d")]))
    assert letters() == "bd"
    kept.clear()
    assert letters() == "a"


def test_an_error_whose_cause_cannot_be_rebuilt_lets_go_of_what_that_held() -> None:
    error = capture(Spoilt(ref("a")), function_name="f", pid=1, ip="::1")
    packed = unpack(pack(serialize_error(error)))
    del error
    letters()
    rebuilt = rebuild_packed(packed)
    assert isinstance(rebuilt.cause, RayError)
    assert "cannot be rebuilt" in str(rebuilt.cause)
    del rebuilt
    assert letters() == "a"


def test_what_is_no_pickle_is_an_error_and_nothing_more() -> None:
    with pytest.raises(pickle.UnpicklingError):
        loads_counted(b"\xff no pickle")
    assert letters() == ""


def test_what_does_not_fail_is_not_looked_at_twice() -> None:
    packed = unpack(pack(serialize([ref("a"), ref("b")])))
    letters()
    value = rebuild_packed(packed)
    assert letters() == ""
    assert [each._id[:1] for each in value] == [b"a", b"b"]


def test_a_pickle_made_once_and_loaded_in_two_values_counts_itself_in_the_second(core: Adopting) -> None:
    once = Once(ref("a"))
    first, second = (unpack(pack(serialize([once, ref("b")]))) for _ in range(2))
    assert (len(first.contained), len(second.contained)) == (2, 1)
    letters()
    values = [rebuild_packed(first)]
    assert core.take() == ""
    values.append(rebuild_packed(second))
    assert core.take() == "a"
    values.append(rebuild_packed(first))
    assert core.take() == "", "that of the first is counted whenever the first is decoded"
    values.clear()
    assert letters() == "aaabbb"


def test_a_pickle_that_is_loaded_later_counts_itself_and_the_value_stays_for_good(core: Adopting) -> None:
    lazy, direct = rebuild_packed(unpack(pack(serialize([Lazy(ref("a")), ref("b")]))))
    letters()
    for _ in range(3):
        opened = lazy.open()
        assert core.take() == "a"
        del opened
        assert letters() == "a"
    del lazy, direct
    assert letters() == "b"


def test_what_another_thread_unpickles_counts_itself(core: Adopting) -> None:
    value = rebuild_packed(unpack(pack(serialize([Elsewhere(ref("a")), ref("b")]))))
    assert core.take() == "a"
    letters()
    del value
    assert letters() == "ab"


def test_a_value_got_while_another_is_decoded_takes_what_was_counted_for_itself(core: Adopting) -> None:
    inner = unpack(pack(serialize([ref("a"), ref("b")])))

    class Gets:
        def __reduce__(self) -> Any:
            return rebuild_packed, (inner,)

    outer = unpack(pack(serialize([ref("a"), Gets(), ref("b")])))
    letters()
    value = rebuild_packed(outer)
    assert core.take() == ""
    del value
    assert letters() == "aabb"


def test_of_a_value_that_fails_no_more_is_let_go_than_is_left(core: Adopting) -> None:
    """A pickle inside took what was counted for the reference behind the failure."""
    once = Once(Keeping(ref("a")))
    serialize(once)
    fail(serialize([once, Faulty(), ref("a")]))
    assert core.take() == ""
    assert letters() == ""
    kept.clear()
    assert letters() == "a"


def test_references_of_an_error_take_what_was_counted(core: Adopting) -> None:
    error = capture(KeyError(ref("a"), Once(ref("b"))), function_name="f", pid=1, ip="::1")
    packed = unpack(pack(serialize_error(error)))
    del error
    letters()
    rebuilt = rebuild_packed(packed)
    assert core.take() == ""
    del rebuilt
    assert letters() == "ab"
