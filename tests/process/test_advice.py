"""Scripts with bad habits are told so, once, with line and cost; scripts without are left in peace."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from conformance import AGAINST_RAY, DEADLINE_S, start_script

pytestmark = pytest.mark.skipif(AGAINST_RAY, reason="Ray gives no advice")


def stderr_of(tmp_path: Path, source: str, **extra: str) -> str:
    """What a script writes to stderr; it must succeed."""
    script = tmp_path / "app.py"
    script.write_text("import beamlet as ray, time\nray.init(num_cpus=2)\n" + textwrap.dedent(source))
    process = start_script(script, **extra)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return err


SERIAL = """\
    @ray.remote
    def f(i):
        time.sleep(0.12)

    for i in range(15):
        ray.get(f.remote(i))
    """


def test_get_in_the_submitting_loop(tmp_path: Path) -> None:
    err = stderr_of(tmp_path, SERIAL)
    assert len(err.splitlines()) == 1, err
    assert re.search(r"app\.py:8: each get waits for the task submitted just before it, so 10 tasks ran", err)
    assert "s lost on 2 CPUs" in err


def test_advice_can_be_switched_off(tmp_path: Path) -> None:
    assert stderr_of(tmp_path, SERIAL, BEAMLET_ADVICE="0") == ""
    assert stderr_of(tmp_path, SERIAL, BEAMLET_COMPAT="ray") == ""


def test_a_loop_that_feeds_results_back_is_no_mistake(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        @ray.remote
        def step(x):
            time.sleep(0.12)
            return x * 0.9

        x = 1.0
        for _ in range(15):
            x = ray.get(step.remote(x))
        """,
    )
    assert err == ""


def test_calls_of_one_actor_are_serial_anyway(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        @ray.remote
        class A:
            def m(self, i):
                time.sleep(0.12)

        a = A.remote()
        for i in range(12):
            ray.get(a.m.remote(i))
        """,
    )
    assert err == ""


def test_tasks_that_are_too_small(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        @ray.remote
        def tiny(i):
            return i

        for _ in range(5):
            ray.get([tiny.remote(i) for i in range(8000)])
        """,
    )
    assert len(err.splitlines()) == 1, err
    assert re.search(
        r"app\.py:9: tiny took \d+ µs or less on average over [\d,]+ calls; \d+% of the time", err
    )


def test_the_same_large_argument_by_value(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        @ray.remote
        def use(data, i):
            return len(data)

        table = bytes(8_000_000)
        ray.get([use.remote(table, i) for i in range(8)])
        ref = ray.put(table)
        ray.get([use.remote(ref, i) for i in range(8)])
        """,
    )
    assert len(err.splitlines()) == 1, err
    assert "app.py:9: table (8 MB) was sent to use 5 times (40 MB). ref = beamlet.put(table) once" in err


def test_large_arguments_that_change_are_no_mistake(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        @ray.remote
        def use(data):
            return len(data)

        table = bytearray(8_000_000)
        for i in range(8):
            table[0] = i
            ray.get(use.remote(table))
        """,
    )
    assert err == ""


def test_a_reference_as_a_condition_warns_once_per_line(tmp_path: Path) -> None:
    err = stderr_of(
        tmp_path,
        """
        ref = ray.put(0)
        for _ in range(3):
            if ref:
                pass
        """,
    )
    assert "WARNING app.py:6: an ObjectRef is always true" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("time.sleep(1.8)", r"blocked its event loop for \d\.\d s in `time.sleep\(1.8\)` \(app\.py:\d+\)"),
        ("ray.get(slow.remote())", r"blocked its event loop for \d\.\d s in beamlet\.get \(app\.py:\d+\)"),
    ],
)
def test_blocking_an_event_loop_names_the_line(tmp_path: Path, line: str, said: str) -> None:
    err = stderr_of(
        tmp_path,
        f"""
        @ray.remote
        def slow():
            time.sleep(1.8)

        @ray.remote
        class A:
            async def bad(self):
                {line}

            async def ping(self):
                pass

        a = A.remote()
        ray.get(a.ping.remote())
        for _ in range(2):
            ray.get([a.bad.remote(), *[a.ping.remote() for _ in range(5)]])
        """,
    )
    assert len(err.splitlines()) == 1, err
    assert "A.bad " + re.search(said, err)[0] in err  # type: ignore[index]
    assert "5 other calls waited" in err
