"""Descriptors 0 to 2 belong to the program, also where it has closed them."""

from __future__ import annotations

import os


def hold_standard_descriptors() -> None:
    """Put /dev/null where one of 0–2 is closed, so that nothing of ours is opened there.

    The kernel gives the lowest free number.  A lock or socket of ours at 1 would take what C code prints, and
    be overwritten in a child whose output goes elsewhere.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
