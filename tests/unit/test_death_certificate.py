"""A certificate names the true cause: who or what ended the process, and what it said last."""

from __future__ import annotations

import msgspec
import pytest

from beamlet.base.death import DeathCertificate


def certificate(**known: object) -> DeathCertificate:
    return DeathCertificate(worker_id=b"w", node_id=b"n", pid=4711, **known)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"exit_code": 3}, "exited with code 3"),
        ({"signal": 9}, "signal 9 (SIGKILL) sent from outside beamlet"),
        ({"signal": 11}, "signal 11, SIGSEGV"),
        ({"signal": 9, "oom_kill": True}, "memory ran out"),
        ({"signal": 9, "killed_by": "ray.kill at app.py:3"}, "by beamlet (ray.kill at app.py:3)"),
        ({"signal": 63}, "signal 63"),
        ({}, "nobody saw"),
    ],
)
def test_the_cause(known: dict[str, object], says: str) -> None:
    text = certificate(**known).describe()
    assert says in text
    assert "process 4711" in text


def test_what_it_was_doing_and_its_last_words() -> None:
    text = certificate(
        exit_code=1, task_name="f", peak_rss_bytes=3 << 20, last_words=("one", "two")
    ).describe()
    assert "while running f" in text
    assert "peak memory 3 MiB" in text
    assert text.endswith("one\n  two")


def test_it_travels_in_messages() -> None:
    sent = certificate(signal=9, uptime_s=1.5, last_words=("bye",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sent), type=DeathCertificate) == sent
