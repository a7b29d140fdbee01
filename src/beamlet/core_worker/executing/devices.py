"""Which of the GPUs that this process was started with the work that runs here may see."""

from __future__ import annotations

import os


def show_devices(accelerators: dict[str, list[int]]) -> None:
    """Let libraries see the assigned GPUs only: of those this process was started with, these indices."""
    if "GPU" in accelerators and not os.environ.get("RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"):
        inherited = _INHERITED_DEVICES
        named = [inherited[i] if i < len(inherited) else str(i) for i in accelerators["GPU"]]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(named)


_INHERITED_DEVICES = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
