"""The GCS's key-value table, bytes to bytes: names Ray has in ``ray.experimental.internal_kv``.

Keys, values and namespaces may be str; they become UTF-8.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from beamlet.api import backend
from beamlet.protocol.gcs import KvDel, KvGet, KvKeys, KvPut

_ANSWER_S = 30.0
#: The table also holds what Beamlet keeps for itself; users' namespaces must not meet it.
_PREFIX = "user:"


def _internal_kv_initialized() -> bool:
    return backend.is_connected()


def _internal_kv_put(
    key: str | bytes, value: str | bytes, overwrite: bool = True, *, namespace: str | bytes | None = None
) -> bool:
    """Store; with overwrite=False only if the key is new. Returns whether the key was there already."""
    existed = _internal_kv_exists(key, namespace=namespace)
    return not _ask(KvPut(0, _space(namespace), _raw(key), _raw(value), overwrite)).changed or existed


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value; None if the key is not there."""
    value: bytes | None = _ask(KvGet(0, _space(namespace), _raw(key))).value
    return value


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    return _internal_kv_get(key, namespace=namespace) is not None


def _internal_kv_del(
    key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None
) -> int:
    """Remove the key, or with del_by_prefix all that begin with it. Returns how many were there."""
    keys = _internal_kv_list(key, namespace=namespace) if del_by_prefix else [_raw(key)]
    return sum(bool(_ask(KvDel(0, _space(namespace), each)).changed) for each in keys)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """All keys that begin with ``prefix``, sorted."""
    return list(_ask(KvKeys(0, _space(namespace), _raw(prefix))).keys)


def _ask(question: Any) -> Any:
    return backend.current().link.call(question, monotonic() + _ANSWER_S)


def _space(namespace: str | bytes | None) -> str:
    return _PREFIX + _raw(namespace or b"").decode()


def _raw(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
