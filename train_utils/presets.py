"""Several sets of defaults for one parser: the quick start's, or those that another project's flags bring along."""

import argparse
from collections.abc import Collection, Mapping, Sequence
from typing import Any


def given_flags(parser: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """Names (as in the namespace) of the flags that a command line sets."""
    return {parser._option_string_actions[word].dest for word in words if word in parser._option_string_actions}


def parse_with_preset(
    parser: argparse.ArgumentParser, words: Sequence[str], preset: Mapping[str, Any], together: Collection[str] = ()
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Parse with other defaults, which stay the parser's from here on.

    Args:
        preset: new defaults by name; those of flags that `words` sets are left out.
        together: names that go together, such as rate and schedule: if one is given, the preset leaves all alone.

    Returns:
        (the namespace, the part of the preset that was used).
    """
    given = given_flags(parser, words)
    used = {name: value for name, value in preset.items() if name not in given}
    if given & set(together):
        used = {name: value for name, value in used.items() if name not in together}
    parser.set_defaults(**used)
    return parser.parse_args(words), used


def describe_preset(used: Mapping[str, Any]) -> str:
    """`name=value` pairs for the log, lists as they are typed."""
    shown = {name: " ".join(map(str, value)) if isinstance(value, list) else value for name, value in used.items()}
    return " ".join(f"{name}={value}" for name, value in shown.items())
