"""Writes all that is made from muster/v1/*.proto: the stubs, and api.txtpb.

`make proto` runs it in place; a test runs it into an empty directory and compares. It needs the
`dev` extra, which pins the generators: stubs refuse a runtime that is older than they are.
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2, text_format

SOURCE = Path(__file__).parent
# protoc looks for its plugins on PATH, where a virtual environment that is not activated is not.
ENVIRONMENT = os.environ | {"PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}


def protoc(pattern: str, *arguments: str) -> None:
    """Runs protoc on the files that match. It says by itself what is wrong with them."""
    files = sorted(str(file.relative_to(SOURCE)) for file in SOURCE.glob(pattern))
    tool = [sys.executable, "-m", "grpc_tools.protoc", "-I", "."]
    subprocess.run([*tool, *arguments, *files], cwd=SOURCE, env=ENVIRONMENT, check=True)


def write_stubs(out: Path) -> None:
    """Only services get gRPC stubs: for the other files they would be empty."""
    protoc("muster/v1/*.proto", f"--python_out={out}", f"--mypy_out=quiet:{out}")
    protoc("muster/v1/*_service.proto", f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}")


def describe(*, comments: bool) -> descriptor_pb2.FileDescriptorSet:
    """The contract as protoc understands it, JSON names included."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "api.pb")
        options = ["--include_source_info"] if comments else []
        protoc("muster/v1/*.proto", f"--descriptor_set_out={file}", *options)
        return descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=SOURCE, help="where to write; default: here")
    out = parser.parse_args().out.resolve()
    write_stubs(out)
    contract = text_format.MessageToString(describe(comments=False))
    Path(out, "api.txtpb").write_text(contract, encoding="utf-8")


if __name__ == "__main__":
    main()
