"""The speed benchmark on small networks: its rows, goals, tables and picture; speed itself is not judged here."""

import dataclasses
import importlib
import json
import sys
import textwrap
import types
from pathlib import Path

import pytest
import torch

import strfnet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rooms(monkeypatch):
    """The benchmark's modules; their deployment is the network itself, rounded to the dtype asked for."""

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
    monkeypatch.syspath_prepend(BENCHMARKS)
    names = ("figures", "cases", "blocks", "memory", "speed", "plots", "peers", "cuda_cases", "interleaved")
    rooms = types.SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    rooms.settings = rooms.cases.Settings("resnet18", frames=4, frame=(256, 32), rounds=1)
    return rooms


def by_quantity(figures):
    return {figure.quantity: figure for figure in figures}


@pytest.mark.parametrize(("form", "judged"), [("ste_nvan_{}", True), ("p3dc_{}", False)])
def test_a_network_is_held_against_the_published_one_and_the_roof(rooms, monkeypatch, form, judged):
    small = importlib.import_module("roof").probes(channels=8)
    monkeypatch.setattr(rooms.cases, "probes", lambda device: small)
    settings = dataclasses.replace(rooms.settings, judged=judged)
    rows = by_quantity(rooms.cases.inference(form, 1, settings))
    assert rows["eager: output differs"].reached and rows["deployed: output differs"].reached
    assert 1e-4 < rows["bfloat16: output differs"].value < 0.015
    goals = {name: row.goal for name, row in rows.items() if row.unit in ("x", "roof") and row.goal is not None}
    assert (
        goals
        == {
            True: {
                "eager: published takes": 1.1,
                "deployed: published takes": 1.4,
                "deployed: share of the roof": 0.80,
                "bfloat16: published takes": 2.3,
            },
            False: {},
        }[judged]
    )
    macs = strfnet.profile(strfnet.create_model(form.format("resnet18")), (1, 3, 4, 256, 32)).macs
    share, seconds, roof = (rows[name].value for name in ("eager: share of the roof", "eager", "roof: best probe"))
    assert share == pytest.approx(2 * macs / seconds / roof / 1e9, rel=1e-6)
    assert rows["eager: published takes"].value == pytest.approx(rows["published"].value / seconds, rel=1e-6)


def test_an_answer_that_differs_misses_its_goal(rooms, monkeypatch):
    def other(network):
        theirs = importlib.import_module("restatements").restate(network)
        with torch.no_grad():
            theirs.bn.bias.add_(1e-3)
        return theirs

    monkeypatch.setattr(rooms.cases, "restate", other)
    rows = by_quantity(rooms.cases.inference("c2d_{}", 4, dataclasses.replace(rooms.settings, judged=False)))
    assert rows["eager: output differs"].reached is False and "MISSED" in rows["eager: output differs"].verdict
    assert "bfloat16: published takes" not in rows


@pytest.mark.parametrize("form", ["p3dc_{}", "nvan_{}", "ste_nvan_{}"])
def test_gradients_are_those_of_the_published_computation(rooms, form):
    network = rooms.cases.awake(form.format("resnet18"), rooms.settings)
    assert rooms.cases.gradients_differ(network, rooms.settings) < rooms.cases.GRADIENT_ERROR


def test_a_wrong_gradient_shows(rooms, monkeypatch):
    network = rooms.cases.awake("p3dc_resnet18", rooms.settings)

    def other(double):
        theirs = importlib.import_module("restatements").restate(double)
        with torch.no_grad():
            theirs.layer2[0].conv2.temporal_conv3d.weight.mul_(1 + 1e-6)
        return theirs

    monkeypatch.setattr(rooms.cases, "restate", other)
    assert rooms.cases.gradients_differ(network, rooms.settings) > rooms.cases.GRADIENT_ERROR


def test_a_training_step_leaves_gradients_and_is_judged_by_its_goals(rooms):
    rows = by_quantity(rooms.cases.training("ste_nvan_{}", rooms.settings))
    assert rows["gradients in float64 differ"].reached
    assert rows["eager: published takes"].goal == 1.2
    assert rows["bfloat16 autocast: published takes"].goal == 2.4
    network = rooms.cases.awake("c2d_resnet18", rooms.settings).train()
    rooms.cases.step(network, rooms.settings)
    missing = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert missing == {"head.neck.weight", "head.neck.bias"}  # the loss is taken before the neck


