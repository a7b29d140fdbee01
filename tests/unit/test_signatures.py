"""Arguments are judged at the calling line exactly as Python would judge them, and the message helps."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beamlet.api.signatures import Signature

HERE = Path(__file__).name


def none() -> None: ...
def two(x: int, y: int) -> None: ...
def defaults(x: int, y: int = 1, *, z: int = 2) -> None: ...
def keyword_needed(x: int, *, key: int) -> None: ...
def anything(*args: int, **kwargs: int) -> None: ...
def position_only(x: int, y: int = 0, /, z: int = 0, **more: int) -> None: ...
def rest(x: int, *rest: int, key: int = 0) -> None: ...


FUNCTIONS: list[Callable[..., None]] = [none, two, defaults, keyword_needed, anything, position_only, rest]


class Counter:
    def __init__(self, start: int, step: int = 1) -> None: ...

    def add(self, amount: int) -> None: ...

    def forgot_self() -> None:  # type: ignore[misc]
        ...

    def star(*args: int) -> None: ...


def accepts(signature: Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """As callers use it: the two comparisons first, the check for the rest."""
    if kwargs or not signature.min_args <= len(args) <= signature.max_args:
        try:
            signature.check(args, kwargs)
        except TypeError:
            return False
    return True


def python_accepts(function: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        function(*args, **kwargs)
    except TypeError:
        return False
    return True


ARGS = st.lists(st.just(0), max_size=4).map(tuple)
KWARGS = st.dictionaries(st.sampled_from(["x", "y", "z", "key", "other"]), st.just(0))


@given(st.sampled_from(FUNCTIONS), ARGS, KWARGS)
def test_agrees_with_python(
    function: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    assert accepts(Signature.of(function), args, kwargs) == python_accepts(function, args, kwargs)


@given(ARGS, KWARGS)
def test_the_fast_path_says_what_the_check_says(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Without keywords the two numbers alone decide."""
    for function in FUNCTIONS:
        signature = Signature.of(function)
        fits = signature.min_args <= len(args) <= signature.max_args
        assert fits == python_accepts(function, args, {})


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "says"),
    [
        (two, (1,), {}, "two() missing 1 argument 'y' (signature two(x, y) at "),
        (two, (), {}, "two() missing 2 arguments 'x', 'y' "),
        (two, (1, 2, 3), {}, "two() takes 2 arguments, but 3 were given"),
        (none, (1,), {}, "none() takes 0 arguments, but 1 was given"),
        (defaults, (1, 2, 3), {}, "takes 1 to 2 arguments by position (give 'z' by name), but 3 were given"),
        (two, (1, 2), {"y": 3}, "got two values for argument 'y'"),
        (defaults, (1,), {"zz": 3}, "has no argument 'zz'; did you mean 'z'?"),
        (position_only.__call__, (1,), {}, None),
        (keyword_needed, (1,), {}, "missing 1 argument 'key' (signature keyword_needed(x, *, key) at "),
    ],
)
def test_messages(
    function: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any], says: str | None
) -> None:
    signature = Signature.of(function)
    if says is None:
        signature.check(args, kwargs)
        return
    with pytest.raises(TypeError) as caught:
        signature.check(args, kwargs)
    assert says in str(caught.value)


def test_the_message_says_where_the_function_is() -> None:
    with pytest.raises(TypeError, match=rf"at {HERE}:{two.__code__.co_firstlineno}\)"):
        Signature.of(two).check((), {})


def test_long_defaults_are_cut() -> None:
    def f(x: int, table: list[int] = list(range(100))) -> None: ...  # noqa: B006

    assert Signature.of(f).text.startswith("f(x, table=[0, 1, 2, 3, 4, 5, 6…) at ")


def test_methods_do_not_count_self() -> None:
    signature = Signature.of(Counter.add, skip_self=True)
    assert (signature.min_args, signature.max_args, signature.name) == (1, 1, "Counter.add")
    assert accepts(Signature.of(Counter.star, skip_self=True), (1, 2, 3), {})


def test_a_forgotten_self_is_named_at_once() -> None:
    with pytest.raises(TypeError, match=r"method Counter\.forgot_self\(\) at .* has no self"):
        Signature.of(Counter.forgot_self, skip_self=True)


def test_classes() -> None:
    with pytest.raises(TypeError, match=r"Counter\(\) missing 1 argument 'start'"):
        Signature.of_class(Counter).check((), {})

    class Plain: ...

    class Made:
        def __new__(cls, size: int) -> Made:
            return super().__new__(cls)

    assert not accepts(Signature.of_class(Plain), (1,), {})
    assert accepts(Signature.of_class(Plain), (), {})
    assert accepts(Signature.of_class(Made), (1,), {})
    assert not accepts(Signature.of_class(Made), (), {})


def test_wrapped_functions_show_what_they_wrap() -> None:
    @functools.wraps(two)
    def wrapper(*args: int, **kwargs: int) -> None: ...

    assert not accepts(Signature.of(wrapper), (1,), {})


def test_what_cannot_be_read_accepts_everything() -> None:
    class Opaque:
        __signature__ = "nonsense"

        def __call__(self, *args: int) -> None: ...

    assert accepts(Signature.of(Opaque()), (1, 2, 3), {"any": 1})


def test_signatures_travel_with_handles() -> None:
    for function in FUNCTIONS:
        signature = Signature.of(function)
        assert pickle.loads(pickle.dumps(signature)) == signature
