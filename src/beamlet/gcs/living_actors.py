"""● The actors that have not ended, found by id, by name, by the process they live in, and by their owner.

Keeps these four ways to the same record in step; decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from beamlet.base.ids import ActorId, Address, JobId, NodeId, node_of, short
from beamlet.gcs.actor_history import NOWHERE
from beamlet.gcs.actor_names import ActorNames
from beamlet.gcs.actor_record import ActorRecord
from beamlet.gcs.actor_states import State


class LivingActors:
    def __init__(self) -> None:
        self.names = ActorNames()
        #: How many of each job are detached.
        self._detached: Counter[JobId] = Counter()
        #: In order of creation.
        self._records: dict[ActorId, ActorRecord] = {}
        self._at: dict[Address, ActorRecord] = {}
        #: Owner → its actors that end with it: those that are detached only until their arguments are there.
        self._owned: dict[Address, dict[ActorId, ActorRecord]] = {}

    def __iter__(self) -> Iterator[ActorRecord]:
        """Over a copy: records may be added and removed meanwhile."""
        return iter(list(self._records.values()))

    def get(self, actor_id: ActorId) -> ActorRecord | None:
        return self._records.get(actor_id)

    def present(self, actor_id: ActorId, incarnation: int) -> ActorRecord | None:
        """None also if that incarnation is not the present one."""
        record = self._records.get(actor_id)
        return record if record and record.incarnation == incarnation else None

    def any_detached(self, job: JobId) -> bool:
        return job in self._detached

    def at(self, address: Address) -> ActorRecord | None:
        return self._at.get(address)

    def named(self, namespace: str, name: str) -> ActorRecord | None:
        holder = self.names.holder(namespace, name) if name else None
        return None if holder is None else self._records[holder]

    def owned_by(self, owner: Address) -> list[ActorRecord]:
        return list(self._owned.get(owner, {}).values())

    def owners_on(self, node_id: NodeId) -> list[Address]:
        return [owner for owner in self._owned if node_of(owner) == node_id]

    def add(self, record: ActorRecord) -> None:
        spec = record.spec
        self._records[spec.actor_id] = record
        if spec.detached:
            self._detached[spec.job.job_id] += 1
        if spec.name:
            self.names.take(spec.namespace, spec.name, spec.actor_id)
        if not _needs_no_owner(record):
            self._owned.setdefault(spec.owner, {})[spec.actor_id] = record

    def stepped(self, record: ActorRecord) -> None:
        """Its state has changed: it may need its owner no longer."""
        if _needs_no_owner(record):
            self._disown(record)

    def settle(self, record: ActorRecord, address: Address) -> None:
        """It lives in this process, or is about to."""
        record.address, record.node = address, node_of(address)
        self._at[address] = record

    def unsettle(self, record: ActorRecord) -> None:
        self._at.pop(record.address, None)
        record.address, record.node = NOWHERE, None

    def free_name(self, record: ActorRecord) -> None:
        self.names.free(record.spec.namespace, record.spec.name, record.spec.actor_id)

    def remove(self, record: ActorRecord) -> None:
        self.free_name(record)
        self.unsettle(record)
        self._disown(record)
        del self._records[record.spec.actor_id]
        if record.spec.detached:
            job = record.spec.job.job_id
            self._detached[job] -= 1
            if not self._detached[job]:
                del self._detached[job]

    def _disown(self, record: ActorRecord) -> None:
        siblings = self._owned.get(record.spec.owner, {})
        if siblings.pop(record.spec.actor_id, None) and not siblings:
            del self._owned[record.spec.owner]

    def check_invariants(self) -> None:
        records = self._records.items()
        assert self._detached == Counter(r.spec.job.job_id for _, r in records if r.spec.detached)
        for actor_id, record in records:
            _check_record(short(actor_id), record)
        named = {(r.spec.namespace, r.spec.name, i) for i, r in records if r.is_named}
        assert named == set(self.names.items()), "a name leads to no live actor, or a live one lost its name"
        hosts = {record.address: record for _, record in records if record.address}
        assert hosts == self._at, "an actor lives where nobody knows, or two live in one process"
        owned = {(r.spec.owner, i) for i, r in records if not _needs_no_owner(r)}
        assert owned == {(owner, i) for owner, siblings in self._owned.items() for i in siblings}
        assert all(self._owned.values()), "an owner of nothing is listed"


def _needs_no_owner(record: ActorRecord) -> bool:
    """A detached actor needs its owner for as long as that has to say what the constructor is to be given."""
    return record.spec.detached and record.state is not State.DEPENDENCIES_UNREADY


def _check_record(me: str, record: ActorRecord) -> None:
    most = record.spec.max_restarts
    assert record.lasting or not record.spec.detached, f"{me} is detached and ends with its job"
    assert record.state is not State.DEAD, f"{me} is dead and listed as live"
    assert most < 0 or record.restarts <= most, f"{me} was restarted {record.restarts} times of {most}"
    assert record.restarts <= record.incarnation, f"{me}: two processes may bear one incarnation"
    if record.state is State.ALIVE:
        assert record.address, f"{me} is ALIVE and lives nowhere"
    if record.state is State.DEPENDENCIES_UNREADY:
        assert record.node is None, f"{me} is being placed before its arguments are there"
        assert not record.address, f"{me} has a process before its arguments are there"
    if record.leaving or record.recycling:
        assert record.address, f"{me} was told to stop and has no process"
