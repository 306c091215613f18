"""Checks of flag values that every script makes, each message with the flag as it is typed."""

from collections.abc import Iterable, Mapping

from train_utils.distributed_utils import say
from train_utils.errors import InputError


def flag(name: str) -> str:
    """The flag of a name in the namespace: "batch_size" -> "--batch-size"."""
    return f"--{name.replace('_', '-')}"


def check_ranges(
    settings: Mapping,
    at_least_one: Iterable[str] = (),
    not_negative: Iterable[str] = (),
    above_zero: Iterable[str] = (),
    in_0_1: Iterable[str] = (),
) -> None:
    """Refuse numbers out of range; a value of None passes.

    Args:
        settings: `vars(args)`.

    Raises:
        InputError: the first flag out of its range.
    """
    rules = [
        (at_least_one, lambda value: value >= 1, "must be at least 1, not"),
        (not_negative, lambda value: value >= 0, "must not be negative, but is"),
        (above_zero, lambda value: value > 0, "must be above 0, not"),
        (in_0_1, lambda value: 0 <= value <= 1, "must be in 0..1, not"),
    ]
    for names, is_good, complaint in rules:
        for name in names:
            if settings[name] is not None and not is_good(settings[name]):
                raise InputError(f"{flag(name)} {complaint} {settings[name]}")


def check_pairs(settings: Mapping, pairs: Iterable[tuple[str, str]]) -> None:
    """Refuse flags of which one is given without the other.

    Raises:
        InputError: the first such pair.
    """
    for one, other in pairs:
        if bool(settings[one]) != bool(settings[other]):
            raise InputError(f"{flag(one)} and {flag(other)} belong together: give both")


def check_num_classes(num_classes: int | None, class_names: list[str], dataset: str) -> None:
    """Compare the user's idea of the number of classes with the data's; COCO's customary 90 is accepted.

    Raises:
        InputError: they differ; the message has the classes.
    """
    if num_classes is None or num_classes == len(class_names):
        return
    if dataset == "coco" and num_classes == 90:
        say(f"--num-classes 90 counts COCO's ids; the data has {len(class_names)} classes, mapped to 1..{len(class_names)}")
        return
    raise InputError(f"--num-classes {num_classes}, but the data has {len(class_names)}: {', '.join(class_names)}; "
                     "leave the flag out, or fix --classes")
