"""Whatever is submitted, granted, stolen, blocked, cancelled and killed: every task ends exactly once.

A world in miniature: workers that run what they are pushed in order, wires that keep messages until the test
lets them arrive, a raylet that answers lease requests when it likes.
"""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from beamlet.core_worker.submitting.key_state import LeasedWorker
from beamlet.core_worker.submitting.task_spec import SchedulingKey
from beamlet.core_worker.submitting.task_submitter import (
    ASK_AGAIN_S,
    IDLE_LEASE_S,
    MAX_LEASE_REQUESTS,
    TaskSubmitter,
)
from beamlet.protocol.message import Message
from beamlet.protocol.peer import HandedBack, PushTask, Result, StealTasks
from support.tasks import ONE_CPU, LeaseDesk, SentMessages, a_task

KEYS = [ONE_CPU, SchedulingKey((("CPU", 20_000),))]
#: Run times in µs: pushed ahead by the hundred, by twos, not at all.
DURATIONS = [5, 5, 5, 900, 500_000]


class Executor(SentMessages):
    """A worker process: what it was sent and has not read, what it has queued, what it answered."""

    def __init__(self, lease: LeasedWorker | None = None) -> None:
        super().__init__()
        self.lease = lease
        self.queue: deque[PushTask] = deque()
        self.running: PushTask | None = None
        self.blocked = False
        self.answers: deque[Message] = deque()

    def read(self) -> None:
        """Everything that was sent to it so far; it begins what it can."""
        for message in self.take():
            if isinstance(message, PushTask) and self.blocked:
                self.answers.append(HandedBack([message.seq], blocked=True))
            elif isinstance(message, PushTask):
                self.queue.append(message)
            else:
                assert isinstance(message, StealTasks)
                assert message.most >= 1
                taken = [self.queue.pop() for _ in range(min(message.most, len(self.queue)))]
                self.answers.append(HandedBack([task.seq for task in taken]))
            self._begin()

    def _begin(self) -> None:
        if self.running is None and self.queue:
            self.running = self.queue.popleft()

    def finish(self, busy_us: int) -> None:
        assert self.running is not None
        self.answers.append(Result(self.running.seq, b"", busy_us))
        self.running, self.blocked = None, False
        self._begin()

    def block(self) -> None:
        """The running task waits in ``get``: the rest goes back, and so does what comes meanwhile."""
        self.blocked = True
        if self.queue:
            self.answers.append(HandedBack([task.seq for task in self.queue], blocked=True))
            self.queue.clear()


