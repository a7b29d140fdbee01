"""Where a request for resources should run, and why it cannot yet: one class, plain data in and out. ●

It is asked by the raylet (grant, send elsewhere, queue, refuse), by whoever explains a wait to a person, and
by simulations.  It knows what is *believed* of each node; whether this node really has room (whole indices of
accelerators, for instance) is the ledger's word.  It keeps no queue and no state but its own node's name.

    decide(demand, view) →  Here | OtherNode (spillback) | Wait | Infeasible
    explain(demand, view, holders) → the sentence that a person reads while it waits

Strategies: "DEFAULT" (here if it fits, else the freest node that fits), "SPREAD" (the least used node that
fits), "node:<hex>" (there or never), "node:<hex>:soft" (there if it lives and fits, else as DEFAULT).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct, structs

from beamlet.base.ids import NodeId
from beamlet.base.resources import UNIT, Amounts, fits, lacking, show

#: More groups of holders than this are summed up as "and n more" in an explanation.
_HOLDERS_NAMED = 5


class NodeView(Struct):
    """What is believed of one node. ``available`` may be below zero: workers woke and took CPUs back."""

    node_id: NodeId
    total: Amounts
    available: Amounts
    #: Where a request that is sent on to it must go.
    address: str = ""
    labels: dict[str, str] = {}
    alive: bool = True


ClusterView = Mapping[NodeId, NodeView]


class Demand(Struct, frozen=True):
    #: Taken while it runs: what it waits for.
    resources: Amounts
    strategy: str = "DEFAULT"
    #: A node must own this as well, and one that has it free is preferred, but nobody waits for it: a default
    #: actor ({"CPU": 1} to place, {} to live) starts beside a long task, as it does in Ray (2.60 measured).
    to_place: Amounts = {}

    def largest(self) -> Amounts:
        """What a node's total must cover."""
        both = dict(self.to_place)
        for name, units in self.resources.items():
            both[name] = max(units, both.get(name, 0))
        return both


class Holder(Struct, frozen=True):
    """Someone who holds resources, as a person would name them."""

    #: "task" or "actor".
    kind: str
    name: str
    resources: Amounts
    #: Where the user created it, "file:line", or "".
    call_site: str = ""


class Here(Struct, frozen=True):
    """This node fits."""


class OtherNode(Struct, frozen=True):
    """Ask that node instead."""

    node: NodeId
    address: str


class Wait(Struct, frozen=True):
    """It would fit some node if others gave back ``lacking``."""

    lacking: Amounts


class Infeasible(Struct, frozen=True):
    """No node could ever fit it as the cluster stands.

    for_good: nor as it will: node ids are for one life, so a node that is not here does not come.
    """

    reason: str
    for_good: bool = False


Decision = Here | OtherNode | Wait | Infeasible


class Placement:
    """Chooses a node for a demand, from one node's point of view."""

    def __init__(self, here: NodeId) -> None:
        self._here = here

    def decide(self, demand: Demand, view: ClusterView) -> Decision:
        allowed = self._allowed(demand.strategy, view)
        if not allowed:
            return Infeasible(self._no_such_node(demand, view), for_good=demand.strategy.startswith("node:"))
        able = _able(demand, allowed)
        ready = [node for node in able if fits(demand.resources, node.available)]
        roomy = [node for node in ready if fits(demand.to_place, node.available)]
        if ready:
            return self._choose(roomy or ready, demand.strategy)
        if demand.strategy.endswith(":soft") and len(allowed) < len(view):
            return self.decide(structs.replace(demand, strategy="DEFAULT"), view)
        if able:
            return Wait(lacking(demand.resources, self._nearest(able).available))
        return Infeasible(_too_large(demand.largest(), allowed))

    def explain(self, demand: Demand, view: ClusterView, holders: Iterable[Holder]) -> str:
        """One sentence on why ``demand`` does not run now; "" when it could."""
        decision = self.decide(demand, view)
        if isinstance(decision, Infeasible):
            return decision.reason
        if not isinstance(decision, Wait):
            return ""
        able = _able(demand, self._allowed(demand.strategy, view)) or _able(demand, list(view.values()))
        return _who_holds(demand.resources, self._nearest(able), decision.lacking, list(holders))

    def _allowed(self, strategy: str, view: ClusterView) -> list[NodeView]:
        """The living nodes that the strategy permits; this one first, then in the view's order."""
        living = [node for node in view.values() if node.alive]
        living.sort(key=lambda node: node.node_id != self._here)
        if not strategy.startswith("node:"):
            return living
        named = [node for node in living if node.node_id.hex() == strategy.split(":")[1]]
        if strategy.endswith(":soft") and not any(named):
            return living
        return named

    def _choose(self, ready: list[NodeView], strategy: str) -> Decision:
        best = ready[0]
        if strategy == "SPREAD":
            best = min(ready, key=_used_share)
        elif best.node_id != self._here:
            best = max(ready, key=lambda node: node.available.get("CPU", 0))
        return Here() if best.node_id == self._here else OtherNode(best.node_id, best.address)

    def _nearest(self, able: list[NodeView]) -> NodeView:
        """The node whose shortage is named: this one if it is able at all."""
        return next((node for node in able if node.node_id == self._here), able[0])

    def _no_such_node(self, demand: Demand, view: ClusterView) -> str:
        wanted = demand.strategy.split(":")[1] if ":" in demand.strategy else ""
        if not wanted:
            return "no node is alive"
        living = ", ".join(node.node_id.hex()[:8] for node in view.values() if node.alive) or "none"
        return f"must run on node {wanted[:8]}, which is not alive (alive: {living})"


