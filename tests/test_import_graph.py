"""Who may import whom: the table of packages, and what may be imported at all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "strfnet"
# A package imports only from rows below its own.
ROWS = (
    {"cli"},
    {"inference"},
    {"deployment"},
    {"visualization"},
    {"models"},
    {"training"},
    {"evaluation"},
    {"data"},
    {"weights"},
    {"inflation"},
    {"losses", "profiler"},
    {"layers"},
    {"system"},
)
ROW = {package: number for number, row in enumerate(ROWS) for package in row}
LIBRARIES = {
    "layers": {"torch", "einops"},
    "losses": {"torch", "einops"},
    "profiler": {"torch", "einops"},
    "inflation": {"torch", "einops"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def package_of(path):
    return name_of(path).split(".")[0]


def imports(path, *, types=False):
    """Modules that a file names in its imports, those in functions included, those for type checkers by option."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types and not types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_package_imports_only_from_rows_below_its_own(path):
    here = package_of(path)
    for name in imports(path, types=here != "__init__"):
        if name.split(".")[0] == "strfnet":
            assert "." in name, f"{path} imports strfnet itself"
            there = name.split(".")[1]
            assert there == here or here == "__init__" or ROW[here] < ROW[there], f"{here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_package_imports_only_its_libraries(path):
    others = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names) - {"strfnet"}
    assert others <= LIBRARIES.get(package_of(path), others)
    assert "torchvision" not in others or name_of(path).startswith(("models.resnet", "data."))
    assert "accelerate" not in others or package_of(path) == "training"


def test_the_root_holds_packages_alone():
    names = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert names == {"__init__.py", "py.typed", *ROW}


PROBE = """
import sys, warnings
warnings.simplefilter("error")
import strfnet
assert not {"torch", "torchvision"} & set(sys.modules), "import strfnet is free"
for name in dir(strfnet):
    getattr(strfnet, name)
heavy = {"torchvision", "timm", "accelerate", "matplotlib", "PIL", "scipy", "pandas"} & set(sys.modules)
assert not heavy, heavy
"""


def test_importing_has_no_effects_and_loads_no_torchvision():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == done.stderr == "", done.stderr


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=name_of)
def test_every_public_name_of_a_package_can_be_imported(path):
    package = ".".join(["strfnet", *path.parent.relative_to(PACKAGE).parts])
    module = __import__(package, fromlist=["*"])
    for name in getattr(module, "__all__", []):
        assert getattr(module, name).__name__ if callable(getattr(module, name)) else True
    with pytest.raises(AttributeError, match="no attribute 'STRFF'"):
        _ = module.STRFF
