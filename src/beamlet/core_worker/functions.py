"""Functions and classes by content: exported once, loaded once.

The key is the hash of the pickle, so the same function is exported once however often it is decorated, a
redefined one is a new one, and a worker never runs stale code.
"""

from __future__ import annotations

import pickle
import weakref
from typing import Any

import cloudpickle

from beamlet.base.digest import digest
from beamlet.base.ids import FunctionKey
from beamlet.core_worker.node_link import NodeLink
from beamlet.protocol.gcs import KvDone, KvGet, KvPut

NAMESPACE = "fun"
WARN_BYTES = 1 << 20
MAX_BYTES = 95 << 20


class FunctionTable:
    """Both sides: what this process exported and what it fetched."""

    def __init__(self, link: NodeLink) -> None:
        self._link = link
        self._exported: dict[FunctionKey, None] = {}
        self._keys: weakref.WeakKeyDictionary[Any, FunctionKey] = weakref.WeakKeyDictionary()
        self.loaded: dict[FunctionKey, Any] = {}

    def export(self, target: Any, pickled: bytes) -> FunctionKey:
        """Make ``target`` known to the job's workers. Called under the lock."""
        key = FunctionKey(digest(pickled, 20))
        if key not in self._exported:
            self._exported[key] = None
            self._link.request(KvPut(0, NAMESPACE, key, pickled), _exported)
        return key

    def fetch(self, key: FunctionKey, deadline: float | None, pickled: bytes = b"") -> Any:
        """Load it, from the GCS the first time. Called without the lock, in an executing thread.

        pickled: what the GCS would say, if somebody has said it already.
        Raises whatever unpickling raises: a module missing here, say.
        """
        value = pickled or self._link.call(KvGet(0, NAMESPACE, key, wait=True), deadline).value
        target = self.loaded[key] = pickle.loads(value)
        return target


def _exported(_: KvDone | None) -> None:
    """Nothing waits for an export: the worker that needs it waits for the key to appear."""


def dump(target: Any) -> bytes:
    """Pickle a function or class by value where it must be. Raises what pickling raises."""
    pickled: bytes = cloudpickle.dumps(target, 5)
    return pickled
