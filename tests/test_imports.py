"""Which package may import which (the table of rooms), function-level imports included."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    "bitfirst_hdl": ROOT / "hdl",
    "bitfirst_boards": ROOT / "boards",
    "bitfirst": ROOT / "sw",
    "bitfirst_sim": ROOT / "sim",
}
OURS = tuple(SOURCES)
#: Of our own packages, what each may import; the longest prefix of a module's name decides.
OWN = {
    "bitfirst_hdl.contract": ("bitfirst_hdl.contract",),
    "bitfirst_hdl": ("bitfirst_hdl",),
    "bitfirst_boards": ("bitfirst_boards", "bitfirst_hdl"),
    "bitfirst": ("bitfirst", "bitfirst_hdl.contract", "bitfirst_hdl.config"),
    "bitfirst_sim": OURS,
}
#: Of other people's packages; where a name is absent, all.
OTHERS = {"bitfirst_hdl": ("amaranth",)}
#: Inside functions only.
LAZY = {
    "bitfirst.cli": OURS,
    "bitfirst.transports": ("bitfirst_sim",),  # the `rtl` device, in one place
    "bitfirst_hdl.contract.codec": ("numpy",),  # `encode_many`, which the gateware side does not use
}


@dataclass(frozen=True)
class Import:
    module: str  # that imports
    name: str  # what is imported, dotted
    line: int
    lazy: bool  # inside a function


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def imported_names(node: ast.AST, package: str) -> list[str]:
    """Absolute dotted names that one statement or call imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        parents = package.split(".")
        base = parents[: len(parents) - node.level + 1] if node.level else []
        start = ".".join([*base, *([node.module] if node.module else [])])
        return [f"{start}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__"):
            return [str(node.args[0].value)]
    return []


def imports(tree: ast.AST, module: str, package: str, lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        for name in imported_names(node, package):
            yield Import(module, name, node.lineno, lazy)
        inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from imports(node, module, package, inside)


def module_imports(root: Path, path: Path) -> Iterator[Import]:
    parts = path.relative_to(root).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    module = ".".join(parts[:-1] if is_package else parts)
    package = module if is_package else module.rpartition(".")[0]
    yield from imports(ast.parse(path.read_text()), module, package)


def rule(table: dict[str, tuple[str, ...]], module: str) -> tuple[str, ...] | None:
    """The entry with the longest prefix of `module`."""
    found = [prefix for prefix in table if within(module, (prefix,))]
    return table[max(found, key=len)] if found else None


def is_allowed(found: Import) -> bool:
    top = found.name.split(".")[0]
    if top in sys.stdlib_module_names:
        return True
    if found.lazy and within(found.name, LAZY.get(found.module, ())):
        return True
    if top in OURS:
        return within(found.name, rule(OWN, found.module) or ())
    others = rule(OTHERS, found.module)
    return others is None or within(found.name, others)


def all_imports() -> list[Import]:
    return [
        found
        for package, root in SOURCES.items()
        for path in sorted((root / package).rglob("*.py"))
        for found in module_imports(root, path)
    ]


def test_imports_follow_the_table() -> None:
    found = all_imports()
    assert {package for package in OURS if any(within(one.module, (package,)) for one in found)} == set(OURS)
    assert len(found) > 200
    refused = [f"{one.module}:{one.line} imports {one.name}" for one in found if not is_allowed(one)]
    assert not refused, "\n".join(refused)


def test_the_rtl_device_is_reached_in_one_place() -> None:
    places = {
        (one.module, one.line)
        for one in all_imports()
        if within(one.module, ("bitfirst",)) and one.module != "bitfirst.cli" and within(one.name, ("bitfirst_sim",))
    }
    assert len(places) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bitfirst_hdl/core.py", "import torch"),
        ("bitfirst_hdl/core.py", "import bitfirst"),
        ("bitfirst_hdl/core.py", "def f():\n    import numpy"),
        ("bitfirst_hdl/contract/more.py", "from ..engine import MatmulEngine"),
        ("bitfirst_hdl/contract/codec.py", "import numpy"),
        ("bitfirst_boards/board.py", "import bitfirst_sim"),
        ("bitfirst_boards/board.py", "from bitfirst.errors import UsageError"),
        ("bitfirst/board.py", "from bitfirst_hdl import verilog"),
        ("bitfirst/board.py", "import bitfirst_hdl"),
        ("bitfirst/board.py", "def f():\n    from bitfirst_sim.simulator import Simulator"),
        ("bitfirst/board.py", "import importlib\nimportlib.import_module('bitfirst_boards')"),
        ("bitfirst/golden/model.py", "from bitfirst_hdl.top import Core"),
        ("bitfirst/cli.py", "import bitfirst_sim"),
        ("bitfirst/transports.py", "if True:\n    import bitfirst_sim.simulator"),
    ],
)
def test_forbidden_imports_are_found(tmp_path, path: str, source: str) -> None:
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(source)
    assert not all(is_allowed(found) for found in module_imports(tmp_path, file))


def test_allowed_imports_pass(tmp_path) -> None:
    file = tmp_path / "bitfirst" / "board.py"
    file.parent.mkdir()
    file.write_text("import json, torch\nfrom bitfirst_hdl import config\nfrom . import errors\nfrom .link import Link")
    found = list(module_imports(tmp_path, file))
    assert [one.name for one in found][2:] == ["bitfirst_hdl.config", "bitfirst.errors", "bitfirst.link.Link"]
    assert all(is_allowed(one) for one in found)
