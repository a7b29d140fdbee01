"""The leak checks themselves: they must see each kind of leftover, and wait for what is about to go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.leaks import leaving_nothing_behind
from support.waiting import wait_until

SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.communicate(b"\n", timeout=10)


def test_a_leftover_process_is_named(request: pytest.FixtureRequest) -> None:
    with (
        pytest.raises(pytest.fail.Exception, match=r"left behind after 0\.0 s:\n(.|\n)*input\(\)"),
        leaving_nothing_behind(settle_s=0.0),
    ):
        request.getfixturevalue("child")


def test_an_open_descriptor_is_named() -> None:
    with (
        pytest.raises(pytest.fail.Exception, match=r"fd .* → /dev/null"),
        leaving_nothing_behind(settle_s=0.0),
    ):
        descriptor = os.open("/dev/null", os.O_RDONLY)
    os.close(descriptor)


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm here")
def test_shared_memory_of_ours_is_named() -> None:
    leftover = SHARED_MEMORY / f"beamlet-leak-check-{os.getpid()}"
    with pytest.raises(pytest.fail.Exception, match=leftover.name), leaving_nothing_behind(settle_s=0.0):
        leftover.touch()
    leftover.unlink()


def test_what_goes_in_time_is_no_leak() -> None:
    with leaving_nothing_behind(settle_s=10.0):
        descriptor = os.open("/dev/null", os.O_RDONLY)
        threading.Timer(0.05, os.close, [descriptor]).start()


def test_clean_code_passes_at_once() -> None:
    with leaving_nothing_behind(settle_s=0.0):
        pass


def test_waiting_is_bounded_and_says_for_what() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"not within 0\.0 s: the moon"):
        wait_until(lambda: False, 0.0, "the moon")
    wait_until(lambda: True, 0.0, "nothing")
