"""Random work under random faults on a virtual node, from one seed. ``python tests/system SEED`` replays one.

Drivers join, ask for all sorts of things, and check every answer: the right value, or an error of ours that
the faults explain.  Then the faults stop: everything asked for must be answered, everything unneeded gone.
"""

from __future__ import annotations

import contextlib
import gc
import random
from collections.abc import Callable
from functools import partial
from operator import eq
from typing import Any, NamedTuple

import beamlet as ray
from beamlet import exceptions
from beamlet.testing import virtual_audit
from beamlet.testing.virtual_cluster import VirtualCluster, VirtualDriver
from beamlet.testing.virtual_os import virtual_os
from beamlet.testing.world import Broken, World, sleep
from beamlet.util import list_named_actors
from system.programs import Refused, far, filled

#: Virtual seconds an answer may take once the faults have stopped.
ANSWERED_S = 90.0
#: What is idle has gone by then.
QUIET_S = 8.0
GONE_S = 70.0


# -- what drivers ask ----------------------------------------------------------------------------


class Asked(NamedTuple):
    """Something asked for: ``right(value)``; an error is right too if ``may_fail``, or under faults."""

    what: str
    ref: Any
    right: Callable[[Any], bool]
    fails: tuple[type[BaseException], ...] = ()


class Mess:
    """One driver's program: a number of random things, and answers that must be right."""

    def __init__(self, seed: str, faulty: bool, names: list[str]) -> None:
        self.rng = random.Random(seed)
        #: It leaves without waiting for answers, in order.
        self.impatient = self.rng.random() < 0.2
        #: Of all drivers' named actors.
        self.known_names = names
        self.faulty = faulty
        self.asked: list[Asked] = []
        self.actors: list[Any] = []
        self.names: list[str] = []
        self.answered = False
        self.may_leave = False

    def __call__(self, driver: VirtualDriver) -> None:
        kinds = [getattr(self, name) for name in sorted(dir(self)) if name.startswith("ask_")]
        for _ in range(self.rng.randint(5, 40)):
            with contextlib.suppress(exceptions.ObjectStoreFullError):  # of what this program keeps
                self.rng.choice(kinds)()
            if self.rng.random() < 0.3:
                sleep(self.rng.choice([0.0001, 0.003, 0.05, 0.4]))
            if self.asked and self.rng.random() < 0.2:
                self.check(self.asked.pop(self.rng.randrange(len(self.asked))))
        driver.process.world.tell(f"{driver.process!r} has asked for everything")
        if self.impatient:
            self.answered = True
            self.asked.clear()
            self.actors.clear()
            return
        while self.asked:
            self.check(self.asked.pop(0))
        for name in self.names:
            try:
                ray.kill(ray.get_actor(name))
            except ValueError:
                pass  # it died under the faults, or was never made
        self.actors.clear()
        self.answered = True
        driver.process.world.tell(f"{driver.process!r} has all its answers")
        while not self.may_leave:
            sleep(0.05)

    def check(self, asked: Asked) -> None:
        try:
            value = ray.get(asked.ref, timeout=ANSWERED_S)
        except exceptions.GetTimeoutError as error:
            raise AssertionError(f"{asked.what} was never answered: {error}") from None
        except (*asked.fails, exceptions.ObjectStoreFullError):
            return  # a small store may be full of what this program keeps
        except exceptions.RayError as error:
            if not self.faulty:
                raise AssertionError(f"{asked.what} failed without a fault: {error}") from error
            return
        assert asked.right(value), f"{asked.what} gave {value!r:.100}"

    def expect(
        self,
        what: str,
        ref: Any,
        right: Callable[[Any], bool],
        fails: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.asked.append(Asked(what, ref, right, fails))

    # -- tasks -----------------------------------------------------------------------------------

    def ask_sums(self) -> None:
        for i in range(self.rng.choice([1, 3, 30])):
            self.expect("add", far.add.remote(i, 1), lambda value, i=i: value == i + 1)

    def ask_slow(self) -> None:
        seconds = self.rng.choice([0.001, 0.02, 0.3])
        for _ in range(self.rng.randint(1, 6)):
            self.expect("slow", far.slow.remote(seconds, 5), lambda value: value == 5)

    def ask_failure(self) -> None:
        self.expect("fail", far.fail.remote(3), lambda _: False, (ValueError,))

    def ask_error_with_ref(self) -> None:
        try:
            ray.get(far.fail_with_ref.remote(4), timeout=ANSWERED_S)
        except Refused as error:
            ref = error.cause.args[1]  # type: ignore[attr-defined]  # it is a RayTaskError, too
            self.expect("a reference in an error", ref, lambda value: value == [4], _LOST)
        except exceptions.RayError:
            assert self.faulty

    def ask_nested(self) -> None:
        n = self.rng.randint(0, 6)
        self.expect("spread", far.spread.remote(n), lambda value: value == n * (n + 1) // 2)

    def ask_and_forget(self) -> None:
        n = self.rng.randint(1, 5)
        self.expect("leave_behind", far.leave_behind.remote(n), lambda value: value == n)

    def ask_dropped(self) -> None:
        for _ in range(self.rng.randint(1, 5)):
            far.slow.remote(self.rng.choice([0.0, 0.01]), 1)

    def ask_crash(self) -> None:
        sometimes = self.rng.randint(0, 3)
        self.expect(
            "crash", far.crash.remote(sometimes), lambda value: value == 11, (exceptions.WorkerCrashedError,)
        )

    def ask_chain(self) -> None:
        ref = far.add.remote(0, 0)
        depth = self.rng.randint(1, 8)
        for _ in range(depth):
            ref = far.add.remote(ref, 1)
        self.expect("a chain", ref, lambda value: value == depth)

    def ask_after_failure(self) -> None:
        self.expect("add after fail", far.add.remote(far.fail.remote(1), 1), lambda _: False, (ValueError,))

    def ask_cancelled(self) -> None:
        ref = far.slow.remote(self.rng.choice([0.01, 0.5]), 2)
        if self.rng.random() < 0.5:
            sleep(self.rng.choice([0.001, 0.02]))
        ray.cancel(ref, force=self.rng.random() < 0.3)
        fails = (exceptions.TaskCancelledError, exceptions.WorkerCrashedError)
        self.expect("a cancelled task", ref, lambda value: value == 2, fails)

    def ask_wait(self) -> None:
        refs = [far.slow.remote(0.01 * i, i) for i in range(self.rng.randint(1, 6))]
        ready, rest = ray.wait(refs, num_returns=self.rng.randint(1, len(refs)), timeout=0.1)
        assert len(ready) + len(rest) == len(refs)
        for ref in ready:
            self.expect("what wait said is ready", ref, lambda value: value < 6)

    # -- objects ---------------------------------------------------------------------------------

    def ask_big(self) -> None:
        size = self.rng.choice([10, 120_000, 300_000])
        self.expect("blob", far.blob.remote(size, 7), lambda value: len(value) == size and value[0] == 7)

    def ask_big_argument(self) -> None:
        size = self.rng.choice([1_000, 150_000])
        ref = ray.put(bytes(size))
        for _ in range(self.rng.randint(1, 3)):
            self.expect("length", far.length.remote(ref), lambda value: value == size)

    def filled(self) -> tuple[Any, int]:
        """An array to lend, and what all of it is."""
        value = self.rng.randrange(1, 250)
        return filled(self.rng.choice([60_000, 110_000, 130_000, 250_000]), value), value

    def ask_echo(self) -> None:
        counter = self.actor()
        for _ in range(self.rng.randint(1, 4)):
            data, value = self.filled()
            ref = counter.echo.remote(data)
            self.expect("an echo", ref, lambda found, value=value: is_filled(found, value), _DEAD)
            if self.rng.random() < 0.3:
                again = counter.echo.remote(ref)
                self.expect("its echo", again, lambda found, value=value: is_filled(found, value), _DEAD)
            if self.rng.random() < 0.3:
                opened = far.read_list.remote([ref])
                self.expect("read", opened, lambda found, value=value: is_filled(found, value), _DEAD)

    def ask_lent(self) -> None:
        counter = self.actor()
        for _ in range(self.rng.randint(1, 4)):
            data, value = self.filled()
            seconds = self.rng.choice([0.0, 0.01, 0.2])
            right = partial(eq, value)
            self.expect("look again", counter.look_again.remote(data, value, seconds), right, _DEAD)
            if self.rng.random() < 0.5:
                self.expect("stash", counter.stash.remote(data, value), right, _DEAD)

    def ask_lent_to_tasks(self) -> None:
        data, value = self.filled()
        for _ in range(self.rng.randint(1, 4)):
            ref = far.look_again.remote(data, value, self.rng.choice([0.0, 0.02]))
            if self.rng.random() < 0.4:
                ref = far.look_again.remote(ref, value, 0.01)
            self.expect("a task looks again", ref, lambda found: is_filled(found, value))

    def ask_results_kept(self) -> None:
        """Results that live on here while others come and go."""
        kept = []
        for value in range(1, self.rng.randint(2, 5)):
            ref = far.filled.remote(130_000, value)
            self.expect("a kept result", ref, lambda found, value=value: is_filled(found, value))
            try:
                kept.append((ray.get(ref, timeout=ANSWERED_S), value))
            except exceptions.ObjectStoreFullError:
                pass  # a small store may be full of what this program keeps
            except exceptions.RayError:
                assert self.faulty
        for found, value in kept:
            assert is_filled(found, value), f"an array of {value} changed"

    def ask_passed_on(self) -> None:
        ref = far.length.remote(far.blob.remote(200_000, 1))
        self.expect("a blob passed on", ref, lambda value: value == 200_000)

    def ask_nested_ref(self) -> None:
        ref = far.open_list.remote([far.add.remote(20, 1)])
        self.expect("a reference in a list", ref, lambda value: value == 21)

    def ask_returned_refs(self) -> None:
        try:
            put, computed = ray.get(far.hand_out.remote(9), timeout=ANSWERED_S)
        except exceptions.RayError:
            assert self.faulty
            return
        for ref in (put, computed):
            self.expect("a reference that came back", ref, lambda value: value == 9, _LOST)

    # -- generators ------------------------------------------------------------------------------

    def ask_items(self) -> None:
        n, size = self.rng.randint(0, 8), self.rng.choice([1, 120_000])
        options = {} if self.rng.random() < 0.5 else {"_generator_backpressure_num_objects": 2}
        items = far.numbers.options(**options).remote(n, size)
        takes = self.rng.randint(0, n + 1)
        try:
            for position, ref in enumerate(items):
                if position >= takes:
                    break
                self.expect("an item", ref, lambda value, i=position: value[-1] == i, _LOST)
        except exceptions.RayError:
            assert self.faulty

    # -- actors ----------------------------------------------------------------------------------

    def actor(self) -> Any:
        if self.actors and self.rng.random() < 0.7:
            return self.rng.choice(self.actors)
        options: dict[str, Any] = {"num_cpus": 0}
        if self.rng.random() < 0.4:
            options |= {"max_restarts": self.rng.choice([1, -1]), "max_task_retries": self.rng.choice([0, 3])}
        if self.rng.random() < 0.3:
            options["name"] = f"name{self.rng.randrange(1 << 30)}"
            if self.rng.random() < 0.5:
                options["lifetime"] = "detached"
            self.names.append(options["name"])
            self.known_names.append(options["name"])
        try:
            self.actors.append(far.Counter.options(**options).remote())
        except exceptions.RayError:
            assert self.faulty
            return self.actor()
        return self.actors[-1]

    def ask_calls(self) -> None:
        counter = self.actor()
        for _ in range(self.rng.randint(1, 10)):
            self.expect("up", counter.up.remote(), lambda value: value >= 1, _DEAD)

    def ask_slow_call(self) -> None:
        self.expect("wait", self.actor().wait.remote(0.05), lambda value: value == 0.05, _DEAD)

    def ask_to_keep(self) -> None:
        counter = self.actor()
        self.expect(
            "keep", counter.keep.remote([ray.put(1), far.add.remote(1, 1)]), lambda value: value >= 2, _DEAD
        )
        self.expect("read", counter.read.remote(), lambda value: set(value) <= {1, 2}, (*_DEAD, *_LOST))

    def ask_temporary(self) -> None:
        self.expect("a temporary actor", far.Counter.remote().up.remote(), lambda value: value == 1)

    def ask_retried_method(self) -> None:
        handle = far.Counter.options(max_task_retries=3).remote()
        ref = handle.fail_late.options(retry_exceptions=True).remote(self.rng.randint(0, 5))
        del handle
        self.expect("fail_late", ref, lambda value: value >= 1, (Refused, *_DEAD))

    def ask_threads(self) -> None:
        counter = far.Counter.options(max_concurrency=self.rng.randint(2, 4), num_cpus=0).remote()
        for _ in range(self.rng.randint(1, 8)):
            self.expect("a threaded wait", counter.wait.remote(0.02), lambda value: value == 0.02, _DEAD)
        self.expect("a threaded read", counter.read.remote(), lambda value: value == [], _DEAD)

    def ask_group(self) -> None:
        counter = far.Grouped.remote()
        for group in ("io", "io", ""):
            call = counter.wait.options(concurrency_group=group) if group else counter.wait
            self.expect("a call of a group", call.remote(0.02), lambda value: value == 0.02, _DEAD)

    def ask_task_with_actor(self) -> None:
        self.expect("use_actor", far.use_actor.remote(self.actor()), lambda value: value == 1, _DEAD)

    def ask_somebodys(self) -> None:
        if not self.known_names:
            return
        try:
            counter = ray.get_actor(self.rng.choice(self.known_names))
        except ValueError:
            return
        self.expect("another's actor", counter.up.remote(), lambda value: value >= 1, _DEAD)
        self.expect("keep", counter.keep.remote([ray.put(2)]), lambda value: value >= 1, _DEAD)

    def ask_kill(self) -> None:
        if self.actors:
            counter = self.actors.pop(self.rng.randrange(len(self.actors)))
            ray.kill(counter, no_restart=self.rng.random() < 0.7)

    def ask_drop_actor(self) -> None:
        if self.actors:
            self.actors.pop(self.rng.randrange(len(self.actors)))


def is_filled(found: Any, value: int) -> bool:
    return bool((found == value).all())


_LOST = (exceptions.ObjectLostError, exceptions.OwnerDiedError)
_DEAD = (exceptions.ActorDiedError, exceptions.ActorUnavailableError)


def end_detached(_: VirtualDriver) -> None:
    """A driver that ends what others meant to outlive them."""
    for entry in list_named_actors(all_namespaces=True):
        with contextlib.suppress(ValueError):  # it just ended by itself
            ray.kill(ray.get_actor(entry["name"], entry["namespace"]))


# -- the run -------------------------------------------------------------------------------------


class Faults:
    """Kills, stalls and cuts at moments drawn from the seed, until ``stop``."""

    def __init__(
        self, cluster: VirtualCluster, mess: dict[VirtualDriver, Mess], every_s: float, cuts: bool
    ) -> None:
        self._cluster = cluster
        self._mess = mess
        self._every_s = every_s
        self._cuts = cuts
        self._stopped = False
        self._next()

    def _next(self) -> None:
        world = self._cluster.world
        world.later(world.rng.expovariate(1 / self._every_s), self._strike)

    def _strike(self) -> None:
        if self._stopped:
            return
        world = self._cluster.world
        draw = world.rng.random()
        workers = self._cluster.workers
        if self._cuts and draw < 0.5:
            if wires := self._cluster.peer_wires():
                world.rng.choice(wires).cut()
        elif draw < 0.45 and workers:
            world.rng.choice(workers).process.kill()
        elif draw < 0.9:
            alive = [process for process in world.processes if not process.ended]
            stalled = world.rng.choice(alive)
            stalled.stalled_until = world.time_s + world.rng.choice([0.001, 0.02, 0.3])
            world.tell(f"{stalled!r} stalls")
        else:
            drivers = [driver for driver in self._mess if not driver.process.ended]
            if len(drivers) > 1:
                world.rng.choice(drivers).process.kill()
        self._next()

    def stop(self) -> None:
        self._stopped = True


def run(seed: int) -> World:
    """One storm. Raises Broken, with seed and story. In odd seeds connections between the living break."""
    world = World(seed)
    rng = world.rng
    with virtual_os(world):
        warm = rng.randint(0, 2)
        cluster = VirtualCluster(
            world, cpus=rng.randint(1, 4), warm_workers=warm, arena_bytes=rng.choice([2, 8]) << 20
        )
        try:
            _storm(world, cluster, warm, seed % 2 == 1)
        except Broken as broken:
            broken.add_note(f"{world.story()}\n{world.waits()}\nreplay: python tests/system {seed}")
            raise
        finally:
            cluster.close()
    return world


def _storm(world: World, cluster: VirtualCluster, warm: int, cuts: bool) -> None:
    rng = world.rng
    virtual_audit.watch(cluster)
    faulty = rng.random() < 0.7
    mess: dict[VirtualDriver, Mess] = {}
    names: list[str] = []
    for number in range(rng.randint(1, 3)):
        program = Mess(f"{world.seed} driver {number}", faulty, names)
        mess[cluster.driver(f"driver{number}", program)] = program
        world.run_for(rng.choice([0.0, 0.002, 0.2]))
    faults = Faults(cluster, mess, rng.choice([0.02, 0.2, 1.0]), cuts) if faulty else None
    if faults is not None:
        world.later(rng.uniform(0.1, 3.0), faults.stop)
    world.run(
        lambda: all(program.answered or driver.process.ended for driver, program in mess.items()),
        ANSWERED_S * 3,
        "that everything asked for is answered",
    )
    if faults is not None:
        faults.stop()
    janitor = cluster.driver("janitor", end_detached)
    world.run(lambda: janitor.process.ended, 60.0, "that detached actors of killed drivers were ended")
    _settle(world, cluster, QUIET_S)
    _demand(world, lambda: virtual_audit.audit(cluster))
    _demand(world, lambda: virtual_audit.nothing_is_kept(cluster))
    for program in mess.values():
        program.may_leave = True
    world.run(lambda: all(driver.process.ended for driver in mess), 60.0, "that all drivers left")
    _settle(world, cluster, GONE_S)
    _demand(world, lambda: virtual_audit.everybody_left(cluster, warm))


def _settle(world: World, cluster: VirtualCluster, seconds: float) -> None:
    """Garbage goes, and what follows from that happens."""
    for _ in range(4):
        gc.collect()
        for process in world.processes:
            process.turn_soon()
        world.run_for(seconds / 4)


def _demand(world: World, check: Callable[[], None]) -> None:
    try:
        check()
    except AssertionError as error:
        raise world._broken(error) from error
