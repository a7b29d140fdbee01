"""What users say and is too large for a message costs what they said, and nobody his process or cluster."""

from __future__ import annotations

from pathlib import Path

from conformance import beamlet_only, run_script

pytestmark = beamlet_only


def test_what_a_constructor_raised_is_told_however_large_it_is(tmp_path: Path) -> None:
    """It was a crash by a message that the head did not take, and with restarts one after the other."""
    source = """
import tempfile
ray.init(num_cpus=1)

@ray.remote(max_restarts=-1)
class Actor:
    def __init__(self, path):
        with open(path, "a") as file: file.write("made\\n")
        raise ValueError(bytes(40 << 20))
    def one(self): return 1

path = tempfile.mkdtemp() + "/made"
actor = Actor.remote(path)
for _ in range(2):
    try:
        ray.get(actor.one.remote(), timeout=30)
    except ray.exceptions.ActorDiedError as error:
        text = str(error)
        print(len(text) < 2 << 20, "ValueError: b'\\\\x00" in text, "only its text" in text)
print(open(path).read())
"""
    said = run_script(tmp_path / "p.py", source)
    assert said.split() == ["True", "True", "True"] * 2 + ["made"]


def test_what_no_message_holds_fails_alone(tmp_path: Path) -> None:
    """Arguments of constructors, errors among them, and environments: the driver keeps its cluster."""
    source = """
import time
try:
    ray.init(num_cpus=1, runtime_env={"env_vars": {"LARGE": "x" * (5 << 20)}})
except ValueError as error:
    print("init", str(error).rpartition(": ")[2])
ray.init(num_cpus=1)

@ray.remote
class Actor:
    def __init__(self, *args): pass
    def one(self): return 1

@ray.remote
def small(after_s):
    time.sleep(after_s)
    return bytes(90_000)

@ray.remote
def fails(): raise KeyError(bytes(120 << 20))

def tell(what, run):
    try:
        print(what, run())
    except Exception as error:
        print(what, type(error).__name__, "MiB are allowed" in str(error), "KeyError" in str(error))

ready = small.remote(0)
ray.get(ready)
tell("arguments", lambda: ray.get(Actor.remote(*[ready] * 1400).one.remote(), timeout=30))
tell("named", lambda: Actor.options(name="a").remote(*[ready] * 1400))
tell("late", lambda: ray.get(Actor.remote(*[small.remote(0.2)] * 1400).one.remote(), timeout=30))
tell("error", lambda: ray.get(Actor.remote(fails.remote()).one.remote(), timeout=30))
env = {"env_vars": {"LARGE": "x" * (113 << 20)}}
tell("task", lambda: ray.get(small.options(runtime_env=env).remote(0), timeout=30))
del ready
tell("fine", lambda: ray.get(Actor.options(name="a").remote().one.remote(), timeout=30))
"""
    assert run_script(tmp_path / "p.py", source).splitlines() == [
        "init its env_vars, sys.path and command line are too long",
        "arguments ActorDiedError True False",
        "named ValueError True False",
        "late ActorDiedError True False",
        "error ActorDiedError False True",
        "task RaySystemError True False",
        "fine 1",
    ]
