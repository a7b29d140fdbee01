"""Ctrl-C at any moment: the wait ends, and nothing that arrived meanwhile is lost."""

from __future__ import annotations

from pathlib import Path

from conformance import run_script

SCRIPT = """
import os, random, signal, threading, time
import beamlet as ray

ray.init(num_cpus=1)

@ray.remote
class Echo:
    def echo(self, i):
        return i

echo = Echo.remote()
ray.get(echo.echo.remote(0))
randomness = random.Random(7)
stop = threading.Event()

def interrupt():
    while not stop.wait(randomness.uniform(0.01, 0.03)):
        os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
rounds = interrupts = 0
refs = None
until = time.monotonic() + 3
while time.monotonic() < until:
    try:
        while time.monotonic() < until:
            if refs is None:
                submitted = [echo.echo.remote(i) for i in range(300)]
                refs = submitted
            assert ray.get(refs, timeout=20) == list(range(300))
            rounds, refs = rounds + 1, None
    except KeyboardInterrupt:
        interrupts += 1
signal.signal(signal.SIGINT, signal.SIG_IGN)
stop.set()
print("survived", rounds > 0 and interrupts > 10)
"""


def test_answers_survive_interrupts_at_random_moments(tmp_path: Path) -> None:
    assert "survived True" in run_script(tmp_path / "script.py", SCRIPT)
