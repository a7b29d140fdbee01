"""What every message is: a tagged msgspec Struct, encoded as a msgpack array ``[tag, field, …]``.

Tags are ranges, one range a conversation, never re-used for something else:

     1– 29  peer.py     core worker ↔ core worker: tasks, actor calls, ownership
    30– 89  node.py     core worker ↔ its raylet: leases, introductions, store, logs
    90–129  gcs.py      core worker → raylet → GCS and back: jobs, actors, kv, cluster state
   130–149  factory.py  raylet ↔ factory: forks and deaths
   150–169  cluster.py  raylet ↔ GCS: nodes, placing actors, deaths

The head opens no pickle: values of users, and what core workers pickle for each other, travel as opaque
``bytes``.

These modules do not postpone annotations (``from __future__``): a decoder would compile each field's text.
"""

import msgspec


class Message(msgspec.Struct, array_like=True, gc=False):
    """Base of all messages. Mutable only because msgspec builds mutable Structs faster; treat as frozen.

    Out of the garbage collector's sight: messages never refer to each other in circles, and a program that
    queues 100 000 tasks must not pay for their being walked again and again.
    """


#: (object id, owner's address) of a reference found inside a value.
ContainedRef = tuple[bytes, bytes]
