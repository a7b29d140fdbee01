"""Code that travels: functions and classes by value, modules by name, whatever file they stand in.

Most of this only shows when the program is a script of its own, so these tests write one and run it.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
from conformance import beamlet_only, get, run_script

import beamlet as ray

pytestmark = pytest.mark.usefixtures("cluster")

FACTOR = 3


def by_module_name(x: int) -> int:
    return x * FACTOR


@ray.remote
class AtModuleLevel:
    def call(self, x: int) -> int:
        return by_module_name(x)


def test_a_lambda() -> None:
    assert get(ray.remote(lambda x: x + 1).remote(1)) == 2


def test_a_closure_carries_its_variables() -> None:
    offset = 10

    @ray.remote
    def add(x: int) -> int:
        return x + offset

    assert get(add.remote(1)) == 11


def test_a_closure_is_taken_when_it_is_first_called() -> None:
    values = [1]

    @ray.remote
    def read() -> list[int]:
        return values

    assert get(read.remote()) == [1]
    values.append(2)
    assert get(read.remote()) == [1]


def test_a_function_that_calls_a_local_function() -> None:
    def helper(x: int) -> int:
        return 1 if x == 0 else x * helper(x - 1)

    @ray.remote
    def factorial(x: int) -> int:
        return helper(x)

    assert get(factorial.remote(5)) == 120


def test_a_nested_class() -> None:
    class Outer:
        class Inner:
            value = 5

    @ray.remote
    def read(kind: Any) -> int:
        return kind.Inner().value

    assert get(read.remote(Outer)) == 5


def test_an_instance_of_a_local_class_comes_back_as_one() -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

    @ray.remote
    def move(point: Any) -> Any:
        point.x += 1
        return point

    moved = get(move.remote(Point(1)))
    assert isinstance(moved, Point)
    assert moved.x == 2


def test_a_function_as_argument_and_result() -> None:
    @ray.remote
    def compose(f: Any, g: Any) -> Any:
        return lambda x: f(g(x))

    assert get(compose.remote(lambda x: x + 1, lambda x: x * 10))(4) == 41


def test_getstate_and_setstate_are_used() -> None:
    class Careful:
        def __init__(self) -> None:
            self.kept, self.dropped = 1, lambda: None

        def __getstate__(self) -> dict[str, Any]:
            return {"kept": self.kept}

        def __setstate__(self, state: dict[str, Any]) -> None:
            self.kept, self.dropped = state["kept"], None

    @ray.remote
    def look(x: Any) -> tuple[int, bool]:
        return x.kept, x.dropped is None

    assert get(look.remote(Careful())) == (1, True)


def test_a_function_of_the_module_with_its_globals() -> None:
    assert get(ray.remote(by_module_name).remote(2)) == 6


def test_an_actor_class_of_the_module() -> None:
    assert get(AtModuleLevel.remote().call.remote(4)) == 12


def test_a_partial() -> None:
    import functools

    @ray.remote
    def call(f: Any) -> int:
        return f(2)

    assert get(call.remote(functools.partial(pow, 2))) == 4


def test_a_bound_method_carries_its_object() -> None:
    class Adder:
        def __init__(self, by: int) -> None:
            self.by = by

        def add(self, x: int) -> int:
            return x + self.by

    @ray.remote
    def call(f: Any) -> int:
        return f(1)

    assert get(call.remote(Adder(5).add)) == 6


def test_a_decorated_function() -> None:
    import functools

    def twice(f: Any) -> Any:
        @functools.wraps(f)
        def wrapper(*args: Any) -> Any:
            return f(f(*args))

        return wrapper

    @ray.remote
    @twice
    def add_three(x: int) -> int:
        return x + 3

    assert get(add_three.remote(1)) == 7


# --- programs ------------------------------------------------------------------------------------


def test_a_function_of_main_with_a_global(tmp_path: Path) -> None:
    program = """
        GREETING = "hello"

        def decorate(text):
            return f"<{GREETING} {text}>"

        @ray.remote
        def greet(name):
            return decorate(name)

        ray.init(num_cpus=1)
        print(ray.get(greet.remote("world")))
    """
    assert run_script(tmp_path / "program.py", program) == "<hello world>\n"


def test_globals_are_copied_by_value(tmp_path: Path) -> None:
    program = """
        count = 1

        @ray.remote
        def change():
            global count
            count += 1
            return count

        ray.init(num_cpus=1)
        print(ray.get(change.remote()), count)
    """
    assert run_script(tmp_path / "program.py", program) == "2 1\n"


def test_a_class_of_main_with_inheritance(tmp_path: Path) -> None:
    program = """
        class Animal:
            def speak(self):
                return f"{type(self).__name__} says {self.sound()}"

        class Dog(Animal):
            def sound(self):
                return "woof"

        @ray.remote
        def speak(animal):
            return animal.speak(), isinstance(animal, Animal)

        @ray.remote
        def make():
            return Dog()

        ray.init(num_cpus=1)
        print(*ray.get(speak.remote(Dog())), isinstance(ray.get(make.remote()), Dog))
    """
    assert run_script(tmp_path / "program.py", program) == "Dog says woof True True\n"


def test_an_exception_class_of_main_is_caught(tmp_path: Path) -> None:
    program = """
        class Mine(Exception):
            pass

        @ray.remote
        def fail():
            raise Mine("mine")

        ray.init(num_cpus=1)
        try:
            ray.get(fail.remote())
        except Mine as error:
            print("caught", error.cause.args)
    """
    assert run_script(tmp_path / "program.py", program) == "caught ('mine',)\n"


def test_dataclasses_and_enums_of_main_keep_their_identity(tmp_path: Path) -> None:
    program = """
        import dataclasses
        import enum

        class Colour(enum.Enum):
            RED = 1

        @dataclasses.dataclass
        class Car:
            colour: Colour

        @ray.remote
        def paint(car):
            assert car.colour is Colour.RED
            return Car(Colour.RED)

        ray.init(num_cpus=1)
        car = ray.get(paint.remote(Car(Colour.RED)))
        print(car == Car(Colour.RED), car.colour is Colour.RED)
    """
    assert run_script(tmp_path / "program.py", program) == "True True\n"


def test_instances_of_classes_with_slots_come_back(tmp_path: Path) -> None:
    program = """
        import abc
        import dataclasses
        import typing

        @dataclasses.dataclass(slots=True)
        class Car:
            wheels: int

        @dataclasses.dataclass(slots=True)
        class Truck(Car):
            load: int = 0

        class Old(abc.ABC):
            __slots__ = ("__hidden", "shown", "__weakref__")
            def __init__(self): self.__hidden = self.shown = 1
            def both(self): return self.__hidden, self.shown

        class Pair(typing.NamedTuple):
            x: int

        @ray.remote
        def through(x):
            assert not hasattr(x, "__dict__")
            return x

        ray.init(num_cpus=1)
        for value in (Car(4), Truck(6, load=3), Pair(1)):
            assert ray.get(through.remote(value)) == value
        print(ray.get(through.remote(Old())).both(), ray.get(ray.remote(lambda: Car(3)).remote()))
    """
    assert run_script(tmp_path / "program.py", program) == "(1, 1) Car(wheels=3)\n"


def test_an_actor_class_of_main(tmp_path: Path) -> None:
    program = """
        STEP = 5

        @ray.remote
        class Counter:
            def __init__(self):
                self.n = 0
            def add(self):
                self.n += STEP
                return self.n

        if __name__ == "__main__":
            counter = Counter.remote()
            print(ray.get([counter.add.remote() for _ in range(3)]))
    """
    assert run_script(tmp_path / "program.py", program) == "[5, 10, 15]\n"


@beamlet_only
def test_structs_of_the_script(tmp_path: Path) -> None:
    program = """
        import msgspec
        import beamlet as ray

        class Point(msgspec.Struct, frozen=True):
            x: int
            tags: list = []

            def moved(self, by):
                return Point(self.x + by, self.tags)

        @ray.remote
        def move(point, by):
            return point.moved(by)

        @ray.remote
        class Keeper:
            def __init__(self, point):
                self.point = point

            def get(self):
                return self.point

        def fail(point):
            raise LookupError(point)

        ray.init(num_cpus=1)
        point = ray.get(move.remote(ray.put(Point(1)), 2))
        kept = ray.get(Keeper.remote(point).get.remote())
        try:
            ray.get(ray.remote(fail).remote(point))
        except LookupError as error:
            print(point, type(kept) is Point, error.cause.args == (Point(3),))
    """
    assert run_script(tmp_path / "program.py", program) == "Point(x=3, tags=[]) True True\n"


def test_a_module_next_to_the_script(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("VALUE = 7\ndef double(x):\n    return 2 * x\n")
    program = """
        import neighbour

        @ray.remote
        def use():
            return neighbour.double(neighbour.VALUE)

        ray.init(num_cpus=1)
        print(ray.get(use.remote()), ray.get(ray.remote(neighbour.double).remote(4)))
    """
    assert run_script(tmp_path / "program.py", program) == "14 8\n"


def test_a_package_next_to_the_script_imported_inside_a_task(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "part.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\n"
    )
    program = """
        @ray.remote
        def make():
            from package.part import P
            return P(3)

        ray.init(num_cpus=1)
        from package.part import P
        print(ray.get(make.remote()) == P(3))
    """
    assert run_script(tmp_path / "program.py", program) == "True\n"


def test_a_script_started_from_another_folder(tmp_path: Path) -> None:
    import subprocess
    import sys

    from conformance import DEADLINE_S, environment

    (tmp_path / "neighbour.py").write_text("VALUE = 7\n")
    (tmp_path / "program.py").write_text(
        "import beamlet as ray\nimport neighbour\nray.init(num_cpus=1)\n"
        "print(ray.get(ray.remote(lambda: __import__('neighbour').VALUE).remote()))\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        cwd="/",
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "7\n"), done.stderr


@beamlet_only  # Ray's workers know only the script's own folder
def test_a_library_that_imports_ray(tmp_path: Path) -> None:
    """As the porting page has it: its module is imported by workers, too, and they find no Ray."""
    (tmp_path / "library.py").write_text(
        textwrap.dedent("""
            import ray
            from ray.util.queue import Queue

            def double(x): return 2 * x

            @ray.remote
            class Doubles:
                def get(self, x): return ray.get(ray.remote(double).remote(x))
        """)
    )
    program = """
        import sys
        import beamlet
        sys.modules["ray"] = beamlet
        import library
        import ray.exceptions
        import beamlet.util.queue
        print(ray.get(library.Doubles.remote().get.remote(2)), ray.get(ray.remote(library.double).remote(1)))
        print(library.Queue is beamlet.util.queue.Queue, ray.exceptions is beamlet.exceptions)
        print(beamlet.exceptions.__spec__.name, beamlet.exceptions.__name__)
    """
    assert run_script(tmp_path / "program.py", program) == (
        "4 2\nTrue True\nbeamlet.exceptions beamlet.exceptions\n"
    )


def test_a_path_added_by_the_program(tmp_path: Path) -> None:
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "added.py").write_text("def value():\n    return 'from an added path'\n")
    program = """
        import sys, os
        sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "library"))
        import added

        ray.init(num_cpus=1)
        print(ray.get(ray.remote(added.value).remote()))
    """
    assert run_script(tmp_path / "program.py", program) == "from an added path\n"


def test_a_redefined_function_uses_the_new_code(tmp_path: Path) -> None:
    program = """
        ray.init(num_cpus=1)
        for value in ("old", "new"):
            namespace = {"ray": ray}
            exec(f"@ray.remote\\ndef f():\\n    return {value!r}", namespace)
            print(ray.get(namespace["f"].remote()))
    """
    assert run_script(tmp_path / "program.py", program) == "old\nnew\n"


def test_python_dash_c() -> None:
    import subprocess
    import sys

    from conformance import DEADLINE_S, environment

    code = "import beamlet as ray\nf = lambda: 'from -c'\nprint(ray.get(ray.remote(f).remote()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "from -c\n"), done.stderr


def test_a_script_that_runpy_runs(tmp_path: Path) -> None:
    """Its module is called "<run_path>": no worker can import that."""
    (tmp_path / "script.py").write_text(
        textwrap.dedent("""
            import beamlet as ray

            def helper(): return 7

            @ray.remote
            class Helped:
                def get(self): return helper()

            ray.init(num_cpus=1)
            print(ray.get([ray.remote(helper).remote(), Helped.remote().get.remote()]))
        """)
    )
    program = f"import runpy\nrunpy.run_path({str(tmp_path / 'script.py')!r})"
    assert run_script(tmp_path / "program.py", program) == "[7, 7]\n"


def test_typed_at_a_prompt() -> None:
    import subprocess
    import sys

    from conformance import DEADLINE_S, environment

    typed = "\n".join(
        [
            "import beamlet as ray",
            "FACTOR = 4",
            "@ray.remote",
            "def f(x):",
            "    return Box(x * FACTOR)",
            "",
            "class Box:",
            "    def __init__(self, x):",
            "        self.x = x",
            "",
            "print(ray.get(f.remote(2)).x)",
            "FACTOR = 5",
            "@ray.remote",
            "def f(x):",
            "    return x * FACTOR",
            "",
            "print(ray.get(f.remote(2)))",
            "",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=typed,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.stdout == "8\n10\n", done.stderr
