"""Why connections end, as far as it matters who ended them."""

from __future__ import annotations

#: The beginnings of what is said when the other side did.
CLOSED_THERE, READ_FAILED, WRITE_FAILED = "closed by the other side", "read failed: ", "write failed: "


def was_cut_off(reason: str) -> bool:
    """Whether it is a reason of ours: the other side would have gone on."""
    return not reason.startswith((CLOSED_THERE, READ_FAILED, WRITE_FAILED))