def test_bfloat16_is_tried_on_a_small_clip_where_it_is_emulated(rooms, monkeypatch):
    settings = rooms.cases.Settings()
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: False)
    assert settings.half.clip_shape(1) == (1, 3, 4, 256, 32) and settings.half.rounds == 1
    assert settings.half.judge(2.3) is None, "the speed of an emulation says nothing"
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: True)
    assert settings.half == settings


@pytest.mark.slow
@pytest.mark.parametrize("emulated", [True, False])
def test_bfloat16_that_is_emulated_is_not_compiled(rooms, monkeypatch, emulated):
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: not emulated)
    deployment, asked = sys.modules["strfnet.deployment.optimizer"], {}

    def optimize(network, clip_shape, *, dtype=torch.float32, compiled=True, rounded=deployment.optimize):
        asked[dtype] = compiled
        return rounded(network, clip_shape, dtype=dtype)

    monkeypatch.setattr(deployment, "optimize", optimize)
    monkeypatch.setattr(rooms.cases, "probes", lambda device: importlib.import_module("roof").probes(channels=8))
    rooms.cases.inference("p3dc_{}", 1, rooms.settings)
    assert asked == {torch.float32: True, torch.bfloat16: not emulated}


@pytest.mark.slow
def test_strf_has_a_price(rooms, monkeypatch):
    monkeypatch.setattr(rooms.cases, "probes", lambda device: importlib.import_module("roof").probes(channels=8))
    rows = by_quantity(rooms.cases.inference("p3dc_{}", 1, rooms.settings))
    for name in ("eager", "deployed"):
        price = rows[f"{name}: with STRF takes"]
        assert price.at_most and price.goal == 1.03 and price.least < price.value < price.most
    settings = dataclasses.replace(rooms.settings, judged=False)
    assert not any("STRF" in name for name in by_quantity(rooms.cases.inference("p3dc_{}", 1, settings)))


@pytest.mark.slow
def test_every_part_of_a_network_matters(rooms):
    for form in rooms.cases.NETWORKS:
        network = rooms.cases.awake(form.format("resnet18"), rooms.settings)
        sleeping = [name for name, p in network.named_parameters() if not p.abs().max() > 1e-3]
        assert not sleeping and not network.training, form


def test_blocks_agree_and_growth_is_shown(rooms):
    settings = dataclasses.replace(rooms.settings, judged=False)
    for case in rooms.blocks.FORMS:
        rows = by_quantity(rooms.blocks.block(case, settings))
        assert rows["eager: output differs"].reached, case
    assert set(by_quantity(rooms.blocks.growth("block", settings))) == {"published, T = 4", "eager, T = 4"}


def test_memory_is_judged_at_every_length(rooms, monkeypatch):
    asked = []

    def afresh(subject, frames):
        asked.append((subject, frames))
        return frames**2 * 10.0 if subject in rooms.memory.OF.values() else float(frames)

    monkeypatch.setattr(rooms.memory, "measured_afresh", afresh)
    rows = by_quantity(rooms.memory.figures())
    assert {subject for subject, frames in asked if frames == 64} == {
        "strfnet", "strfnet, dot", "strfnet, 16 stripes"
    }  # fmt: skip
    assert rows["strfnet, T = 8: of explicit"].value == 8 / 640 and rows["strfnet: growth exponent"].value == 1
    judged = {name: row.goal for name, row in rows.items() if row.goal is not None}
    assert judged == {
        "strfnet, T = 8: of explicit": 0.18,
        "strfnet, T = 32: of explicit": 0.05,
        "nvan, strfnet, T = 8: of nvan, published": 0.35,
        "strfnet, at T = 64": 250,
        "strfnet: growth exponent": 1.0,
        "strfnet, training: growth exponent": 1.05,
    }
    assert all(row.at_most for row in rows.values() if row.goal is not None)


