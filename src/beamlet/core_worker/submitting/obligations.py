"""Whether an idle process may end, or would take something along: work it handed out, what others use of it.

    .remote() ─▶ put off ─▶ waits for arguments, a worker, an actor ─▶ sent ─▶ answered ─▶ let go
                 reactor    a task: Outcomes.tasks; a call: its ActorLink              nothing
                            an actor: ActorAccess's creations, until it needs us no more

    ours, used elsewhere:  lent to borrowers; in results that their receiver has not taken over;
                           copied by ways that we cannot follow

What needs no row of its own: an object that is an argument of unfinished work (``submitted``) is kept by that
work's row, items of a generator that runs by its task or call.  References held only here, errors that nobody
asked for, and threads that a task left behind end with their worker: nobody elsewhere knows of them.
"""

from __future__ import annotations

from typing import Protocol

from beamlet.base.ids import ObjectId
from beamlet.core_worker.owning.reference_counter import ReferenceCounter
from beamlet.core_worker.owning.releases import Releases
from beamlet.core_worker.submitting.actors import ActorAccess
from beamlet.core_worker.submitting.outcomes import Outcomes


class Postpones(Protocol):
    """The reactor."""

    @property
    def has_put_off(self) -> bool: ...


class Obligations:
    """Guarded by the core worker's lock."""

    def __init__(
        self,
        reactor: Postpones,
        refs: ReferenceCounter,
        releases: Releases,
        outcomes: Outcomes,
        actors: ActorAccess,
    ) -> None:
        self._reactor = reactor
        self._refs = refs
        self._releases = releases
        self._outcomes = outcomes
        self._actors = actors
        #: A reference was copied by a way that we cannot follow: somebody may use it at any time.
        self._is_copied = False

    def pin_for_good(self, object_id: ObjectId) -> None:
        """A copy of a reference left by a way we cannot follow: keep its value as long as we live."""
        record = self._refs.objects.get(object_id)
        if record is not None:
            record.local += 1
            self._is_copied = True

    def any_left(self, job_is_over: bool = False) -> bool:
        """Costs a step for each actor that this process has created or called, and none for its objects.

        job_is_over: who could have a copy that we know nothing of is gone.
        """
        self._releases.drain()
        return bool(
            (self._is_copied and not job_is_over)
            or self._reactor.has_put_off
            or self._outcomes.tasks
            or self._refs.lent
            or self._refs.held_results
            or self._actors.any_unfinished()
        )
