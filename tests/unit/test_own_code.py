"""Tracebacks that users see end at their own line; bugs of ours keep theirs."""

from __future__ import annotations

import asyncio
import dataclasses
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from beamlet.base import own_code
from beamlet.base.own_code import OUR_FOLDER, for_users, hide_our_frames, made_for_users


def ours(source: str) -> dict[str, Any]:
    """Functions whose code claims to lie in our folder."""
    names: dict[str, Any] = {"hide_our_frames": hide_our_frames}
    exec(compile(source, OUR_FOLDER + "made_up.py", "exec"), names)
    return names


MADE_UP = ours(
    """
def inner(use):
    return use()

def api(use):
    try:
        return inner(use)
    except BaseException as error:
        hide_our_frames(error)
        raise

async def async_api(use):
    try:
        return inner(use)
    except BaseException as error:
        hide_our_frames(error)
        raise

def raises():
    raise ValueError("on purpose")

def raiser(error):
    def raises():
        raise error.with_traceback(None)
    return raises

def asserts():
    assert [], "never"

def slips():
    {}["missing"]

def interrupted():
    import signal
    signal.default_int_handler(2, None)
"""
)


def functions_in(error: BaseException) -> list[str]:
    return [frame.name for frame in traceback.extract_tb(error.__traceback__)]


def raised_by(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


@pytest.mark.parametrize("name", ["raises", "interrupted"])
def test_what_we_raise_on_purpose_ends_at_the_caller(name: str) -> None:
    error = raised_by(lambda: MADE_UP["api"](MADE_UP[name]))
    assert functions_in(error) == ["raised_by", "<lambda>"]


@pytest.mark.parametrize("name", ["slips", "asserts"])
def test_a_bug_of_ours_keeps_its_frames(name: str) -> None:
    error = raised_by(lambda: MADE_UP["api"](MADE_UP[name]))
    assert functions_in(error) == ["raised_by", "<lambda>", "api", "inner", name]


def test_users_code_below_ours_stays() -> None:
    def users() -> None:
        raise KeyError("theirs")

    error = raised_by(lambda: MADE_UP["api"](users))
    assert functions_in(error) == ["raised_by", "<lambda>", "users"]


def test_layers_of_both_leave_theirs_in_order() -> None:
    def outer() -> Any:
        return MADE_UP["api"](MADE_UP["raises"])

    assert functions_in(raised_by(lambda: MADE_UP["api"](outer))) == ["raised_by", "<lambda>", "outer"]


def test_coroutines_end_at_the_await() -> None:
    async def main() -> None:
        await MADE_UP["async_api"](MADE_UP["raises"])

    assert functions_in(raised_by(lambda: asyncio.run(main())))[-1] == "main"


def test_the_decorator_does_the_same() -> None:
    assert own_code.__file__.startswith(OUR_FOLDER)

    @for_users
    def decorated(x: int) -> int:
        """Its text."""
        return MADE_UP["inner"](MADE_UP["raises"]) + x  # type: ignore[no-any-return]

    error = raised_by(lambda: decorated(1))
    assert functions_in(error) == ["raised_by", "<lambda>", "decorated"], "the test's own, none of ours"
    assert decorated.__doc__ == "Its text."


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Bare(Exception):
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


@pytest.mark.parametrize("error", [Frozen(7), Bare("what happened")], ids=lambda error: type(error).__name__)
def test_an_error_that_guards_its_attributes_comes_out_as_it_is(error: Exception) -> None:
    def users() -> None:
        raise error

    assert raised_by(lambda: MADE_UP["api"](users)) is error
    assert functions_in(error) == ["raised_by", "<lambda>", "users"]
    on_purpose = MADE_UP["raiser"](error)
    assert raised_by(lambda: MADE_UP["api"](on_purpose)) is error
    assert functions_in(error)[-2:] == ["raised_by", "<lambda>"]
    assert made_for_users(error)
