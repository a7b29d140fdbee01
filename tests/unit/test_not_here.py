"""What of Ray is not here says so, however it is asked for, and what to use instead."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

import beamlet as ray
from beamlet.api.not_here import NOT_HERE
from beamlet.base.version import VERSION


@pytest.mark.parametrize("name", NOT_HERE)
def test_every_name_is_explained_as_an_attribute_and_as_a_module(name: str) -> None:
    package, _, last = name.rpartition(".")
    home = importlib.import_module(f"beamlet.{package}" if package else "beamlet")
    with pytest.raises(AttributeError, match=rf"^ray\.{name} \(.+\) is not in Beamlet"):
        getattr(home, last)
    with pytest.raises(ModuleNotFoundError, match=rf"^ray\.{name} \(.+\) is not in Beamlet"):
        importlib.import_module(f"beamlet.{name}.below")


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from beamlet import tune", "ray.tune"),
        ("from beamlet.tune.schedulers import ASHAScheduler", "ray.tune"),
        ("import beamlet.util.multiprocessing", "ray.util.multiprocessing"),
        ("from beamlet.util import collective", "ray.util.collective"),
        ("from beamlet.util.state import list_actors", "ray.util.state"),
        ("from beamlet import ClientBuilder", "ray.ClientBuilder"),
    ],
)
def test_every_form_of_import_says_it(code: str, name: str) -> None:
    with pytest.raises(ImportError, match=f"^{name} "):
        exec(code)


@pytest.mark.parametrize(
    "code", ["import ray.rllib", "from ray import tune", "from ray.experimental import tqdm_ray"]
)
def test_under_the_name_ray_as_well(code: str) -> None:
    program = f"import sys, beamlet; sys.modules['ray'] = beamlet\n{code}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "is not in Beamlet, which has Ray's core on one machine. Instead: " in done.stderr.splitlines()[-1]


def test_who_only_asks_hears_no() -> None:
    """As transformers does, which otherwise would not even be imported."""
    assert importlib.util.find_spec("beamlet.tune") is None
    assert not hasattr(ray, "tune")
    assert getattr(ray, "__version__", None) == VERSION


def test_what_never_was_rays_is_not_explained() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'beamlet\.nonsense'$"):
        importlib.import_module("beamlet.nonsense")
    with pytest.raises(AttributeError, match=r"^module 'beamlet' has no attribute 'gett'$") as caught:
        ray.gett  # noqa: B018
    assert (caught.value.name, caught.value.obj) == ("gett", ray), "by these Python finds the nearest name"


def test_nothing_has_bind() -> None:
    function = ray.remote(lambda: 1)
    actor_class = ray.remote(type("Thing", (), {}))
    own = ray.remote(type("Own", (), {"bind": staticmethod(lambda: "its own")}))
    for target in (function, function.options(name="f"), actor_class, actor_class.options(name="a")):
        with pytest.raises(AttributeError, match=r"bind \(task graphs.*`g\.remote\(f\.remote\(x\)\)` passes"):
            target.bind()  # type: ignore[attr-defined]
    assert own.bind() == "its own"
    with pytest.raises(AttributeError, match="'RemoteFunction' object has no attribute 'remotee'"):
        function.remotee  # type: ignore[attr-defined]  # noqa: B018
