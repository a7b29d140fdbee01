"""``sys.stdout`` and ``sys.stderr`` of a worker, to programs that expect Python's own."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading

import pytest

from beamlet.core_worker.executing.output import Output


def test_programs_may_configure_it() -> None:
    output = Output(lambda: "f")
    output.stdout.reconfigure(encoding="utf-8", errors="replace", line_buffering=True)
    with pytest.raises(TypeError, match="'buffering'"):
        output.stdout.reconfigure(buffering=True)


def test_it_has_the_name_and_mode_of_a_standard_stream() -> None:
    output = Output(lambda: "f")
    assert (output.stdout.name, output.stderr.name) == ("<stdout>", "<stderr>")
    assert output.stdout.mode == "w"


def test_where_it_arrives_it_is_the_stream_of_that_process() -> None:
    output = Output(lambda: "f")
    assert pickle.loads(pickle.dumps(output.stdout)) is sys.stdout
    assert pickle.loads(pickle.dumps(output.stderr)) is sys.stderr


def test_a_fork_prints_though_another_thread_was_printing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    reading, writing = os.pipe()
    output = Output(lambda: "f")
    output.install()
    output.stdout._fd = writing
    output.stdout.write("the parent's, unfinished")
    holds, may_end = threading.Event(), threading.Event()

    def print_slowly() -> None:
        with output.stdout._lock:
            holds.set()
            may_end.wait(30.0)

    printing = threading.Thread(target=print_slowly)
    printing.start()
    holds.wait(30.0)
    child = os.fork()
    if not child:
        signal.alarm(10)  # it would wait for ever
        output.stdout.write("the child's\n")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    may_end.set()
    printing.join()
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read()
    assert said.endswith(b"the child's\n")
    assert b"unfinished" not in said
