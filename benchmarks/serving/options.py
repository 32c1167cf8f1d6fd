"""Command-line options that the serving benchmarks share."""

import argparse

from benchmarks.serving.models import MAX_TOKENS
from benchmarks.serving.peers.assay import Assay


def add_options(parser: argparse.ArgumentParser) -> None:
    """Model, quick form, and how Assay's server runs."""
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument("--model", choices=sorted(MAX_TOKENS), default="smollm2")
    add_server_options(parser)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """How Assay's server runs."""
    parser.add_argument("--provider", default="openvino", help="of Assay's server")
    parser.add_argument("--precision", default="bf16", help="of Assay's server")
    parser.add_argument("--flag", action="append", default=[], metavar="NAME=VALUE", help="another of its settings")


def assay_of(arguments: argparse.Namespace) -> Assay:
    """Assay's server as the options say.

    Raises:
        SystemExit: a flag that is not NAME=VALUE.
    """
    flags = {}
    for given in arguments.flag:
        name, equals, value = given.partition("=")
        if not equals:
            raise SystemExit(f"--flag {given}: write NAME=VALUE")
        flags[name] = value
    return Assay(arguments.provider, arguments.precision, flags)
