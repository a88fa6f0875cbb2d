"""Who may import whom: data flows one way, and only cli.py joins all."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "strfnet"
# Room: the rooms of this package that it may read. A folder stands for all that lies in it.
MAY_READ = {
    "__init__": set(),
    "clip": set(),
    "distances": set(),
    "layers": set(),
    "layers.attention_mask": {"clip"},
    "layers.factorization": {"clip", "layers.attention_mask"},
    "layers.strf": {"clip", "layers.factorization"},
    "layers.temporal": {"clip"},
    "layers.appearance": {"clip", "layers.temporal"},
    "layers.non_local": {"clip"},
    "layers.reduction": {"clip"},
    "layers.normalization": set(),
    "heads": {"clip"},
    "losses": {"distances", "losses"},
    "splicing": {"clip"},
    "inflation": {"clip", "layers", "splicing"},
    "folding": {"clip", "layers", "splicing"},
    "winograd": {"folding", "splicing"},
    "deployment": {"clip", "folding", "winograd"},
    "answering": set(),
    "exporting": {"__init__", "answering", "clip", "data", "files", "folding"},
    "reach": {"layers", "splicing"},
    "delaying": {"clip", "layers", "reach", "splicing"},
    "streaming": {"clip", "data", "delaying", "deployment", "heads", "inflation", "models", "reach", "splicing"},
    "weights": {"files"},
    "official": {"layers", "weights"},
    "models": {"clip", "layers", "inflation", "splicing", "heads", "models", "official",
               "weights"},
    "checkpoints": {"__init__", "clip", "files", "models", "official", "training", "weights"},
    "hub": {"checkpoints", "models"},
    "profiler": {"profiler"},
    "names": set(),
    "files": set(),
    "modes": set(),
    "data": {"data", "names"},
    "progress": set(),
    "embedding": {"clip", "data", "files", "modes", "progress"},
    "parts": {"data", "embedding", "files", "training"},
    "people": set(),
    "ranking": {"distances", "people"},
    "reranking": {"distances"},
    "protocols": {"data"},
    "evaluation": {"data", "protocols", "ranking", "reranking"},
    "training": {"data", "files", "heads", "modes", "names", "training", "weights"},
    "visualization": {"clip", "layers", "modes"},
    "page": {"visualization"},
    "ranked_list": {"data", "distances", "evaluation", "protocols"},
    "pictures": {"data", "page", "ranked_list", "visualization"},
    "charts": {"evaluation", "page"},
    "report": {"evaluation"},
    "configuration": {"names"},
    "embedder": {"__init__", "data", "embedding", "models", "parts", "progress", "training",
                 "weights"},
    "showing": {"embedder"},
    "exhibition": {"__init__", "charts", "data", "embedder", "evaluation", "layers", "page", "pictures", "protocols",
                   "ranked_list", "report", "showing", "training", "visualization", "weights"},
    "commands": {"__init__", "configuration", "data", "embedder", "embedding", "evaluation", "exhibition",
                 "exporting", "files", "losses", "names", "protocols", "showing", "training"},
    "cli": {"__init__", "checkpoints", "commands", "configuration", "names", "profiler"},
}  # fmt: skip
LIBRARIES = {
    "clip": {"torch"},
    "layers": {"torch", "einops"},
    "models.backbones": {"torch", "torchvision"},
    "profiler": {"torch"},
    "losses": {"torch"},
}


def rooms():
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def of(table, room):
    """The entry of a room, or of the folder that it lies in."""
    while room not in table and "." in room:
        room = room.rpartition(".")[0]
    return table.get(room)


def imports(path):
    """Modules that a file names in its imports, those in functions included, type-checking blocks left out."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module


@pytest.mark.parametrize("room", rooms())
def test_a_room_reads_only_what_lies_before_it(room):
    allowed = of(MAY_READ, room)
    assert allowed is not None, f"{room} is a new room: say in MAY_READ what it may read"
    for name in imports(rooms()[room]):
        if name == "strfnet":
            assert "__init__" in allowed, room
        if name.startswith("strfnet."):
            read = name.removeprefix("strfnet.")
            assert read in allowed or read.split(".")[0] in allowed, f"{room} reads {read}"


@pytest.mark.parametrize("room", rooms())
def test_a_room_knows_only_its_libraries(room):
    known = of(LIBRARIES, room)
    others = {name.split(".")[0] for name in imports(rooms()[room])} - set(sys.stdlib_module_names) - {"strfnet"}
    if known is not None:
        assert others <= known, room
    if room != "models.backbones" and not room.startswith("data"):
        assert "torchvision" not in others, room
    assert "accelerate" not in others or room.startswith("training"), room


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


def test_an_unknown_name_is_an_attribute_error():
    import strfnet

    with pytest.raises(AttributeError, match="no attribute 'STRFF'"):
        _ = strfnet.STRFF


def test_the_lists_of_public_names_agree():
    import strfnet

    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    for_types = next(node for node in ast.walk(tree) if isinstance(node, ast.If))
    typed = {alias.name for node in for_types.body for alias in node.names}
    assert set(strfnet.__all__) == set(strfnet._HOME) == typed
