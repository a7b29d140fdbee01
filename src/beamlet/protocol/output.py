"""What workers' output pipes carry beside output: under which name the following text stands."""

#: A name follows it, up to the end of the line. It may come in the middle of a line, and no text contains it.
CONTROL = b"\x1ebeamlet\x1f"


#: Of a name that is longer, the rest is left out.
_NAME_BYTES = 4096


def control_line(name: str) -> bytes:
    return CONTROL + name.encode(errors="backslashreplace")[:_NAME_BYTES].replace(b"\n", b" ") + b"\n"
