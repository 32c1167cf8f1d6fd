"""Command-line options that the serving benchmarks share."""

import argparse
from dataclasses import replace

from benchmarks.serving.models import MAX_TOKENS
from benchmarks.serving.peers.assay import Assay
from benchmarks.serving.peers.base import Peer
from benchmarks.serving.peers.registry import PEERS, peers_for
from benchmarks.serving.workloads import WORKLOADS, fitting


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


def add_peer_options(parser: argparse.ArgumentParser) -> None:
    """Who takes part, and in what."""
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--workloads", nargs="*", choices=list(WORKLOADS), help="default: all that fit the model")
    parser.add_argument("--precisions", nargs="+", help="of Assay's server: an arm for each (default: --precision)")


def peers_of(arguments: argparse.Namespace) -> list[Peer]:
    """Assay's servers, then the others."""
    assay = assay_of(arguments)
    assays = [replace(assay, precision=precision) for precision in arguments.precisions or [assay.precision]]
    return peers_for(arguments.peers, *assays)


def workloads_of(arguments: argparse.Namespace) -> list[str]:
    """Their names."""
    return arguments.workloads or fitting(MAX_TOKENS[arguments.model])


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
