"""What must be true of a virtual cluster: after every turn, and when nothing is asked for any more.

``watch`` checks each process's own books after each of its turns.  ``audit`` compares the books of all of
them; ``nothing_is_kept`` demands that what nobody needs is gone.  Each raises AssertionError.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

from beamlet.base.ids import Address, ObjectId, short, worker_of
from beamlet.core_worker.core_worker import CoreWorker
from beamlet.core_worker.submitting.pending import PendingTask
from beamlet.testing.virtual_cluster import VirtualCluster
from beamlet.testing.virtual_process import VirtualProcess

#: Every so many turns of a process its whole books are walked.
_EVERY = 7


def watch(cluster: VirtualCluster) -> None:
    """From now on, whatever runs leaves its books in order."""
    world = cluster.world
    turns: Counter[int] = Counter()

    def look() -> None:
        for process in world.processes:
            if not process.ended and not process.after_turn:
                process.after_turn.append(partial(check, process))

    def check(process: VirtualProcess) -> None:
        turns[process.pid] += 1
        if turns[process.pid] % _EVERY:
            return
        try:
            _check_books(cluster, process)
        except AssertionError as error:
            world.failures.append(AssertionError(f"the books of {process!r}: {error}"))

    world.after_event.append(look)


def _check_books(cluster: VirtualCluster, process: VirtualProcess) -> None:
    if process is cluster.head.process:
        raylet = cluster.head.raylet
        assert not raylet.last_misuse, f"processes of ours do not misbehave: {raylet.last_misuse}"
        raylet._node.leases.check_invariants()
        raylet._node.pool.check_invariants()
        cluster.head.store.check_invariants()
        cluster.head.gcs.check_invariants()
    elif isinstance(process.core, CoreWorker):
        core = process.core
        core.refs.check_invariants()
        core.tasks.check_invariants()
        core.store.own.check_invariants()
        for link in core.actors.links.values():
            link.check_invariants()


def core_workers(cluster: VirtualCluster) -> dict[Address, CoreWorker]:
    """All that live, by address."""
    cores = [process.core for process in cluster.world.processes if not process.ended]
    return {core.address: core for core in cores if isinstance(core, CoreWorker)}


def audit(cluster: VirtualCluster) -> None:
    """The books of different processes agree. Only when no message is on its way."""
    cores = core_workers(cluster)
    members = {member.address for member in cluster.head.raylet._node.members}
    assert set(cores) == members, f"living: {_names(cores)}, known to the raylet: {_names(members)}"
    _leases_agree(cluster, cores)
    lent: set[tuple[Address, ObjectId, Address]] = set()
    borrowed: set[tuple[Address, ObjectId, Address]] = set()
    for address, core in cores.items():
        for object_id, record in core.refs.objects.items():
            lent |= {(address, object_id, peer) for peer in record.borrowers or ()}
            if record.owner:
                borrowed.add((Address(record.owner), object_id, address))
    living = {each for each in borrowed if each[0] in cores}
    assert lent == living, f"counted for nobody: {_loans(lent - living)}, uncounted: {_loans(living - lent)}"


def _leases_agree(cluster: VirtualCluster, cores: dict[Address, CoreWorker]) -> None:
    manager = cluster.head.raylet._node.leases
    granted = {
        (lease.request.client, lease.lease_id)
        for lease in manager._leases.values()
        if lease.request.actor is None and lease.worker is not None
    }
    held = {
        (address, worker.lease.number)
        for address, core in cores.items()
        for state in core.tasks.keys.values()
        for worker in state.workers
    }
    assert granted == held, f"the raylet counts {granted - held} too many, {held - granted} too few leases"
    workers = [lease.worker for lease in manager._leases.values() if lease.worker is not None]
    assert len(workers) == len(set(workers)), "a worker has two leases"


def nothing_is_kept(cluster: VirtualCluster) -> None:
    """All references are dropped, all actors ended: so is what stood behind them."""
    for address, core in core_workers(cluster).items():
        who = f"{short(worker_of(address))} ({_who(cluster, core)})"
        kept = {f"{short(object_id)} {_why_kept(core, object_id)}" for object_id in list(core.refs.objects)}
        assert not kept, f"{who} keeps {len(kept)} objects: {sorted(kept)[:5]}"
        waiting = [_where(core, pending) for pending in core.submission.tasks.values()]
        assert not waiting, f"{who} has unanswered tasks: {waiting[:4]}"
        assert not core.refs.held_results, f"{who} holds results for receivers"
        assert not len(core.store.own), f"{who} keeps places: {core.store.own._places}"
        assert not core.refs._registrations, f"{who} waits for owners' answers"
    head = cluster.head
    usage = head.store.usage()
    assert not usage.used_bytes, f"the store keeps {usage.used_bytes} bytes"
    assert not head.raylet._node.leases._leases, (
        f"leases are left: {list(head.raylet._node.leases._leases.values())[:3]}"
    )
    assert not list(head.raylet._node.leases._queue), "lease requests are left"
    assert not list(head.gcs.actors._live), (
        f"actors are left: {[a.spec.class_name for a in head.gcs.actors._live]}"
    )
    assert not cluster.kernel.travelling, "descriptors are on their way to nobody"


def everybody_left(cluster: VirtualCluster, warm_workers: int) -> None:
    """All drivers are gone: what remains is the node itself and its warm workers."""
    raylet, gcs = cluster.head.raylet, cluster.head.gcs
    workers = cluster.workers
    assert len(workers) <= max(1, warm_workers), f"{len(workers)} workers are left: {workers}"
    assert not any(record.job for record in raylet._node.pool), "a worker of an ended job is left"
    assert not raylet._drivers._leaving, "a driver waits to be let go"
    assert not gcs.jobs._running, "jobs run without drivers"
    assert not raylet._leases._placements, f"placements are left: {raylet._leases._placements}"
    assert not raylet._leases._seats, f"seats are left: {raylet._leases._seats}"
    assert len(cluster.head.process.descriptors.open) == 1 + len(workers), "the head keeps connections"


def _why_kept(core: CoreWorker, object_id: ObjectId) -> str:
    record = core.refs.objects[object_id]
    counts = {
        "local": record.local,
        "submitted": record.submitted,
        "contained_in": record.contained_in,
        "holds": record.holds,
        "borrowers": [short(each) for each in record.borrowers or ()],
        "state": record.state,
        "owner": short(Address(record.owner)) if record.owner else "",
    }
    return str({name: value for name, value in counts.items() if value})


def _where(core: CoreWorker, task: PendingTask) -> str:
    """A task that nobody answered, and how far it came."""
    worker = core.tasks.worker_of(task)
    state = core.tasks.keys.get(task.spec.template.key)
    if worker is not None:
        at = f"in flight at {short(Address(worker.address))}"
    elif state is not None and task in state.queue:
        at = f"queued, {len(state.workers)} workers, {len(state.requests)} requests"
    else:
        at = "nowhere"
    return (
        f"{task.spec.name}: {at}, unresolved {task.unresolved}, settled {task.settled}, "
        f"unwanted {task.unwanted}, retries {task.retries_left}"
    )


def _who(cluster: VirtualCluster, core: CoreWorker) -> str:
    return next((repr(each) for each in cluster.world.processes if each.core is core), "?")


def _names(addresses: object) -> list[str]:
    return sorted(short(each) for each in addresses)  # type: ignore[attr-defined]


def _loans(loans: set[tuple[Address, ObjectId, Address]]) -> list[str]:
    return sorted(f"{short(o)} lent {short(i)} to {short(b)}" for o, i, b in loans)[:5]
