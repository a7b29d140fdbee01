"""Errors of user code: the class stays catchable, the traceback tells the way, and dependents fail alike."""

from __future__ import annotations

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get

import beamlet as ray
from beamlet.exceptions import RayError, RayTaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")


class CustomError(Exception):
    """An error with more to it than a message."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


def failing(error: BaseException) -> Any:
    @ray.remote(max_retries=0)
    def raises() -> None:
        raise error

    return raises.remote()


@pytest.mark.parametrize(
    "error", [ValueError("bad"), KeyError("k"), ZeroDivisionError("z"), OSError(2, "no file")]
)
def test_the_users_class_is_caught(error: Exception) -> None:
    with pytest.raises(type(error)):
        get(failing(error))


def test_the_error_is_also_a_ray_task_error() -> None:
    with pytest.raises(RayTaskError) as caught:
        get(failing(ValueError("bad")))
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RayError)


def test_the_cause_is_the_original_error() -> None:
    with pytest.raises(RayTaskError) as caught:
        get(failing(ValueError("bad", 3)))
    assert type(caught.value.cause) is ValueError
    assert caught.value.cause.args == ("bad", 3)


def test_attributes_of_the_users_error_are_there() -> None:
    with pytest.raises(CustomError) as caught:
        get(failing(CustomError(404, "lost")))
    assert (caught.value.code, caught.value.detail) == (404, "lost")


def test_the_message_names_the_function_and_shows_the_failing_line() -> None:
    @ray.remote
    def divides_by_nothing() -> float:
        nothing = 0
        return 1 / nothing

    with pytest.raises(ZeroDivisionError) as caught:
        get(divides_by_nothing.remote())
    text = str(caught.value)
    assert "divides_by_nothing" in text
    assert "return 1 / nothing" in text
    assert "pid=" in text


def test_the_message_shows_every_level_of_nested_tasks() -> None:
    @ray.remote
    def the_deepest() -> None:
        raise RuntimeError("from below")

    @ray.remote
    def the_middle() -> None:
        ray.get(the_deepest.remote())

    with pytest.raises(RuntimeError) as caught:
        get(the_middle.remote())
    text = str(caught.value)
    assert "the_deepest" in text
    assert "the_middle" in text
    assert "from below" in text


def test_the_same_error_at_every_get() -> None:
    ref = failing(ValueError("again"))
    for _ in range(3):
        with pytest.raises(ValueError, match="again"):
            get(ref)


def test_every_result_of_a_failed_task_raises() -> None:
    @ray.remote(num_returns=2)
    def raises() -> None:
        raise ValueError("both")

    for ref in raises.remote():
        with pytest.raises(ValueError, match="both"):
            get(ref)


def test_get_of_a_list_raises_the_first_error_without_waiting_for_the_rest(gate: Any) -> None:
    @ray.remote
    def waits() -> None:
        gate.wait()

    with pytest.raises(ValueError, match="at once"):
        get([failing(ValueError("at once")), waits.remote()])


def test_get_of_a_list_raises_an_error_that_was_there_before(gate: Any) -> None:
    @ray.remote
    def waits() -> None:
        gate.wait()

    failed = failing(ValueError("long ago"))
    ray.wait([failed])
    with pytest.raises(ValueError, match="long ago"):
        get([waits.remote(), failed])


def test_a_failed_argument_fails_its_dependents_with_the_original_error(gate: Any) -> None:
    @ray.remote
    def must_not_run(_: Any) -> None:
        gate.open()

    with pytest.raises(CustomError) as caught:
        get(must_not_run.remote(failing(CustomError(1, "first"))))
    assert caught.value.detail == "first"
    assert not gate.is_open()


def test_a_failed_argument_passes_down_a_chain() -> None:
    @ray.remote
    def step(x: Any) -> Any:
        return x

    ref = failing(CustomError(2, "start"))
    for _ in range(5):
        ref = step.remote(ref)
    with pytest.raises(CustomError):
        get(ref)


def test_a_failed_ref_inside_a_container_fails_only_when_it_is_got() -> None:
    @ray.remote
    def receives(values: list[Any]) -> str:
        return "ran"

    assert get(receives.remote([failing(ValueError("inside"))])) == "ran"


def test_an_error_that_cannot_be_pickled_still_arrives() -> None:
    @ray.remote
    def raises() -> None:
        import threading

        class Unpicklable(Exception):
            def __init__(self) -> None:
                super().__init__("holds a lock")
                self.lock = threading.Lock()

        raise Unpicklable

    with pytest.raises(RayError) as caught:
        get(raises.remote())
    assert "Unpicklable" in str(caught.value)


def test_an_error_whose_constructor_breaks_unpickling_still_arrives() -> None:
    @ray.remote
    def raises() -> None:
        class TwoArguments(Exception):
            def __init__(self, a: int, b: int) -> None:
                super().__init__(f"{a} and {b}")  # args are not what __init__ takes

        raise TwoArguments(1, 2)

    with pytest.raises(RayError) as caught:
        get(raises.remote())
    assert "TwoArguments" in str(caught.value)


def test_the_cause_chain_of_the_users_error_is_shown() -> None:
    @ray.remote
    def raises() -> None:
        try:
            {}["missing"]
        except KeyError as error:
            raise ValueError("translated") from error

    with pytest.raises(ValueError) as caught:
        get(raises.remote())
    assert "missing" in str(caught.value)
    assert "translated" in str(caught.value)


def test_an_exception_can_be_a_result() -> None:
    @ray.remote
    def returns_an_error() -> Exception:
        return ValueError("only a value")

    result = get(returns_an_error.remote())
    assert type(result) is ValueError
    assert result.args == ("only a value",)


def test_an_exception_group_is_caught_as_one() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        get(failing(ExceptionGroup("many", [ValueError("one"), KeyError("two")])))
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}


def test_a_worker_goes_on_after_an_error() -> None:
    @ray.remote
    def maybe(fail: bool) -> str:
        if fail:
            raise ValueError
        return "fine"

    refs = [maybe.remote(i % 2 == 0) for i in range(20)]
    assert [get(ref) for ref in refs[1::2]] == ["fine"] * 10


def test_stop_iteration_arrives() -> None:
    with pytest.raises(StopIteration):
        get(failing(StopIteration("stop")))


@beamlet_only
def test_a_bare_next_in_a_task_crashes_nobody_and_is_not_lost(tmp_path: Path) -> None:
    program = """
        import asyncio
        import beamlet as ray
        from beamlet.util import as_completed

        @ray.remote
        def first_of(items):
            return next(iter(items))

        @ray.remote
        class Async:
            async def first_of(self, items):
                return await first_of.remote(items).as_future()

        class Results:
            def __init__(self, refs):
                self.refs = refs
            def __iter__(self):
                return self
            def __next__(self):
                return ray.get(self.refs.pop(0))

        def through(refs):
            yield from Results(refs)

        async def as_future():
            return await first_of.remote([]).as_future()

        async def in_thread():
            await asyncio.to_thread(ray.get, first_of.remote([]))

        def told(run):
            try:
                return run()
            except RuntimeError as error:
                return f"RuntimeError from a {type(error.__cause__).__name__}"

        ray.init(num_cpus=1)
        print(told(lambda: list(as_completed([first_of.remote("a"), first_of.remote([])]))))
        print(told(lambda: asyncio.run(as_future())))
        print(told(lambda: ray.get(Async.remote().first_of.remote([]), timeout=30)))
        print(list(through([first_of.remote("a"), first_of.remote([])])))
        told(lambda: asyncio.run(in_thread()))  # newer Pythons raise, older ones swallow it
    """
    path = tmp_path / "program.py"
    path.write_text(textwrap.dedent(program))
    ran = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, (ran.returncode, ran.stderr)
    assert ran.stdout.splitlines() == [
        "RuntimeError from a RayTaskError(StopIteration)",
        "RuntimeError from a RayTaskError(StopIteration)",
        "RuntimeError from a RayTaskError(StopIteration)",
        "['a']",
    ]


def test_a_result_that_cannot_be_pickled_is_a_type_error() -> None:
    @ray.remote
    def returns_a_lock() -> Any:
        import threading

        return threading.Lock()

    with pytest.raises(TypeError):
        get(returns_a_lock.remote())


def test_a_result_that_cannot_be_unpickled_is_a_ray_error_naming_the_cause() -> None:
    @ray.remote
    def returns_a_trap() -> Any:
        def explode() -> None:
            raise RuntimeError("in __setstate__")

        class Trap:
            def __reduce__(self) -> Any:
                return explode, ()

        return Trap()

    with pytest.raises(Exception, match="__setstate__"):
        get(returns_a_trap.remote())


def test_os_exit_is_a_worker_crash() -> None:
    @ray.remote(max_retries=0)
    def exits() -> None:
        os._exit(3)

    with pytest.raises(WorkerCrashedError):
        get(exits.remote())


def test_kill_9_is_a_worker_crash() -> None:
    @ray.remote(max_retries=0)
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(WorkerCrashedError):
        get(dies.remote())


@beamlet_only
def test_a_crash_certificate_names_the_exit_code() -> None:
    @ray.remote(max_retries=0)
    def exits_with_three() -> None:
        os._exit(3)

    with pytest.raises(WorkerCrashedError) as caught:
        get(exits_with_three.remote())
    assert "exits_with_three" in str(caught.value)
    assert "3" in str(caught.value)


@beamlet_only
def test_a_crash_certificate_names_the_signal() -> None:
    @ray.remote(max_retries=0)
    def segfaults() -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(WorkerCrashedError, match="SIGSEGV"):
        get(segfaults.remote())


def test_sys_exit_in_a_task_does_not_hang_the_driver() -> None:
    @ray.remote(max_retries=0)
    def exits() -> None:
        raise SystemExit(1)

    with pytest.raises(RayError):
        get(exits.remote())


def test_a_task_error_can_be_pickled_and_read_again() -> None:
    with pytest.raises(ValueError) as caught:
        get(failing(ValueError("kept")))
    again = pickle.loads(pickle.dumps(caught.value.cause))
    assert isinstance(again, ValueError)


@beamlet_only
def test_the_error_names_the_line_that_submitted_the_task() -> None:
    @ray.remote
    def fails() -> None:
        raise ValueError("bad")

    ref = fails.remote()
    with pytest.raises(ValueError) as caught:
        get(ref)
    assert "test_errors.py" in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Bare(Exception):
    """Its ``__getattr__`` raises what it should not."""

    def __init__(self, code: int) -> None:
        super().__init__("bad request")
        self.data = {"code": code}

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["data"][name]


@pytest.mark.parametrize("kind", [Frozen, Bare])
def test_an_error_that_guards_its_attributes_keeps_class_and_fields(kind: Any, tmp_path: Path) -> None:
    @ray.remote
    def once(code: int) -> None:
        raise kind(code)

    @ray.remote(num_returns="streaming")
    def items(code: int) -> Any:
        yield code
        raise kind(code)

    @ray.remote(max_retries=1, retry_exceptions=[kind])
    def again(code: int) -> str:
        if not (mark := tmp_path / "ran").exists():
            mark.touch()
            raise kind(code)
        return "ran twice"

    @ray.remote
    class Actor:
        def method(self, code: int) -> None:
            raise kind(code)

    @ray.remote
    class AsyncActor:
        async def method(self, code: int) -> None:
            raise kind(code)

    actors = Actor.remote(), AsyncActor.remote()
    stream = items.remote(4)
    assert get(next(stream)) == 4
    refs = [once.remote(4), next(stream), *[actor.method.remote(4) for actor in actors]]
    for ref in refs:
        with pytest.raises(kind) as caught:
            get(ref)
        assert caught.value.code == 4
        assert isinstance(caught.value, RayTaskError)
    assert get(again.remote(4)) == "ran twice"