@pytest.fixture
def record(rooms):
    figure = rooms.figures.Figure
    rows = [
        figure("nvan_resnet50, batch 1", "eager: published takes", 1.3, "x", 1.2, 1.4, goal=1.1),
        figure("nvan_resnet50, batch 1", "eager: output differs", 2e-5, goal=1e-5, at_most=True),
        figure("nvan_resnet50, batch 1", "eager", 1.5, "s", 1.4, 1.6),
        *(figure("nvan_resnet50, batch 1", f"{way}: share of the roof", 0.7, "roof") for way in rooms.plots.COLOURS),
        *(
            figure("growth of block", f"{way}, T = {t}", 0.1 * t, "s")
            for way in ("published", "eager")
            for t in (4, 8)
        ),
        figure("memory", "strfnet, T = 8", 20.0, "MiB"),
        figure("memory", "strfnet, T = 8: of explicit", 0.2, "share", goal=0.18, at_most=True),
    ]
    machine = {"name": "a machine", "torch": "2", "threads": 1, "cores": 2}
    cases = {"all": {"seconds": 120.0, "figures": rooms.figures.dumped(rows)}}
    return {"machine": machine, "settings": "small", "jobs": 2, "cases": cases}


def test_tables_say_goal_figure_and_by_how_much_it_is_missed(rooms, record, tmp_path, monkeypatch, capsys):
    stored, page = tmp_path / "run.json", tmp_path / "page.md"
    stored.write_text(json.dumps(record))
    page.write_text(f"before\n{rooms.figures.BEGIN}\nold\n{rooms.figures.END}\nafter\n")
    call = ["speed.py", "--from", str(stored), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", call)
    assert rooms.speed.main() == 1
    text = capsys.readouterr().out
    assert "1 of 3 goals reached" in text and "MISSED by 100.0%" in text and "MISSED by 11.1%" in text
    assert " 1.50 s" not in text  # seconds are in the JSON
    shown = page.read_text()
    assert shown.startswith("before\n") and shown.endswith("after\n") and "old" not in shown
    assert "a machine, PyTorch 2, 1 thread, small." in shown and "1 of 3 goals reached" in shown
    assert all(line in shown for line in text.splitlines() if "MISSED" in line)
    record["cases"]["all"]["figures"] = [
        row for row in record["cases"]["all"]["figures"] if row["reached"] is not False
    ]
    stored.write_text(json.dumps(record))
    assert rooms.speed.main() == 0 and "1 of 1 goals reached" in capsys.readouterr().out
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"has no <!-- .* to put the table into"):
        rooms.speed.main()


def test_a_row_shows_the_figure_that_is_worst_by_its_goal(rooms):
    figure = rooms.figures.Figure
    figures = [
        figure("a_net, batch 1", "eager: published takes", 1.5, "x", 1.4, 1.6, goal=1.4),
        figure("b_net, batch 1", "eager: published takes", 1.2, "x", 1.1, 1.3, goal=1.0),
        figure("b_net, batch 4", "eager: published takes", 1.2, "x", 1.0, 1.3, goal=1.3),
        figure("a_net, batch 1", "eager: output differs", 1e-6, goal=1e-5, at_most=True),
        figure("a_net, batch 1", "deployed: output differs", float("nan"), goal=1e-5, at_most=True),
        figure("a_net, training", "eager: published takes", 3.0, "x", 2.9, 3.1),
        figure("b_net, training", "eager: published takes", 2.0, "x", 1.9, 2.1),
        figure("a_net, formats", "kernels", 1.0, "x", goal=2.0),
        figure("a_net, batch 1", "eager", 9.0, "s"),
    ]
    lines = rooms.figures.summary(figures).splitlines()
    rows = {line[:30].strip(): line[30:].split() for line in lines[1:-2]}
    assert list(rows) == [
        "output and gradient errors", "published / eager", "published / training step", "others"
    ]  # fmt: skip
    assert rows["output and gradient errors"][:4] == ["1", "of", "2", "nan"]
    assert " ".join(rows["published / eager"]) == "2 of 3 1.20 x 1.00 .. 1.30 ≥ 1.30 b_net, batch 4, MISSED by 7.7%"
    assert " ".join(rows["published / training step"]) == "2.50 x 2.00 .. 3.00 not judged, 2 cases"
    assert rows["others"][:3] == ["0", "of", "1"] and lines[-1] == "3 of 6 goals reached"


