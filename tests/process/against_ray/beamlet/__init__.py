"""`import beamlet` answered by real Ray, to see that the conformance tests ask for what Ray really does.

Put this folder first on PYTHONPATH; drivers, workers and scripts then run on Ray with nothing changed.
It is not part of Beamlet and nothing else imports it.
"""

from __future__ import annotations

import importlib
import sys

import ray
import ray.actor
import ray.util.actor_pool

MIRRORED = (
    "exceptions",
    "actor",
    "remote_function",
    "runtime_context",
    "util",
    "util.actor_pool",
    "util.queue",
    "cloudpickle",
)

for _name in MIRRORED:
    sys.modules[f"beamlet.{_name}"] = importlib.import_module(f"ray.{_name}")
sys.modules["beamlet"] = ray
