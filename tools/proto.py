"""
Generate the Python side of the guest wire from `proto/`: messages and their type stubs, no services.

    python tools/proto.py            write src/terpd/node/guest/agent_pb2.{py,pyi}
    python tools/proto.py --check    change nothing; exit 1 when what is checked in differs
"""

from __future__ import annotations

import argparse
import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("terp/agent/v1/agent.proto")  # its name in the descriptor pool too, so it is kept whole
TARGET = ROOT / "src/terpd/node/guest"
GENERATED = ("agent_pb2.py", "agent_pb2.pyi")


def generate(directory: Path) -> Path:
    """
    Generate below *directory* and return where the modules are.

    Raises:
        SystemExit: protoc refused the source; it has said why on stderr.
    """
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent)) or "protoc-gen-mypy"
    arguments = [
        "protoc",
        f"--plugin=protoc-gen-mypy={plugin}",
        f"--proto_path={ROOT / 'proto'}",
        f"--proto_path={well_known}",
        f"--python_out={directory}",
        f"--mypy_out=quiet:{directory}",
        str(SOURCE),
    ]
    status = protoc.main(arguments)
    if status != 0:
        raise SystemExit(status)
    return directory / SOURCE.parent


def stale(directory: Path) -> list[str]:
    """Name the generated files in the tree that differ from those in *directory* or are missing."""
    return [
        name
        for name in GENERATED
        if not (TARGET / name).is_file() or (TARGET / name).read_bytes() != (directory / name).read_bytes()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the Python messages of the guest wire.")
    parser.add_argument("--check", action="store_true", help="only compare with what is checked in")
    check: bool = parser.parse_args().check
    with tempfile.TemporaryDirectory() as name:
        fresh = generate(Path(name))
        differing = stale(fresh)
        if check:
            for path in differing:
                print(f"differs from proto/, run tools/proto.py: {TARGET / path}", file=sys.stderr)
            return 1 if differing else 0
        for path in differing:
            shutil.copyfile(fresh / path, TARGET / path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
