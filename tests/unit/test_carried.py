"""Exceptions that were made without their ``__init__`` serve as any others, whatever they keep in C.

In a process of their own: the interpreter followed a NULL and crashed.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from beamlet.exceptions import carried

#: Uses errors of every builtin class, and of one derived from it, in every way that asks C for their fields.
PROGRAM = """
import builtins
import pickle
import sys
import traceback

from beamlet.exceptions import carried
from beamlet.exceptions.task_error import RayTaskError


class Iterates:
    def __init__(self, error):
        self.error = error

    def __iter__(self):
        return self

    __await__ = __iter__

    def __next__(self):
        raise self.error


def delegates(error):
    return (yield from Iterates(error))


async def awaits(error):
    return await Iterates(error)


async def generates(error):
    raise error
    yield


def use(error):
    for run in (delegates(error), awaits(error), generates(error).__anext__()):
        try:
            run.send(None)
        except BaseException:
            pass
    for name in dir(error):
        getattr(error, name, None)
    try:
        raise error
    except BaseException:
        traceback.format_exc()
        sys.excepthook(*sys.exc_info())
    str(error), repr(error), error.__reduce__()


def arrived(error):
    return pickle.loads(pickle.dumps(RayTaskError("f", "f()", error).as_instanceof_cause()))


kinds = [kind for kind in vars(builtins).values() if isinstance(kind, type)]
kinds = [kind for kind in kinds if issubclass(kind, BaseException)]
for kind in kinds:
    for cls in (kind, type(f"Own{kind.__name__}", (kind,), {})):
        print(cls.__name__, file=sys.stderr)
        shape = ("m", [ValueError("v")]) if issubclass(kind, BaseExceptionGroup) else ()
        error = carried.blank(cls, shape)
        use(error)
        if cls is kind:
            error = arrived(error)
            use(error)
            use(error.cause)
print("done", len(kinds))
"""


def test_no_field_of_any_builtin_error_is_null_for_those_who_do_not_ask() -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", PROGRAM], capture_output=True, text=True, timeout=60
    )
    assert ran.stdout.startswith("done "), ran.stderr[-2000:]
    assert int(ran.stdout.split()[1]) > 60


def test_a_rebuilt_stop_iteration_has_the_value_it_had() -> None:
    for error in (StopIteration(), StopIteration("end"), StopIteration(None)):
        back = carried.loads(carried.dumps(error))
        assert isinstance(back, StopIteration)
        assert (back.value, back.args) == (error.value, error.args)
    assert carried.blank(StopIteration, ()).value is None  # type: ignore[attr-defined]


class Slots(Exception):
    __slots__ = ("code", "unset")


@pytest.mark.parametrize("code", [None, 7])
def test_a_slot_arrives_as_it_was_set_or_not(code: int | None) -> None:
    error = Slots("x")
    error.code = code
    back = carried.loads(carried.dumps(error))
    assert isinstance(back, Slots)
    assert back.code == code
    assert not hasattr(back, "unset")
