"""References that know which virtual process they live in: in production a process has only its own."""

from __future__ import annotations

from typing import Any

from msgspec.structs import force_setattr

from beamlet.api import backend
from beamlet.api.object_ref import ObjectRef
from beamlet.base.ids import Address, ObjectId
from beamlet.serialization.refs import note_contained, released, take_counted
from beamlet.testing.world import World


class VirtualRef(ObjectRef[Any], frozen=True, weakref=True):
    """An ObjectRef whose death is told to the process it lived in, whoever runs when it is noticed."""

    _home: Any = None

    def __post_init__(self) -> None:
        assert World.current is not None
        force_setattr(self, "_home", World.current.active)

    def __del__(self) -> None:
        world = World.current
        if world is not None and world.active is self._home:
            released.append(self._id)
        elif self._home is not None:
            self._home.let_go.append(self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectRef) and self._id == other._id

    def __hash__(self) -> int:
        return hash((self._id, self._owner))

    def __reduce__(self) -> tuple[Any, ...]:
        if not note_contained(self._id, self._owner, self):
            backend.current().pin_for_good(self)
        return _arrive, (self._id, self._owner)


def _arrive(object_id: ObjectId, owner: Address) -> Any:
    if take_counted(object_id):
        return VirtualRef(object_id, owner)
    return backend.current().adopt_ref(object_id, owner)
