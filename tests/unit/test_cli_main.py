"""The command line's own errors: near names, and pipes that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from beamlet.cli.main import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["statsu"], "did you mean 'status'?"),
        (["status", "--adress", "x"], "did you mean '--address'?"),
        (["stop", "--forse"], "did you mean '--force'?"),
        (["start", "--num-cpu", "2"], "did you mean '--num-cpus'?"),
    ],
)
def test_wrong_words_come_with_the_nearest_right_one(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_what_resembles_nothing_gets_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["zzz"])
    assert "did you mean" not in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    source = (
        "import sys; from beamlet.cli import main, status\n"
        "status.run = lambda options: print('x' * 1_000_000) or 0\n"
        "sys.exit(main.main(['status']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], stdout=writer, stderr=subprocess.PIPE, check=False, timeout=60
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
