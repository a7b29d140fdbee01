"""Work that waits in a worker: taken from the head, stolen from the tail, and nobody sleeps beside it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest

from beamlet.base.ids import FunctionKey
from beamlet.core_worker.executing.execution_queue import ExecutionQueue
from beamlet.protocol.peer import CallActor, PushTask
from beamlet.rpc.turns import Waiter
from support.tasks import id_of

ME, OTHER = "me", "other"


def task(seq: int) -> PushTask:
    return PushTask(seq, id_of(f"t{seq}"), FunctionKey(b"f"), f"t{seq}", 1, b"")


def filled(*owners: str) -> ExecutionQueue:
    queue = ExecutionQueue()
    for seq, owner in enumerate(owners, 1):
        queue.put((owner, task(seq)))
    return queue


def seqs(queue: ExecutionQueue) -> list[int]:
    return [message.seq for _, message in queue.in_order()]


def test_items_are_taken_in_order() -> None:
    queue = filled(ME, OTHER)
    assert [queue.take(Waiter()), queue.take(Waiter())] == [(ME, task(1)), (OTHER, task(2))]
    assert len(queue) == 0


def test_an_item_wakes_the_thread_that_came_last() -> None:
    queue = ExecutionQueue()
    first, second = Waiter(), Waiter()
    assert queue.take(second) is None
    assert queue.take(first) is None
    queue.put((ME, task(1)))
    assert (first.remaining, second.remaining) == (0, 1)
    queue.put((ME, task(2)))
    assert second.remaining == 1, "one at a time: the first has not come for its item yet"
    assert queue.take(Waiter(), woken=True) == (ME, task(1))
    assert second.remaining == 0, "who comes wakes the next if more is to be done"
    queue.put((ME, task(3)))  # nobody waits: it is simply there
    assert len(queue) == 2


def test_a_thread_that_was_woken_for_nothing_waits_again_and_is_woken_again() -> None:
    queue = ExecutionQueue()
    first, again = Waiter(), Waiter()
    queue.take(first)
    queue.put((ME, task(1)))
    assert queue.steal(ME, 1) == [1]
    assert queue.take(again, woken=True) is None
    queue.put((ME, task(2)))
    assert again.remaining == 0


def test_the_tail_is_stolen_and_the_rest_keeps_its_order() -> None:
    queue = filled(*[ME] * 5)
    assert queue.steal(ME, 2) == [5, 4]
    assert seqs(queue) == [1, 2, 3]
    assert queue.steal(ME, 99) == [3, 2, 1]
    assert queue.steal(ME, 1) == []


def test_only_the_thiefs_own_tasks_are_stolen() -> None:
    queue = filled(ME, OTHER, ME, OTHER)
    queue.put((ME, CallActor(1, id_of("method"), "method", 1, b"")))
    assert queue.steal(ME, 9) == [3, 1]
    assert [owner for owner, _ in queue.in_order()] == [OTHER, OTHER, ME]
    assert queue.steal(OTHER, 1) == [4]


def test_work_is_taken_out_by_its_id() -> None:
    queue = filled(ME, ME, ME)
    assert queue.remove_task(task(2).task_id) == (ME, task(2))
    assert queue.remove_task(task(2).task_id) is None
    assert queue.find(task(2).task_id) is None
    assert seqs(queue) == [1, 3]
    assert len(queue) == 2


class Counting(deque[Any]):
    """What stands in a queue, and how many of it were looked at."""

    looks = 0

    def __iter__(self) -> Iterator[Any]:
        self.looks += len(self)
        return super().__iter__()

    def __reversed__(self) -> Iterator[Any]:
        for item in super().__reversed__():
            self.looks += 1
            yield item


@pytest.mark.parametrize("order", [1, -1])
def test_taking_out_all_of_many_looks_at_each_a_few_times_wherever_it_stands(order: int) -> None:
    count = 2000
    queue = filled(*[ME] * count)
    queue.items = Counting(queue.items)
    for seq in range(1, count)[::order]:
        assert queue.remove_task(task(seq).task_id) == (ME, task(seq))
        assert queue.remove_task(task(seq).task_id) is None
    assert queue.items.looks < 8 * count
    assert seqs(queue) == [count]


def test_what_was_taken_out_is_met_by_nobody() -> None:
    """Whatever else happens between: taken, stolen, handed back, or come since."""
    queue = filled(*[ME] * 20)
    gone = (2, 5, 6, 11, 17, 20)
    for seq in gone:
        queue.remove_task(task(seq).task_id)
    assert len(queue) == 14
    assert queue.steal(ME, 3) == [19, 18, 16]
    for seq in (21, 22):
        queue.put((ME, task(seq)))
    assert queue.pop() == (ME, task(1))
    assert queue.take(Waiter()) == (ME, task(3))
    assert queue.find(task(3).task_id) is None, "it was taken"
    assert queue.find(task(19).task_id) is None, "it was stolen"
    assert queue.find(task(22).task_id) == (ME, task(22))
    queue.remove_task(task(21).task_id)
    assert seqs(queue) == [4, 7, 8, 9, 10, 12, 13, 14, 15, 22]
    some = queue.take_out(lambda item: item[1].seq < 14)
    assert [message.seq for _, message in some] == [4, 7, 8, 9, 10, 12, 13]
    taken = [queue.pop() for _ in range(4)]
    assert taken == [(ME, task(14)), (ME, task(15)), (ME, task(22)), None]


def test_when_all_was_taken_out_there_is_nothing_to_do() -> None:
    queue = filled(ME, ME, ME)
    for seq in (2, 1, 3):
        queue.remove_task(task(seq).task_id)
    assert not queue.items, "who asks whether there is work looks at this"
    waiter = Waiter()
    assert queue.take(waiter) is None
    queue.put((ME, task(1)))
    assert waiter.remaining == 0
