"""server/domain imports the standard library and itself, and nothing else."""

import ast
import sys
from pathlib import Path

DOMAIN = Path(__file__).resolve().parents[2] / "server" / "domain"


def imported(tree: ast.AST) -> set[str]:
    """The dotted names of all modules imported, wherever in the module; `from` imports by the module they name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or ".")
    return names


def test_domain_imports_the_standard_library_only() -> None:
    """No module of the domain imports anything but the standard library and other modules of the domain."""
    modules = sorted(DOMAIN.rglob("*.py"))
    assert modules
    foreign = {
        f"{path.name}: {name}"
        for path in modules
        for name in imported(ast.parse(path.read_text("utf-8")))
        if name.partition(".")[0] not in sys.stdlib_module_names and not f"{name}.".startswith("server.domain.")
    }
    assert foreign == set()
