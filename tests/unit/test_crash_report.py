"""The report of a crash shows the user's frames, of all threads, and none of ours."""

from __future__ import annotations

import pytest

from beamlet.base.our_folder import OUR_FOLDER
from beamlet.raylet.crash_report import CrashReport

REPORT = f"""before
Fatal Python error: Segmentation fault

Thread 0x00007f36d559f6c0 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
  File "{OUR_FOLDER}rpc/turns.py", line 304 in _park
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Thread 0x00007f36d559f6c1 (most recent call first):
  File "/home/me/app.py", line 7 in watch
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f36d6a70b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/app.py", line 4 in seg
  File "{OUR_FOLDER}core_worker/executing/runner.py", line 121 in run_task
  File "{OUR_FOLDER}head/__main__.py", line 14 in <module>
  File "<frozen runpy>", line 88 in _run_code

Extension modules: msgspec._core (total: 1)
"""
SHOWN = """before
Fatal Python error: Segmentation fault
Thread 0x00007f36d559f6c1 (most recent call first):
  File "/home/me/app.py", line 7 in watch
Current thread 0x00007f36d6a70b80 (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/home/me/app.py", line 4 in seg
"""


def test_in_one_piece() -> None:
    assert CrashReport().lines(REPORT.encode()).decode() == SHOWN


@pytest.mark.parametrize("size", [1, 2, 5])
def test_in_pieces_of_some_lines(size: int) -> None:
    report, lines = CrashReport(), REPORT.encode().splitlines(keepends=True)
    pieces = [b"".join(lines[at : at + size]) for at in range(0, len(lines), size)]
    assert b"".join(map(report.lines, pieces)).decode() == SHOWN


def test_what_is_no_report_stays_as_it_is() -> None:
    text = f'\n  File "{OUR_FOLDER}x.py", line 1 in f\n\nThread 0x1\n'.encode()
    assert CrashReport().lines(text) == text
