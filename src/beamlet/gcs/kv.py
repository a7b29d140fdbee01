"""● Keys and values, bytes to bytes, in namespaces that do not see each other.

Namespace ``"fun"`` holds the exported functions and classes, under their content hash: a worker that is
pushed a task may ask for its function before the driver's export has arrived, so a get can wait for the put.
What is in it is never overwritten, and goes when the jobs that exported it are over: nobody else may delete
it.
"""

from __future__ import annotations

from collections import Counter

from beamlet.base.ids import Address, JobId
from beamlet.gcs.effects import Effect, Misuse, ToCoreWorker
from beamlet.gcs.storage import Storage
from beamlet.protocol.gcs import KvDel, KvDone, KvGet, KvKeyList, KvKeys, KvPut, KvValue

TABLE = "kv"
#: The namespace of exported functions.
FUNCTIONS = "fun"
#: Exported classes up to this go to the worker with the order to become the actor.
_SHORT_BYTES = 64 << 10
#: Gets of one process that may wait for keys to appear.
MOST_WAITING = 10_000


class KvTable:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._values: dict[str, dict[bytes, bytes]] = {}
        #: (namespace, key) → who waits for it to appear, first come first.
        self._waiting: dict[tuple[str, bytes], list[tuple[Address, int]]] = {}
        #: Who waits for how many.
        self._gets: Counter[Address] = Counter()
        #: Exported function → the jobs that use it, and the other way round.
        self._users: dict[bytes, set[JobId]] = {}
        self._used: dict[JobId, set[bytes]] = {}

    def handle_export(self, sender: Address, job: JobId, message: KvPut) -> list[Effect]:
        """A put of a function, by a process of ``job``."""
        self._users.setdefault(message.key, set()).add(job)
        self._used.setdefault(job, set()).add(message.key)
        return self.handle_put(sender, message)

    def job_is_over(self, job: JobId) -> None:
        """What it exported goes, unless another job exported the same."""
        for key in self._used.pop(job, ()):
            users = self._users[key]
            users.discard(job)
            if not users:
                del self._users[key]
                self._delete(FUNCTIONS, key)

    def handle_put(self, sender: Address, message: KvPut) -> list[Effect]:
        values = self._values.setdefault(message.namespace, {})
        existed = message.key in values
        if existed and (message.namespace == FUNCTIONS or not message.overwrite):
            return [ToCoreWorker(sender, KvDone(message.req, changed=False, existed=True))]
        values[message.key] = message.value
        self._storage.put(TABLE, _row(message.namespace, message.key), message.value)
        waiting = self._waiting.pop((message.namespace, message.key), [])
        for address, _ in waiting:
            self._no_longer_waits(address)
        return [
            ToCoreWorker(sender, KvDone(message.req, changed=True, existed=existed)),
            *(ToCoreWorker(address, KvValue(req, message.value)) for address, req in waiting),
        ]

    def handle_get(self, sender: Address, message: KvGet) -> list[Effect]:
        value = self._values.get(message.namespace, {}).get(message.key)
        if value is None and message.wait:
            if self._gets[sender] >= MOST_WAITING:
                return [Misuse(sender, f"{MOST_WAITING} of its gets wait for keys that do not appear")]
            self._gets[sender] += 1
            self._waiting.setdefault((message.namespace, message.key), []).append((sender, message.req))
            return []
        if message.probe and value is not None:
            value = b""
        return [ToCoreWorker(sender, KvValue(message.req, value))]

    def short_function(self, key: bytes) -> bytes:
        """An exported function or class, to travel with what needs it; b"" if it is long, or not here."""
        value = self._values.get(FUNCTIONS, {}).get(key, b"")
        return value if len(value) <= _SHORT_BYTES else b""

    def handle_del(self, sender: Address, message: KvDel) -> list[Effect]:
        if message.namespace == FUNCTIONS:
            return [Misuse(sender, "exported functions go when their jobs are over, not before")]
        existed = self._delete(message.namespace, message.key)
        return [ToCoreWorker(sender, KvDone(message.req, changed=existed, existed=existed))]

    def _delete(self, namespace: str, key: bytes) -> bool:
        values = self._values.get(namespace, {})
        existed = values.pop(key, None) is not None
        if existed:
            self._storage.delete(TABLE, _row(namespace, key))
        if not values:
            self._values.pop(namespace, None)
        return existed

    def handle_keys(self, sender: Address, message: KvKeys) -> list[Effect]:
        values = self._values.get(message.namespace, {})
        keys = sorted(key for key in values if key.startswith(message.prefix))
        return [ToCoreWorker(sender, KvKeyList(message.req, keys))]

    def handle_core_worker_gone(self, address: Address) -> None:
        """Nobody is left to hear its answers."""
        if not self._gets.pop(address, 0):
            return
        for place, waiting in list(self._waiting.items()):
            if kept := [waiter for waiter in waiting if waiter[0] != address]:
                self._waiting[place] = kept
            else:
                del self._waiting[place]

    def _no_longer_waits(self, address: Address) -> None:
        self._gets[address] -= 1
        if not self._gets[address]:
            del self._gets[address]

    @property
    def waiting_count(self) -> int:
        return sum(map(len, self._waiting.values()))

    def check_invariants(self) -> None:
        who = Counter(address for waiting in self._waiting.values() for address, _ in waiting)
        assert self._gets == who, f"{self._gets} ≠ {who}"
        assert self._users.keys() == {key for keys in self._used.values() for key in keys}
        for (namespace, key), waiting in self._waiting.items():
            assert waiting, f"an empty list of waiters is kept for {key!r} in {namespace!r}"
            assert key not in self._values.get(namespace, {}), (
                f"{len(waiting)} wait for {key!r} in {namespace!r}, which is there"
            )


def _row(namespace: str, key: bytes) -> bytes:
    """A namespace's length comes first, so that no (namespace, key) reads like another."""
    name = namespace.encode()
    return len(name).to_bytes(4, "big") + name + key
