"""What a user's exception looks like on the other side: type, state, and one readable traceback."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import linecache
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beamlet
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId
from beamlet.exceptions import (
    ActorDiedError,
    CallSite,
    GetTimeoutError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)
from beamlet.serialization.refs import contained_sink, note_contained
from beamlet.serialization.remote_error import (
    HEAD_ERROR_BYTES,
    capture,
    died_of,
    for_the_head,
    format_without_our_frames,
    peek,
)
from beamlet.serialization.unpicklable import explain_unpicklable
from beamlet.serialization.values import (
    contained_of,
    dump_error,
    pack,
    rebuild_packed,
    serialize_error,
    unpack,
)
from beamlet.util.queue import Empty, _QueueActor


class TwoArguments(Exception):
    """Python's own unpickling fails on this one: cls(*args) lacks ``code``."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(f"{text}!")
        self.code = code


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self) -> None:
        self.code = 7


class WithProperties(Exception):
    @property
    def pid(self) -> str:
        return "mine"

    @property
    def code(self) -> int:
        return int(self._code)  # type: ignore[attr-defined]


class Reduces(Exception):
    def __init__(self, code: int, extra: str) -> None:
        super().__init__(code, extra)
        self.code = code

    def __reduce__(self) -> object:
        return Reduces, (self.code, "rebuilt")


