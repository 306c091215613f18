"""Other sets of defaults: what is given stays, what goes together stays together."""

import argparse

from train_utils.presets import describe_preset, given_flags, parse_with_preset

PRESET = {"lr": 0.1, "scheduler": "cosine", "batch_size": 2, "steps": [1, 2]}


def make_parser():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.0)
    parser.add_argument("--scheduler", default="step")
    parser.add_argument("--steps", type=int, nargs="+", default=[9])
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=False)
    return parser


def test_given_flags():
    assert given_flags(make_parser(), ["-b", "4", "--no-amp"]) == {"batch_size", "amp"}
    assert given_flags(make_parser(), []) == set()


def test_what_is_given_stays():
    args, used = parse_with_preset(make_parser(), ["-b", "4"], PRESET)
    assert (args.batch_size, args.lr, args.scheduler, args.steps) == (4, 0.1, "cosine", [1, 2])
    assert used == {"lr": 0.1, "scheduler": "cosine", "steps": [1, 2]}


def test_what_goes_together_is_taken_or_left_together():
    args, used = parse_with_preset(make_parser(), ["--lr", "5"], PRESET, together={"lr", "scheduler"})
    assert (args.lr, args.scheduler, args.batch_size) == (5.0, "step", 2) and set(used) == {"batch_size", "steps"}
    args, _ = parse_with_preset(make_parser(), ["--amp"], PRESET, together={"lr", "scheduler"})
    assert (args.lr, args.scheduler) == (0.1, "cosine")


def test_description():
    assert describe_preset({"lr": 0.1, "steps": [1, 2]}) == "lr=0.1 steps=1 2"
    assert describe_preset({}) == ""