def test_a_deployed_network_is_held_against_the_fastest_runtime(rooms, monkeypatch):
    runtimes = importlib.import_module("strfnet.deployment.runtimes")

    class Exported:
        def __init__(self, network, clip):
            self.network = network

        def open(self, runtime, dtype):
            return self.network

    def in_turn(calls, *, rounds, shortest):
        taken = {"deployed": 4.0, "openvino": 3.0, "onnxruntime": 5.0}
        return rooms.interleaved.Timings({name: [taken[name]] for name in calls})

    monkeypatch.setattr(runtimes, "OnnxNetwork", Exported)
    monkeypatch.setattr(rooms.cases, "in_turn", in_turn)
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: True)
    rows = by_quantity(rooms.cases.runtimes("c2d_{}", 1, rooms.settings))
    for name in ("float32", "bfloat16"):
        row = rows[f"{name}: the fastest runtime takes"]
        assert row.value == 3 / 4 and row.goal == 0.95 and row.reached is False
        assert rows[f"{name}: rounded; output differs"].reached
    assert "float32, onnxruntime" in rows and "bfloat16, onnxruntime" not in rows
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: False)
    assert not any("bfloat16" in name for name in by_quantity(rooms.cases.runtimes("c2d_{}", 1, rooms.settings)))
    assert len([name for name in rooms.speed.cases(rooms.settings) if name.endswith("runtimes")]) == 4


def test_a_figure_that_is_no_number_reaches_no_goal(rooms):
    for at_most in (True, False):
        assert rooms.figures.Figure("a", "b", float("nan"), goal=1.0, at_most=at_most).reached is False


def test_a_picture_is_drawn_or_says_what_it_needs(rooms, record, tmp_path, monkeypatch):
    file = tmp_path / "run.png"
    if importlib.util.find_spec("matplotlib"):
        rooms.plots.draw(record, file)
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 20_000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'strfnet\[viz\]'"):
        rooms.plots.draw(record, file)


def test_cases_run_apart_and_meet_in_one_record(rooms, tmp_path, monkeypatch, capsys):
    stored = tmp_path / "run.json"
    chosen = ["--only", "block, dot", "--only", "16 stripes"]
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--jobs", "2", *chosen, "--json", str(stored)])
    assert rooms.speed.main() == 0
    record = json.loads(stored.read_text())
    assert list(record["cases"]) == ["block, 16 stripes", "block, dot"]
    assert record["machine"]["name"] and record["machine"]["torch"] == torch.__version__
    rows = [row for case in record["cases"].values() for row in case["figures"]]
    assert rows and all(row["goal"] is None for row in rows if row["unit"] == "x")
    shown = capsys.readouterr().out
    assert "answers are judged, speed and memory are not" in shown
    assert shown.startswith("processor: ") and record["machine"]["features"] == rooms.cases.features()

    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--jobs", "2", *chosen[:2], "--json", str(stored)])
    assert rooms.speed.main() == 0
    again = json.loads(stored.read_text())
    assert again["cases"]["block, 16 stripes"] == record["cases"]["block, 16 stripes"]
    assert again["cases"]["block, dot"] != record["cases"]["block, dot"]
    told = {name: record[name] for name in ("machine", "settings", "jobs")}
    assert rooms.speed.begun(stored, {**told, "jobs": 1}) == {**told, "jobs": 1, "cases": {}}


def test_wrong_calls_are_told_what_there_is(rooms, tmp_path, monkeypatch, capsys):
    for arguments, wanted in (
        (["--only", "nvam"], "--only nvam is in none of: resnet50_fpl, batch 1;"),
        (["--peers", str(tmp_path)], "holds neither net/models.py (of STE-NVAN) nor models/ResNet.py (of AP3D)"),
    ):
        monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
        with pytest.raises(SystemExit):
            rooms.speed.main()
        assert wanted in capsys.readouterr().err


def test_a_case_that_fails_is_named(rooms):
    with pytest.raises(RuntimeError, match="the case 'no such case' failed: KeyError"):
        rooms.speed.run_apart("no such case", rooms.settings)


