"""Multiply 64 matrices as a tree of tasks: 6 steps deep instead of 63.

Matrix products may be grouped in any way but not reordered, so neighbours are multiplied in pairs, then
pairs of pairs. The whole tree is submitted at once: a task whose arguments are references runs when they
are ready, and intermediate products go from worker to worker through shared memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

import beamlet as ray

COUNT = 64
SIDE = 200


@ray.remote
def rotation(seed: int) -> np.ndarray:
    """A random orthogonal matrix: products of these neither grow nor vanish."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(SIDE, SIDE)))
    return q


@ray.remote
def multiply(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left @ right


def chain(leaves: Sequence[ray.ObjectRef]) -> tuple[ray.ObjectRef, int]:
    """((m0·m1)·m2)·…: each product waits for the one before."""
    product = leaves[0]
    for leaf in leaves[1:]:
        product = multiply.remote(product, leaf)
    return product, len(leaves) - 1


def tree(leaves: Sequence[ray.ObjectRef]) -> tuple[ray.ObjectRef, int]:
    """(m0·m1)·(m2·m3)·…: all products of a level can run at the same time."""
    level, depth = list(leaves), 0
    while len(level) > 1:
        odd = [level[-1]] if len(level) % 2 else []
        level = [multiply.remote(a, b) for a, b in zip(level[::2], level[1::2], strict=False)] + odd
        depth += 1
    return level[0], depth


def main() -> None:
    ray.init(num_cpus=2)
    leaves = [rotation.remote(seed) for seed in range(COUNT)]
    ray.wait(leaves, num_returns=COUNT)
    print(f"{COUNT} matrices of {SIDE}×{SIDE}, {SIDE * SIDE * 8 / 1e3:.0f} KB each, made by {COUNT} tasks")

    products = {}
    for name, combine in (("chain", chain), ("tree", tree)):
        started = time.perf_counter()
        reference, depth = combine(leaves)
        products[name] = ray.get(reference)
        took = time.perf_counter() - started
        print(f"{name:>6}: {COUNT - 1} products, {depth:2d} steps deep, {took * 1e3:7.1f} ms")

    print(f"both orders of grouping agree: {np.allclose(products['chain'], products['tree'])}")
    error = float(np.abs(products["tree"].T @ products["tree"] - np.eye(SIDE)).max())
    print(f"the product is a rotation still: {error < 1e-9}")
    ray.shutdown()


if __name__ == "__main__":
    main()
