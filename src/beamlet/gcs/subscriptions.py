"""● Who wants to hear of which actor."""

from __future__ import annotations

from beamlet.base.ids import ActorId, Address


class Subscriptions:
    """Both ways round, so that an actor's end and a subscriber's end each cost what they concern."""

    def __init__(self) -> None:
        self._of_actor: dict[ActorId, dict[Address, None]] = {}
        self._of_address: dict[Address, dict[ActorId, None]] = {}

    def add(self, actor_id: ActorId, address: Address) -> None:
        self._of_actor.setdefault(actor_id, {})[address] = None
        self._of_address.setdefault(address, {})[actor_id] = None

    def subscribers(self, actor_id: ActorId) -> list[Address]:
        """In order of subscribing."""
        return list(self._of_actor.get(actor_id, ()))

    def actors(self) -> list[ActorId]:
        return list(self._of_actor)

    def addresses(self) -> list[Address]:
        return list(self._of_address)

    def drop_actor(self, actor_id: ActorId) -> None:
        for address in self._of_actor.pop(actor_id, ()):
            actors = self._of_address[address]
            del actors[actor_id]
            if not actors:
                del self._of_address[address]

    def drop_subscriber(self, address: Address) -> None:
        for actor_id in self._of_address.pop(address, ()):
            addresses = self._of_actor[actor_id]
            del addresses[address]
            if not addresses:
                del self._of_actor[actor_id]

    def check_invariants(self) -> None:
        forth = {(actor, address) for actor, all_of in self._of_actor.items() for address in all_of}
        back = {(actor, address) for address, all_of in self._of_address.items() for actor in all_of}
        assert forth == back, f"subscriptions listed one way only: {forth ^ back}"
        assert all(self._of_actor.values()), "an actor without subscribers is listed"
        assert all(self._of_address.values()), "a subscriber of nothing is listed"
