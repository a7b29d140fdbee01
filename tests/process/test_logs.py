"""What workers print: at the driver, whole, in order, before the result, and said by whom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conformance import DEADLINE_S, beamlet_only, run_script, start_script

PREFIX = re.compile(r"\x1b\[[0-9;]*m")


def lines_of(out: str) -> list[str]:
    return PREFIX.sub("", out).splitlines()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "program.py"


def test_what_a_task_prints_arrives_with_its_name_and_pid(path: Path) -> None:
    program = """
        import os, time
        @ray.remote
        def talk():
            print("hello from a worker")
            return os.getpid()
        ray.init(num_cpus=1)
        print("pid", ray.get(talk.remote()))
        time.sleep(1 if "ray" in ray.__name__ and ray.__name__ != "beamlet" else 0)
    """
    lines = lines_of(run_script(path, program))
    pid = next(line for line in lines if line.startswith("pid ")).split()[1]
    assert f"(talk pid={pid}) hello from a worker" in lines


def test_what_an_actor_prints_arrives_with_its_class(path: Path) -> None:
    program = """
        import time
        @ray.remote
        class Speaker:
            def talk(self):
                print("hello from an actor")
        ray.init(num_cpus=1)
        speaker = Speaker.remote()
        ray.get(speaker.talk.remote())
        time.sleep(1 if ray.__name__ != "beamlet" else 0)
    """
    assert re.search(r"\(Speaker pid=\d+\) hello from an actor", PREFIX.sub("", run_script(path, program)))


def test_log_to_driver_false_keeps_workers_quiet(path: Path) -> None:
    program = """
        ray.init(num_cpus=1, log_to_driver=False)
        ray.get(ray.remote(lambda: print("unheard")).remote())
        print("end")
    """
    assert "unheard" not in run_script(path, program)


@beamlet_only
def test_output_arrives_before_get_returns(path: Path) -> None:
    program = """
        @ray.remote
        def talk(i):
            print("worker", i)
        ray.init(num_cpus=1)
        for i in range(20):
            ray.get(talk.remote(i))
            print("driver", i, flush=True)
    """
    lines = [line.split(") ")[-1] for line in lines_of(run_script(path, program))]
    assert lines == [f"{who} {i}" for i in range(20) for who in ("worker", "driver")]


@beamlet_only
def test_nothing_is_lost_of_much_output(path: Path) -> None:
    program = """
        @ray.remote
        def talk():
            for i in range(20000):
                print(f"line {i} " + "x" * 50)
        ray.init(num_cpus=1)
        ray.get(talk.remote())
    """
    lines = [line for line in lines_of(run_script(path, program)) if "line " in line]
    assert [int(line.split("line ")[1].split()[0]) for line in lines] == list(range(20000))


@beamlet_only
def test_the_same_line_from_many_workers_is_not_swallowed(path: Path) -> None:
    program = """
        @ray.remote
        def talk():
            print("the same line")
        ray.init(num_cpus=2)
        ray.get([talk.remote() for _ in range(50)])
    """
    assert run_script(path, program).count("the same line") == 50


@beamlet_only
def test_the_last_words_of_a_worker_that_dies_arrive(path: Path) -> None:
    program = """
        import os, sys
        @ray.remote(max_retries=0)
        def dies():
            print("last words")
            sys.stdout.flush()
            os._exit(1)
        ray.init(num_cpus=1)
        try:
            ray.get(dies.remote())
        except ray.exceptions.WorkerCrashedError:
            print("crashed", flush=True)
    """
    lines = [line.split(") ")[-1] for line in lines_of(run_script(path, program))]
    assert lines == ["last words", "crashed"]


@beamlet_only
def test_output_written_by_a_child_process_arrives(path: Path) -> None:
    program = """
        import subprocess
        @ray.remote
        def talk():
            subprocess.run(["echo", "from a child"], check=True)
        ray.init(num_cpus=1)
        ray.get(talk.remote())
    """
    lines = run_script(path, program).splitlines()
    (line,) = [line for line in lines if "from a child" in line]
    assert line.startswith("(talk pid=")


@beamlet_only
def test_output_of_child_processes_has_the_name_of_who_runs_and_no_neighbours(path: Path) -> None:
    program = """
        import os, subprocess
        @ray.remote
        def printing():
            print("50%", end="", flush=True)
            os.write(1, b" and C")
        @ray.remote
        def other():
            subprocess.run(["echo", "child of a task"], check=True)
        @ray.remote
        class Actor:
            def talk(self):
                subprocess.run(["echo", "child of an actor"], check=True)
        ray.init(num_cpus=1)
        for _ in range(2):
            ray.get([printing.remote(), other.remote()])
        actor = Actor.remote()
        ray.get(actor.talk.remote())
    """
    lines = run_script(path, program).splitlines()
    said = sorted((line.partition(" pid=")[0], line.partition(") ")[2]) for line in lines)
    assert said == [
        ("(Actor", "child of an actor"),
        *[("(other", "child of a task")] * 2,
        *[("(printing", "50% and C")] * 2,
    ]


@beamlet_only
def test_a_line_without_an_end_arrives(path: Path) -> None:
    program = """
        @ray.remote
        def talk():
            print("no newline", end="")
        ray.init(num_cpus=1)
        ray.get(talk.remote())
    """
    assert "no newline" in run_script(path, program)


@beamlet_only
def test_text_that_is_not_ascii_arrives(path: Path) -> None:
    program = """
        @ray.remote
        def talk():
            print("naïve ☃")
        ray.init(num_cpus=1)
        ray.get(talk.remote())
    """
    assert "naïve ☃" in run_script(path, program)


@beamlet_only
def test_stderr_arrives_on_stderr(path: Path) -> None:
    from conformance import DEADLINE_S, start_script

    path.write_text(
        "import beamlet as ray, sys\n"
        "@ray.remote\ndef talk():\n    print('to stderr', file=sys.stderr)\n"
        "ray.init(num_cpus=1)\nray.get(talk.remote())\n"
    )
    out, err = start_script(path).communicate(timeout=DEADLINE_S)
    assert "to stderr" in err
    assert "to stderr" not in out


def test_a_program_goes_on_though_nobody_reads_what_its_workers_print(path: Path) -> None:
    """As with a pager, or after Ctrl-S."""
    path.write_text(
        "import beamlet as ray, os, sys, threading\n"
        "threading.Timer(20, os._exit, (3,)).start()\n"
        "@ray.remote\ndef talk():\n    print('x' * 500_000)\n"
        "@ray.remote\ndef after(talked):\n    pass\n"
        "@ray.remote\nclass Actor:\n    def talk(self):\n        print('x' * 500_000)\n"
        "    def done(self):\n        return 1\n"
        "ray.init(num_cpus=2)\nactor = Actor.remote()\ntalked = talk.remote()\nactor.talk.remote()\n"
        "for _ in range(20):\n    ray.get(actor.done.remote())\n"
        "print('went on', file=sys.stderr, flush=True)\n"
        "ray.get(talked)\nos._exit(0)\n"
    )
    with start_script(path) as program:
        assert program.stderr is not None
        assert any("went on" in line for line in program.stderr)
        out, _ = program.communicate(timeout=DEADLINE_S)
        assert out.count("x") >= 500_000, "it comes when somebody reads it"


def test_results_of_tasks_that_print_come_though_nobody_reads_it(path: Path) -> None:
    """Each waited for its output to be shown, and so did whoever wanted it, for ever."""
    path.write_text(
        "import beamlet as ray, os, sys, threading\n"
        "threading.Timer(30, os._exit, (3,)).start()\n"
        "@ray.remote\ndef talk(i):\n    print('x' * 100_000)\n    return i\n"
        "ray.init(num_cpus=2)\n"
        "assert ray.get([talk.remote(i) for i in range(20)]) == list(range(20))\n"
        "print('got them', file=sys.stderr, flush=True)\nos._exit(0)\n"
    )
    with start_script(path) as program:
        assert program.stderr is not None
        assert any("got them" in line for line in program.stderr)


@beamlet_only
@beamlet_only
def test_a_driver_that_is_stopped_keeps_its_cluster_whatever_its_workers_print(path: Path) -> None:
    """Ctrl-Z: what they print fills the pipes, then waits; it filled 256 MiB, and the driver was cut off."""
    out = run_script(
        path,
        """
        import os, signal

        @ray.remote(num_cpus=0)
        class Printer:
            def say(self, number):
                print("x" * 60_000)
                return number

        @ray.remote(num_cpus=0)
        class Boss:
            def run(self, driver):
                printer = Printer.remote()
                os.kill(driver, signal.SIGSTOP)
                for number in range(6000):  # 340 MiB
                    ref = printer.say.remote(number)
                    if not ray.wait([ref], timeout=6)[0]:
                        break
                os.kill(driver, signal.SIGCONT)
                return ray.get(ref), number

        ray.init(num_cpus=2)
        boss = Boss.remote()
        result, number = ray.get(boss.run.remote(os.getpid()), timeout=60)
        assert result == number < 2000, "printing waited for the driver"
        """,
    )
    assert out.count("x") >= 32 << 20, "what was printed comes when it goes on"


def test_dropping_a_new_actor_prints_nothing(path: Path) -> None:
    from conformance import DEADLINE_S, start_script

    path.write_text(
        "import beamlet as ray\n@ray.remote\nclass A:\n    pass\nray.init(num_cpus=1)\nA.remote()\n"
        "ray.get(ray.remote(lambda: 1).remote())\nray.shutdown()\n"
    )
    assert start_script(path).communicate(timeout=DEADLINE_S) == ("", "")


LOGGING = """
import logging
@ray.remote
def log():
    logging.getLogger("beamlet").info("an info")
    logging.getLogger("beamlet").warning("a warning")
    logging.getLogger("theirs").info("of theirs")
