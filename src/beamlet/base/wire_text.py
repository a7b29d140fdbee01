"""● Text that is shown to people, as messages carry it.

Names of files, classes and functions may hold what UTF-8 cannot encode: to Python, bytes of the system that
are no text are lone surrogates.  A message with one cannot be sent, so they are spelt out on the way.
"""

from __future__ import annotations


def wire_text(text: str) -> str:
    r"""``text``, with lone surrogates as Python writes them.

    >>> wire_text("caf\xe9"), wire_text("caf\udce9")
    ('café', 'caf\\udce9')
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