class Final(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


def raised_by(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing raised")


def captured(error: BaseException, **more: str) -> RayTaskError:
    return capture(error, function_name="f", pid=42, ip="10.0.0.1", **more)


def arrived(error: BaseException) -> RayTaskError:
    """Captured in a worker, sent, and made ready to raise."""
    back = pickle.loads(cloudpickle.dumps(captured(error)))
    assert isinstance(back, RayTaskError)
    return back.as_instanceof_cause()


def frozen() -> None:
    raise Frozen(7)


def with_properties() -> None:
    error = WithProperties()
    error._code = 7  # type: ignore[attr-defined]
    raise error


# --- type and state -----------------------------------------------------------------------------


def test_the_users_class_catches_it() -> None:
    error = arrived(TwoArguments("bad", 7))
    assert isinstance(error, TwoArguments)
    assert isinstance(error, RayTaskError)
    assert type(error).__name__ == "RayTaskError(TwoArguments)"
    assert error.args == (error.cause,)
    assert type(error.cause) is TwoArguments
    assert error.cause.args == ("bad!",)
    assert error.code == 7


@pytest.mark.parametrize("make", [Slotted, lambda: Frozen(7), lambda: Reduces(7, "x")])
def test_state_survives(make: Callable[[], Exception]) -> None:
    error = arrived(make())
    assert error.code == 7  # type: ignore[attr-defined]
    assert error.cause.code == 7  # type: ignore[attr-defined]


def test_properties_of_the_users_class_work_on_the_dual() -> None:
    error = arrived(raised_by(with_properties))
    assert error.code == 7  # type: ignore[attr-defined]
    assert str(error).startswith("f() (pid=42, ip=10.0.0.1)")


def test_what_c_keeps_survives() -> None:
    missing = arrived(raised_by(Path("/nonexistent/file").read_text))
    assert isinstance(missing, FileNotFoundError)
    assert missing.errno == 2
    assert missing.filename == "/nonexistent/file"
    undecodable = arrived(raised_by(b"ab\xff".decode))
    assert isinstance(undecodable, UnicodeDecodeError)
    assert (undecodable.start, undecodable.object) == (2, b"ab\xff")
    assert "byte 0xff in position 2" in str(undecodable.cause)
    unimportable = arrived(ImportError("no", name="mylib"))
    assert isinstance(unimportable, ImportError)
    assert unimportable.name == "mylib"


def test_notes_and_explicit_cause_are_the_errors_that_one_catches() -> None:
    """And each is printed once, but for the cause's one line; nothing is added by passing through a task."""

    def fail() -> None:
        low = ValueError("low")
        low.add_note("about low")
        high = TwoArguments("bad", 7)
        high.add_note("about high")
        raise high from low

    error = arrived(raised_by(fail))
    assert isinstance(error, TwoArguments)
    assert error.__notes__ == ["about high"]
    assert type(error.__cause__) is ValueError

    def raise_it() -> None:
        raise error

    for printed in (error, arrived(raised_by(raise_it))):
        text = "".join(traceback.format_exception(printed))
        assert text.count("about high") == 1, text
        assert text.count("ValueError: low") == 2, text
        assert text.endswith("TwoArguments: bad!\nabout high\n"), text
    assert "about high" not in str(error)
    assert error.with_notes() == f"{error}\nabout high"
    assert "about high" in str(ActorDiedError(error))


def test_frames_in_a_notebook_cell_show_their_source_where_the_cell_was_typed() -> None:
    name = "/nowhere/ipykernel_1/123.py"
    cell = "def fail(x):\n    y = x + 1\n    return y / 0\n"
    made: dict[str, Any] = {}
    exec(compile(cell, name, "exec"), made)

    def group() -> None:
        try:
            made["fail"](1)
        except ZeroDivisionError as error:
            raise ExceptionGroup("several", [error]) from None

    error, in_group = arrived(raised_by(lambda: made["fail"](1))), arrived(raised_by(group))
    frame = f'  File "{name}", line 3, in fail\n'
    assert f"{frame}ZeroDivisionError" in str(error)
    linecache.cache[name] = (len(cell), None, cell.splitlines(keepends=True), name)
    try:
        for _ in range(2):
            assert f"{frame}    return y / 0\nZeroDivisionError" in str(error)
        assert f"    | {frame}    |     return y / 0\n    | ZeroDivisionError" in str(in_group)
        assert f"{frame}    return y / 0\n" in str(arrived(raised_by(lambda: made["fail"](1)))), "once"
    finally:
        del linecache.cache[name]


def test_an_error_whose_own_pickling_fails_says_how_and_blames_no_part() -> None:
    class WithReduce(Exception):
        def __reduce__(self) -> Any:
            raise TypeError("not this one")

    error = pickle.loads(cloudpickle.dumps(captured(WithReduce("x"))))
    assert str(error).endswith("(this WithReduce cannot be pickled as it is: TypeError: not this one)")
    assert "WithReduce: x" in str(error.cause)


def test_a_group_is_still_one_that_except_star_takes_apart() -> None:
    def fail() -> None:
        group = ExceptionGroup("several", [ValueError("one"), KeyError("two")])
        group.add_note("about the group")
        raise group

    error = arrived(raised_by(fail))
    assert isinstance(error, ExceptionGroup)
    assert error.__notes__ == ["about the group"]
    values, others = error.split(ValueError)
    assert values is not None
    assert others is not None
    assert [str(each) for each in values.exceptions] == ["one"]
    assert values.__notes__ == ["about the group"]


def test_notes_and_explicit_cause_survive() -> None:
    def chained() -> None:
        try:
            int("zz")
        except ValueError as low:
            low.add_note("read from config.toml")
            raise RuntimeError("outer") from low

    error = arrived(raised_by(chained))
    assert isinstance(error.cause.__cause__, ValueError)
    assert error.cause.__cause__.__notes__ == ["read from config.toml"]
    text = str(error)
    assert (
        text.index("ValueError: invalid")
        < text.index("read from config.toml")
        < text.index("RuntimeError: outer")
    )
    assert "direct cause" in text


def test_groups_can_be_split_by_their_members() -> None:
    error = arrived(raised_by(lambda: throw(ExceptionGroup("many", [ValueError("v"), TypeError("t")]))))
    assert isinstance(error, ExceptionGroup)
    matched, rest = error.split(ValueError)
    assert matched is not None
    assert rest is not None
    assert [type(member) for member in matched.exceptions] == [ValueError]
    assert [type(member) for member in rest.exceptions] == [TypeError]
    assert "many (2 sub-exceptions)" in str(error)


def throw(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), asyncio.CancelledError()])
def test_what_would_stop_the_caller_stays_plain(error: BaseException) -> None:
    assert type(arrived(error)) is RayTaskError


