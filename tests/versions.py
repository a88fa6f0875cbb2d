"""Runs the core of the suite under several versions of PyTorch and prints the table versions x parts.

    python tests/versions.py                      # the oldest, 2.8, 2.11, 2.13 and the newest
    python tests/versions.py --only oldest newest

The newest is the environment that runs this file. The others are made in .venvs/, about 6 GB each; the oldest has the
lowest version of every dependency that pyproject.toml allows. Where wheels without CUDA can be downloaded,
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu makes them ten times smaller. Exits with 1 if a test fails.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
VERSIONS = {
    "oldest": ("2.6.0", "0.21.0"),
    "2.8": ("2.8.0", "0.23.0"),
    "2.11": ("2.11.0", "0.26.0"),
    "2.13": ("2.13.0", "0.28.0"),
    "newest": None,
}
# Parts of the suite and the paths of their tests. Tests of tools that older PyTorch lacks are in tests/tools.
CORE = {
    "layers": ["tests/layers"],
    "losses": ["tests/losses"],
    "profiler": ["tests/profiler"],
    "inflation": [
        f"tests/test_{name}.py" for name in ("inflation", "splicing", "extension", "running_clips", "clip")
    ],
    "models": ["tests/models/test_networks.py", "tests/models/test_published_keys.py", "tests/test_checkpoints.py"],
    "hub": ["tests/test_hub.py"],
    "data": ["tests/data"],
    "evaluation": ["tests/test_evaluation.py", "tests/test_ranking.py", "tests/test_distances.py"],
    "visualization": ["tests/test_charts.py", "tests/test_pictures.py"],
    "commands": ["tests/test_cli.py", "tests/test_arguments.py"],
    "training resume": ["tests/training/test_resume.py"],
    "fresh processes": ["tests/test_fresh_processes.py"],
}
# Parts that raise below a version of PyTorch; tests/test_fresh_processes.py holds that they do.
SINCE = {
    "optimize": (
        "2.11",
        [f"tests/test_{name}.py" for name in ("deployment", "fusion", "winograd", "token_deployment")],
    ),
    "export": (
        "2.14",
        ["tests/test_exporting.py", "tests/test_exporting_settings.py", "tests/models/test_deployment.py"],
    ),
}
INSTALLED = """import json, platform, torch, torchvision, numpy
print(json.dumps({"Python": platform.python_version(), "PyTorch": torch.__version__,
    "torchvision": torchvision.__version__, "NumPy": numpy.__version__}))"""
EXTRAS = "test,train,matlab,viz,video,parquet,timm,hub"


def environment(name: str, python: str) -> str:
    """The path of the Python that has the version called ``name``; its environment is made if need be."""
    if VERSIONS[name] is None:
        return sys.executable
    folder = ROOT / ".venvs" / name
    made, stamp = str(folder / "bin/python"), folder / "installed"
    project = ROOT / "pyproject.toml"
    if stamp.exists() and stamp.stat().st_mtime > project.stat().st_mtime:
        return made
    constraints = folder / "constraints.txt"
    subprocess.run([python, "-m", "venv", folder], check=True)
    constraints.write_text("".join(f"{package}=={version}\n" for package, version in fixed(name)))
    extras = EXTRAS if name == "oldest" else EXTRAS + ",onnx"
    install = [made, "-m", "pip", "--quiet", "install", "-c", constraints, "--editable", f"{ROOT}[{extras}]"]
    subprocess.run([*install, "scikit-learn>=1.4", "pytorch-metric-learning>=2.5"], check=True)
    stamp.touch()
    return made


def fixed(name: str) -> list[tuple[str, str]]:
    """PyTorch, and the packages that have the lowest version that pyproject.toml allows, each with its version.

    The extra onnx needs a newer NumPy than the oldest environment has, so its lowest versions are in that of 2.8.
    """
    extras = {"oldest": ["dependencies", *EXTRAS.split(",")], "2.8": ["onnx"]}.get(name, [])
    lines = [line.partition(" = [") for line in (ROOT / "pyproject.toml").read_text().splitlines()]
    stated = [re.findall(r'"([a-z][\w-]*)(?:\[\w+\])?>=([\d.]+)"', line) for key, _, line in lines if key in extras]
    lowest = [pair for pairs in stated for pair in pairs if pair[0] not in ("torch", "torchvision")]
    return [*zip(("torch", "torchvision"), VERSIONS[name], strict=True), *lowest]


def keeps_torch(python: str) -> str:
    """What installing the project with all extras would do to the PyTorch that is there."""
    install = [python, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-", f"{ROOT}[all]"]
    plan = json.loads(subprocess.run(install, check=True, capture_output=True, text=True).stdout)
    packages = {one["metadata"]["name"]: one["metadata"]["version"] for one in plan["install"]}
    replaced = [f"{name} {packages[name]}" for name in ("torch", "torchvision") if name in packages]
    return f"failed: pip would install {', '.join(replaced)}" if replaced else "keeps PyTorch"


def run(name: str, python: str, jobs: str) -> dict[str, str]:
    """Runs the parts and returns what became of each, by its name."""
    refused = {part: f"raises below {since}" for part, (since, _) in SINCE.items() if _is_older(name, since)}
    parts = CORE | {part: paths for part, (_, paths) in SINCE.items() if part not in refused}
    paths = [path for paths in parts.values() for path in paths]
    if missing := [path for path in paths if not (ROOT / path).exists()]:
        raise FileNotFoundError(f"no {', '.join(missing)}: CORE or SINCE is out of date")
    with TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        chosen = ["-m", "not slow or fresh_process"]
        command = [python, "-m", "pytest", "-n", jobs, *chosen, "--tb=short", f"--junitxml={report}"]
        settings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        code = subprocess.run([*command, *paths], cwd=ROOT, env=settings).returncode
        if code > 1:
            return dict.fromkeys(parts, f"failed: pytest exits with {code}") | refused
        cases = list(ElementTree.parse(report).iter("testcase"))
    counts: dict[str, Counter[str]] = {part: Counter() for part in parts}
    for case in cases:
        module = (case.get("classname") or case.get("name", "")).replace(".", "/")
        part = next(
            part for part, paths in parts.items() if module.startswith(tuple(p.removesuffix(".py") for p in paths))
        )
        outcomes = {child.tag for child in case}
        counts[part]["failed" if outcomes & {"failure", "error"} else "skipped" if outcomes else "passed"] += 1
    return {part: _cell(count) for part, count in counts.items()} | refused


def _is_older(name: str, since: str) -> bool:
    """Whether the column called ``name`` has a PyTorch below ``since``, such as "2.11"."""
    if VERSIONS[name] is None:
        return False
    installed, wanted = ([int(number) for number in text.split(".")] for text in (VERSIONS[name][0], since))
    return installed < wanted


def _cell(counts: Counter[str]) -> str:
    """What the table says of a part. A part without a test, or with one that did not run, has not passed."""
    other = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items()) if outcome != "passed")
    if other or not counts:
        return f"failed: {other or 'no test'}"
    return f"{counts['passed']:,} passed"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=VERSIONS, default=list(VERSIONS), help="versions to run")
    parser.add_argument("--python", default=sys.executable, help="Python from which environments are made")
    parser.add_argument("--jobs", default="2", help="processes of the suite")
    arguments = parser.parse_args()
    columns = {}
    for name in arguments.only:
        python = environment(name, arguments.python)
        found = subprocess.run([python, "-c", INSTALLED], check=True, capture_output=True, text=True).stdout
        columns[name] = json.loads(found) | {"pip install": keeps_torch(python)} | run(name, python, arguments.jobs)
    print("| | " + " | ".join(columns) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for row in columns[arguments.only[0]]:
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")
    return any("failed" in cell for column in columns.values() for cell in column.values())


if __name__ == "__main__":
    sys.exit(main())
