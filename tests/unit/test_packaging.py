"""What is handed to others: the images have what their targets import, and the contract all that it imports."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PROTOS = PROJECT / "protos"
# What each target of the Dockerfile runs.
TARGETS = {"server": "server", "worker": "fraud_worker"}
# What an image does without, and .dockerignore therefore may leave out.
DISPENSABLE = {".pyc", ".pyi"}


def stages() -> dict[str, list[str]]:
    """The paths that each build stage, by name, copies from the project; those of the stage it builds on included."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in (PROJECT / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines():
        if opened := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = opened[2]
            found[name] = list(found.get(opened[1], []))
        elif line.startswith("COPY ") and "--from=" not in line:
            found[name] += line.split()[1:-1]
    return found


def is_ignored(path: Path) -> bool:
    """Whether .dockerignore keeps `path` from the build: the last line that matches it or a folder above it says so."""
    ignored = False
    parts = path.relative_to(PROJECT).parts
    names = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    for line in (PROJECT / ".dockerignore").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!").strip("/"))
            pattern = pattern.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, name) for name in names):
                ignored = not line.startswith("!")
    return ignored


def files_of(source: str) -> list[Path]:
    """The files that copying `source` must bring."""
    path = PROJECT / source
    files = [path, *path.rglob("*")]
    return [file for file in files if file.is_file() and file.suffix not in DISPENSABLE]


def source_of(package: str) -> str | None:
    """The folder at the project's top that has the code of `package`; None if it is not the project's own."""
    if (PROJECT / package / "__init__.py").is_file():
        return package
    return PROTOS.name if (PROTOS / package).is_dir() else None


def packages_used_in(module: Path) -> Iterator[str]:
    """The top-level packages that `module` imports, or whose files it opens with `files("package")`."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(module=str(name)):
                yield name.partition(".")[0]
            case ast.Call(func=ast.Name(id="files"), args=[ast.Constant(value=str(name))]):
                yield name.partition(".")[0]


def sources_needed(package: str) -> set[str]:
    """The folders at the project's top whose code `package` needs, directly or not."""
    needed: set[str] = set()
    waiting = {package}
    while waiting:
        source = waiting.pop()
        needed.add(source)
        used = {source_of(name) for path in (PROJECT / source).rglob("*.py") for name in packages_used_in(path)}
        waiting |= {name for name in used if name is not None} - needed
    return needed


@pytest.mark.parametrize("source", sorted({source for sources in stages().values() for source in sources}))
def test_images_get_what_the_dockerfile_copies(source: str) -> None:
    """Each path that the Dockerfile copies exists, and .dockerignore keeps none of its files back."""
    files = files_of(source)
    assert files
    assert [file for file in files if is_ignored(file)] == []


@pytest.mark.parametrize(("target", "package"), TARGETS.items())
def test_images_have_what_their_code_imports(target: str, package: str) -> None:
    """Each of the project's packages that a target's program imports, directly or not, is copied into its image."""
    assert sources_needed(package) <= set(stages()[target])


def test_images_get_nothing_local() -> None:
    """What lies in the project's folder only locally stays out of the build."""
    assert all(is_ignored(PROJECT / name) for name in (".git", ".local", ".venv", "tests", "server/__pycache__"))


def test_contract_needs_no_other_file(tmp_path: Path) -> None:
    """From contract.binpb alone protoc compiles all that we and those whom we import have written."""
    ours = [path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto")]
    imported = ["buf/validate/validate.proto", "google/api/field_behavior.proto", "google/rpc/status.proto"]
    options = [f"--descriptor_set_in={PROTOS / 'contract.binpb'}", f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *ours, *imported], cwd=tmp_path, check=True)
    assert len(list(tmp_path.rglob("*_pb2.py"))) == len(ours) + len(imported)
