"""Effects are carried out in the order of their decisions, and one that fails takes no other with it."""

from __future__ import annotations

from typing import NamedTuple

from beamlet.raylet.performer import Performer


class First(NamedTuple):
    number: int


class Second(NamedTuple):
    number: int


def fail(error: Exception, where: str) -> None:
    raise AssertionError(f"{where}: {error}")


def test_a_decision_made_while_another_is_carried_out_waits_its_turn() -> None:
    done: list[object] = []
    performer = Performer(fail)

    def first(effect: First) -> None:
        performer.perform([Second(effect.number)])
        done.append(effect)

    performer.on(First, first)
    performer.on(Second, done.append)
    performer.perform([First(1), First(2)])
    assert done == [First(1), First(2), Second(1), Second(2)]


def test_an_effect_that_fails_is_reported_and_the_others_are_carried_out() -> None:
    done: list[object] = []
    failures: list[tuple[str, str]] = []
    rearmed: list[int] = []
    performer = Performer(
        lambda error, where: failures.append((where, str(error))), lambda: rearmed.append(len(done))
    )

    def first(effect: First) -> None:
        raise OSError(f"no room for {effect.number}")

    performer.on(First, first)
    performer.on(Second, done.append)
    performer.perform([Second(1), First(2), Second(3)])
    assert done == [Second(1), Second(3)]
    assert failures == [("carrying out First", "no room for 2")]
    assert rearmed == [2]
