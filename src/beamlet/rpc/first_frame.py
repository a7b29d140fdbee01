"""One frame from a socket that has no connection yet, and not a byte more.

What a newcomer must know before it can be composed comes in a frame of its own; what follows stays in the
socket for the connection that takes it over.
"""

from __future__ import annotations

import socket
from time import monotonic
from typing import Any

from beamlet.base.deferring import lets_through
from beamlet.rpc.batches import check_count, decoder_for
from beamlet.rpc.descriptors import descriptors_in
from beamlet.rpc.framing import PREFIX, PREFIX_BYTES, FramingError

#: What a newcomer is told is small.
_MOST_BYTES = 1 << 20
_FD_SPACE = socket.CMSG_SPACE(4 * 4)


def receive_first(sock: socket.socket, messages: Any, timeout_s: float) -> tuple[Any, list[int]]:
    """The one message of the next frame, and the descriptors that came with it.

    Raises TimeoutError, ConnectionError (it was closed), FramingError (it is no frame of one such message).
    """
    deadline = monotonic() + timeout_s
    fds: list[int] = []
    try:
        header_bytes, payload_bytes, _ = PREFIX.unpack(_exactly(sock, PREFIX_BYTES, deadline, fds))
        if not 0 < header_bytes <= _MOST_BYTES or payload_bytes:
            raise FramingError(f"the first frame announces {header_bytes} + {payload_bytes} bytes")
        batch = _decoded(_exactly(sock, header_bytes, deadline, fds), messages)
        if len(batch) != 1:
            raise FramingError(f"the first frame holds {len(batch)} messages, not one")
    except BaseException:
        for fd in fds:
            socket.close(fd)
        raise
    return batch[0], fds


def _decoded(header: bytes, messages: Any) -> list[Any]:
    try:
        check_count(header)
        batch: list[Any] = decoder_for(messages).decode(header)
    except Exception as error:  # as in Connection: all are the sender's
        raise FramingError(f"the first frame is none of ours: {error}") from error
    return batch


@lets_through
def _exactly(sock: socket.socket, count: int, deadline: float, fds: list[int]) -> bytes:
    data = bytearray()
    while len(data) < count:
        left_s = deadline - monotonic()
        if left_s <= 0:
            raise TimeoutError
        sock.settimeout(left_s)
        part, ancillary, _, _ = sock.recvmsg(count - len(data), _FD_SPACE, socket.MSG_CMSG_CLOEXEC)
        fds += descriptors_in(ancillary)
        if not part:
            raise ConnectionResetError("closed by the other side")
        data += part
    return bytes(data)
