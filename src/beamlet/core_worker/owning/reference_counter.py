"""● Which objects must live: counts per object, and the protocol by which processes borrow from owners.

Decides when an object is freed and who has to be told.  Moves no bytes, sends nothing, wakes nobody: it
changes records and fills ``outbox``, performed by the shell *in order*.  The core worker's lock guards it.

Owner.  An object of ours dies when no count is left: live ObjectRefs here (``local``), unfinished tasks
(``submitted``), values of ours around it (``contained_in``), results not yet taken over (``holds``), other
processes (``borrowers``).  Its death drops the counts on what it contains and deletes its stored value; so on
down, without recursion.

Borrower.  A record with a foreign owner.  The rule that makes it safe:

    *The carrier that first brought a reference here stays until the reference is registered or dropped.*

So a second carrier of a reference that has a record needs nothing but a count: in the common case, getting an
object of ours with 10 000 refs inside only bumps ``local``.  Guards are described in ``borrowing``.

     borrower                          owner
        │── AddBorrower(token, ids) ─────▶│   borrowers |= us
        │◀──── BorrowerAdded(token) ──────│   the guard of token is done
        │── RemoveBorrower(ids) ─────────▶│   sent when our last count goes, even before the answer came:
        │── AddBorrower(token', ids) ────▶│   one connection, in order, so they cannot cross; a reference
                                              met again starts over with a token of its own

Results.  The executor holds what its results contain until ReleaseHold — except what the receiver itself
passed as nested argument, for which it has a record until it handles the answer.  The receiver therefore
must take the results over (``set_*``, ``settle``) *before* ``remove_submitted`` of the arguments.

Deaths.  ``peer_gone`` drops the dead from all borrower sets and ends their holds; what they owned is LOST.

Source: the Ownership paper (Wang et al., NSDI '21), made flat: every borrower registers with the owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import cast

from beamlet.base.ids import Address, NodeId, ObjectId, short
from beamlet.core_worker.owning.borrowing import (
    ArgumentsGuard,
    DeleteStored,
    Effect,
    Freed,
    Guard,
    LetPlaceGo,
    ReplyMayGo,
    ResultsGuard,
    SendAddBorrower,
    SendReleaseHold,
    SendRemoveBorrower,
    ValueGuard,
)
from beamlet.core_worker.owning.object_record import (
    CUT_OFF,
    FREED,
    INLINE,
    LOST,
    PENDING,
    REGISTERED,
    STORED,
    UNREGISTERED,
    ObjectRecord,
)
from beamlet.core_worker.owning.own_slab import Place
from beamlet.protocol.message import ContainedRef


class ReferenceCounter:
    """The object table of one process. ``self_address``: how others name us as owner."""

    def __init__(self, self_address: Address) -> None:
        self.self_address = self_address
        #: Every object this process has a count on. The core worker looks records up here itself.
        self.objects: dict[ObjectId, ObjectRecord] = {}
        #: What the shell must do, in order. Drained with ``take_effects``.
        self.outbox: list[Effect] = []
        #: AddBorrower on its way: token → (owner, ids, guard).
        self._registrations: dict[int, tuple[Address, list[ObjectId], Guard]] = {}
        #: Results we sent: hold → (receiver, ids).
        self.held_results: dict[int, tuple[Address, list[ObjectId]]] = {}
        #: borrower → objects of ours it registered for. Dicts serve as ordered sets.
        self.lent: dict[Address, dict[ObjectId, None]] = {}
        #: owner → objects of its that have a record here.
        self._borrowed: dict[Address, dict[ObjectId, None]] = {}
        self._last_number = 0

    def take_effects(self) -> list[Effect]:
        """What has to be done since the last call, in order."""
        effects, self.outbox = self.outbox, []
        return effects

    # ---- our own objects -------------------------------------------------------------------------------

    def new_owned(self, object_id: ObjectId) -> ObjectRecord:
        """A new object of ours, PENDING, with one live reference."""
        self.objects[object_id] = record = ObjectRecord(1)
        return record

    def set_inline(
        self,
        record: ObjectRecord,
        payload: bytes,
        contained: Sequence[ContainedRef] = (),
        guard: Guard | None = None,
    ) -> None:
        """The value is here. ``contained``/``guard``: as for ``set_stored``."""
        record.payload, record.state = payload, INLINE
        if contained or record.contains:
            self._contain(record, contained, guard)

    def set_stored(
        self,
        record: ObjectRecord,
        nodes: tuple[NodeId, ...],
        size: int,
        contained: Sequence[ContainedRef] = (),
        guard: Guard | None = None,
        place: Place | None = None,
    ) -> None:
        """The value is sealed in the arena of each of ``nodes``, or at ``place``, which it wants.

        contained: the references inside the value; only for an object that we own (a borrower counts what it
        decodes, in ``found_in_value``). guard: what they came under, to be given to ``settle`` when all
        values of one message are set; None when they are counted here anyway (our own put).
        """
        record.payload = b""
        if record.nodes and record.state == PENDING and not record.owner:
            nodes = tuple(dict.fromkeys((*nodes, *record.nodes)))  # an attempt that died left a copy
        record.nodes, record.place, record.size, record.state = nodes, place, size, STORED
        if contained or record.contains:
            self._contain(record, contained, guard)

    def set_lost(self, record: ObjectRecord, reason: str) -> None:
        """The value is gone; what it contained is no longer reachable through it."""
        record.payload, record.state, record.reason = b"", LOST, reason
        if record.contains:
            self._contain(record, (), None)

    def guard_copies(self, outer: ObjectId) -> ValueGuard:
        """A guard for objects that get the value of ``outer``, which the caller has a count on, as their own.

        To be given to ``set_inline`` and then to ``settle``, as that of results.
        """
        self.objects[outer].holds += 1
        return ValueGuard(outer)

    def discard_stored(self, object_id: ObjectId, node: NodeId) -> None:
        """A stored result came for an object that was dropped while its task ran."""
        self.outbox.append(DeleteStored(node, [object_id]))

    def stored_again(self, object_id: ObjectId, node: NodeId) -> None:
        """An attempt of its task sealed the value of an object of ours that had one: a copy, or too late."""
        record = self.objects.get(object_id)
        if record is None or record.state != STORED:
            self.discard_stored(object_id, node)
        elif node not in record.nodes:
            record.nodes = (*record.nodes, node)

    def stored_by_dead(self, object_id: ObjectId, node: NodeId) -> None:
        """A dead process, all of whose messages were read, had sealed a value of this object of ours there.

        Kept while it is promised: another attempt writes none of its own, and may have announced this one.
        """
        record = self.objects.get(object_id)
        if record is None or (record.state != PENDING and node not in record.nodes):
            self.discard_stored(object_id, node)
        elif node not in record.nodes:
            record.nodes = (*record.nodes, node)

    def _contain(self, record: ObjectRecord, contained: Sequence[ContainedRef], guard: Guard | None) -> None:
        if record.owner or record.state == FREED:
            raise AssertionError(f"only a live object of ours counts what it contains, not {record!r}")
        opened = guard or ValueGuard(None)
        for object_id, owner in cast("Sequence[tuple[ObjectId, Address]]", contained):
            inner = self.objects.get(object_id)
            if inner is None:
                inner = self._meet(object_id, owner, opened)
            inner.contained_in += 1
        before, record.contains = record.contains, tuple(ObjectId(ref[0]) for ref in contained)
        if guard is None:
            self.settle(opened)
        if before:
            self._free(self._without_container(before))

    # ---- counting --------------------------------------------------------------------------------------

    def release_many(self, ids: Iterable[ObjectId]) -> None:
        """One ObjectRef instance less for each of ``ids`` (what the ``__del__`` deque collected)."""
        objects = self.objects
        dead: list[tuple[ObjectId, ObjectRecord]] | None = None
        for object_id in ids:
            record = objects.get(object_id)
            if record is None:  # handed out before a shutdown cleared the table
                continue
            record.local = local = record.local - 1
            if local or record.submitted or record.contained_in or record.holds or record.borrowers:
                continue
            del objects[object_id]
            if record.nodes or record.place or record.contains or record.owner or record.watched:
                (dead := dead or []).append((object_id, record))
            else:
                record.state = FREED
        if dead:
            self._free(dead)

    def add_submitted(self, ids: Iterable[ObjectId]) -> None:
        """A task of ours has these among its arguments, top-level or nested."""
        for object_id in ids:
            self.objects[object_id].submitted += 1

    def remove_submitted(self, ids: Iterable[ObjectId]) -> None:
        """That task is over, and its results were taken over."""
        dead = []
        for object_id in ids:
            record = self.objects[object_id]
            record.submitted -= 1
            if not record.is_kept():
                del self.objects[object_id]
                dead.append((object_id, record))
        if dead:
            self._free(dead)

    # ---- references that arrive ------------------------------------------------------------------------

    def found_in_value(self, outer: ObjectId | None, refs: Iterable[ContainedRef]) -> None:
        """ObjectRefs came alive while decoding the value of ``outer``, which the caller has a count on.

        outer None: the reference came by a way of the user's own; nothing guards it until it is registered.
        """
        objects = self.objects
        guard: ValueGuard | None = None
        for object_id, owner in cast("Iterable[tuple[ObjectId, Address]]", refs):
            record = objects.get(object_id)
            if record is None:
                guard = guard or ValueGuard(outer)
                record = self._meet(object_id, owner, guard)
            record.local += 1
        if guard is not None:
            if outer is not None:
                objects[outer].holds += 1
            self.settle(guard)

    def found_in_arguments(self, arguments: ArgumentsGuard, refs: Iterable[ContainedRef]) -> None:
        """ObjectRefs came alive while decoding a task's arguments (or the values of its dependencies).

        Nobody is told yet: most tasks drop them before they answer, and until then the submitter has counts.
        """
        for object_id, owner in cast("Iterable[tuple[ObjectId, Address]]", refs):
            record = self.objects.get(object_id)
            if record is None:
                record = self._meet(object_id, owner, None)
                arguments.sighted.append(object_id)
            record.local += 1

    def task_finished(self, arguments: ArgumentsGuard) -> bool:
        """True: the reply may go. False: not before ``ReplyMayGo(arguments.reply)``.

        Call it after ``hold_results`` and after the references that the task dropped were released.
        """
        for object_id in dict.fromkeys(arguments.sighted):
            record = self.objects.get(object_id)
            if record is not None and record.owner and record.borrow == UNREGISTERED:
                arguments.fresh.setdefault(Address(record.owner), []).append(object_id)
        arguments.sighted.clear()
        return not self._register(arguments)

    def settle(self, guard: Guard) -> None:
        """All references under ``guard`` were met: register for the new ones; done when all are."""
        if not self._register(guard):
            self._done(guard)

    def _meet(self, object_id: ObjectId, owner: Address, guard: Guard | None) -> ObjectRecord:
        """A record, still without counts, for a reference not known here."""
        self.objects[object_id] = record = ObjectRecord()
        if not owner or owner == self.self_address:
            record.state = LOST
            record.reason = "its owner, this process, had already freed it when the reference came back"
            return record
        record.owner = owner
        self._borrowed.setdefault(owner, {})[object_id] = None
        if guard is not None:
            guard.fresh.setdefault(owner, []).append(object_id)
        return record

    def _register(self, guard: Guard) -> int:
        """Ask the owners of what is fresh under the guard; how many answers it now waits for."""
        for owner, ids in guard.fresh.items():
            self._last_number = token = self._last_number + 1
            for object_id in ids:
                if (record := self.objects.get(object_id)) is not None:
                    record.borrow = token
            self._registrations[token] = (owner, ids, guard)
            self.outbox.append(SendAddBorrower(owner, token, ids))
            guard.open += 1
        guard.fresh = {}
        return guard.open

    def registered(self, token: int, missing: Sequence[ObjectId] = ()) -> list[ObjectId]:
        """The owner answered. Returns what became LOST because the owner no longer had it."""
        registration = self._registrations.pop(token, None)
        if registration is None:
            return []
        owner, ids, guard = registration
        lost = []
        refused = frozenset(missing)
        for object_id in ids:
            record = self.objects.get(object_id)
            if record is None or record.borrow != token:  # dropped, or dropped and met again
                continue
            record.borrow = REGISTERED
            if object_id in refused:
                reason = f"its owner {short(owner)} no longer had it when this process asked to keep it"
                lost += self._cut_off(object_id, record, reason)
        self._answered(guard)
        return lost

    def _answered(self, guard: Guard) -> None:
        guard.open -= 1
        if not guard.open:
            self._done(guard)

    def _done(self, guard: Guard) -> None:
        match guard:
            case ValueGuard(outer=outer):
                if outer is not None:
                    self._drop_holds([outer])
            case ResultsGuard(executor=executor, hold=hold):
                if hold:
                    self.outbox.append(SendReleaseHold(executor, hold))
            case ArgumentsGuard(reply=reply):
                self.outbox.append(ReplyMayGo(reply))

    # ---- results that leave ----------------------------------------------------------------------------

    def hold_results(
        self, receiver: Address, refs: Iterable[ContainedRef], arguments: ArgumentsGuard | None = None
    ) -> int:
        """Keep what results contain until the receiver releases the hold; 0 when nothing needs one.

        Call it while the results are still alive, before ``task_finished``.
        """
        passed = arguments.nested if arguments is not None else frozenset()
        ids = [ObjectId(ref[0]) for ref in refs if ref[0] not in passed]
        if not ids:
            return 0
        for object_id in ids:
            self.objects[object_id].holds += 1
        self._last_number = hold = self._last_number + 1
        self.held_results[hold] = (receiver, ids)
        return hold

    def release_hold(self, hold: int) -> None:
        """The receiver has registered for what the results contain. Unknown holds: it was gone already."""
        _, ids = self.held_results.pop(hold, (None, []))
        self._drop_holds(ids)

    # ---- other processes -------------------------------------------------------------------------------

    def add_borrower(self, borrower: Address, ids: Iterable[ObjectId]) -> list[ObjectId]:
        """``borrower`` has references to these of our objects. Returns those that we no longer have."""
        missing = []
        lent = self.lent.setdefault(borrower, {})
        for object_id in ids:
            record = self.objects.get(object_id)
            if record is None or record.owner:
                missing.append(object_id)
                continue
            if record.borrowers is None:
                record.borrowers = set()
            record.borrowers.add(borrower)
            lent[object_id] = None
        if not lent:
            del self.lent[borrower]
        return missing

    def remove_borrower(self, borrower: Address, ids: Iterable[ObjectId]) -> None:
        """``borrower`` dropped its last references to these."""
        dead = []
        lent = self.lent.get(borrower, {})
        for object_id in ids:
            if object_id not in lent:  # it had been told that this one is missing
                continue
            del lent[object_id]
            record = self.objects[object_id]
            cast("set[Address]", record.borrowers).remove(borrower)
            if not record.is_kept():
                del self.objects[object_id]
                dead.append((object_id, record))
        if not lent:
            self.lent.pop(borrower, None)
        self._free(dead)

    def peer_gone(self, peer: Address, reason: str = "its process died") -> list[ObjectId]:
        """``peer`` is dead. Returns what became LOST with it; the shell tells those who wait. Repeat-safe."""
        lost = []
        reason = f"its owner {short(peer)} is gone: {reason}"
        for object_id in list(self._borrowed.get(peer, {})):
            lost += self._cut_off(object_id, self.objects[object_id], reason)
        for token in [token for token, (owner, _, _) in self._registrations.items() if owner == peer]:
            self._answered(self._registrations.pop(token)[2])
        for hold in [hold for hold, (receiver, _) in self.held_results.items() if receiver == peer]:
            self.release_hold(hold)
        self.remove_borrower(peer, list(self.lent.get(peer, {})))
        return lost

    def _cut_off(self, object_id: ObjectId, record: ObjectRecord, reason: str) -> list[ObjectId]:
        """Nobody answers for a borrowed object any more; [its id] unless its value is here anyway."""
        record.borrow = CUT_OFF
        self._unlist(Address(record.owner), object_id)
        if record.state not in (PENDING, STORED):
            return []
        record.state = LOST
        record.reason = reason
        return [object_id]

    def _unlist(self, owner: Address, object_id: ObjectId) -> None:
        borrowed = self._borrowed.get(owner)
        if borrowed is not None:
            borrowed.pop(object_id, None)
            if not borrowed:
                del self._borrowed[owner]

    # ---- deaths ----------------------------------------------------------------------------------------

    def _drop_holds(self, ids: Iterable[ObjectId]) -> None:
        dead = []
        for object_id in ids:
            record = self.objects[object_id]
            record.holds -= 1
            if not record.is_kept():
                del self.objects[object_id]
                dead.append((object_id, record))
        self._free(dead)

    def _without_container(self, ids: Iterable[ObjectId]) -> list[tuple[ObjectId, ObjectRecord]]:
        dead = []
        for object_id in ids:
            record = self.objects[object_id]
            record.contained_in -= 1
            if not record.is_kept():
                del self.objects[object_id]
                dead.append((object_id, record))
        return dead

    def _free(self, dead: list[tuple[ObjectId, ObjectRecord]]) -> None:
        """Bury records already taken out of ``objects``, and whatever only they kept; one message a peer."""
        removed: dict[Address, list[ObjectId]] = {}
        deleted: dict[NodeId, list[ObjectId]] = {}
        for object_id, record in dead:  # grows while we walk it
            if record.owner:
                owner = Address(record.owner)
                if record.borrow > 0 or record.borrow == REGISTERED:
                    removed.setdefault(owner, []).append(object_id)
                self._unlist(owner, object_id)
            else:
                for node in record.nodes:
                    deleted.setdefault(node, []).append(object_id)
                if record.place is not None:
                    self.outbox.append(LetPlaceGo(record.place))
            if record.watched:
                self.outbox.append(Freed(object_id, record.owner))
            record.state = FREED
            if record.contains:
                dead += self._without_container(record.contains)
        self.outbox += [SendRemoveBorrower(owner, ids) for owner, ids in removed.items()]
        self.outbox += [DeleteStored(node, ids) for node, ids in deleted.items()]

    # ---- what must hold between calls -------------------------------------------------------------------

    def check_invariants(self) -> None:
        """Counts agree with what they count, indexes with what they index. For tests: walks everything."""
        contained_in: Counter[ObjectId] = Counter()
        holds: Counter[ObjectId] = Counter()
        guards = {id(guard): guard for _, _, guard in self._registrations.values()}
        awaited = Counter(id(guard) for _, _, guard in self._registrations.values())
        for key, guard in guards.items():
            assert guard.open == awaited[key], f"a guard waits for {guard.open} answers, not {awaited[key]}"
            if isinstance(guard, ValueGuard) and guard.outer is not None:
                holds[guard.outer] += 1
        for _, ids in self.held_results.values():
            holds.update(ids)
        for record in self.objects.values():
            contained_in.update(record.contains)
        for object_id, record in self.objects.items():
            name = short(object_id)
            assert record.is_kept(), f"{name}: nobody keeps it, yet it is here"
            assert min(record.local, record.submitted) >= 0, f"{name}: released more often than counted"
            assert record.contained_in == contained_in[object_id], f"{name}: contained_in is off"
            assert record.holds == holds[object_id], f"{name}: holds is off"
            assert record.state != FREED, f"{name}: freed, yet it is here"
            lent = {peer for peer, ids in self.lent.items() if object_id in ids}
            assert lent == (record.borrowers or set()), f"{name}: borrowers and lent disagree"
            listed = object_id in self._borrowed.get(Address(record.owner), {})
            assert listed == bool(record.owner and record.borrow != CUT_OFF), f"{name}: _borrowed is off"
        for index in (self.lent, self._borrowed):
            assert all(index.values()), "an empty row was left in an index"
            for row in index.values():
                assert row.keys() <= self.objects.keys(), "an index names an object that is not here"
