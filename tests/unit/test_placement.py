"""Which node a demand goes to, and the sentence a person reads while it waits."""

from __future__ import annotations

from beamlet.base.ids import NodeId
from beamlet.base.resources import UNIT, from_floats
from beamlet.scheduling.placement import (
    Demand,
    Here,
    Holder,
    Infeasible,
    NodeView,
    OtherNode,
    Placement,
    Wait,
)

A, B, C = (NodeId(bytes([n]) * 28) for n in (0xA0, 0xB0, 0xC0))


def cluster(**free_of_total: tuple[float, float]) -> dict[NodeId, NodeView]:
    """CPUs only: cluster(A=(free, total))."""
    ids = {"A": A, "B": B, "C": C}
    return {
        ids[name]: NodeView(ids[name], from_floats({"CPU": total}), {"CPU": round(free * UNIT)}, f"at-{name}")
        for name, (free, total) in free_of_total.items()
    }


def cpus(n: float, strategy: str = "DEFAULT") -> Demand:
    return Demand(from_floats({"CPU": n}), strategy)


def test_runs_here_when_it_fits_even_if_another_node_is_emptier() -> None:
    assert Placement(A).decide(cpus(1), cluster(A=(1, 4), B=(8, 8))) == Here()


def test_spills_to_the_freest_node_when_this_one_is_full() -> None:
    decision = Placement(A).decide(cpus(1), cluster(A=(0, 4), B=(1, 8), C=(3, 8)))
    assert decision == OtherNode(C, "at-C")


def test_spread_takes_the_least_used_node_and_prefers_this_one_on_a_tie() -> None:
    assert Placement(A).decide(cpus(1, "SPREAD"), cluster(A=(1, 4), B=(3, 4))) == OtherNode(B, "at-B")
    assert Placement(A).decide(cpus(1, "SPREAD"), cluster(A=(3, 4), B=(3, 4))) == Here()


def test_waits_naming_what_is_lacking() -> None:
    assert Placement(A).decide(cpus(2), cluster(A=(1, 2))) == Wait({"CPU": UNIT})


def test_an_overdrawn_node_does_not_take_cpu_work_but_takes_what_needs_none() -> None:
    view = cluster(A=(-1, 2))
    assert isinstance(Placement(A).decide(cpus(1), view), Wait)
    assert Placement(A).decide(Demand({}), view) == Here()


def test_infeasible_names_the_need_and_the_largest_node() -> None:
    decision = Placement(A).decide(cpus(8), cluster(A=(2, 2)))
    assert decision == Infeasible("needs {'CPU': 8}; the largest node has {'CPU': 2} (1 node)")


def test_infeasible_says_that_nobody_offers_an_unknown_resource() -> None:
    decision = Placement(A).decide(Demand(from_floats({"CPU": 1, "gizmo": 1})), cluster(A=(2, 2), B=(2, 2)))
    expected = (
        "needs {'CPU': 1, 'gizmo': 1}; the largest node has {'gizmo': 0} (2 nodes); no node offers 'gizmo'"
    )
    assert decision == Infeasible(expected)


def test_what_is_needed_to_be_placed_must_exist_but_is_not_waited_for() -> None:
    default_actor = Demand({}, to_place=from_floats({"CPU": 1}))
    assert Placement(A).decide(default_actor, cluster(A=(0, 1))) == Here()
    assert isinstance(Placement(A).decide(default_actor, cluster(A=(0, 0))), Infeasible)


def test_a_node_with_free_room_to_place_is_preferred() -> None:
    default_actor = Demand({}, to_place=from_floats({"CPU": 1}))
    assert Placement(A).decide(default_actor, cluster(A=(0, 1), B=(1, 1))) == OtherNode(B, "at-B")


def test_node_affinity_is_hard_or_soft() -> None:
    view = cluster(A=(4, 4), B=(0, 4))
    assert isinstance(Placement(A).decide(cpus(1, f"node:{B.hex()}"), view), Wait)
    assert Placement(A).decide(cpus(1, f"node:{B.hex()}:soft"), view) == Here()
    gone = Placement(A).decide(cpus(1, f"node:{C.hex()}"), view)
    assert gone == Infeasible(
        "must run on node c0c0c0c0, which is not alive (alive: a0a0a0a0, b0b0b0b0)", for_good=True
    )
    assert Placement(A).decide(cpus(1, f"node:{C.hex()}:soft"), view) == Here()


def test_a_dead_node_takes_nothing() -> None:
    view = cluster(A=(0, 4), B=(4, 4))
    view[B].alive = False
    assert isinstance(Placement(A).decide(cpus(1), view), Wait)


def test_the_explanation_names_holders_by_group_and_where_they_were_made() -> None:
    one = from_floats({"CPU": 1})
    half = from_floats({"CPU": 0.5})
    holders = [
        Holder("task", "f", half),
        *[Holder("actor", "H", half, "app.py:9")] * 3,
        Holder("actor", "Z", {}),
    ]
    text = Placement(A).explain(Demand(one), cluster(A=(0, 2)), holders)
    assert text == "all 2 CPUs are held: actors H ×3 (created app.py:9), task f ×1"


def test_the_explanation_says_how_much_is_free_when_some_is() -> None:
    text = Placement(A).explain(
        cpus(2), cluster(A=(0.5, 2)), [Holder("task", "f", from_floats({"CPU": 1.5}))]
    )
    assert text == "needs 2 CPUs and 0.5 of 2 are free: task f ×1"


def test_many_groups_of_holders_are_summed_up() -> None:
    one = from_floats({"CPU": 1})
    holders = [Holder("task", f"f{n}", one) for n in range(8)]
    text = Placement(A).explain(cpus(1), cluster(A=(0, 8)), holders)
    assert text.endswith("task f4 ×1, and 3 more")


def test_nothing_to_explain_when_it_fits() -> None:
    assert Placement(A).explain(cpus(1), cluster(A=(1, 1)), []) == ""
