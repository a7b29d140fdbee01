"""Workers that do what the names of their tasks say; a real head is told to run them by test_head.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess

from beamlet.head.node_facts import NodeFacts
from beamlet.processes.factory import WorkerBoot
from beamlet.protocol import gcs, node, peer
from beamlet.protocol.output import control_line
from beamlet.rpc.connection import Connection
from beamlet.rpc.reactor import Reactor

FROM_RAYLET = (
    node.AssignJob
    | node.PeerIntroduced
    | node.ExitWorker
    | node.OutputDelivered
    | node.WorkerDied
    | gcs.StartActor
)


class ScriptedWorker:
    def __init__(self, boot: WorkerBoot) -> None:
        self.reactor = Reactor()
        self.job: node.JobDescription | None = None
        self.held: dict[int, Connection] = {}
        self.link = Connection(
            socket.socket(fileno=boot.link),
            self.reactor,
            messages=FROM_RAYLET,
            on_message=self.on_raylet,
            on_close=lambda *_: os._exit(0),
            carries_fds=True,
        )
        self.link.send(node.WorkerReady(boot.worker_id, os.getpid()))

    def on_raylet(self, _: Connection, message: object) -> None:
        match message:
            case node.PeerIntroduced():
                Connection(
                    socket.socket(fileno=self.link.take_fd()),
                    self.reactor,
                    messages=peer.PeerMessage,
                    on_message=self.on_task,
                    on_close=lambda *_: None,
                )
            case node.OutputDelivered():
                self.held.pop(message.token).send(peer.Result(message.token, b"printed"))
            case node.ExitWorker():
                os._exit(0)
            case gcs.StartActor():
                self.link.send(gcs.ActorStarted(message.spec.actor_id, message.incarnation))

    def on_task(self, connection: Connection, task: peer.PushTask) -> None:
        word, _, rest = task.name.partition(":")
        if word == "print":
            os.write(1, control_line(task.name))
            os.write(1, f"{rest}\nno newline".encode())
            self.held[task.seq] = connection
            self.link.send(node.OutputMark(task.seq))
        elif word == "exit":
            os.write(2, b"goodbye, world\n")
            os._exit(int(rest))
        elif word == "kill":
            os.kill(os.getpid(), int(rest))
        elif word == "hang":
            signal.pause()
        elif word == "escape":
            # No mark of the session, no process group of the worker's, and soon no parent.
            escaped = subprocess.Popen(["sleep", "1000"], env={}, start_new_session=True)
            connection.send(peer.Result(task.seq, str(escaped.pid).encode()))
        else:
            connection.send(peer.Result(task.seq, str(os.getpid()).encode()))


def main(boot: WorkerBoot, facts: NodeFacts) -> None:
    assert os.fstat(facts.arena_fd).st_size == facts.arena_bytes
    ScriptedWorker(boot).reactor.run_forever()