def test_a_class_that_forbids_subclasses_stays_plain_and_warns_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = [arrived(Final("no")) for _ in range(3)]
    assert {type(error) for error in errors} == {RayTaskError}
    assert type(errors[0].cause) is Final
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be subclassed" in caplog.text


def test_our_own_errors_keep_their_type() -> None:
    error = arrived(GetTimeoutError("not within 1 s"))
    assert isinstance(error, GetTimeoutError)
    assert isinstance(error, TimeoutError)


def test_the_dual_class_is_made_once() -> None:
    assert type(arrived(KeyError("a"))) is type(arrived(KeyError("b")))


def test_making_a_dual_of_a_dual_changes_nothing() -> None:
    error = arrived(KeyError("a"))
    assert error.as_instanceof_cause() is error


def test_a_dual_can_be_sent_on() -> None:
    error = arrived(KeyError("a")).called_from(CallSite("app.py", 3, "main"))
    for pickler in (pickle, cloudpickle):
        back = pickle.loads(pickler.dumps(error))
        assert type(back) is type(error)
        assert str(back) == str(error)
        assert repr(back.cause) == "KeyError('a')"


def test_what_cannot_be_pickled_of_a_cause_stays_behind_and_is_told() -> None:
    error = TwoArguments("bad", 7)
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    back = arrived(raised_by(lambda: throw(error)))
    assert type(back.cause) is TwoArguments
    assert "lock: cannot be pickled" in back.cause.lock  # type: ignore[attr-defined]
    assert "TwoArguments: bad!" in str(back)
    assert "TwoArguments.lock is a threading.Lock, which cannot be pickled" in str(back)


class OwnArgs(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]
        raise RuntimeError("not now")


@pytest.mark.parametrize("holds", [None, threading.Lock()])
def test_args_of_the_users_own_are_not_asked(holds: object) -> None:
    error = OwnArgs("what happened")
    error.holds = holds  # type: ignore[attr-defined]
    back = arrived(raised_by(lambda: throw(error)))
    assert type(back.cause) is OwnArgs
    assert "OwnArgs: what happened" in str(back)
    assert ("which cannot be pickled" in str(back)) is (holds is not None)


def test_a_class_that_is_unknown_here_is_replaced_and_still_told(tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Odd(Exception): pass\n")
    program = (
        "import sys, only_there, cloudpickle\n"
        "from beamlet.serialization.remote_error import capture\n"
        "error = capture(only_there.Odd('x'), function_name='f', pid=1, ip='::1')\n"
        "sys.stdout.buffer.write(cloudpickle.dumps(error.as_instanceof_cause()))\n"
    )
    path = f"{tmp_path}:{Path(beamlet.__file__).parents[1]}"
    ran = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": path}, capture_output=True, check=True, timeout=30
    )
    error = pickle.loads(ran.stdout)
    assert type(error) is RayTaskError
    assert "only_there.Odd: x" in str(error)
    assert "No module named 'only_there'" in str(error.cause)


@given(st.text(), st.integers(), st.lists(st.text(), max_size=3))
def test_any_arguments_attributes_and_notes_survive(text: str, code: int, notes: list[str]) -> None:
    error = TwoArguments(text, code)
    for note in notes:
        error.add_note(note)
    back = arrived(error).cause
    assert isinstance(back, TwoArguments)
    assert (back.args, back.code, getattr(back, "__notes__", [])) == (error.args, code, notes)


def builtin_errors() -> list[Exception]:
    """One of every exception class of the language that a task may raise."""
    found: list[Exception] = []
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, Exception):
            for args in (
                (),
                ("text",),
                ("utf-8", b"x", 0, 1, "why"),
                ("utf-8", "x", 0, 1, "why"),
                ("x", 0, 1, "why"),
            ):
                with contextlib.suppress(TypeError):
                    found.append(cls(*args))
                    break
    return [*found, ExceptionGroup("g", [ValueError("v")]), OSError(2, "no", "a", None, "b")]


@pytest.mark.parametrize("error", builtin_errors(), ids=lambda error: type(error).__name__)
def test_every_builtin_error_keeps_type_and_text(error: Exception) -> None:
    back = arrived(error)
    assert type(back.cause) is type(error)
    assert isinstance(back, type(error))
    assert str(back.cause) == str(error)
    assert repr(back.cause.args) == repr(error.args)


