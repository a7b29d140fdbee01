"""BLAKE2b (RFC 7693), the one hash we use: for names by content, and keyed for proofs of a secret.

From CPython's own module, because ``hashlib`` and ``hmac`` load OpenSSL with it: half a megabyte and some
milliseconds in every process that starts.  ``compare_digest`` is the one that hmac re-exports.
"""

from __future__ import annotations

from _blake2 import blake2b
from _operator import _compare_digest


def digest(data: bytes, size: int) -> bytes:
    """``size`` bytes (1–64) that stand for ``data``."""
    return blake2b(data, digest_size=size).digest()


def keyed_digest(key: bytes, data: bytes) -> bytes:
    """A 32-byte authentication code of ``data`` under ``key`` (at most 64 bytes)."""
    return blake2b(data, key=key, digest_size=32).digest()


def equal_digests(one: bytes, other: bytes) -> bool:
    """Compare without telling by the time it takes where they differ."""
    return _compare_digest(one, other)
