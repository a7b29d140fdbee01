"""Conversations over wires that are cut at any moment: every frame once, in order, and bounded memory."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from beamlet.rpc.conversation import ACK_BYTES, ACK_FRAMES, Conversation


class Flying(NamedTuple):
    """A frame on its way; ``number`` 0: a word that only acknowledges."""

    acknowledged: int
    number: int
    size: int


class Side:
    """What Connection and PeerTable do with a conversation, without sockets."""

    def __init__(self) -> None:
        self.conversation = Conversation()
        self.wire: deque[Flying] = deque()
        #: Nothing but our word may go out before the other's word came.
        self.may_speak = True
        self.waiting: list[int] = []
        self.said = 0
        self.heard: list[int] = []

    def say(self, size: int) -> None:
        self.said += 1
        frame = bytearray(max(8, size))
        frame[:8] = self.said.to_bytes(8, "little")
        acknowledged = self.conversation.acknowledge()
        self.conversation.sent(frame)
        if self.may_speak:
            self.wire.append(Flying(acknowledged, self.said, len(frame)))

    def word(self) -> None:
        self.wire.append(Flying(self.conversation.acknowledge(), 0, 0))

    def take(self, flying: Flying) -> None:
        conversation = self.conversation
        assert conversation.heard(flying.acknowledged, 1 if flying.number else 0, flying.size)
        if not self.may_speak:
            self.may_speak = True
            for frame in conversation.unanswered():
                self.wire.append(Flying(0, int.from_bytes(frame[:8], "little"), len(frame)))
        if conversation.unsaid >= ACK_BYTES:
            self.word()
        if flying.number:
            self.heard.append(flying.number)

    def new_wire(self) -> None:
        self.wire.clear()
        self.may_speak = False
        self.word()


class Pair:
    def __init__(self) -> None:
        self.sides = (Side(), Side())

    def deliver(self, receiver: int) -> bool:
        wire = self.sides[1 - receiver].wire
        if not wire:
            return False
        self.sides[receiver].take(wire.popleft())
        return True

    def cut(self) -> None:
        for side in self.sides:
            side.new_wire()

    def check(self) -> None:
        for this, other in (self.sides, self.sides[::-1]):
            assert this.heard == list(range(1, len(this.heard) + 1)), "each once, in order"
            assert len(this.heard) == this.conversation.received <= other.said
            assert this.conversation.acknowledged <= other.conversation.received
            assert other.conversation.received <= this.conversation.sent_count == this.said

    def settle(self) -> None:
        while any([self.deliver(0), self.deliver(1)]):
            self.check()


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(0, 1), st.sampled_from([10, 5000, ACK_BYTES])),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
    ),
    max_size=120,
)


@settings(max_examples=300, deadline=None)
@given(_steps)
def test_every_frame_arrives_once_and_in_order_whenever_wires_are_cut(
    steps: list[tuple[str, int, int]],
) -> None:
    pair = Pair()
    for what, side, amount in steps:
        if what == "say":
            pair.sides[side].say(amount)
        elif what == "cut":
            pair.cut()
        else:
            for _ in range(amount):
                pair.deliver(side)
        pair.check()
    pair.settle()
    for this, other in (pair.sides, pair.sides[::-1]):
        assert len(this.heard) == other.said, "everything arrived"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([10, 3000, ACK_BYTES // 2]), min_size=200, max_size=400))
def test_one_way_traffic_is_acknowledged_so_that_what_is_kept_is_bounded(sizes: list[int]) -> None:
    pair = Pair()
    talker, listener = pair.sides
    for size in sizes:
        talker.say(size)
        pair.settle()
        assert talker.conversation.kept_bytes <= 2 * ACK_BYTES
        assert len(talker.conversation.unanswered()) <= ACK_FRAMES
    assert not listener.conversation.unanswered()


def test_traffic_both_ways_needs_no_words_of_its_own() -> None:
    pair = Pair()
    for _ in range(500):
        pair.sides[0].say(100)
        pair.deliver(1)
        pair.sides[1].say(100)
        pair.deliver(0)
    assert not pair.sides[0].wire
    assert not pair.sides[1].wire
    assert len(pair.sides[0].conversation.unanswered()) == 0
    assert len(pair.sides[1].conversation.unanswered()) == 1


def test_who_acknowledges_what_was_never_sent_is_found_out() -> None:
    conversation = Conversation()
    conversation.sent(bytearray(8))
    assert conversation.heard(1, 0, 16)
    assert not conversation.heard(2, 0, 16)
    assert conversation.heard(0, 0, 16), "an old word, sent again, says nothing new"
    assert conversation.acknowledged == 1
