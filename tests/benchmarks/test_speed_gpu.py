"""The speed benchmark's cases for a GPU, by code that runs on CPUs; events and memory are faked."""

import dataclasses

import pytest
import torch


def test_formats_and_kernels_of_a_gpu_are_taken_by_code_that_runs_here(rooms, by_quantity, monkeypatch):
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


def test_each_format_is_held_against_the_published_computation_in_that_format(rooms, by_quantity, monkeypatch):
    seen = []

    def in_turn(calls, **_):
        return rooms.interleaved.Timings({name: [float(place + 1)] for place, name in enumerate(calls)})

    def called(network, clip, number):
        seen.append((number, clip.dtype))
        return network(clip)

    monkeypatch.setattr(rooms.cases, "in_turn", in_turn)
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


def test_probes_of_a_gpu_last_milliseconds(rooms):
    roof = rooms.roof
    on_cpu = max(probe.flop for probe in roof.probes(channels=8).values())
    flops = [2 * roof.FRAMES["cuda"] * 512 * 32 * 16 * 512 * 9, 2 * (roof.SIDE["cuda"] * 512) ** 3]
    assert min(flops) / 1e15 > 5e-4, "at a petaflop a second"
    assert on_cpu == 2 * 4 * 8 * 32 * 16 * 8 * 9


def test_a_quick_run_on_a_gpu_has_few_cases_and_an_end(rooms):
    settings = dataclasses.replace(rooms.cases.QUICK, device="cuda")
    named = rooms.speed.cases(settings)
    formats = [name for name in named if name.endswith("formats")]
    assert len(formats) == 3 and "attention kernels" in named and "memory" not in named
    assert named[formats[0]].measure.args[2] == ("eager",)
    assert rooms.speed.run_apart("no such case", settings, latest=0.0) == {"seconds": 0.0, "figures": []}


def test_the_longest_kernel_that_attends_is_named(rooms):
    assert rooms.cuda_cases.longest({"gemm": 9.0, "fmha_a": 1.0, "flash_b": 2.0}) == "flash_b"
    assert rooms.cuda_cases.longest({"gemm": 9.0, "softmax": 1.0}) == "gemm"
