"""A pool of stateful simulators: build each once, then feed it work whenever it is free.

Each simulator actor draws a network of ten thousand people when it starts, which is slow, and then
answers many questions about how an illness would spread in it, which is quick. Questions take different
times, so the driver gives the next one to whichever simulator answers first (`wait`).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np

import beamlet as ray

SIMULATORS = 3
PEOPLE = 10_000
CONTACTS = 60_000


@dataclass(frozen=True)
class Scenario:
    infection_rate: float
    vaccinated: float


@dataclass(frozen=True)
class Outcome:
    scenario: Scenario
    days: int
    infected: int
    worker_pid: int
    run_in_this_world: int


@ray.remote
class Simulator:
    """A world of people who meet, and the number of scenarios played in it so far."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        # People live on a circle and mostly meet their neighbours: real outbreaks are local.
        first = random.integers(PEOPLE, size=CONTACTS)
        distance = np.rint(random.standard_cauchy(CONTACTS) * 20).astype(int)
        self.contacts = np.stack([first, (first + distance) % PEOPLE])
        self.runs = 0

    def play(self, scenario: Scenario) -> Outcome:
        """Let the illness run until nobody is ill."""
        self.runs += 1
        random = np.random.default_rng(42)
        immune = random.random(PEOPLE) < scenario.vaccinated
        ill = np.zeros(PEOPLE, dtype=int)  # days still to be ill
        ill[random.choice(np.flatnonzero(~immune), size=20, replace=False)] = 5
        infected, days = 20, 0
        while ill.any() and days < 1000:
            days += 1
            a, b = self.contacts
            meets_ill = np.concatenate([b[ill[a] > 0], a[ill[b] > 0]])
            caught = np.unique(meets_ill[random.random(len(meets_ill)) < scenario.infection_rate])
            caught = caught[~immune[caught] & (ill[caught] == 0)]
            immune |= ill == 1
            ill = np.maximum(ill - 1, 0)
            ill[caught] = 5
            infected += len(caught)
        return Outcome(scenario, days, infected, os.getpid(), self.runs)


def play_all(simulators: list[ray.actor.ActorHandle], scenarios: list[Scenario]) -> list[Outcome]:
    """Keep every simulator busy with one scenario; hand out the next as soon as one is answered."""
    waiting = list(scenarios)
    playing = {simulator.play.remote(waiting.pop()): simulator for simulator in simulators}
    outcomes = []
    while playing:
        (done,), _ = ray.wait(list(playing), num_returns=1)
        simulator = playing.pop(done)
        outcomes.append(ray.get(done))
        if waiting:
            playing[simulator.play.remote(waiting.pop())] = simulator
    return outcomes


def main() -> None:
    ray.init(num_cpus=2)
    scenarios = [Scenario(rate, share) for rate in (0.01, 0.03, 0.06, 0.1) for share in (0.0, 0.3, 0.6, 0.8)]
    started = time.perf_counter()
    simulators = [Simulator.remote(seed=7) for _ in range(SIMULATORS)]
    outcomes = play_all(simulators, scenarios)
    took = time.perf_counter() - started

    print(f"{'infection rate':>15} {'vaccinated':>11} {'infected':>9} {'days':>5}")
    for outcome in sorted(outcomes, key=lambda o: (o.scenario.infection_rate, o.scenario.vaccinated)):
        rate, share = outcome.scenario.infection_rate, outcome.scenario.vaccinated
        print(f"{rate:15.2f} {share:11.0%} {outcome.infected:9,} {outcome.days:5d}")

    runs = {
        o.worker_pid: max(p.run_in_this_world for p in outcomes if p.worker_pid == o.worker_pid)
        for o in outcomes
    }
    print(
        f"{len(outcomes)} scenarios on {len(runs)} simulators ({'+'.join(map(str, sorted(runs.values())))})",
        end=" ",
    )
    print(f"in {took:.2f} s")
    worst = max(outcomes, key=lambda o: o.infected).scenario
    print(f"worst: infection rate {worst.infection_rate}, {worst.vaccinated:.0%} vaccinated")
    ray.shutdown()


if __name__ == "__main__":
    main()