def _able(demand: Demand, nodes: list[NodeView]) -> list[NodeView]:
    wanted = demand.largest()
    return [node for node in nodes if fits(wanted, node.total)]


def _used_share(node: NodeView) -> float:
    """How full the fullest resource of a node is, 0 to 1."""
    shares = [1 - node.available.get(name, 0) / units for name, units in node.total.items() if units]
    return max(shares, default=0.0)


def _too_large(wanted: Amounts, nodes: list[NodeView]) -> str:
    """``needs {'CPU': 8}; the largest node has {'CPU': 2} (1 node)``."""
    count = f"{len(nodes)} node" + ("s" if len(nodes) != 1 else "")
    fullest = max(nodes, key=lambda node: sum(node.total.get(name, 0) >= n for name, n in wanted.items()))
    has = {name: fullest.total.get(name, 0) for name in lacking(wanted, fullest.total)}
    unknown = sorted(name for name in wanted if not any(node.total.get(name) for node in nodes))
    text = f"needs {show(wanted)}; the largest node has {show(has)} ({count})"
    if unknown:
        text += f"; no node offers {', '.join(map(repr, unknown))}"
    return text


def _who_holds(wanted: Amounts, node: NodeView, short: Amounts, holders: list[Holder]) -> str:
    parts = []
    for name in sorted(short):
        total, free = node.total.get(name, 0), node.available.get(name, 0)
        noun = _noun(name, total)
        if free <= 0:
            text = f"all {total / UNIT:g} {noun} are held" if total != UNIT else f"the only {name} is held"
        else:
            text = f"needs {wanted[name] / UNIT:g} {noun} and {free / UNIT:g} of {total / UNIT:g} are free"
        groups = _grouped(name, holders)
        parts.append(f"{text}: {groups}" if groups else text)
    return "; ".join(parts)


def _noun(name: str, units: int) -> str:
    return f"{name}s" if name in ("CPU", "GPU", "TPU") and units != UNIT else name


def _grouped(name: str, holders: list[Holder]) -> str:
    """``actors H ×2 (created app.py:9), task f ×1``: most numerous first."""
    counts: dict[tuple[str, str, str], int] = {}
    for holder in holders:
        if holder.resources.get(name, 0) > 0:
            group = (holder.kind, holder.name, holder.call_site)
            counts[group] = counts.get(group, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    texts = [_group_text(*group, count) for group, count in ranked[:_HOLDERS_NAMED]]
    if len(ranked) > _HOLDERS_NAMED:
        texts.append(f"and {sum(count for _, count in ranked[_HOLDERS_NAMED:])} more")
    return ", ".join(texts)


def _group_text(kind: str, name: str, call_site: str, count: int) -> str:
    text = f"{kind}{'s' if count > 1 else ''} {name} ×{count}"
    return f"{text} (created {call_site})" if call_site else text
