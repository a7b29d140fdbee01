"""Who may go on to send a large frame, who waits, and who is cut off for keeping others waiting."""

from __future__ import annotations

import random

from beamlet.rpc.frame_budget import STALL_S, Claim, FrameBudget

MIB = 1 << 20
#: Room for two large ones of 90 MiB, and for 64 MiB of middle ones.
LIMIT = 256 * MIB


class Stream:
    def __init__(self) -> None:
        self.arrived_bytes = 0
        self.held = False
        self.reason = ""

    def hold_back(self, held: bool) -> None:
        assert held != self.held, "told what it knows"
        self.held = held

    def cut_off(self, reason: str) -> None:
        self.reason = reason


def enter(budget: FrameBudget, *sizes_mib: int) -> tuple[list[Stream], list[Claim]]:
    streams = [Stream() for _ in sizes_mib]
    return streams, [budget.enter(each, size * MIB) for each, size in zip(streams, sizes_mib, strict=True)]


def held(streams: list[Stream]) -> list[bool]:
    return [stream.held for stream in streams]


def test_as_many_are_let_in_as_can_finish_and_the_others_in_their_order() -> None:
    waits: list[int] = []
    budget = FrameBudget(LIMIT, lambda: waits.append(1))
    streams, claims = enter(budget, 90, 90, 90, 20, 90)
    assert held(streams) == [False, False, True, True, True], "a smaller one does not overtake"
    assert (budget.used, budget.is_crowded, len(waits)) == (180 * MIB, True, 3)
    budget.leave(claims[1])
    assert held(streams) == [False, False, False, True, True]
    budget.leave(claims[0])
    assert held(streams) == [False, False, False, False, True]
    budget.leave(claims[2])
    assert not budget.is_crowded


def test_batches_of_a_few_mib_do_not_wait_behind_large_functions() -> None:
    budget = FrameBudget(LIMIT)
    enter(budget, 95, 95, 95)
    streams, _ = enter(budget, *[8] * 8)
    assert not any(held(streams))
    more, _ = enter(budget, 8)
    assert held(more) == [True]
    assert budget.used <= LIMIT


def test_the_largest_frame_is_let_in_when_it_is_alone() -> None:
    budget = FrameBudget(100 * MIB)
    (stream,), (claim,) = enter(budget, 112)
    assert not stream.held
    later, _ = enter(budget, 50)
    assert later[0].held
    budget.leave(claim)
    assert not later[0].held


def test_who_stalls_while_others_wait_is_cut_off_and_says_why() -> None:
    budget = FrameBudget(LIMIT)
    (slow, stuck, waiting), claims = enter(budget, 95, 90, 90)
    stuck.arrived_bytes = 3 * MIB
    for second in range(int(STALL_S)):
        slow.arrived_bytes += 1000
        budget.tick(second)
    assert not stuck.reason
    slow.arrived_bytes += 1000
    budget.tick(STALL_S)
    assert "of a message of 90 MiB it sent 3 MiB, and then nothing for 30 s" in stuck.reason
    assert not slow.reason
    assert not waiting.reason
    budget.leave(claims[1])
    assert not waiting.held


def test_who_stalls_is_left_alone_while_nobody_waits_or_others_get_past_it() -> None:
    """A driver may be stopped in the middle of a message: it keeps its cluster as long as there is room."""
    budget = FrameBudget(LIMIT)
    (stuck,), _ = enter(budget, 90)
    for second in range(0, 100, 10):
        budget.tick(second)
    _, passing = enter(budget, 90)
    for second in range(100, 400, 10):
        _, nexts = enter(budget, 90)
        budget.tick(second)
        budget.leave(passing[0])
        passing = nexts
    assert not stuck.reason


def test_whatever_happens_nobody_waits_while_there_is_room_and_all_get_in() -> None:
    for seed in range(30):
        dice = random.Random(seed)
        budget = FrameBudget(LIMIT)
        live: list[tuple[Stream, Claim]] = []
        for _ in range(200):
            if not live or dice.random() < 0.5:
                (stream,), (claim,) = enter(budget, dice.choice([2, 8, 30, 95, 112]))
                live.append((stream, claim))
            else:  # one that is inside finishes, or any is closed
                finished = [each for each in live if each[1].is_inside or dice.random() < 0.1]
                assert finished, "nobody can finish"
                gone = dice.choice(finished)
                live.remove(gone)
                budget.leave(gone[1])
            budget.check_invariants()
            assert all(stream.held is not claim.is_inside for stream, claim in live)
        while live:
            budget.leave(live.pop(next(at for at, (_, claim) in enumerate(live) if claim.is_inside))[1])
        assert budget.used == 0
