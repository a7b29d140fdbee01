"""Loggers of a job: whose level counts, who writes, what JSON lines hold, and that nothing is left behind."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest

from beamlet.api import driver_logging
from beamlet.api.driver_logging import logging_of, tell_start
from beamlet.api.init_options import checked
from beamlet.api.logging_config import LoggingConfig
from beamlet.core_worker import job_logging
from beamlet.core_worker.job_logging import apply, effective_level
from beamlet.protocol.node import JobLogging

FACTS = {"job_id": "01", "actor_id": ""}


class Root(logging.RootLogger):
    """A root logger that pytest does not find."""

    def addHandler(self, hdlr: logging.Handler) -> None:
        if not type(hdlr).__module__.startswith("_pytest"):
            super().addHandler(hdlr)


@pytest.fixture
def stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], str]]:
    """What loggers write that are as a new process has them."""
    root, own = Root(logging.WARNING), logging.Logger("beamlet")
    manager = logging.Manager(root)
    own.parent, own.manager, root.manager = root, manager, manager  # type: ignore[attr-defined]
    manager.loggerDict["beamlet"] = own
    monkeypatch.setattr(logging, "root", root)
    monkeypatch.setattr(logging.Logger, "manager", manager)
    for module in (job_logging, driver_logging):
        monkeypatch.setattr(module, "logger", own)
    yield lambda: capsys.readouterr().err
    job_logging._undo()


def test_without_any_set_up_lines_from_info_on_go_to_stderr(stderr: Callable[[], str]) -> None:
    apply(logging_of(checked(None, {}, {})), lambda: FACTS)
    logging.getLogger("beamlet").info("started")
    logging.getLogger("beamlet").debug("detail")
    (line,) = stderr().splitlines()
    assert line.endswith("\tINFO started")


@pytest.mark.parametrize(
    ("options", "env", "own", "root", "level"),
    [
        ({"logging_level": "warning"}, {}, 0, None, logging.WARNING),
        ({"logging_level": logging.DEBUG}, {"RAY_LOGGER_LEVEL": "error"}, 0, None, logging.DEBUG),
        ({}, {"RAY_LOGGER_LEVEL": "error"}, 0, None, logging.ERROR),
        ({}, {"BEAMLET_LOGGER_LEVEL": "debug", "RAY_LOGGER_LEVEL": "error"}, 0, None, logging.DEBUG),
        ({}, {}, logging.ERROR, None, logging.ERROR),
        ({}, {}, 0, logging.WARNING, logging.WARNING),
        ({}, {}, 0, logging.DEBUG, logging.DEBUG),
        ({"logging_config": LoggingConfig(log_level="ERROR")}, {}, 0, None, logging.ERROR),
        ({}, {}, 0, None, logging.INFO),
    ],
)
def test_whose_level_counts(
    stderr: Callable[[], str],
    options: dict[str, object],
    env: dict[str, str],
    own: int,
    root: int | None,
    level: int,
) -> None:
    logging.getLogger("beamlet").setLevel(own)
    if root is not None:
        logging.basicConfig(level=root, stream=io.StringIO())
    assert logging_of(checked(None, options, env)).level == level


def test_a_level_that_an_earlier_job_set_is_not_the_users(stderr: Callable[[], str]) -> None:
    apply(JobLogging(level=logging.ERROR), lambda: FACTS)
    assert effective_level(None) == logging.INFO


def test_a_program_with_handlers_of_its_own_writes_itself(stderr: Callable[[], str]) -> None:
    theirs = io.StringIO()
    apply(JobLogging(), lambda: FACTS)
    logging.basicConfig(level=logging.INFO, stream=theirs)  # after us
    logging.getLogger("beamlet").info("once")
    assert theirs.getvalue() == "INFO:beamlet:once\n"
    assert stderr() == ""


def test_json_lines_hold_ids_and_what_was_added(stderr: Callable[[], str]) -> None:
    config = LoggingConfig(encoding="JSON", additional_log_standard_attrs=["name"])
    apply(logging_of(checked(None, {"logging_config": config}, {})), lambda: FACTS)
    try:
        raise KeyError("oh")
    except KeyError:
        logging.getLogger("mine").exception("it %s", "failed", extra={"user": "me"})
    row = json.loads(stderr())
    assert (row["message"], row["levelname"], row["name"], row["user"]) == (
        "it failed",
        "ERROR",
        "mine",
        "me",
    )
    assert row["job_id"] == "01"
    assert "actor_id" not in row
    assert "KeyError: 'oh'" in row["exc_text"]


def test_text_lines_end_with_ids(stderr: Callable[[], str]) -> None:
    apply(logging_of(checked(None, {"logging_config": LoggingConfig()}, {})), lambda: FACTS)
    logging.getLogger("mine").info("text")
    assert "-- text job_id=01 timestamp_ns=" in stderr()


def test_loggers_can_be_left_alone(stderr: Callable[[], str]) -> None:
    apply(logging_of(checked(None, {"configure_logging": False}, {})), lambda: FACTS)
    own = logging.getLogger("beamlet")
    assert (own.level, own.handlers) == (logging.NOTSET, [])


def test_the_start_line_says_what_there_is(stderr: Callable[[], str]) -> None:
    apply(JobLogging(), lambda: FACTS)
    tell_start({"CPU": 2.0, "GPU": 1.0, "memory": 2**31, "object_store_memory": 2**30}, "/logs")
    assert stderr().endswith(
        "Started a local Beamlet cluster: 2 CPUs, 1 GPU, 2.0 GiB of memory, 1.0 GiB of object store. "
        "Logs: /logs\n"
    )


def test_what_is_given_in_vain_is_said() -> None:
    given = checked(None, {"include_dashboard": True, "_temp_dir": "/x", "labels": {}}, {})
    assert given.remarks() == [
        "init(include_dashboard=…) has no effect in this release: there is no dashboard; `beamlet status` "
        "shows what it would.",
        "init(_temp_dir=…) has no effect in this release: set the environment variable BEAMLET_TMPDIR "
        "instead.",
    ]
    assert checked(None, {"include_dashboard": False, "dashboard_port": 8265}, {}).remarks() == []


def test_what_most_programs_ask_for_is_there_before_the_fork(
    stderr: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set up by each worker it costs that the copies of 50 pages."""
    job_logging.apply_ahead(JobLogging())
    with monkeypatch.context() as patch:
        patch.setattr(job_logging, "_undo", lambda: pytest.fail("it is set up again"))
        apply(logging_of(checked(None, {}, {})), lambda: FACTS)
    logging.getLogger("beamlet").info("one")
    for _ in range(2):
        apply(JobLogging(), lambda: FACTS)  # the next jobs of this process
        logging.getLogger("beamlet").info("more")
    assert [line.rpartition("\t")[2] for line in stderr().splitlines()] == [
        "INFO one",
        "INFO more",
        "INFO more",
    ]


def test_whoever_asks_for_something_else_gets_that_alone(stderr: Callable[[], str]) -> None:
    job_logging.apply_ahead(JobLogging())
    apply(JobLogging(level=logging.ERROR, format="mine: %(message)s"), lambda: FACTS)
    logging.getLogger("beamlet").info("unimportant")
    logging.getLogger("beamlet").error("important")
    assert stderr() == "mine: important\n"
    apply(JobLogging(configure=False), lambda: FACTS)
    assert not logging.getLogger("beamlet").handlers
