"""Build the image without a container engine's daemon, and run it as a restricted pod would: read-only, without rights.

    python -m benchmarks.operations.image [--base IMAGE] [--pip-certificates FILE]

Needs root, and from Debian: buildah, debootstrap, bubblewrap. Without --base a Debian is made by debootstrap. The file
system of the result is looked through for what does not belong there, and its server started under bubblewrap: uid
10001, no capabilities, a read-only root, one writable /tmp, until /ready is 200 and a score comes back.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.result import Result, Row, Target, refuse_uncommitted
from benchmarks.server import free_port
from benchmarks.verify_line import BUNDLE, ensure_bundle

MOST_MIB = 600
PATIENCE_S = 120
_BASE, _IMAGE = "localhost/assay-base", "localhost/assay:cpu"
_TOOLS = {"buildah": "buildah", "debootstrap": "debootstrap", "bwrap": "bubblewrap"}
"""Commands, and the packages that have them."""
_BUILDAH = {**os.environ, "BUILDAH_ISOLATION": "chroot"}
_UNWANTED = {
    "a compiler": ("usr/bin/*gcc*", "usr/bin/cc", "usr/bin/c++*", "usr/bin/clang*"),
    "pip": ("opt/assay/bin/pip*", "usr/bin/pip*", "opt/assay/lib/python3*/site-packages/pip"),
    "pip's cache": ("root/.cache/pip", "tmp/pip*"),
    "torch": ("opt/assay/lib/python3*/site-packages/torch",),
    "package lists": ("var/lib/apt/lists/*_*",),
}


def missing_tools() -> list[str]:
    """What has to be installed first."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def buildah(*arguments: str) -> str:
    """What the command says.

    Raises:
        subprocess.CalledProcessError: it failed; its errors are on standard error.
    """
    done = subprocess.run(["buildah", *arguments], env=_BUILDAH, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def make_base(scratch: Path) -> str:
    """The smallest Debian, as an image."""
    root = scratch / "root"
    command = ["debootstrap", "--variant=minbase", "bookworm", str(root), "http://deb.debian.org/debian"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    container = buildah("from", "scratch")
    buildah("add", "-q", container, f"{root}/", "/")
    buildah("commit", "-q", "--rm", container, _BASE)
    shutil.rmtree(root)
    return _BASE


def build(base: str, certificates: Path | None) -> None:
    """The target `cpu` of the Dockerfile."""
    extra = []
    if certificates is not None:
        extra = ["-v", f"{certificates}:/run/certificates.pem:ro", "--build-arg", "PIP_CERT=/run/certificates.pem"]
    # Docker's format: that of OCI has no health check.
    buildah(
        "build", "-q", "--format", "docker", "--target", "cpu", "--build-arg", f"BASE={base}", *extra, "-t", _IMAGE, "."
    )


def size_mib(root: Path) -> float:
    """Of all files, links to one counted once."""
    return float(subprocess.run(["du", "-sm", str(root)], check=True, capture_output=True, text=True).stdout.split()[0])


def unwanted(root: Path) -> list[str]:
    """What the image holds and should not."""
    return [name for name, patterns in _UNWANTED.items() if any(any(root.glob(pattern)) for pattern in patterns)]


def restricted(root: Path, bundle: Path, environment: dict[str, str], *command: str) -> list[str]:
    """A command in the image as a restricted pod runs it."""
    given = [part for name, value in environment.items() for part in ("--setenv", name, value)]
    return [
        "bwrap", "--unshare-user", "--uid", "10001", "--gid", "10001", "--unshare-pid", "--unshare-ipc",
        "--ro-bind", str(root), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp",
        "--ro-bind", str(bundle.resolve()), "/bundle", "--cap-drop", "ALL", "--die-with-parent", "--clearenv",
        *given, *command,
    ]  # fmt: skip


def serve(root: Path, configured: dict[str, str]) -> tuple[float, list[float], str]:
    """Seconds until ready, two scores, and what a write to the root said."""
    ports = [free_port() for _ in range(2)]
    environment = configured | {
        "ASSAY_HOST": "127.0.0.1", "ASSAY_PORT": str(ports[0]), "ASSAY_OPERATIONS_PORT": str(ports[1]),
    }  # fmt: skip
    writing = subprocess.run(
        restricted(root, BUNDLE, environment, "sh", "-c", "touch /x"), capture_output=True, text=True
    )
    began = time.monotonic()
    process = subprocess.Popen(restricted(root, BUNDLE, environment, "assay-serve"), stderr=subprocess.PIPE, text=True)
    try:
        while time.monotonic() - began < PATIENCE_S and process.poll() is None:
            with suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/ready", timeout=5).close()
                break
            time.sleep(0.2)
        else:
            raise RuntimeError(f"the server in the image was never ready: {process.communicate(timeout=10)[1]}")
        ready = time.monotonic() - began
        body = json.dumps({"prompt": "How do I boil an egg?", "responses": ["In water.", "Eggs come from hens."]})
        request = urllib.request.Request(
            f"http://127.0.0.1:{ports[0]}/v1/score", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            scores: list[float] = json.load(reply)["scores"]
        return ready, scores, writing.stderr.strip()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def run(base: str | None, certificates: Path | None, quick: bool) -> Result:
    """Build, look, run."""
    ensure_bundle()
    with tempfile.TemporaryDirectory() as scratch:
        image = base or make_base(Path(scratch))
    began = time.monotonic()
    build(image, certificates)
    seconds = time.monotonic() - began
    containers = [buildah("from", name) for name in (image, _IMAGE)]
    try:
        roots = [Path(buildah("mount", container)) for container in containers]
        sizes = [size_mib(root) for root in roots]
        found = unwanted(roots[1])
        configuration: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", _IMAGE))["Docker"]["config"]
        environment = dict(entry.split("=", 1) for entry in configuration["Env"])
        ready, scores, refused = serve(roots[1], environment)
    finally:
        for container in containers:
            buildah("rm", container)
    over = sizes[1] - sizes[0]
    targets = [
        Target("image cpu: size over its base", f"at most {MOST_MIB} MiB", f"{over:.0f} MiB", over <= MOST_MIB),
        Target(
            "image cpu: no compiler, pip, cache, torch or package lists", "none of them", ", ".join(found) or "none",
            not found,
        ),
        Target("image cpu: its user", "10001:10001", configuration["User"], configuration["User"] == "10001:10001"),
        Target(
            "image cpu: health check", "there", "there" if configuration.get("Healthcheck") else "missing",
            bool(configuration.get("Healthcheck")),
        ),
        Target(
            "image cpu under bubblewrap: read-only, uid 10001, no capabilities: ready and two scores", "yes",
            f"ready in {ready:.1f} s, {len(scores)} scores; a write to / said {refused.rpartition(':')[2].strip()!r}",
            len(scores) == 2 and "Read-only" in refused,
        ),
    ]  # fmt: skip
    rows = [Row("image cpu: build, without the base", f"{seconds:.0f} s")]
    figures = {"base_mib": sizes[0], "image_mib": sizes[1], "build_seconds": seconds, "ready_seconds": ready}
    return Result("image_cpu", quick, 0, targets, figures, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="image to build on; else a Debian made by debootstrap")
    parser.add_argument("--pip-certificates", type=Path, help="certificates of a proxy of the package index")
    parser.add_argument("--quick", action="store_true", help="the same, from a tree with uncommitted changes")
    flags = parser.parse_args()
    if missing := missing_tools():
        sys.exit(f"{', '.join(missing)}: not installed; apt-get install {' '.join(_TOOLS.values())}")
    refuse_uncommitted(flags.quick)
    run(flags.base, flags.pip_certificates, flags.quick).publish()