STE = """
    from restatements import Folded
    import strfnet

    class CNN(Folded):
        def __init__(self, out_dim, model_type, num_class, non_layers, stripes, temporal):
            assert (out_dim, model_type, non_layers) == (2048, "resnet50_NL_stripe_hr", [0, 2, 3, 0])
            super().__init__(strfnet.create_model("ste_nvan_resnet18", num_classes=None))
            self.classifier = __import__("torch").nn.Linear(512, num_class, bias=False)

        def forward(self, x):
            return super().forward(x.transpose(1, 2)).embedding
"""
AP3D = {
    "ResNet": """
    import torchvision
    from torch.hub import load_state_dict_from_url
    from restatements import Inflated
    from models.AP3D import P3DC
    import strfnet

    class ResNet503D(Inflated):
        def __init__(self, num_classes, block, c3d_idx, nl_idx):
            assert block is P3DC and c3d_idx == [[], [0, 2], [0, 2, 4], []] and nl_idx == [[]] * 4
            assert "fc.weight" in load_state_dict_from_url("nowhere")
            torchvision.models.resnet50(weights="IMAGENET1K_V1")
            super().__init__(strfnet.create_model("p3dc_resnet18", num_classes=None))

        def forward(self, x):  # features by frame, as the neck is the caller's
            feature = super().forward(x).feature
            return feature[:, None].repeat(1, x.shape[2], 1)
    """,
    "AP3D": "P3DC = object()",
}


def write(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("form", "folder", "files"),
    [("ste_nvan_{}", "net", {"models": STE, "__init__": ""}), ("p3dc_{}", "models", AP3D | {"__init__": ""})],
)
def test_a_checkout_is_timed_with_the_same_weights(rooms, tmp_path, form, folder, files):
    write(tmp_path / "checkout" / folder, files)
    path, modules = list(sys.path), {name for name in sys.modules if name.split(".")[0] in ("net", "models")}
    rows = by_quantity(rooms.peers.compared(tmp_path / "checkout", form, rooms.settings))
    assert rows["eager: output differs"].reached and rows["eager: the checkout takes"].value > 0
    assert sys.path == path
    assert {name for name in sys.modules if name.split(".")[0] in ("net", "models")} == modules


def test_a_checkout_that_does_not_take_the_clip_is_named(rooms, tmp_path):
    fails = "\n\n        def forward(self, x):\n            raise RuntimeError('shape [1, 3] is invalid')\n"
    write(tmp_path / "net", {"models": STE.rstrip() + fails, "__init__": ""})
    with pytest.raises(
        ValueError, match=r"resnet50_NL_stripe_hr does not take a clip of \(1, 3, .*\[1, 3\] is invalid"
    ):
        rooms.peers.compared(tmp_path, "ste_nvan_{}", rooms.settings)


def test_a_checkout_of_another_shape_is_refused(rooms, tmp_path):
    write(tmp_path / "net", {"models": "class CNN:\n    def __init__(self, depth): pass", "__init__": ""})
    with pytest.raises(ValueError, match=r"does not build resnet50_NL as it should.*model_type"):
        rooms.peers.build(tmp_path, "nvan_{}")
    write(tmp_path / "other" / "models", {"ResNet": "class ResNet503D: pass", "AP3D": "", "__init__": ""})
    with pytest.raises(ValueError, match=r"does not build P3DC as it should.*P3DC"):
        rooms.peers.build(tmp_path / "other", "p3dc_{}")
    network = rooms.cases.awake("c2d_resnet18", rooms.settings)
    with pytest.raises(ValueError, match=r"parameters are not on both sides, such as bias, bn\.bias"):
        rooms.peers.with_weights_of(network, torch.nn.Linear(1, 1))


def test_formats_and_kernels_of_a_gpu_are_taken_by_code_that_runs_here(rooms, monkeypatch):
    gpu = rooms.cuda_cases
    rows = by_quantity(gpu.formats("c2d_{}", rooms.settings, ("eager",)))
    assert set(rows) == {
        *(f"eager, {name}: {q}" for name in gpu.FORMATS for q in ("output differs", "published takes")),
        *(f"published, {name}: output differs" for name in gpu.FORMATS),
    }
    assert all(row.reached is not False for row in rows.values())
    monkeypatch.setattr(gpu, "BLOCKS", {"layer2": (8, 4, 4)})
    rows = gpu.attention(rooms.settings)
    assert len(rows) == 6 and sum("(chosen)" in row.quantity for row in rows) >= 2
    assert all("attention" in row.quantity for row in rows if ", fused" in row.quantity)


