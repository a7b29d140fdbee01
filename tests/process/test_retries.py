"""Retries of tasks: after a worker's death always, after the user's own errors when asked."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy
import pytest
from conformance import DEADLINE_S, get, wait_until

import beamlet as ray
from beamlet.exceptions import WorkerCrashedError

pytestmark = pytest.mark.usefixtures("cluster")


class Attempts:
    """Counts executions across processes: one line in a file for each."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "attempts")

    def add(self) -> int:
        with open(self.path, "a") as file:
            file.write("x\n")
        return self.count()

    def count(self) -> int:
        return Path(self.path).read_text().count("\n") if os.path.exists(self.path) else 0


@pytest.fixture
def attempts(tmp_path: Path) -> Attempts:
    return Attempts(tmp_path)


def test_a_task_whose_worker_dies_runs_again(attempts: Attempts) -> None:
    @ray.remote
    def dies_once() -> str:
        if attempts.add() == 1:
            os._exit(1)
        return "second time"

    assert get(dies_once.remote()) == "second time"
    assert attempts.count() == 2


def test_a_task_is_retried_three_times_unless_told_otherwise(attempts: Attempts) -> None:
    @ray.remote
    def dies() -> None:
        attempts.add()
        os._exit(1)

    with pytest.raises(WorkerCrashedError):
        get(dies.remote())
    assert attempts.count() == 4


def test_max_retries_zero_runs_once(attempts: Attempts) -> None:
    @ray.remote(max_retries=0)
    def dies() -> None:
        attempts.add()
        os._exit(1)

    with pytest.raises(WorkerCrashedError):
        get(dies.remote())
    assert attempts.count() == 1


def test_max_retries_zero_runs_once_however_many_are_under_way(tmp_path: Path) -> None:
    """What ran just before a crash may not have been heard to have: it must not be taken for not begun."""
    ran = tmp_path / "ran"

    @ray.remote(max_retries=0, num_cpus=1)
    def notes(number: int) -> None:
        with ran.open("a") as file:
            file.write(f"{number}\n")
        print(number)  # its answer waits for that
        if number == 100:
            os._exit(1)

    refs = [notes.remote(number) for number in range(200)]
    crashed = 0
    for ref in refs:
        try:
            get(ref)
        except WorkerCrashedError:
            crashed += 1
    assert crashed == 1
    assert sorted(map(int, ran.read_text().split())) == list(range(200))


def test_max_retries_minus_one_has_no_end(attempts: Attempts) -> None:
    @ray.remote(max_retries=-1)
    def dies_six_times() -> str:
        if attempts.add() <= 6:
            os._exit(1)
        return "alive"

    assert get(dies_six_times.remote()) == "alive"


def test_options_set_max_retries(attempts: Attempts) -> None:
    @ray.remote
    def dies() -> None:
        attempts.add()
        os._exit(1)

    with pytest.raises(WorkerCrashedError):
        get(dies.options(max_retries=1).remote())
    assert attempts.count() == 2


def test_a_users_error_is_not_retried(attempts: Attempts) -> None:
    @ray.remote
    def fails() -> None:
        attempts.add()
        raise ValueError

    with pytest.raises(ValueError):
        get(fails.remote())
    assert attempts.count() == 1


def test_retry_exceptions_retries_any_error(attempts: Attempts) -> None:
    @ray.remote(retry_exceptions=True)
    def fails_twice() -> str:
        if attempts.add() <= 2:
            raise ValueError
        return "third time"

    assert get(fails_twice.remote()) == "third time"


def test_retry_exceptions_gives_up_after_max_retries(attempts: Attempts) -> None:
    @ray.remote(retry_exceptions=True, max_retries=2)
    def fails() -> None:
        raise ValueError(f"attempt {attempts.add()}")

    with pytest.raises(ValueError, match="attempt 3"):
        get(fails.remote())
    assert attempts.count() == 3


def test_retry_exceptions_retries_only_the_listed_classes(attempts: Attempts) -> None:
    @ray.remote(retry_exceptions=[KeyError])
    def fails() -> None:
        if attempts.add() == 1:
            raise KeyError("retried")
        raise ValueError("not retried")

    with pytest.raises(ValueError, match="not retried"):
        get(fails.remote())
    assert attempts.count() == 2


