"""``free``, which older programs call to make room at once."""

from __future__ import annotations

import warnings
from typing import Any

from beamlet.api.object_ref import ObjectRef
from beamlet.api.option_rules import a_kind, brief


def free(object_refs: ObjectRef[Any] | list[ObjectRef[Any]], local_only: bool = False) -> None:
    """Does nothing but say so: a value goes when the last reference to it does, everywhere, within a second.

    Ray dropped this function, too. Write ``del ref`` instead. Raises TypeError for what are no references.
    """
    refs: Any = object_refs if isinstance(object_refs, list | tuple) else [object_refs]
    for ref in refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(f"free wants an ObjectRef or a list of them, got {a_kind(ref)}: {brief(ref)}")
    warnings.warn(
        "beamlet.internal.free() does nothing: a value is freed as soon as nothing refers to it. Drop the "
        "references (`del ref`), and the store has the room back.",
        DeprecationWarning,
        stacklevel=2,
    )
