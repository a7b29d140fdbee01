"""Values as bytes: the shapes they travel in, what is inside them, and why some cannot go."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import socket
import threading
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.serialization.arguments import (
    NO_ARGUMENTS,
    Slot,
    dumps_plain,
    fill,
    serialize_arguments,
    split,
)
from beamlet.serialization.closures import check_closure
from beamlet.serialization.refs import contained_sink, note_contained, trial
from beamlet.serialization.unpicklable import explain_unpicklable, find_culprit, remedy
from beamlet.serialization.values import (
    INLINE_MAX_BYTES,
    Serialized,
    contained_of,
    deregister_serializer,
    dump_error,
    dumps,
    is_error,
    is_plain,
    loads_plain,
    pack,
    rebuild,
    rebuild_packed,
    register_serializer,
    serialize,
    unpack,
)

ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.text(), inner), st.tuples(inner, inner), st.frozensets(ATOMS)
    ),
    max_leaves=8,
)


def there_and_back(value: Any) -> Any:
    """Through whichever shape the value takes."""
    payload = dumps(value)
    if isinstance(payload, Serialized):
        payload = pack(payload)
    return loads_plain(payload) if is_plain(payload) else rebuild_packed(unpack(payload))


class Ref:
    """Pickled as an ObjectRef is: it tells the serializer."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        assert note_contained(self.name, b"owner")
        return bytes, (self.name,)


# -- values --------------------------------------------------------------------------------------


