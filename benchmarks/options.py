"""What the command lines of the benchmarks share; in: texts of options, out: their values, or one line of progress."""

import argparse
import sys
from collections.abc import Callable, Sequence


def names(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Type of an option that takes some of the `allowed` names, with commas between them."""

    def split(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(allowed)}")
        return found

    return split


def positive(text: str) -> int:
    """Type of an option that takes a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)