def test_retry_exceptions_retries_subclasses_of_the_listed(attempts: Attempts) -> None:
    @ray.remote(retry_exceptions=[LookupError])
    def fails_once() -> str:
        if attempts.add() == 1:
            raise KeyError
        return "done"

    assert get(fails_once.remote()) == "done"


def test_all_results_of_a_retried_task_arrive(attempts: Attempts) -> None:
    @ray.remote(num_returns=2)
    def dies_once() -> tuple[int, int]:
        if attempts.add() == 1:
            os._exit(1)
        return 1, 2

    assert get(dies_once.remote()) == [1, 2]


def test_a_killed_worker_takes_only_its_own_task_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"

    @ray.remote
    def is_killed_once() -> str:
        if not pid_file.exists():
            (tmp_path / "new").write_text(str(os.getpid()))
            (tmp_path / "new").rename(pid_file)
            signal.pause()
        return "retried"

    @ray.remote
    def other(x: int) -> int:
        return x

    ref = is_killed_once.remote()
    others = [other.remote(x) for x in range(50)]
    wait_until(pid_file.exists, "the task to start")
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    assert get(ref) == "retried"
    assert get(others) == list(range(50))


def test_dependents_of_a_retried_task_run_once_it_succeeds(attempts: Attempts) -> None:
    @ray.remote
    def dies_once() -> int:
        if attempts.add() == 1:
            os._exit(1)
        return 1

    @ray.remote
    def add_one(x: int) -> int:
        return x + 1

    assert get(add_one.remote(dies_once.remote())) == 2


@ray.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: list[Any]) -> int:
        self.kept.append(ray.get(refs[0]))  # an array that shows the first attempt's object
        return int(self.kept[-1][0])


@pytest.mark.parametrize("size", [1, 300_000], ids=["small", "stored"])
def test_what_a_second_attempt_puts_is_not_taken_for_what_the_first_did(
    attempts: Attempts, size: int
) -> None:
    @ray.remote
    def puts(keeper: Any) -> tuple[int, int]:
        number = attempts.add()
        told = ray.get(keeper.keep.remote([ray.put(numpy.full(size, number))]))
        if number == 1:
            os._exit(1)
        return number, told

    assert get(puts.remote(Keeper.remote())) == (2, 2)


def test_what_an_attempt_that_raised_has_put_lives_on_beside_what_the_next_puts(attempts: Attempts) -> None:
    @ray.remote
    class Holder:
        def __init__(self) -> None:
            self.held: list[Any] = []

        def hold(self, refs: list[Any]) -> None:
            self.held += refs

        def values(self) -> list[int]:
            return ray.get(self.held)

    @ray.remote(retry_exceptions=True)
    def puts(holder: Any) -> None:
        number = attempts.add()
        ray.get(holder.hold.remote([ray.put(number)]))
        if number == 1:
            raise ValueError(number)

    holder = Holder.remote()
    get(puts.remote(holder))
    assert get(holder.values.remote()) == [1, 2]


@ray.remote(max_concurrency=4)
class Threaded:
    def __init__(self) -> None:
        self.may_go_on = threading.Event()

    def wait(self, number: int) -> int:
        assert self.may_go_on.wait(DEADLINE_S)
        return number

    def go_on(self) -> None:
        self.may_go_on.set()


@ray.remote(max_concurrency=4)
class Async:
    def __init__(self) -> None:
        self.may_go_on = asyncio.Event()

    async def wait(self, number: int) -> int:
        await asyncio.wait_for(self.may_go_on.wait(), DEADLINE_S)
        return number

    async def go_on(self) -> None:
        self.may_go_on.set()


@pytest.mark.parametrize("kind", [Threaded, Async])
def test_calls_of_two_attempts_may_run_beside_each_other(attempts: Attempts, kind: Any) -> None:
    """The first attempt's call is still there when the second makes its own."""

    @ray.remote
    def calls(actor: Any) -> tuple[int, int]:
        number = attempts.add()
        ref = actor.wait.remote(number)
        ray.get(actor.__ray_ready__.remote())  # the one before has come there
        if number == 1:
            os._exit(1)
        ray.get(actor.go_on.remote())
        return number, ray.get(ref)

    actor = kind.remote()
    assert get(calls.remote(actor)) == (2, 2)
    assert get(actor.wait.remote(3)) == 3