@given(VALUES)
def test_values_come_back_as_they_were(value: Any) -> None:
    back = there_and_back(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("size", [0, 4096, INLINE_MAX_BYTES // 4 + 1, INLINE_MAX_BYTES + 1])
@pytest.mark.parametrize("kind", [bytes, bytearray, str])
def test_strings_of_any_size_keep_their_type(kind: Any, size: int) -> None:
    value = "é" * size if kind is str else kind(b"x" * size)
    back = there_and_back(value)
    assert back == value
    assert type(back) is kind


def test_small_values_are_plain_pickles() -> None:
    for value in (1, "x", [1, 2], {"a": (1,)}, b"b", np.arange(3)):
        payload = dumps(value)
        assert isinstance(payload, bytes)
        assert is_plain(payload)
        assert contained_of(payload) == []
        assert not is_error(payload)


def test_large_values_are_taken_apart_for_the_store() -> None:
    text = dumps("x" * (INLINE_MAX_BYTES + 1))
    assert isinstance(text, Serialized)
    assert text.total_bytes > INLINE_MAX_BYTES
    array = np.arange(100_000)
    parts = dumps(array)
    assert isinstance(parts, Serialized)
    assert [len(buffer) for buffer in parts.buffers] == [array.nbytes]
    assert len(parts.inband) < 1000, "the numbers are not in the pickle"
    raw = dumps(b"y" * INLINE_MAX_BYTES)
    assert isinstance(raw, Serialized)
    assert raw.inband == b"", "bytes are stored as they are"


def test_arrays_rebuilt_from_a_message_are_writable_and_private() -> None:
    array = np.arange(2000.0)
    payload = pack(serialize(array))
    first, second = rebuild_packed(unpack(payload)), rebuild_packed(unpack(payload))
    first[0] = 99
    assert second[0] == 0
    assert array[0] == 0


def test_arrays_view_the_buffers_they_are_rebuilt_from() -> None:
    serialized = serialize(np.arange(2000.0))
    buffers = [bytearray(buffer) for buffer in serialized.buffers]
    array = rebuild(serialized.kind, serialized.inband, buffers)
    buffers[0][:8] = np.float64(5).tobytes()
    assert array[0] == 5


@pytest.mark.parametrize(
    "array", [np.arange(10_000)[::2], np.asfortranarray(np.ones((100, 100))), np.array([])]
)
def test_arrays_of_any_layout_come_back_equal(array: Any) -> None:
    np.testing.assert_array_equal(there_and_back(array), array)


def test_references_inside_are_noted_in_order_and_per_value() -> None:
    outer = serialize({"a": [Ref(b"1"), Ref(b"2")]})
    assert outer.contained == [(b"1", b"owner"), (b"2", b"owner")]
    payload = pack(outer)
    assert contained_of(payload) == outer.contained
    assert rebuild_packed(unpack(payload)) == {"a": [b"1", b"2"]}
    assert serialize([1]).contained == []


def test_a_value_serialized_while_another_is_does_not_mix_their_references() -> None:
    with contained_sink() as outer:
        pickle.dumps(Ref(b"1"))
        with contained_sink() as inner:
            pickle.dumps(Ref(b"2"))
        pickle.dumps(Ref(b"3"))
    assert (outer, inner) == ([(b"1", b"owner"), (b"3", b"owner")], [(b"2", b"owner")])
    assert not note_contained(b"4", b"owner"), "plain pickle is out of our sight"


def test_references_pickled_in_another_thread_are_not_ours() -> None:
    noted: list[bool] = []
    with contained_sink() as sink:
        thread = threading.Thread(target=lambda: noted.append(note_contained(b"1", b"owner")))
        thread.start()
        thread.join()
    assert (sink, noted) == ([], [False])


def test_errors_are_flagged_and_nothing_else_is() -> None:
    payload = dump_error(ValueError("no"))
    assert is_error(payload)
    error = rebuild_packed(unpack(payload))
    assert (type(error), error.args) == (ValueError, ("no",))
    as_value = dumps(ValueError("a value"))
    assert isinstance(as_value, bytes)
    assert not is_error(as_value)
    assert not is_error(b"")


class Handle:
    """Something that only its own serializer can send."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> Any:
        raise TypeError("handles stay here")


def test_registered_serializers_are_used_for_exactly_their_class() -> None:
    register_serializer(Handle, serializer=lambda handle: handle.name, deserializer=Handle)
    try:
        assert there_and_back([Handle("a")])[0].name == "a"
    finally:
        deregister_serializer(Handle)
    deregister_serializer(Handle)
    with pytest.raises(TypeError, match="stay here"):
        dumps([Handle("a")])


# -- arguments -----------------------------------------------------------------------------------


@given(
    st.lists(ATOMS.filter(lambda v: not isinstance(v, complex))), st.dictionaries(st.text(), st.integers())
)
def test_atoms_as_arguments_take_the_short_way(args: list[Any], kwargs: dict[str, Any]) -> None:
    payload = dumps_plain(tuple(args), kwargs)
    assert payload is not None
    assert split(pickle.loads(payload)) == (tuple(args), kwargs)


def test_other_arguments_do_not() -> None:
    assert dumps_plain(([1],), {}) is None
    assert dumps_plain((1,), {"k": object()}) is None
    assert dumps_plain((b"x" * INLINE_MAX_BYTES,), {}) is None
    assert NO_ARGUMENTS == b""


def test_dependencies_go_into_their_slots() -> None:
    sent = serialize_arguments((1, Slot(1), [2]), {"k": Slot(0), "plain": Slot})
    args, kwargs = split(pickle.loads(sent.inband))
    assert fill(args, kwargs, ["zero", "one"]) == ((1, "one", [2]), {"k": "zero", "plain": Slot})
    assert fill((Slot(0),), {}, [None]) == ((None,), {})


# -- closures ------------------------------------------------------------------------------------


def test_a_function_is_pickled_by_value_with_what_it_closes_over() -> None:
    factor = 3
    pickled = check_closure(lambda x: factor * x, "f", 10_000, 100_000)
    assert cloudpickle.loads(pickled)(2) == 6


def test_a_large_closure_is_warned_about_by_name_and_refused_beyond_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    big_table = list(range(50_000))
    small = 1

    def function() -> int:
        return len(big_table) + small

    with caplog.at_level(logging.WARNING, "beamlet"):
        check_closure(function, "function", 10_000, 10_000_000)
    assert "big_table (list" in caplog.text
    with pytest.raises(ValueError, match=r"big_table .*closure") as refused:
        check_closure(function, "function", 10_000, 20_000)
    assert "put()" in str(refused.value)


def test_what_a_closure_cannot_send_is_named() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot send f to workers: .*\block\b.*thread.lock") as refused:
        check_closure(lambda: lock, "f", 10_000, 100_000)
    assert "Create it inside the task" in str(refused.value)


def test_what_a_function_refers_to_is_no_part_of_the_value_whose_pickling_calls_it_first() -> None:
    noted = []

    class Refers:
        def __reduce__(self) -> tuple[Any, ...]:
            noted.append(note_contained(b"1", b"owner"))
            return int, ()

    held = Refers(), list(range(5_000))  # large: what weighs most is pickled once more
    with contained_sink() as sink:
        check_closure(lambda: held, "f", 10_000, 100_000)
        assert note_contained(b"2", b"owner"), "then the value goes on"
    assert len(noted) > 1
    assert not any(noted)
    assert sink == [(b"2", b"owner")]


# -- unpicklable ---------------------------------------------------------------------------------


class Config:
    def __init__(self) -> None:
        self.nested = {"inner": [1, threading.Lock()]}


def test_the_culprit_is_found_however_deep() -> None:
    path, culprit = find_culprit([0, {"cfg": Config()}], "x")
    assert path == "x[1]['cfg'].nested['inner'][1]"
    assert type(culprit).__name__ == "lock"


def test_a_cycle_does_not_keep_the_search_busy() -> None:
    loop: list[Any] = [threading.Lock()]
    loop.append(loop)
    path, _ = find_culprit(loop, "x")
    assert path == "x[0]"


@pytest.mark.parametrize("result", [False, True])
def test_an_unpicklable_value_is_explained(result: bool) -> None:
    with socket.socket() as sock:
        value = {"conn": sock}
        with pytest.raises(TypeError, match=r"\['conn'\] is a socket.socket") as explained:
            explain_unpicklable(TypeError("cannot pickle"), (value,), {}, "f", result=result)
    assert ("the result of f()" if result else "[0]' to f()") in str(explained.value)
    assert "keep it in an actor" in str(explained.value)


def test_a_keyword_argument_is_named_by_its_keyword() -> None:
    with pytest.raises(TypeError, match=r"argument 'cfg' to f\(\): cfg\[0\] is a threading.Lock"):
        explain_unpicklable(pickle.PicklingError("no"), (1,), {"cfg": [threading.Lock()]}, "f")


def test_other_errors_are_left_alone() -> None:
    explain_unpicklable(KeyError("mine"), (threading.Lock(),), {}, "f")
    explain_unpicklable(TypeError("all is well"), (1,), {}, "f")


def test_advice_fits_the_type() -> None:
    assert "list" in remedy(x for x in ())
    assert "Import" in remedy(threading)
    assert "inside the task" in remedy(threading.Thread())
    assert remedy(object())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(10_000.0),
        np.ones((300, 40), dtype=np.int8)[:, 3:],
        np.asfortranarray(np.ones((100, 50))),
        np.ones((3, 1000, 2), dtype=np.complex64).transpose(2, 1, 0),
        np.ones((2000, 2))[:, 0],
        np.ones(3000, dtype=">f4"),
        np.zeros((0, 5)),
        np.arange(5),
        np.array(["a", "b"]),
        np.array([{1: 2}, "x"], dtype=object),
        np.zeros(3, dtype=[("x", "i4"), ("y", "f8")]),
        np.datetime64("2026-11-21") + np.arange(2000),
        np.ma.masked_array([1, 2], [True, False]),
    ],
    ids=[
        "large",
        "slice",
        "fortran",
        "transposed",
        "strided",
        "foreign",
        "empty",
        "small",
        "text",
        "objects",
        "records",
        "dates",
        "masked",
    ],
)
def test_arrays_come_back_as_they_were_however_they_were_pickled(array: Any) -> None:
    data = dumps(array)
    if isinstance(data, bytes):
        back = loads_plain(data)
    else:
        buffers = [bytearray(buffer) for buffer in data.buffers]
        back = rebuild(data.kind, data.inband, buffers, data.contained)
    assert type(back) is type(array)
    assert back.dtype == array.dtype
    assert back.flags.writeable
    assert back.flags.f_contiguous == array.flags.f_contiguous or not array.flags.forc
    assert back.tolist() == array.tolist()


def test_a_serializer_of_a_users_own_is_used_for_arrays_too() -> None:
    register_serializer(np.ndarray, serializer=lambda array: array.tolist(), deserializer=tuple)
    try:
        assert loads_plain(dumps(np.arange(3))) == (0, 1, 2)  # type: ignore[arg-type]  # it is small
    finally:
        deregister_serializer(np.ndarray)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class RefusesToTravel:
    def __reduce__(self) -> Any:
        raise Frozen(7)


def test_what_pickling_raised_comes_out_as_it_is_even_if_it_cannot_be_changed() -> None:
    with pytest.raises(Frozen):
        dumps(RefusesToTravel())
    with pytest.raises(Frozen), trial():
        raise Frozen(8)
