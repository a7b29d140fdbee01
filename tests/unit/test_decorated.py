"""A class that was decorated in its module is found there, so that a worker has one class and not two."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle
import pytest

from beamlet.serialization.decorated import Pickler

SOURCE = """
import beamlet

class Base:
    def who(self):
        return "base"

@beamlet.remote
class Child(Base):
    count = 0
    def who(self):
        return "child of " + super().who()
    def cell(self):
        return __class__
    class Inner:
        pass

class Plain(Child.__ray_actor_class__):
    def who(self):
        return "plain " + super().who()

Renamed = beamlet.remote(Plain)
"""


@pytest.fixture
def module() -> Iterator[ModuleType]:
    made = ModuleType("a_module_with_actors")
    sys.modules[made.__name__] = made
    exec(SOURCE, vars(made))
    yield made
    del sys.modules[made.__name__]


def there_and_back(value: Any) -> Any:
    file = io.BytesIO()
    Pickler(file, 5).dump(value)
    return pickle.loads(file.getvalue())


def test_a_decorated_class_comes_back_as_itself(module: ModuleType) -> None:
    plain = module.Child.__ray_actor_class__
    assert there_and_back(plain) is plain
    assert there_and_back(plain()).who() == "child of base"
    assert there_and_back(plain().cell)() is plain


def test_others_are_found_as_ever(module: ModuleType) -> None:
    for cls in (module.Base, module.Plain, int, type(None), ModuleType):
        assert there_and_back(cls) is cls
    assert there_and_back(module.Plain()).who() == "plain child of base"


def test_a_class_in_a_decorated_class_is_found(module: ModuleType) -> None:
    assert there_and_back(module.Child.__ray_actor_class__.Inner) is module.Child.__ray_actor_class__.Inner


def test_what_the_module_does_not_have_travels_by_value(module: ModuleType) -> None:
    plain = module.Child.__ray_actor_class__
    del module.Child
    copy = there_and_back(plain)
    assert copy.__name__ == "Child"
    assert copy().who() == "child of base"


def test_modules_registered_by_value_stay_so(module: ModuleType) -> None:
    cloudpickle.register_pickle_by_value(module)
    try:
        file = io.BytesIO()
        Pickler(file, 5).dump(module.Child.__ray_actor_class__)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert b"_plain_class" not in file.getvalue()


def test_an_instance_of_the_plain_class_is_one_of_the_actor_class(module: ModuleType) -> None:
    own = module.Child.__ray_actor_class__()
    assert isinstance(own, module.Child)
    assert not isinstance(module.Base(), module.Child)
    assert issubclass(module.Plain, module.Child)
