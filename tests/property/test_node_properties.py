"""Drivers and workers come, ask, submit, leave and die in any order, before a raylet's production services.

Nothing raises, nothing is granted to the gone, and when all have left everything has been given back.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from beamlet.base.ids import ActorId, FunctionKey, WorkerId
from beamlet.protocol import cluster, gcs, node
from beamlet.raylet.members import Member
from support.fake_node import FakeNode, line_of

AMOUNTS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 9.0])


class NodeInAnyOrder(RuleBasedStateMachine):
    """Plays the GCS too: it ends jobs and actors some time after it was told.

    Keeps books of its own of what works for detached actors: what these ask for, and what that asks for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeNode(CPU=2.0)
        self.drivers: list[Member] = []
        self.workers: list[WorkerId] = []
        self.jobs_to_end: list[bytes] = []
        self.seats: list[tuple[ActorId, int]] = []
        self.count = 0
        #: Jobs that detached actors have outlived.
        self.outlived: list[bytes] = []
        #: What each asked for: whether, as the asker's own work was, it is for a detached actor.
        self.asked: dict[tuple[bytes, int], bool] = {}
        #: Who asked for a worker, by the request's number; and the requests that were answered.
        self.askers: dict[int, Member] = {}
        self.answered: set[int] = set()
        #: The processes whose first work was.
        self.family: dict[bytes, bool] = {}

    # ---- who comes ----

    @rule()
    def a_driver_joins(self) -> None:
        if len(self.drivers) < 4:
            self.drivers.append(self.fake.driver())

    @rule()
    def forks_report(self) -> None:
        self.workers += self.fake.ready()

    @precondition(lambda self: self.fake.forked)
    @rule(is_forked=st.booleans(), count=st.integers(1, 3))
    def forks_fail(self, is_forked: bool, count: int) -> None:
        """Some cannot be forked, or die before they are ready: all who wait may be refused for it."""
        for _ in range(min(count, len(self.fake.forked))):
            worker = self.fake.forked.pop(0)
            if is_forked:
                self.fake.die(worker, 11)
            else:
                services, now = self.fake.services, self.fake.loop.now()
                services.perform(services.pool.fork_failed(worker, "EAGAIN", now))

    # ---- what they ask ----

    def somebody(self, data: st.DataObject) -> Member | None:
        """A driver or a worker with a job, whether or not it is being killed."""
        members = [m for m in self.fake.services.members if m.job is not None]
        return data.draw(st.sampled_from(members)) if members else None

    @rule(data=st.data(), cpus=AMOUNTS, env=st.booleans())
    def somebody_asks_for_a_worker(self, data: st.DataObject, cpus: float, env: bool) -> None:
        asker = self.somebody(data)
        if asker is not None and not asker.leaving:
            self.count += 1
            self.asked[asker.address, self.count] = self.family.get(asker.address, False)
            self.askers[self.count] = asker
            self.fake.ask(asker, self.count, cpus, env_vars={"A": "1"} if env else {})

    @rule(data=st.data(), cpus=AMOUNTS, detached=st.booleans())
    def the_gcs_places_an_actor(self, data: st.DataObject, cpus: float, detached: bool) -> None:
        """Perhaps one whose job has ended meanwhile: the owner's word was on its way."""
        owner = self.somebody(data)
        if owner is None or owner.job is None or self.is_over(owner.job.job_id):
            return
        self.count += 1
        actor = ActorId(b"%016d" % self.count)
        amounts = {"CPU": int(cpus * 10_000)}
        spec = gcs.ActorSpec(
            actor, owner.job, owner.address, FunctionKey(b"c"), "A", b"", [], [], amounts, amounts,
            detached=detached,
        )  # fmt: skip
        self.seats.append((actor, 0))
        self.asked[actor, 0] = detached or self.family.get(owner.address, False)
        if self.asked[actor, 0] or owner.job.job_id not in self.outlived:
            self.fake.place(spec)

    @precondition(lambda self: self.seats)
    @rule(data=st.data(), graceful=st.booleans())
    def the_gcs_stops_an_actor(self, data: st.DataObject, graceful: bool) -> None:
        actor, incarnation = data.draw(st.sampled_from(self.seats))
        self.fake.leases.stop_actor(cluster.StopActor(actor, incarnation, "stopped", graceful))

    @rule(data=st.data(), dispose=st.booleans(), forced=st.booleans())
    def somebody_gives_back_a_lease(self, data: st.DataObject, dispose: bool, forced: bool) -> None:
        holder = self.somebody(data)
        leases = line_of(holder).take(node.LeaseGranted) if holder is not None else []
        for granted in leases:
            assert holder is not None
            self.note_answer(granted.req)
            if forced:
                self.fake.leases.force_cancel(holder, node.ForceCancel(granted.lease, b"t", "f"))  # type: ignore[arg-type]
            else:
                self.fake.leases.give_back(holder, node.ReturnLease(granted.lease, dispose))

    @precondition(lambda self: self.workers)
    @rule(data=st.data(), wakes=st.booleans())
    def a_worker_blocks_or_wakes(self, data: st.DataObject, wakes: bool) -> None:
        member = self.fake.services.members.worker(data.draw(st.sampled_from(self.workers)))
        if member is not None and not member.leaving:
            (self.fake.leases.unblocked if wakes else self.fake.leases.blocked)(member)

    # ---- who goes ----

    @precondition(lambda self: self.drivers)
    @rule(data=st.data(), says_goodbye=st.booleans())
    def a_driver_leaves(self, data: st.DataObject, says_goodbye: bool) -> None:
        driver = data.draw(st.sampled_from(self.drivers))
        self.drivers.remove(driver)
        assert driver.job is not None
        self.jobs_to_end.append(driver.job.job_id)
        if says_goodbye:
            self.fake.drivers.goodbye(driver)
        else:
            self.fake.drivers.gone(driver, "killed")
        assert driver.leaving, "what it still says is ignored"

    @precondition(lambda self: self.jobs_to_end)
    @rule(outlived=st.booleans())
    def the_gcs_ends_a_job(self, outlived: bool) -> None:
        job = self.jobs_to_end.pop(0)
        if outlived:
            self.outlived.append(job)
        pool, killed = self.fake.services.pool, set(self.fake.killed)
        works = [each for each in pool if each.job == job and each.state.value in ("leased", "actor")]
        self.fake.drivers.end_job(job, outlived)  # type: ignore[arg-type]
        newly = self.fake.killed.keys() - killed
        stay = {each.worker_id for each in works if outlived and self.family[self.address_of(each.worker_id)]}
        assert not stay & newly, "it works for a detached actor"
        assert {each.worker_id for each in works} - stay <= self.fake.killed.keys()

    @precondition(lambda self: self.outlived)
    @rule()
    def the_last_detached_actor_of_an_outlived_job_has_gone(self) -> None:
        job = self.outlived.pop(0)
        self.fake.drivers.end_job(job, False)  # type: ignore[arg-type]
        assert not [r for r in self.fake.services.pool if r.job == job and r.state.value == "leased"]

    def address_of(self, worker: WorkerId) -> bytes:
        return self.fake.member(worker).address

    def is_over(self, job: bytes) -> bool:
        """The GCS creates nothing for it any more."""
        running = {driver.job.job_id for driver in self.drivers if driver.job is not None}
        return job not in running and job not in self.jobs_to_end and job not in self.outlived

    @precondition(lambda self: self.workers)
    @rule(data=st.data())
    def a_worker_dies(self, data: st.DataObject) -> None:
        self.fake.die(data.draw(st.sampled_from(self.workers)), 11)

    def the_asked(self) -> list[WorkerId]:
        return [record.worker_id for record in self.fake.services.pool if record.is_asked and record.usable]

    @precondition(lambda self: self.the_asked())
    @rule(data=st.data(), stays=st.booleans())
    def one_that_is_asked_whether_it_can_leave_answers(self, data: st.DataObject, stays: bool) -> None:
        worker = data.draw(st.sampled_from(self.the_asked()))
        if stays:
            services = self.fake.services
            services.perform(services.pool.stays(worker, self.fake.loop.now()))
        else:
            self.fake.die(worker, 0)

    @rule()
    def the_killed_are_reaped(self) -> None:
        self.fake.bury_the_killed()

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.fake.loop.pass_time(seconds)
        services, now = self.fake.services, self.fake.loop.now()
        services.perform(services.leases.tick(now))
        services.perform(services.pool.tick(now))

    # ---- what must hold ----

    @invariant()
    def nothing_raised_and_the_books_balance(self) -> None:
        self.fake.check()

    @invariant()
    def what_works_for_a_detached_actor_is_known(self) -> None:
        for lease in self.fake.services.leases._leases.values():
            if lease.worker is not None:
                mark = self.asked[lease.request.key]
                address = self.address_of(lease.worker)
                assert self.family.setdefault(address, mark) == mark, "it has served both sides"
                assert self.fake.services.pool.is_lasting(lease.worker) == mark

    def note_answer(self, req: int) -> None:
        assert req not in self.answered, "it was answered twice"
        self.answered.add(req)

    @invariant()
    def whoever_asked_has_an_answer_or_waits_for_one(self) -> None:
        """No request is forgotten: it queues, waits for a process, or was answered, once."""
        leases, kinds = self.fake.services.leases, (node.LeaseCancelled, node.LeaseInfeasible)
        tickets = {lease.lease_id for lease in leases._wanting.values()}
        assert tickets == set(self.fake.services.pool._wants), "no process is to come for it"
        waiting = {request.key for request in leases._queue} | set(leases._wanting)
        for req, asker in list(self.askers.items()):
            if asker.leaving or self.fake.services.members.get(asker.address) is not asker:
                del self.askers[req]
                continue
            for kind in kinds:
                for answer in line_of(asker).take(kind):
                    self.note_answer(answer.req)
            granted = [each.req for each in line_of(asker).sent if isinstance(each, node.LeaseGranted)]
            is_answered = req in self.answered or req in granted
            assert is_answered != ((asker.address, req) in waiting), f"request {req} is forgotten, or twice"

    @invariant()
    def nobody_gone_holds_a_lease_that_is_not_ending(self) -> None:
        members = self.fake.services.members
        for lease in self.fake.services.leases._leases.values():
            if lease.request.actor is None and members.get(lease.request.client) is None:
                worker = members.worker(lease.worker) if lease.worker is not None else None
                ends = worker is None or worker.worker_id in {*self.fake.killed, *self.told_to_exit()}
                assert ends, f"{lease} is held by nobody"

    def told_to_exit(self) -> list[WorkerId]:
        """They have a few seconds for that."""
        return [worker for worker, optional in self.fake.asked_to_exit.items() if not optional]

    def teardown(self) -> None:
        """All drivers leave, their jobs end, detached actors are stopped: then the node is as it was."""
        for driver in self.drivers:
            assert driver.job is not None
            self.fake.drivers.goodbye(driver)
            self.jobs_to_end.append(driver.job.job_id)
        for job in [*self.jobs_to_end, *self.outlived]:
            self.fake.drivers.end_job(job, False)  # type: ignore[arg-type]
        for actor, incarnation in self.seats:
            self.fake.leases.cancel_placement(cluster.CancelPlacement(actor, incarnation))
            self.fake.leases.stop_actor(cluster.StopActor(actor, incarnation, "the end", False))
        for _ in range(3):
            self.fake.ready()
            self.time_passes(40.0)
            self.fake.bury_the_killed()
            for worker in self.the_asked():
                self.fake.die(worker, 0)
        self.fake.check()
        services = self.fake.services
        assert not services.leases._leases, services.leases._leases
        assert not list(services.leases._queue), "requests are left"
        assert self.fake.free() == 2.0
        assert not self.fake.leases._seats
        assert not self.fake.leases._placements
        assert not self.fake.drivers._leaving, "a driver waits to be let go"
        assert not [record for record in services.pool if record.job is not None and record.usable]
        services.pool.check_invariants()
        assert not services.pool._jobs._ended, "a job is remembered that left nothing behind"


TestNodeInAnyOrder = NodeInAnyOrder.TestCase
TestNodeInAnyOrder.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
