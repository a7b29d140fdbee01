from __future__ import annotations

from beamlet.base.roll_call import Answered, Ask, RollCall

PARTIES = ["a", "b"]


def test_all_are_asked_and_when_all_have_told_the_asker_is_answered() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    assert calls.ask("who", PARTIES, 0.0) == [Ask(1, ["a", "b"])]
    assert calls.deadline == 2.0
    assert calls.told("a", 1, PARTIES, 0.1) == []
    assert calls.told("a", 1, PARTIES, 0.1) == [], "told twice"
    assert calls.told("b", 1, PARTIES, 0.2) == [Answered(["who"], [])]
    assert calls.deadline is None


def test_who_asks_meanwhile_is_answered_with_what_is_told_after_the_question() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    calls.ask("first", ["a"], 0.0)
    assert calls.ask("second", ["a"], 0.1) == []
    assert calls.ask("third", ["a"], 0.1) == []
    assert calls.told("a", 1, ["a"], 0.2) == [Answered(["first"], []), Ask(2, ["a"])]
    assert calls.told("a", 1, ["a"], 0.3) == [], "news of the first round"
    assert calls.told("a", 2, ["a"], 0.4) == [Answered(["second", "third"], [])]


def test_nobody_waits_long_for_the_silent() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    calls.ask("who", PARTIES, 0.0)
    calls.told("a", 1, PARTIES, 0.1)
    assert calls.tick(PARTIES, 1.9) == []
    assert calls.tick(PARTIES, 2.0) == [Answered(["who"], ["b"])]
    assert calls.told("b", 1, PARTIES, 2.1) == []


def test_the_dead_are_not_waited_for() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    calls.ask("who", PARTIES, 0.0)
    calls.told("a", 1, PARTIES, 0.1)
    assert calls.gone("b", ["a"], 0.2) == [Answered(["who"], [])]


def test_with_nobody_to_ask_the_answer_comes_at_once() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    assert calls.ask("who", [], 0.0) == [Answered(["who"], [])]


def test_an_asker_that_is_gone_is_forgotten() -> None:
    calls: RollCall[str, str] = RollCall(2.0)
    calls.ask("gone", ["a"], 0.0)
    calls.ask("later", ["a"], 0.0)
    calls.forget("gone")
    assert calls.told("a", 1, ["a"], 0.1) == [Answered([], []), Ask(2, ["a"])]
