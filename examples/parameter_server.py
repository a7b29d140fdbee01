"""A parameter server: workers compute gradients, one actor keeps the weights. Synchronous, then asynchronous.

The problem is small and real: tell which digit a noisy, shifted picture shows. The pictures are drawn by
this file, so there is nothing to download.
"""

from __future__ import annotations

import time

import numpy as np

import beamlet as ray

WORKERS = 2
STEPS = 200
BATCH = 128
LEARNING_RATE = 0.8
HIDDEN = 64

# Ten digits, three columns wide and five rows tall, each row three bits.
GLYPHS = ("75557", "26227", "71747", "71717", "55711", "74717", "74757", "71122", "75757", "75717")
HEIGHT, WIDTH = 7, 5
Weights = list[np.ndarray]


def pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw digits at random places, with noise. Returns (count, 35) pictures and their digits."""
    random = np.random.default_rng(seed)
    digits = random.integers(10, size=count)
    images = random.normal(scale=0.2, size=(count, HEIGHT, WIDTH))
    for image, digit in zip(images, digits, strict=True):
        top, left = random.integers(HEIGHT - 4), random.integers(WIDTH - 2)
        rows = [[int(bit) for bit in f"{int(row):03b}"] for row in GLYPHS[digit]]
        image[top : top + 5, left : left + 3] += np.array(rows)
    return images.reshape(count, -1), digits


def initial_weights() -> Weights:
    random = np.random.default_rng(0)
    first = random.normal(scale=0.2, size=(HEIGHT * WIDTH, HIDDEN))
    second = random.normal(scale=0.2, size=(HIDDEN, 10))
    return [first, np.zeros(HIDDEN), second, np.zeros(10)]


def forward(weights: Weights, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One hidden layer. Returns its activations and the probability of each digit."""
    hidden = np.maximum(images @ weights[0] + weights[1], 0)
    scores = hidden @ weights[2] + weights[3]
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return hidden, powers / powers.sum(axis=1, keepdims=True)


def accuracy(weights: Weights, images: np.ndarray, digits: np.ndarray) -> float:
    return float((forward(weights, images)[1].argmax(axis=1) == digits).mean())


@ray.remote
class ParameterServer:
    """Owns the weights; every gradient that arrives moves them a little downhill."""

    def __init__(self, weights: Weights) -> None:
        self.weights = [weight.copy() for weight in weights]

    def apply(self, *gradients: Weights) -> Weights:
        for weight, *parts in zip(self.weights, *gradients, strict=True):
            weight -= LEARNING_RATE * sum(parts) / len(parts)
        return self.weights


@ray.remote
class Worker:
    """Holds its own share of the training pictures; computes gradients on random batches of it."""

    def __init__(self, number: int) -> None:
        self.random = np.random.default_rng(number)
        self.images, self.digits = pictures(4000, seed=100 + number)

    def gradient(self, weights: Weights) -> Weights:
        chosen = self.random.integers(len(self.images), size=BATCH)
        images, digits = self.images[chosen], self.digits[chosen]
        hidden, error = forward(weights, images)
        error[np.arange(BATCH), digits] -= 1
        error /= BATCH
        hidden_error = (error @ weights[2].T) * (hidden > 0)
        return [images.T @ hidden_error, hidden_error.sum(axis=0), hidden.T @ error, error.sum(axis=0)]


def train_sync(server: ray.actor.ActorHandle, workers: list[ray.actor.ActorHandle]) -> Weights:
    """Each step waits for every worker's gradient. Weights go from server to workers by reference."""
    weights = server.apply.remote(*[[np.zeros(())] * 4])
    for _ in range(STEPS // WORKERS):
        weights = server.apply.remote(*[worker.gradient.remote(weights) for worker in workers])
    return ray.get(weights)


def train_async(server: ray.actor.ActorHandle, workers: list[ray.actor.ActorHandle]) -> Weights:
    """Whoever is ready first goes on at once, with the newest weights; nobody waits for the slowest."""
    weights = server.apply.remote(*[[np.zeros(())] * 4])
    computing = {worker.gradient.remote(weights): worker for worker in workers}
    for _ in range(STEPS):
        (gradient,), _ = ray.wait(list(computing))
        worker = computing.pop(gradient)
        weights = server.apply.remote(gradient)
        computing[worker.gradient.remote(weights)] = worker
    return ray.get(weights)


def main() -> None:
    ray.init(num_cpus=2)
    test_images, test_digits = pictures(2000, seed=1)
    start = accuracy(initial_weights(), test_images, test_digits)
    print(f"{WORKERS} workers with 4000 pictures each; accuracy before training {start:.1%}")
    workers = [Worker.remote(number) for number in range(WORKERS)]
    for name, train in (("synchronous", train_sync), ("asynchronous", train_async)):
        server = ParameterServer.remote(initial_weights())
        for round_number in range(1, 6):
            started = time.perf_counter()
            weights = train(server, workers)
            took = time.perf_counter() - started
            score = accuracy(weights, test_images, test_digits)
            gradients = f"{round_number * STEPS:5d} gradients"
            print(f"  {name:<12} {gradients}: {score:.1%}  ({STEPS / took:.0f} a second)")
        print(f"{name} SGD: accuracy {start:.1%} -> {score:.1%}")
    ray.shutdown()


if __name__ == "__main__":
    main()
