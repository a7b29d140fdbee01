"""Actor classes of an importable module, as most programs have them; used by test_actors.py."""

from __future__ import annotations

from typing import Any

import beamlet as ray


class Base:
    def who(self) -> str:
        return "base"

    @classmethod
    def made_by(cls) -> str:
        return cls.__name__


@ray.remote
class Child(Base):
    count = 0

    def who(self) -> str:
        return "child of " + super().who()

    def is_one(self) -> bool:
        return isinstance(self, Child) and type(self) is __class__  # type: ignore[name-defined, misc, arg-type]

    def bump(self) -> int:
        type(self).count += 1
        return Child.count

    @staticmethod
    def double(x: int) -> int:
        return 2 * x


class Grandchild(Child.__ray_actor_class__):  # type: ignore[misc, name-defined, attr-defined]
    def who(self) -> Any:
        return "grandchild, " + super().who()


RemoteGrandchild = ray.remote(Grandchild)
