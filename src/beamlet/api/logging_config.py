"""● ``LoggingConfig``: how the loggers of a job's processes write. Data; who applies it is not here."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from beamlet.api.option_rules import a_kind, brief

ENCODINGS = ("TEXT", "JSON")
_STANDARD_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


@dataclass
class LoggingConfig:
    """How log lines of driver and workers look, from which level, and with which attributes of a LogRecord.

    Raises ValueError for an unknown encoding or attribute, TypeError for what cannot be one.

    >>> LoggingConfig(encoding="JSON", log_level="DEBUG").to_dict()
    {'encoding': 'JSON', 'log_level': 'DEBUG', 'additional_log_standard_attrs': []}
    """

    encoding: str = "TEXT"
    log_level: str = "INFO"
    additional_log_standard_attrs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.log_level, str):
            raise TypeError(f"log_level must be a str, such as 'INFO', not {brief(self.log_level)}")
        encoding: object = self.encoding
        if not isinstance(encoding, str) or encoding not in ENCODINGS:
            raise ValueError(f"encoding must be one of {', '.join(ENCODINGS)}, not {brief(self.encoding)}")
        names: object = self.additional_log_standard_attrs
        if not isinstance(names, list | tuple | set | frozenset):
            shown = f"{a_kind(names)}: {brief(names)}"
            raise TypeError(f"additional_log_standard_attrs must be a list, not {shown}")
        for name in names:
            if not isinstance(name, str) or name not in _STANDARD_ATTRIBUTES:
                raise ValueError(
                    f"{brief(name)} is not an attribute of logging.LogRecord; "
                    f"valid are {', '.join(sorted(_STANDARD_ATTRIBUTES))}"
                )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Back from ``to_dict()``; unknown keys are ignored, so that newer writers can be read."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})
