"""Arguments of tasks: how they bind, and that values arrive equal whatever their size and shape."""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest
from conformance import beamlet_only, get

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1,), {}, (1, 2, (), 3, {})),
        ((1, 5), {}, (1, 5, (), 3, {})),
        ((1, 5, 6, 7), {}, (1, 5, (6, 7), 3, {})),
        ((1,), {"c": 9}, (1, 2, (), 9, {})),
        ((), {"a": 1, "b": 4}, (1, 4, (), 3, {})),
        ((1,), {"other": 8}, (1, 2, (), 3, {"other": 8})),
    ],
)
def test_positional_keyword_default_and_star(
    args: tuple[int, ...], kwargs: dict[str, int], expected: Any
) -> None:
    @ray.remote
    def f(a: int, b: int = 2, *rest: int, c: int = 3, **more: int) -> Any:
        return a, b, rest, c, more

    assert get(f.remote(*args, **kwargs)) == expected


def test_positional_only_arguments() -> None:
    @ray.remote
    def f(a: int, /, b: int) -> int:
        return a - b

    assert get(f.remote(5, b=3)) == 2


def test_keywords_named_like_our_own_words() -> None:
    @ray.remote
    def f(self: int, args: int, kwargs: int, name: int, function: int) -> list[int]:
        return [self, args, kwargs, name, function]

    assert get(f.remote(self=1, args=2, kwargs=3, name=4, function=5)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("call", [(), (1, 2, 3)], ids=["too few", "too many"])
def test_wrong_arity_is_a_type_error_at_the_call(call: tuple[int, ...]) -> None:
    @ray.remote
    def f(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError):
        f.remote(*call)


def test_unknown_keyword_is_a_type_error_at_the_call() -> None:
    @ray.remote
    def f(a: int) -> int:
        return a

    with pytest.raises(TypeError):
        f.remote(1, b=2)


def test_missing_keyword_only_argument_is_a_type_error_at_the_call() -> None:
    @ray.remote
    def f(*, a: int) -> int:
        return a

    with pytest.raises(TypeError):
        f.remote()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        2**200,
        1.5,
        float("inf"),
        1 + 2j,
        "",
        "naïve ☃",
        b"\x00\xff",
        pytest.param(bytearray(b"abc"), marks=beamlet_only, id="bytearray"),  # Ray returns bytes
        (),
        (1, (2, (3,))),
        [1, [2, [3]]],
        {"a": {"b": [1, 2]}, 3: None},
        {1, 2, 3},
        frozenset({"x"}),
        range(3),
        slice(1, 2, 3),
        datetime.datetime(2026, 1, 2, 3, 4, 5),
        datetime.timedelta(seconds=1.5),
        OrderedDict([("b", 1), ("a", 2)]),
        defaultdict(list, {"a": [1]}),
        Colour.RED,
        Point(1, 2),
        int,
        len,
        Point,
        ...,
        np.float32(1.5),
    ],
    ids=repr,
)
def test_values_arrive_and_return_equal(value: Any) -> None:
    @ray.remote
    def echo(x: Any) -> Any:
        return x

    returned = get(echo.remote(value))
    assert returned == value
    assert type(returned) is type(value)


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 1_000_000, 20_000_000])
def test_bytes_of_any_size_arrive_and_return(size: int) -> None:
    @ray.remote
    def echo(x: bytes) -> bytes:
        return x

    value = bytes(i % 251 for i in range(1000)) * (size // 1000) + b"x" * (size % 1000)
    assert get(echo.remote(value)) == value


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(0),
        np.array(5.0),
        np.arange(12).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.arange(100)[::3],
        np.asfortranarray(np.ones((4, 5))),
        np.array(["a", "bc"]),
        np.array([1, "x", None], dtype=object),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.arange(1_000_000, dtype=np.float32),
    ],
    ids=lambda a: f"{a.dtype.kind}{a.shape}",
)
def test_arrays_of_any_shape_arrive_and_return(array: np.ndarray) -> None:
    @ray.remote
    def echo(x: np.ndarray) -> np.ndarray:
        return x

    returned = get(echo.remote(array))
    assert returned.dtype == array.dtype
    assert returned.shape == array.shape
    assert (returned == array).all()


@beamlet_only  # Ray's own encoding of lists copies it
def test_shared_structure_inside_one_argument_stays_shared() -> None:
    @ray.remote
    def is_shared(pair: list[list[int]]) -> bool:
        return pair[0] is pair[1]

    inner = [1]
    assert get(is_shared.remote([inner, inner]))


def test_cyclic_values_arrive() -> None:
    @ray.remote
    def is_cyclic(x: list[Any]) -> bool:
        return x[0] is x

    cycle: list[Any] = []
    cycle.append(cycle)
    assert get(is_cyclic.remote(cycle))


def test_arguments_are_copies_taken_at_the_call() -> None:
    @ray.remote
    def read(values: list[int]) -> list[int]:
        return values

    values = [1]
    ref = read.remote(values)
    values.append(2)
    assert get(ref) == [1]


def test_changing_an_argument_in_the_task_does_not_change_the_drivers() -> None:
    @ray.remote
    def append(values: list[int]) -> list[int]:
        values.append(2)
        return values

    values = [1]
    assert get(append.remote(values)) == [1, 2]
    assert values == [1]


def test_a_top_level_ref_arrives_as_its_value() -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    assert get(add.remote(ray.put(1), b=ray.put(2))) == 3


def test_a_ref_inside_a_container_arrives_as_a_ref() -> None:
    @ray.remote
    def kinds(values: list[Any], *, table: dict[str, Any]) -> list[bool]:
        return [isinstance(values[0], ray.ObjectRef), isinstance(table["ref"], ray.ObjectRef)]

    ref = ray.put(1)
    assert get(kinds.remote([ref], table={"ref": ref})) == [True, True]


def test_the_same_ref_twice() -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    ref = ray.put(4)
    assert get(add.remote(ref, ref)) == 8


def test_a_task_waits_for_the_results_it_takes() -> None:
    @ray.remote
    def add_one(x: int) -> int:
        return x + 1

    ref = ray.put(0)
    for _ in range(100):
        ref = add_one.remote(ref)
    assert get(ref) == 100


def test_one_task_with_many_ref_arguments() -> None:
    @ray.remote
    def total(*values: int) -> int:
        return sum(values)

    @ray.remote
    def one() -> int:
        return 1

    assert get(total.remote(*[one.remote() for _ in range(200)])) == 200


def test_large_results_are_passed_between_tasks() -> None:
    @ray.remote
    def make() -> np.ndarray:
        return np.ones(1_000_000)

    @ray.remote
    def total(array: np.ndarray) -> float:
        return float(array.sum())

    assert get(total.remote(make.remote())) == 1_000_000.0


def test_a_remote_function_can_be_an_argument() -> None:
    @ray.remote
    def square(x: int) -> int:
        return x * x

    @ray.remote
    def apply(function: Any, x: int) -> int:
        return ray.get(function.remote(x))

    assert get(apply.remote(square, 5)) == 25
