"""The GCS's key-value table, bytes to bytes: names Ray has in ``ray.experimental.internal_kv``.

Keys, values and namespaces may be str; they become UTF-8.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from beamlet.api import backend
from beamlet.api.argument_table import checked
from beamlet.api.option_rules import brief
from beamlet.core_worker.functions import MAX_BYTES
from beamlet.protocol.gcs import KvDel, KvGet, KvKeys, KvPut

_ANSWER_S = 30.0
#: The table also holds what Beamlet keeps for itself; users' namespaces must not meet it.
_PREFIX = "user:"


_HERE = "experimental.internal_kv."


def _internal_kv_initialized() -> bool:
    return backend.is_connected()


def _internal_kv_put(
    key: str | bytes, value: str | bytes, overwrite: bool = True, *, namespace: str | bytes | None = None
) -> bool:
    """Store; with overwrite=False only if the key is new. Returns whether the key was there already.

    Raises ValueError for more than 95 MiB.
    """
    function = _HERE + "_internal_kv_put"
    space, raw = _place(function, "key", key, namespace)
    data = _raw(checked(function, "value", value))
    checked(function, "overwrite", overwrite)
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{function}(key={brief(key)}): the value has {len(data) / 2**20:.1f} MiB; {MAX_BYTES >> 20} MiB "
            "are allowed. Call beamlet.put() and keep the reference, or write a file and store its name."
        )
    return bool(_ask(KvPut(0, space, raw, data, overwrite)).existed)


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value; None if the key is not there."""
    space, raw = _place(_HERE + "_internal_kv_get", "key", key, namespace)
    value: bytes | None = _ask(KvGet(0, space, raw)).value
    return value


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    space, raw = _place(_HERE + "_internal_kv_exists", "key", key, namespace)
    return _ask(KvGet(0, space, raw, probe=True)).value is not None


def _internal_kv_del(
    key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None
) -> int:
    """Remove the key, or with del_by_prefix all that begin with it. Returns how many were there."""
    function = _HERE + "_internal_kv_del"
    space, raw = _place(function, "key", key, namespace)
    checked(function, "del_by_prefix", del_by_prefix)
    keys = list(_ask(KvKeys(0, space, raw)).keys) if del_by_prefix else [raw]
    return sum(bool(_ask(KvDel(0, space, each)).changed) for each in keys)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """All keys that begin with ``prefix``, sorted."""
    space, raw = _place(_HERE + "_internal_kv_list", "prefix", prefix, namespace)
    return list(_ask(KvKeys(0, space, raw)).keys)


def _ask(question: Any) -> Any:
    return backend.current().link.ask(question, monotonic() + _ANSWER_S)


def _place(
    function: str, argument: str, key: str | bytes, namespace: str | bytes | None
) -> tuple[str, bytes]:
    """Namespace and key as the table takes them. Raises TypeError or ValueError."""
    space = _raw(checked(function, "namespace", namespace) or b"")
    try:
        text = space.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{function}(namespace={brief(namespace)}): namespace must be UTF-8") from None
    return _PREFIX + text, _raw(checked(function, argument, key))


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
