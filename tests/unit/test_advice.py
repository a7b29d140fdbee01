"""Advice is given when a habit is certain and costly, once, and not for its innocent look-alikes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from beamlet.api import advising, cluster_state
from beamlet.api.advice import (
    LARGE_BYTES,
    RepeatedArguments,
    SerialGets,
    SmallTasks,
    fingerprint,
    repeated_text,
)
from beamlet.base.ids import JobId, TaskId, driver_task_id, return_id
from beamlet.exceptions import CallSite, RaySystemError


def loop(gets: SerialGets, arguments: list[list[Any]], results: list[Any], seconds: float = 0.2) -> int:
    """What ``for a in arguments: get(f.remote(*a))`` would tell: at which round advice came, 0 for never."""
    for round_number, (given, value) in enumerate(zip(arguments, results, strict=True), 1):
        if gets.is_suspicious:
            gets.submitted(given)
        if gets.waited("app.py:8", seconds, is_alone=True):
            return round_number
        if gets.is_suspicious:
            gets.got(value)
    return 0


def test_a_loop_over_numbers_is_told_once() -> None:
    gets = SerialGets()
    numbers = [[i] for i in range(100)]
    assert loop(gets, numbers, [i + 1000 for i in range(100)]) == 10
    text = gets.text(cpus=2)
    assert "10 tasks ran one after another" in text
    assert "~1.0 s lost on 2 CPUs" in text
    assert loop(gets, numbers, list(range(100, 200))) == 0, "once per line"


def test_the_same_object_each_time_is_independent_of_the_results() -> None:
    data = object()
    assert loop(SerialGets(), [[data, i] for i in range(20)], [object() for _ in range(20)]) == 10


@pytest.mark.parametrize(
    ("arguments", "results"),
    [
        ([[1.5 * i] for i in range(20)], [0.1] * 20),
        ([[i] for i in range(20)], list(range(1, 21))),
        ([[object()] for _ in range(20)], [object() for _ in range(20)]),
    ],
    ids=["numbers computed from results", "the result itself", "new objects"],
)
def test_calls_that_may_build_on_the_last_result_are_left_alone(
    arguments: list[list[Any]], results: list[Any]
) -> None:
    assert loop(SerialGets(), arguments, results) == 0


def test_what_costs_little_is_not_worth_a_word() -> None:
    assert loop(SerialGets(), [[i] for i in range(50)], [None] * 50, seconds=0.01) == 0


def test_other_tasks_on_their_way_or_another_line_begin_the_count_anew() -> None:
    gets = SerialGets()
    for _ in range(9):
        assert not gets.waited("a", 1.0, is_alone=True)
    assert not gets.waited("a", 1.0, is_alone=False)
    assert not gets.waited("a", 1.0, is_alone=True)
    assert not gets.waited("b", 1.0, is_alone=True)
    assert not gets.is_suspicious


def test_small_tasks_are_told_once_with_their_cost() -> None:
    small = SmallTasks()
    told = [small.reviewed("f", 1024, average_us=9.0, cost_us=100.0) for _ in range(40)]
    assert [round_number for round_number, text in enumerate(told, 1) if text] == [10]
    assert told[9].startswith("f took 9 µs or less on average over 10,240 calls; 91% of the time")


@pytest.mark.parametrize(("average_us", "cost_us"), [(500.0, 5000.0), (50.0, 60.0), (9.0, 0.0)])
def test_tasks_that_do_something_are_not_small(average_us: float, cost_us: float) -> None:
    small = SmallTasks()
    assert not any(small.reviewed("f", 1024, average_us, cost_us) for _ in range(40))


def test_the_same_large_argument_is_told_once() -> None:
    repeated = RepeatedArguments()
    told = [repeated.sent(1, 40_000_000, 7) for _ in range(20)]
    assert [i for i, argument in enumerate(told) if argument] == [4]
    argument = told[4]
    assert argument is not None
    argument.count = 20
    assert repeated_text("big", "f", argument) == (
        "big (40 MB) was sent to f 20 times (800 MB). ref = beamlet.put(big) once, and pass ref."
    )


def test_a_new_value_at_an_old_address_is_another_argument() -> None:
    repeated = RepeatedArguments()
    assert not any(repeated.sent(1, 40_000_000, contents) for contents in range(20))


def test_little_data_is_not_worth_a_word() -> None:
    repeated = RepeatedArguments()
    assert not any(repeated.sent(1, LARGE_BYTES, 7) for _ in range(15))


def test_many_arguments_in_turn_are_all_noticed() -> None:
    repeated = RepeatedArguments()
    told = [repeated.sent(identity, 40_000_000, 7) for _ in range(5) for identity in range(10)]
    assert sum(argument is not None for argument in told) == 10


def test_fingerprints_see_changes_anywhere_sampled() -> None:
    data = bytearray(1 << 20)
    before = fingerprint([data])
    assert fingerprint([bytes(data)]) == before
    data[0] = 1
    assert fingerprint([data]) != before


@pytest.mark.parametrize("error", [TimeoutError("no answer"), RaySystemError("no cluster")])
def test_a_get_does_not_fail_for_want_of_advice(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nobody_says() -> dict[str, float]:
        raise error

    monkeypatch.setattr(cluster_state, "cluster_resources", nobody_says)
    task = TaskId(driver_task_id(JobId(b"\1\0\0\0")))
    ref = SimpleNamespace(_id=return_id(task, 1))
    record = SimpleNamespace(call_site=CallSite("app.py", 8))
    core: Any = SimpleNamespace(
        refs=SimpleNamespace(objects={ref._id: record}), submission=SimpleNamespace(tasks={})
    )
    advisor = advising.Advisor(core)
    try:
        for _ in range(20):
            advisor.waited([ref], 1.0)
    finally:
        advising._watch(None)