def test_each_format_is_held_against_the_published_computation_in_that_format(rooms, monkeypatch):
    seen = []

    def in_turn(calls, *, rounds, device):
        return rooms.interleaved.Timings({name: [float(place + 1)] for place, name in enumerate(calls)})

    def called(network, clip, number):
        seen.append((number, clip.dtype))
        return network(clip)

    monkeypatch.setattr(rooms.cuda_cases, "in_turn", in_turn)
    monkeypatch.setattr(rooms.cuda_cases, "called", called)
    monkeypatch.setitem(rooms.cuda_cases.WAYS, "compiled", lambda network: network)
    rows = by_quantity(rooms.cuda_cases.formats("c2d_{}", rooms.settings, ("eager", "compiled")))
    assert set(seen) == set(rooms.cuda_cases.FORMATS.items())
    # published, eager and compiled take 1, 2, 3 s in float32, 4, 5, 6 s with TF32, 7, 8, 9 s in bfloat16
    assert rows["eager, float32: published takes"].value == 1 / 2
    assert rows["compiled, TF32: published takes"].value == 4 / 6
    assert rows["compiled, bfloat16: published takes"].value == 7 / 9
    headline = rows["compiled, bfloat16: published, TF32 takes"]
    assert headline.value == 4 / 9 and headline.goal == 3.0 and not headline.reached


@pytest.mark.parametrize("number", ["float32", "TF32"])
def test_a_call_in_a_format_sets_tf32_and_restores_it(rooms, number):
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    seen = rooms.cuda_cases.called(lambda clip: [switch.allow_tf32 for switch in switches], None, number)
    assert seen == [number == "TF32"] * 2
    assert [switch.allow_tf32 for switch in switches] == before


class Gpu:
    """The clock and the memory of a GPU, as far as the benchmarks read them; each call takes a millisecond."""

    def __init__(self, monkeypatch):
        gpu = self
        self.now = self.bytes = self.most = 0

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.at = gpu.now

            def elapsed_time(self, other):
                return other.at - self.at

        def reset():
            gpu.most = gpu.bytes

        for name, fake in {
            "Event": Event,
            "synchronize": lambda: None,
            "empty_cache": lambda: None,
            "reset_peak_memory_stats": reset,
            "memory_allocated": lambda: gpu.bytes,
            "max_memory_allocated": lambda: gpu.most,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def call(self):
        self.now, self.most = self.now + 1, max(self.most, self.bytes + 3 * 2**20)


def test_calls_on_a_gpu_are_timed_by_events_and_warm(rooms, monkeypatch):
    gpu = Gpu(monkeypatch)
    timings = rooms.interleaved.in_turn({"a": gpu.call, "b": gpu.call}, rounds=2, device="cuda", shortest=0)
    assert timings.seconds == {"a": [0.001, 0.001], "b": [0.001, 0.001]}
    assert gpu.now == 2 * (3 + 1 + 2 * 50), "three to warm up, one to judge, and turns of 50 ms"
    gpu.bytes = 2**30
    assert rooms.interleaved.peak_mib(gpu.call) == 3


def test_probes_of_a_gpu_last_milliseconds():
    roof = importlib.import_module("roof")
    on_cpu = max(probe.flop for probe in roof.probes(channels=8).values())
    flops = [2 * roof.FRAMES["cuda"] * 512 * 32 * 16 * 512 * 9, 2 * (roof.SIDE["cuda"] * 512) ** 3]
    assert min(flops) / 1e15 > 5e-4, "at a petaflop a second"
    assert on_cpu == 2 * 4 * 8 * 32 * 16 * 8 * 9


def test_a_quick_run_on_a_gpu_has_few_cases_and_an_end(rooms):
    settings = dataclasses.replace(rooms.cases.QUICK, device="cuda")
    named = rooms.speed.cases(settings)
    formats = [name for name in named if name.endswith("formats")]
    assert len(formats) == 3 and "attention kernels" in named and "memory" not in named
    assert named[formats[0]].args[2] == ("eager",)
    assert rooms.speed.run_apart("no such case", settings, latest=0.0) == {"seconds": 0.0, "figures": []}


def test_the_longest_kernel_that_attends_is_named(rooms):
    assert rooms.cuda_cases.longest({"gemm": 9.0, "fmha_a": 1.0, "flash_b": 2.0}) == "flash_b"
    assert rooms.cuda_cases.longest({"gemm": 9.0, "softmax": 1.0}) == "gemm"