ray.get(log.remote())
"""


def program_errors(path: Path, source: str, **env: str) -> str:
    path.write_text("import beamlet as ray\n" + source)
    process = start_script(path, **{"BEAMLET_LOGGER_LEVEL": "", **env})
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    return err


@beamlet_only
def test_the_start_is_one_line_and_workers_speak_from_the_same_level(path: Path) -> None:
    err = program_errors(path, "ray.init(num_cpus=1)" + LOGGING)
    assert err.count("Started a local Beamlet cluster: 1 CPU,") == 1
    assert err.count("an info") == err.count("a warning") == 1
    assert "of theirs" not in err


@beamlet_only
def test_the_level_counts_in_driver_and_workers(path: Path) -> None:
    err = program_errors(path, 'ray.init(num_cpus=1, logging_level="warning")' + LOGGING)
    assert [line for line in err.splitlines() if "a warning" not in line] == []
    assert err.count("a warning") == 1
    assert program_errors(path, "ray.init(num_cpus=1)" + LOGGING, RAY_LOGGER_LEVEL="error") == ""


@beamlet_only
def test_a_logging_config_makes_json_in_driver_and_workers(path: Path) -> None:
    source = 'ray.init(num_cpus=1, logging_config=ray.LoggingConfig(encoding="JSON"))' + LOGGING
    rows = [json.loads(line) for line in program_errors(path, source).splitlines()]
    of_theirs = next(row for row in rows if row["message"] == "of theirs")
    assert (of_theirs["task_name"], of_theirs["levelname"]) == ("log", "INFO")
    assert {row["message"] for row in rows} >= {"an info", "a warning", "of theirs"}


@beamlet_only
def test_what_the_end_of_a_program_leaves_undone_is_no_failure(path: Path) -> None:
    source = """
@ray.remote
def first(*_):
    time.sleep(60)
ray.init(num_cpus=1, logging_level="warning")
ref = first.remote(first.remote())
assert ray.wait([ref], timeout=0.2)[0] == []
"""
    assert program_errors(path, "import time" + source) == ""
