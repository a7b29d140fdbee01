"""Learn to balance a pole: rollouts in parallel actors, a numpy policy, the cross-entropy method.

Each generation tries a population of linear policies, keeps the best and draws the next generation
around them. A rollout actor owns a gymnasium environment and plays whole episodes; the driver only ever
sees weights and rewards. Every seed is fixed and belongs to the candidate, not to the actor, so two runs
learn the same whichever actor plays which candidate.
"""

from __future__ import annotations

import time

import gymnasium
import numpy as np

import beamlet as ray

ACTORS = 2
GENERATIONS = 12
POPULATION = 32
ELITE = 6
EPISODES = 3
INPUTS = 5  # four observations and a constant


@ray.remote
class RolloutWorker:
    """Plays CartPole with the policies it is given."""

    def __init__(self) -> None:
        self.env = gymnasium.make("CartPole-v1")
        self.steps = 0

    def rewards(self, candidates: list[tuple[int, np.ndarray]]) -> list[float]:
        """The mean reward of each (seed, weights) over a few episodes; 500 is the most one can get."""
        return [
            float(np.mean([self.episode(seed + e, w) for e in range(EPISODES)])) for seed, w in candidates
        ]

    def episode(self, seed: int, weights: np.ndarray) -> float:
        observation, _ = self.env.reset(seed=seed)
        total, done = 0.0, False
        while not done:
            action = int(observation @ weights[:4] + weights[4] > 0)
            observation, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            done = terminated or truncated
            self.steps += 1
        return total

    def steps_played(self) -> int:
        return self.steps


def evaluate(workers: list[ray.actor.ActorHandle], candidates: list[tuple[int, np.ndarray]]) -> np.ndarray:
    """Share the candidates out among the workers; rewards come back in the candidates' order."""
    rewards = np.zeros(len(candidates))
    parts = [w.rewards.remote(candidates[i :: len(workers)]) for i, w in enumerate(workers)]
    for i, part in enumerate(ray.get(parts)):
        rewards[i :: len(workers)] = part
    return rewards


def main() -> None:
    ray.init(num_cpus=2)
    random = np.random.default_rng(3)
    workers = [RolloutWorker.remote() for _ in range(ACTORS)]
    mean, spread = np.zeros(INPUTS), np.ones(INPUTS)
    first_reward = None
    started = time.perf_counter()

    for generation in range(GENERATIONS):
        population = mean + spread * random.normal(size=(POPULATION, INPUTS))
        seeds = (1000 * (generation * POPULATION + i) for i in range(POPULATION))
        rewards = evaluate(workers, list(zip(seeds, population, strict=True)))
        best = population[np.argsort(rewards)[-ELITE:]]
        mean, spread = best.mean(axis=0), best.std(axis=0) + 0.05
        first_reward = first_reward if first_reward is not None else rewards.mean()
        print(
            f"generation {generation:2d}: mean reward {rewards.mean():6.1f}, best {rewards.max():5.1f}",
            flush=True,
        )
        if rewards.mean() > 400:
            break

    took = time.perf_counter() - started
    steps = sum(ray.get([worker.steps_played.remote() for worker in workers]))
    print(f"mean reward {first_reward:.1f} -> {rewards.mean():.1f} in {generation + 1} generations")
    print(f"{steps:,} environment steps on {ACTORS} actors in {took:.1f} s: {steps / took:,.0f} a second")
    ray.shutdown()


if __name__ == "__main__":
    main()
