"""A ``__del__`` calls the API wherever the garbage collector runs it; calls at the end of the stack."""

from __future__ import annotations

from pathlib import Path

from conformance import beamlet_only, run_script

BEGIN = """
import gc, time
from beamlet.api import backend

ray.init(num_cpus=2)

@ray.remote
def square(i, *rest):
    return i * i

@ray.remote
class Log:
    def __init__(self):
        self.n = 0
    def note(self):
        self.n += 1
    def count(self):
        return self.n

log = Log.remote()
core = backend.current()

def nothing_is_left():
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        ray.get(square.remote(1))
        with core.lock:
            core.releases.drain()
            left = len(core.refs.objects), len(core.submission.tasks)
        if left == (1, 0):  # the actor's handle
            return True
        time.sleep(0.02)
    return left
"""
FINALIZERS = (
    BEGIN
    + """
died = 0

class Loop:
    def __init__(self, ref):
        self.me, self.ref = self, ref
    def __del__(self):
        global died
        died += 1
        log.note.remote()
        ray.put(b"small")
        ray.cancel(square.remote(1, self.ref))

until = time.monotonic() + 2
while time.monotonic() < until:
    refs = []
    for i in range(50):
        gc.set_threshold(1 + (7 * i + len(refs)) % 60, 1, 1)
        Loop(ray.put(i))
        refs.append(square.remote(i, ray.put(i)))
    assert ray.get(refs, timeout=20) == [i * i for i in range(50)]
gc.set_threshold(0)
gc.collect()
deadline = time.monotonic() + 20
while ray.get(log.count.remote()) != died and time.monotonic() < deadline:
    time.sleep(0.01)
assert ray.get(log.count.remote()) == died > 100, died
refs = None
assert nothing_is_left() is True, nothing_is_left()
ray.shutdown()
print("whole")
"""
)
THE_END_OF_THE_STACK = (
    BEGIN
    + """
def deeper(refs):
    refs.append(square.remote(3))
    ray.put([4])
    log.note.remote()
    deeper(refs)

def deepest():
    ray.get(square.remote(3), timeout=20)
    deepest()

for _ in range(5):
    refs = []
    try:
        deeper(refs)
    except RecursionError:
        pass
    assert ray.get(refs, timeout=20) == [9] * len(refs)
try:
    deepest()
except RecursionError:
    pass
assert not core.lock.is_held_here
refs = None
assert nothing_is_left() is True, nothing_is_left()
ray.shutdown()
print("whole")
"""
)


@beamlet_only
def test_finalizers_that_call_the_api_wherever_they_run(tmp_path: Path) -> None:
    assert run_script(tmp_path / "script.py", FINALIZERS, timeout_s=60.0) == "whole\n"


@beamlet_only
def test_calls_at_the_end_of_the_stack_are_made_or_not_made(tmp_path: Path) -> None:
    assert run_script(tmp_path / "script.py", THE_END_OF_THE_STACK, timeout_s=60.0) == "whole\n"
