"""What every test gets: stacks when something hangs, and on request proof that nothing was left behind."""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
import tempfile
from collections.abc import Generator, Iterator

import psutil
import pytest
from hypothesis import HealthCheck, settings

from support.leaks import describe_processes, leaving_nothing_behind

# The same examples on every run, so that a red run is about the change at hand; `HYPOTHESIS_PROFILE=explore`
# looks for new ones. Time limits are off: on a shared machine they measure the neighbours.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("repeatable", _UNTIMED, derandomize=True)
settings.register_profile("explore", _UNTIMED)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


# A root of its own for the sessions of this run: init() joins a cluster that `beamlet start --head`
# announced, and no test may meet one of the developer's, or of a run beside it.
_SESSIONS = tempfile.mkdtemp(prefix="bt-")
os.environ["BEAMLET_TMPDIR"] = _SESSIONS
for _name in ("BEAMLET_ADDRESS", "RAY_ADDRESS", "RAY_TMPDIR"):
    os.environ.pop(_name, None)


def pytest_configure() -> None:
    faulthandler.enable()
    # A shell starts what runs in the background deaf to Ctrl-C, and so would be the programs that tests
    # start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure() -> None:
    shutil.rmtree(_SESSIONS, ignore_errors=True)


# pytest's faulthandler_timeout dumps the stacks of all threads of this process; what it cannot show is what
# the processes below are doing, which is usually where a distributed hang sits.
@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    failed = call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception)
    if failed and (children := describe_processes(psutil.Process().children(recursive=True))):
        report.sections.append(("processes alive at the failure", children))
    return report


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Opt in per test: ``pytestmark = pytest.mark.usefixtures("no_leaks")`` or an argument."""
    with leaving_nothing_behind():
        yield


@pytest.fixture(scope="module")
def no_leaks_in_module() -> Iterator[None]:
    """For modules that share one cluster: checked once, after the cluster's fixture has shut it down."""
    with leaving_nothing_behind():
        yield
