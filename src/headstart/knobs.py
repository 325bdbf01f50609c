"""Bounds and choices of configuration values, declared beside the code that owns them.

The core runs without pydantic; pydantic, where `run/params.py` brings it, honours these markers through
`__get_pydantic_core_schema__`, so each bound is written once.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

NEAR = 0.55  # difflib's ratio from which a word is worth naming beside another


class Marker:
    """What a value must be, for `check` here and for pydantic elsewhere."""

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with what is allowed."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


@dataclass(frozen=True)
class Range(Marker):
    """A number between two bounds: `low <= x <= high`, or strictly above `low` where `open_low` is set."""

    low: float
    high: float = float("inf")
    open_low: bool = False

    def check(self, value: Any) -> Any:
        """Return the value (None stays None), or raise ValueError with the range."""
        if value is None or self.low < value <= self.high or (value == self.low and not self.open_low):
            return value
        raise ValueError(f"must be {self}")

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.open_low else f"at least {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


@dataclass(frozen=True)
class Interval(Marker):
    """A pair [a, b] with `low < a <= b <= high`, or `low <= a` where `open_low` is off."""

    low: float
    high: float = float("inf")
    open_low: bool = True

    def check(self, value: Any) -> Any:
        """Return the pair, or raise ValueError with what is allowed."""
        bounds = Range(self.low, self.high, self.open_low)
        if len(value) != 2 or value[0] > value[1]:
            raise ValueError("must be a pair [low, high] with low <= high")
        for number in value:
            try:
                bounds.check(number)
            except ValueError:
                raise ValueError(f"must be a pair [low, high], each {bounds}") from None
        return value


@dataclass(frozen=True)
class OneOf(Marker):
    """One of a table's keys; a near miss is answered with the nearest key."""

    table: Iterable[str] = field(hash=False)

    def check(self, value: Any) -> Any:
        """Return the value, or raise ValueError with the allowed ones."""
        allowed = list(self.table)
        if value in allowed:
            return value
        raise ValueError(f"must be one of {', '.join(allowed)}{nearest(str(value), allowed)}")


@dataclass(frozen=True)
class Matching(Marker):
    """A text that a regular expression describes from end to end; words: what messages call it."""

    pattern: str
    words: str

    def check(self, value: Any) -> Any:
        """Return the value (None stays None), or raise ValueError with what is allowed."""
        if value is None or re.fullmatch(self.pattern, value):
            return value
        raise ValueError(f"must be {self.words}")


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return ' (nearest: X)' for the closest allowed word, or an empty string where none is near."""
    close = difflib.get_close_matches(value, list(allowed), n=1, cutoff=NEAR)
    return f" (nearest: {close[0]})" if close else ""
