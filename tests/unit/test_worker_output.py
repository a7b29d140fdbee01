"""``sys.stdout`` and ``sys.stderr`` of a worker, to programs that expect Python's own."""

from __future__ import annotations

import pickle
import sys

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
