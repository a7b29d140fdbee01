"""Makes `conformance` importable, lets real Ray stand in for Beamlet, and gives each module one cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
# What can be imported is pickled by name: workers must find the test modules under the same names.
sys.path.insert(1, str(HERE.parents[1]))
if os.environ.get("CONFORMANCE_IMPL") == "ray":
    sys.path.insert(0, str(HERE / "against_ray"))
    # Ray's workers take this from the environment, not from the driver's sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "against_ray"), str(HERE), str(HERE.parents[1])])
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from gates import Gate  # noqa: E402

import beamlet as ray  # noqa: E402

CLUSTER_CPUS = 2


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One local cluster with 2 CPUs for a module; ask for it with `pytestmark = usefixtures("cluster")`."""
    ray.init(num_cpus=CLUSTER_CPUS, resources={"widget": 2}, include_dashboard=False, namespace="tests")
    yield
    ray.shutdown()


@pytest.fixture
def no_cluster() -> Iterator[None]:
    """The test starts its own clusters: there is none before it, and none is left after it."""
    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A closed gate, opened at the end whatever happens so that nothing waits at it for ever."""
    gate = Gate(tmp_path / "gate")
    yield gate
    gate.open()
