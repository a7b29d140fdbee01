"""What follows when a core worker is gone: its last output, its certificate, who must hear of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import msgspec
from msgspec import Struct

from beamlet.base.death import DeathCertificate
from beamlet.base.ids import make_address
from beamlet.protocol.cluster import CoreWorkerGone
from beamlet.protocol.node import WorkerDied
from beamlet.raylet.event_service import EventService
from beamlet.raylet.lifelines import Lifelines
from beamlet.raylet.members import Member
from beamlet.raylet.node_services import NodeServices
from beamlet.raylet.output_service import OutputService
from beamlet.raylet.performer import Step
from beamlet.raylet.store_service import StoreService
from beamlet.raylet.worker_record import Announce

#: What a dead worker had still said is read in pieces of this size.
_REST_BYTES = 64 * 1024


class _Mourn(Struct, frozen=True):
    """Behind the last lines of output, so that the driver prints them before it learns of the death."""

    death: Announce


class DeathService:
    """``on_mourned`` gets what the GCS was told."""

    def __init__(
        self,
        services: NodeServices,
        output: OutputService,
        store: StoreService,
        lifelines: Lifelines,
        events: EventService,
        on_mourned: Callable[[CoreWorkerGone], None],
    ) -> None:
        self._node = services
        self._output = output
        self._store = store
        self._lifelines = lifelines
        self._events = events
        self._on_mourned = on_mourned
        services.performer.on(Announce, self._announced)
        services.performer.on(_Mourn, self._mourn)

    def driver_gone(self, driver: Member, reason: str, intended: bool) -> None:
        """Nobody waits for a driver's exit status: it is no child of ours."""
        now = self._node.now()
        certificate = DeathCertificate(
            worker_id=driver.worker_id,
            node_id=self._node.node_id,
            pid=driver.pid,
            killed_by="" if not intended else "it said goodbye",
            uptime_s=now - driver.joined_at,
            task_name="the driver",
        )
        still_lives = self._lifelines.outlived_by(driver, reason)
        self._bury(driver, CoreWorkerGone(driver.address, certificate, intended), now, still_lives)

    def _announced(self, death: Announce) -> None:
        try:
            self._output.finish(death.worker)
        finally:  # callers wait for ever for the word of a death that is not told
            self._node.perform([_Mourn(death)])

    def _mourn(self, effect: _Mourn) -> None:
        death = effect.death
        member = self._node.members.get(make_address(self._node.node_id, death.worker))
        assert member is not None, "a worker is known from its fork to its death"
        last_words: list[str] = []
        with ExitStack() as always:  # from the last to the first, whichever fails: see ``_announced``
            always.callback(self._bury_worker, death, member, last_words)
            always.callback(member.connection.close)
            always.callback(self._read_rest, member)
            last_words += self._output.forget(death.worker)

    def _bury_worker(self, death: Announce, member: Member, last_words: list[str]) -> None:
        certificate = msgspec.structs.replace(death.certificate, last_words=tuple(last_words))
        actor_id = death.actor if death.actor is not None else b""
        gone = CoreWorkerGone(member.address, certificate, death.intended, actor_id, death.incarnation)
        freed = Step("the end of its lease", lambda: self._free_lease(member))
        self._bury(member, gone, self._node.now(), "", freed)

    def _read_rest(self, dead: Member) -> None:
        """It may have sealed what it then announced to others; everything else has lost its meaning."""
        dead.leaving = True
        rest = bytearray(_REST_BYTES)
        while not dead.connection.closed and dead.connection.read(rest):
            pass

    def _free_lease(self, worker: Member) -> None:
        self._node.perform(self._node.leases.worker_gone(worker.worker_id, self._node.now()))

    def _bury(self, member: Member, gone: CoreWorkerGone, now: float, still_lives: str, *first: Step) -> None:
        """What fails for one who must hear of it is no reason not to tell the others."""
        node, address, number = self._node, member.address, member.number
        told = node.introductions.forget(address)
        node.members.leave(address, gone.certificate)
        node.perform(
            [
                *first,
                Step("the word to its peers", lambda: self._tell_peers(gone, told, member)),
                Step("the end of its requests", lambda: node.perform(node.leases.client_gone(address, now))),
                Step(
                    "the end of its objects", lambda: self._store.forget(number, address, told, still_lives)
                ),
                Step("the word to the timeline", lambda: self._events.gone(address)),
                Step("the word to the GCS", lambda: node.gcs.send(gone)),
                Step("what follows a death", lambda: self._on_mourned(gone)),
            ]
        )

    def _tell_peers(self, gone: CoreWorkerGone, told: list[Member], dead: Member) -> None:
        word = WorkerDied(gone.address, gone.certificate, self._store.has_slabs(dead.number))
        for other in told:
            other.send(word)