class World:
    def __init__(self) -> None:
        self.desk = LeaseDesk()
        self.submitter = TaskSubmitter(self.desk)
        self.now = 1.0
        self.unended: set[str] = set()
        self.count = 0
        self.granted: list[int] = []
        self.lost: list[int] = []
        self.executors: list[Executor] = []

    def do(self, action: str, number: int) -> None:
        """Perform one of ACTIONS if it is possible now; ``number`` picks whom and how much."""
        getattr(self, action)(number)
        self.check()

    def busy(self, number: int) -> Executor | None:
        busy = [executor for executor in self.executors if executor.running]
        return busy[number % len(busy)] if busy else None

    # -- the program -----------------------------------------------------------------------------

    def submit(self, number: int) -> None:
        for _ in range(1 + number // 2 % 12):
            self.count += 1
            self.unended.add(f"t{self.count}")
            self.submitter.submit(a_task(f"t{self.count}", KEYS[number % 7 == 0]))

    def cancel_one_that_is_queued(self, number: int) -> None:
        queued = [task for state in self.submitter.keys.values() for task in state.queue if not task.settled]
        if queued:
            task = queued[number % len(queued)]
            self.submitter.remove(task)
            self.unended.remove(task.spec.name)

    def cancel_one_that_was_pushed(self, number: int) -> None:
        """It may run, or be on its way back: then it is not run again."""
        pushed = [
            task
            for state in self.submitter.keys.values()
            for worker in state.workers
            for task in worker.in_flight.values()
        ]
        if pushed:
            pushed[number % len(pushed)].unwanted = True

    # -- the raylet ------------------------------------------------------------------------------

    def answer_a_request(self, number: int) -> None:
        if self.desk.asked:
            self.grant(sorted(self.desk.asked)[number % len(self.desk.asked)])

    def grant(self, req: int) -> None:
        """Also one that was cancelled: the messages may cross."""
        del self.desk.asked[req]
        executor = Executor()
        lease_id = 1000 + req
        self.granted.append(lease_id)
        executor.lease = self.submitter.granted(req, lease_id, b"w", 1, executor, self.now)
        if executor.lease is not None:
            self.executors.append(executor)

    def end_a_request_without_a_lease(self, number: int) -> None:
        if asked := self.desk.open_requests():
            req = asked[number % len(asked)]
            del self.desk.asked[req]
            self.submitter.cancelled(req)

    def refuse_a_request(self, number: int) -> None:
        if asked := self.desk.open_requests():
            req = asked[number % len(asked)]
            del self.desk.asked[req]
            for task in self.submitter.refused(req, self.now):
                self.unended.remove(task.spec.name)

    def want_leases_back(self, _: int) -> None:
        self.submitter.return_idle(self.now)

    def let_time_pass(self, number: int) -> None:
        self.now += IDLE_LEASE_S / (1 + number % 3)
        due = self.submitter.tick(self.now)
        assert due is None or self.now < due <= self.now + IDLE_LEASE_S
        paused = [s.ask_again_at for s in self.submitter.keys.values() if s.ask_again_at]
        assert all(self.now < again <= self.now + ASK_AGAIN_S for again in paused)
        assert due is not None or not paused

    # -- the workers -----------------------------------------------------------------------------

    def read(self, number: int) -> None:
        if self.executors:
            self.executors[number % len(self.executors)].read()

    def finish(self, number: int) -> None:
        if executor := self.busy(number):
            executor.finish(DURATIONS[number % len(DURATIONS)])

    def finish_short_tasks(self, number: int) -> None:
        """Soon many are pushed ahead."""
        for _ in range(1 + number % 3):
            self.settle()
            for executor in self.executors:
                if executor.running:
                    executor.finish(5)
        self.settle()

    def block(self, number: int) -> None:
        if executor := self.busy(number):
            executor.block()

    def hear(self, number: int) -> None:
        if speaking := [executor for executor in self.executors if executor.answers]:
            self.hear_from(speaking[number % len(speaking)])

    def hear_from(self, executor: Executor) -> None:
        """A batch: all it has answered so far."""
        worker = executor.lease
        assert worker is not None
        any_results = False
        while executor.answers:
            answer = executor.answers.popleft()
            if isinstance(answer, Result):
                any_results = True
                task = self.submitter.take_result(worker, answer.seq, answer.busy_us)
                assert task is not None
                self.unended.remove(task.spec.name)  # KeyError: it ended twice
            else:
                assert isinstance(answer, HandedBack)
                for task in self.submitter.handed_back(worker, answer.seqs, answer.blocked, self.now):
                    self.unended.remove(task.spec.name)
        if any_results:
            self.submitter.refill(worker, self.now)

    def kill(self, number: int) -> None:
        """Its tasks are run again, but the running one has no retries left now and then."""
        if not self.executors:
            return
        executor = self.executors.pop(number % len(self.executors))
        worker = executor.lease
        assert worker is not None
        if self.is_leased(worker):
            self.lost.append(worker.lease)
        tasks = self.submitter.lost(worker)
        if tasks and number % 2:
            self.unended.remove(tasks.pop(0).spec.name)
        self.submitter.requeue(tasks)

    def use_up_a_worker(self, number: int) -> None:
        """max_calls: it answers, hands back the rest, and takes no more."""
        executor = self.busy(number)
        if executor is None or not self.is_leased(executor.lease):
            return
        executor.read()
        executor.block()
        executor.finish(5)
        assert executor.lease is not None
        executor.lease.leaving = True
        self.hear_from(executor)

    def is_leased(self, worker: LeasedWorker | None) -> bool:
        return any(worker in state.workers for state in self.submitter.keys.values())

    # -- what holds at every moment --------------------------------------------------------------

    def check(self) -> None:
        self.books_balance()
        self.requests_are_bounded_and_none_is_forgotten()
        self.no_lease_is_returned_twice_or_leaks()
        self.what_waits_was_asked_for()

    def books_balance(self) -> None:
        self.submitter.check_invariants()
        placed = []
        for state in self.submitter.keys.values():
            placed += [task.spec.name for task in state.queue if not task.settled]
            for worker in state.workers:
                placed += [task.spec.name for task in worker.in_flight.values()]
        assert sorted(placed) == sorted(self.unended), "each task is at exactly one place"

    def requests_are_bounded_and_none_is_forgotten(self) -> None:
        for state in self.submitter.keys.values():
            assert len(state.requests) <= MAX_LEASE_REQUESTS
            assert set(state.requests) <= set(self.desk.open_requests())
        known = [req for state in self.submitter.keys.values() for req in state.requests]
        assert sorted(known) == self.desk.open_requests()

    def no_lease_is_returned_twice_or_leaks(self) -> None:
        returned = [lease_id for lease_id, _ in self.desk.returned]
        held = [worker.lease for state in self.submitter.keys.values() for worker in state.workers]
        assert sorted([*returned, *self.lost, *held]) == sorted(self.granted)

    def what_waits_was_asked_for(self) -> None:
        """Each queued task has a worker to come: asked for, to be asked for in a while, or idle and ours.

        Those that work may do so for ever.
        """
        for state in self.submitter.keys.values():
            if state.ask_again_at:
                continue  # ``let_time_pass`` sees that it comes to pass
            to_come = len(state.requests) + sum(not worker.in_flight for worker in state.workers)
            waiting = sum(not task.settled for task in state.queue)
            assert to_come >= min(waiting, MAX_LEASE_REQUESTS), f"{waiting} wait for {to_come} workers"

    # -- when all messages have arrived ----------------------------------------------------------

    def settle(self) -> None:
        """Let every message arrive; no task ends."""
        while any(e.sent or e.answers for e in self.executors):
            for executor in self.executors:
                executor.read()
                if executor.answers:
                    self.hear_from(executor)

    def settle_all(self, _: int) -> None:
        """Then nobody waits behind another while a worker idles."""
        self.settle()
        for state in self.submitter.keys.values():
            free = [w for w in state.workers if not w.in_flight and not w.blocked and not w.leaving]
            waits = [w for w in state.workers if len(w.in_flight) > 1]
            assert not free or not (waits or state.queue), "one works, one idles, and something waits"

    def end(self) -> None:
        """In the end all is granted and finished, and nothing is held."""
        for _ in range(10_000):
            self.settle()
            if not self.unended:
                break
            for executor in self.executors:
                if executor.running:
                    executor.finish(5)
            for req in self.desk.open_requests()[:1]:
                self.grant(req)
        assert not self.unended
        for req in list(self.desk.asked):  # grants that crossed their cancellation
            self.grant(req)
        self.settle()
        self.now += IDLE_LEASE_S
        assert self.submitter.tick(self.now) is None
        self.check()
        assert not any(state.workers or state.requests for state in self.submitter.keys.values())


ACTIONS = [
    *["submit", "answer_a_request", "finish", "finish_short_tasks", "settle_all"] * 3,
    *["read", "hear", "block"] * 2,
    *[
        "kill",
        "use_up_a_worker",
        "cancel_one_that_is_queued",
        "cancel_one_that_was_pushed",
        "end_a_request_without_a_lease",
    ],
    *["refuse_a_request", "want_leases_back", "let_time_pass"],
]
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10_000)), min_size=20, max_size=80)


@settings(max_examples=150)
@given(STEPS)
def test_the_books_balance_at_every_step_and_everything_ends_once(steps: list[tuple[str, int]]) -> None:
    world = World()
    for action, number in steps:
        world.do(action, number)
    world.end()