class NewWithArguments(Exception):
    def __new__(cls, code: int, text: str) -> NewWithArguments:
        return super().__new__(cls, code, text)


class TwoLines(KeyError, OSError):
    """Inherits fields in C from one base only."""


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, code: int, members: list[Exception]) -> OwnGroup:
        self = super().__new__(cls, f"code {code}", members)
        self.code = code
        return self

    code: int


@pytest.mark.parametrize(
    "error",
    [NewWithArguments(7, "x"), TwoLines("x"), OwnGroup(7, [ValueError("v")])],
    ids=lambda error: type(error).__name__,
)
def test_odd_constructors(error: Exception) -> None:
    back = arrived(error)
    assert isinstance(back, type(error))
    assert repr(back.cause) == repr(error)
    assert vars(back.cause) == vars(error)


# --- the text -----------------------------------------------------------------------------------


def inner() -> None:
    raise ValueError("deep")


def outer() -> None:
    inner()


def test_the_text_reads_from_the_call_to_the_raise() -> None:
    line = inner.__code__.co_firstlineno
    error = captured(raised_by(outer)).called_from(CallSite(__file__, line, "driver_code"))
    lines = str(error).splitlines()
    assert lines[0] == "f() (pid=42, ip=10.0.0.1)"
    assert lines[1:3] == [f'  File "{__file__}", line {line}, in driver_code', "    def inner() -> None:"]
    assert lines[-1] == "ValueError: deep"
    frames = [text.rpartition(" in ")[2] for text in lines if text.startswith("  File ")]
    assert frames == ["driver_code", "raised_by", "outer", "inner"]


def test_a_line_in_a_file_of_any_name_can_be_told_in_a_message() -> None:
    assert str(CallSite("/home/caf\udce9/pr\udce9.py", 3)).encode() == rb"pr\udce9.py:3"
    assert str(CallSite("/home/caf\udce9/é.py", 3)) == "é.py:3"


def test_actors_are_named() -> None:
    error = captured(ValueError("x"), actor_id="ab12", actor_repr="Counter(7)")
    assert str(error).startswith("f() (pid=42, ip=10.0.0.1, actor_id=ab12, repr=Counter(7))\n")
    assert error.actor_id == "ab12"


def test_our_frames_and_their_carets_are_left_out() -> None:
    def user_code() -> None:
        raise ValueError("x")

    def as_if_in(path: str) -> Callable[[Callable[[], None]], None]:
        scope: dict[str, Callable[[Callable[[], None]], None]] = {}
        exec(compile("def run(function):\n    function()\n", path, "exec"), scope)
        return scope["run"]

    executor = as_if_in(str(Path(beamlet.__file__).parent / "core_worker" / "executor.py"))
    text = format_without_our_frames(raised_by(lambda: executor(user_code)))
    assert "executor.py" not in text
    assert "user_code" in text
    carets = [line for line in text.splitlines() if line.strip() and set(line.strip()) <= {"^", "~"}]
    frames = [line for line in text.splitlines() if line.startswith("  File ")]
    assert len(carets) <= len(frames)


def test_an_error_of_our_own_code_keeps_its_frames() -> None:
    path = str(Path(beamlet.__file__).parent / "core_worker" / "executor.py")
    code = compile("def broken():\n    raise KeyError('bug')\n", path, "exec")
    scope: dict[str, Callable[[], None]] = {}
    exec(code, scope)
    error = raised_by(scope["broken"])
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # only the frame in our file is left
    assert "executor.py" in format_without_our_frames(error)


def test_an_error_that_our_code_made_for_users_is_its_text_alone() -> None:
    """``Queue.get_nowait`` showed four lines of the queue's insides."""
    queue = _QueueActor(1)
    coroutine = queue.get_nowait()
    with pytest.raises(Empty) as raised:
        coroutine.send(None)
    stack = raised.value.__traceback__
    error = raised.value.with_traceback(
        stack.tb_next if stack is not None else None
    )  # without the test's frame
    text = str(capture(error, function_name="f", pid=1, ip="h"))
    assert text == "f() (pid=1, ip=h)\nbeamlet.util.queue.Empty: 1 asked for, but the queue holds 0"


