"""Benchmarks as modules and as commands, without a process of their own."""

import importlib
import sys
import types
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Imports a benchmark by its name."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def run(load, monkeypatch, capsys):
    """Runs a benchmark's ``main``: its exit status, and what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        capsys.readouterr()
        return load(name).main(), capsys.readouterr().out

    return run


@pytest.fixture
def rooms(load, monkeypatch):
    """The modules of the speed benchmark; their deployment is the network itself, rounded to the requested dtype."""

    class Rounded(torch.nn.Module):
        form, error = "rounded", 0.0

        def forward(self, clip):
            answer = self.network(clip)
            return answer._replace(embedding=answer.embedding.to(self.dtype))

    def optimize(network, clip_shape, *, dtype=torch.float32, compiled=True, backend="inductor"):
        rounded = Rounded()
        rounded.network, rounded.dtype = network, dtype
        return rounded

    deployment = types.ModuleType("strfnet.deployment.optimizer")
    deployment.optimize = optimize
    monkeypatch.setitem(sys.modules, "strfnet.deployment.optimizer", deployment)
    names = ("figures", "cases", "networks", "steps", "blocks", "memory", "speed", "plots", "peers", "cuda_cases")
    rooms = types.SimpleNamespace(**{name: load(name) for name in (*names, "interleaved", "roof", "restatements")})
    rooms.settings = rooms.cases.Settings("resnet18", frames=4, frame=(256, 32), rounds=1, most=1)
    return rooms


@pytest.fixture
def by_quantity():
    """Finds figures by their quantity."""
    return lambda figures: {figure.quantity: figure for figure in figures}
