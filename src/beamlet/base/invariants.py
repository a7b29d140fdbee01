"""The one error that ends a process: its own books are wrong."""

from __future__ import annotations


class InvariantBroken(AssertionError):
    """A process found that what it knows of itself contradicts itself. Going on would do damage.

    Everything else that a handler raises costs a connection or a request (``rpc/containment.py``); this ends
    the process, which says why: a worker in its death certificate, a head in its log and to its drivers.
    """
