"""PyTorch's private names are used in strfnet/system/compat.py alone."""

import ast
from pathlib import Path

import pytest
from torch import nn

PACKAGE = Path(__file__).parents[1] / "strfnet"
HOME = PACKAGE / "system/compat.py"
MODULES = nn.Module(), nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
OF_MODULES = {name for module in MODULES for name in dir(module) if name[0] == "_" and name[:2] != "__"}
OTHERS = {"_orig_mod", "_opname", "_overloadname", "_overloadpacket", "_cdata"}
ROOTS = {"torch", "nn", "F", "dist"}


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def root_of(node):
    while isinstance(node, ast.Attribute):
        node = node.value
    return getattr(node, "id", None)


def private_names(source):
    """Private names of torch in a file: imported, reached from torch, overridden, or written in a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [part for alias in node.names if alias.name[:5] == "torch" for part in alias.name.split(".")]
            yield from filter(is_private, names)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "torch":
            yield from filter(is_private, [*str(node.module).split("."), *(alias.name for alias in node.names)])
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if root_of(node) in ROOTS or node.attr in OF_MODULES | OTHERS:
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and node.name in OF_MODULES:
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value  # a docstring has blanks, a name has none
            yield from (name for name in OF_MODULES | OTHERS if name in text and " " not in text)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_private_names_of_torch_are_in_one_file(path):
    found = sorted(set(private_names(path.read_text())))
    if path == HOME:
        assert "_BatchNorm" in found and "_modules" in found
    else:
        assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import torch._dynamo",
        "from torch.utils._pytree import tree_leaves",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "torch.cpu._is_avx512_supported()",
        "module._modules['after'] = unit",
        "class Conv:\n    def _conv_forward(self): ...",
        "getattr(module, '_forward_hooks')",
        "re.match(r'(module\\.|_orig_mod\\.)+', name)",
    ],
)
def test_every_way_to_a_private_name_is_seen(line):
    assert list(private_names(line))