def test_a_nested_tasks_error_keeps_its_type_and_both_stories() -> None:
    first = arrived(raised_by(inner))
    second = captured(raised_by(lambda: throw(first)))
    assert isinstance(second.cause, ValueError)
    assert not isinstance(second.cause, RayTaskError)
    assert str(second).count("(pid=42, ip=10.0.0.1)") == 2
    assert "in throw" in str(second)
    assert "in inner" in str(second)


def test_a_broken_str_does_not_hide_the_error() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    error = captured(raised_by(lambda: throw(Broken())))
    assert "Broken" in str(error)
    assert isinstance(error.as_instanceof_cause(), Broken)


class Bare(Exception):
    """Takes what it does not have from elsewhere, and breaks where that has not got it either."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.data = {"code": 4}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["data"][name]


@pytest.mark.parametrize("notes", [[], ["about it"]])
def test_an_error_whose_getattr_raises_anything_is_still_told(notes: list[str]) -> None:
    def fail() -> None:
        error = Bare("bad request")
        for note in notes:
            error.add_note(note)
        raise error

    if notes:  # add_note() itself asks such a class
        with pytest.raises(KeyError):
            fail()
        error = raised_by(lambda: throw(Bare("bad request")))
        error.__notes__ = notes
    else:
        error = raised_by(fail)
    back = arrived(error)
    assert isinstance(back, Bare)
    assert back.code == 4
    assert getattr(back, "__notes__", []) == notes
    assert "bad request" in str(back)
    assert f"in {'throw' if notes else 'fail'}\n" in str(back), "its frames are told"
    assert "made_for_users" not in str(back)
    assert "serialization" not in str(back)


def test_python_prints_it_as_one_traceback() -> None:
    error = raised_by(lambda: throw(arrived(raised_by(outer))))
    printed = "".join(traceback.format_exception(error))
    assert "beamlet.exceptions.RayTaskError(ValueError): f() (pid=42, ip=10.0.0.1)\n" in printed
    assert printed.endswith("ValueError: deep\n")


class Refers:
    """Stands in for an ObjectRef: reports itself when it is pickled, and when it comes alive."""

    alive = 0

    def __reduce__(self) -> tuple[type[Refers], tuple[()]]:
        note_contained(b"object", b"owner")
        return Refers, ()

    def __init__(self) -> None:
        Refers.alive += 1


class Holding(Exception):
    def __init__(self, *held: object) -> None:
        super().__init__("holding")
        self.held = held


def payload_of(error: Exception) -> bytes:
    return pack(serialize_error(captured(raised_by(lambda: throw(error)))))


def test_a_peek_at_an_error_reads_its_text_and_brings_nothing_of_the_user_alive() -> None:
    payload = payload_of(Holding(Refers()))
    alive = Refers.alive
    error = peek(payload)
    assert isinstance(error, RayTaskError)
    assert error.function_name == "f"
    assert "Holding: holding" in str(error)
    assert Refers.alive == alive
    rebuild_packed(unpack(payload))
    assert Refers.alive == alive + 1


def test_a_peek_at_an_actor_whose_constructor_failed_opens_nothing_either() -> None:
    payload = died_of(payload_of(Holding(Refers(), b"x" * HEAD_ERROR_BYTES)), "the actor")
    alive = Refers.alive
    error = peek(payload)
    assert isinstance(error, ActorDiedError)
    assert "Holding: holding" in str(error)
    assert str(error) == str(rebuild_packed(unpack(payload)))
    assert Refers.alive == alive + 1, "by the rebuilt one"
    assert "only its text was sent" in str(rebuild_packed(unpack(for_the_head(payload))))
    assert Refers.alive == alive + 1


def test_no_reference_comes_alive_in_a_peek() -> None:
    reference = ObjectRef(ObjectId(b"a" * 28), Address(b"o" * 32))
    shown = peek(pack(serialize_error(RayError(reference))))
    assert "cannot be shown here (it holds a beamlet.api.object_ref" in str(shown)


def test_of_a_very_long_text_beginning_and_end_are_told() -> None:
    error = captured(raised_by(lambda: throw(ValueError("b" + "x" * (3 << 20) + "e"))))
    text = str(error)
    assert len(text) < (1 << 20) + 100
    assert text.startswith("f() (pid=")
    assert "ValueError: bxxx" in text
    assert text.endswith("xxxe")
    assert "characters are left out here" in text
    assert len(str(error.cause)) == (3 << 20) + 2, "the error itself is whole"
    noted = ValueError("no")
    noted.add_note("n" * (3 << 20))
    assert len(captured(noted).__notes__[0]) < (1 << 20) + 100


def test_what_goes_to_the_head_is_small() -> None:
    small = payload_of(ValueError("no"))
    assert for_the_head(small) is small
    large = Holding(Refers(), bytes(HEAD_ERROR_BYTES))
    for _ in range(5):
        large.add_note("a note " + "n" * (1 << 20))
    payload = for_the_head(payload_of(large))
    assert len(payload) < HEAD_ERROR_BYTES
    assert not contained_of(payload)
    error = rebuild_packed(unpack(payload))
    assert isinstance(error, RayTaskError)
    assert error.function_name == "f"
    assert "Holding: holding" in str(error)
    assert "MiB, and 4 are allowed: only its text was sent" in str(error)
    assert error.__notes__[0].startswith("a note n")
    plain = rebuild_packed(unpack(for_the_head(dump_error(RayError("r" * (HEAD_ERROR_BYTES + 1))))))
    assert len(str(plain)) < 2 << 20
    assert "only its text was sent" in str(plain)


def test_a_peek_shows_errors_of_our_own_and_survives_others() -> None:
    assert isinstance(peek(dump_error(TaskCancelledError("ab"))), TaskCancelledError)
    assert "test_remote_error.Holding" in str(peek(dump_error(Holding(1))))


def test_what_a_constructor_raised_stays_closed_on_its_way_into_the_results_of_calls() -> None:
    constructor = payload_of(Holding(Refers()))
    alive = Refers.alive
    payload = died_of(constructor)
    assert Refers.alive == alive
    assert contained_of(payload) == contained_of(constructor) == [(b"object", b"owner")]
    error = rebuild_packed(unpack(payload))
    assert isinstance(error, ActorDiedError)
    assert error.actor_init_failed
    assert "Holding: holding" in str(error)
    assert Refers.alive == alive + 1


def test_an_actor_whose_argument_failed_dies_of_that_whatever_it_was() -> None:
    error = rebuild_packed(unpack(died_of(dump_error(TaskCancelledError("ab")))))
    assert isinstance(error, ActorDiedError)
    assert "argument" in str(error)


def test_references_are_noted_once_although_pickling_was_tried_more_than_once() -> None:
    """A lock cannot be pickled: the error is pickled again without it, its parts one by one to find it."""
    error = Holding()
    error.first, error.second = Refers(), [Refers(), threading.Lock()]  # type: ignore[attr-defined]
    serialized = serialize_error(captured(raised_by(lambda: throw(error))))
    alive = Refers.alive
    rebuild_packed(unpack(pack(serialized)))
    assert len(serialized.contained) == Refers.alive - alive == 1


def test_looking_for_a_culprit_notes_no_references() -> None:
    with contained_sink() as noted, pytest.raises(TypeError):
        explain_unpicklable(TypeError("no"), ([Refers(), threading.Lock()],), {}, "f")
    assert not noted


def test_a_missing_module_comes_with_where_it_was_looked_for_and_what_helps() -> None:
    def imports(name: str) -> str:
        error = raised_by(lambda: __import__(name))
        return str(capture(error, function_name="f", pid=1, ip="127.0.0.1"))

    text = imports("no_such_module_here")
    assert f"(this worker searched {sys.path[0]!r}" in text
    assert "Add the folder of 'no_such_module_here' before init()" in text
    assert "searched" not in imports("json.no_such_part")
