"""What the losses need of a device: no read by the host, one graph to compile, and no float64 where there is none."""

import pytest
import torch
from host_reads import HostReads

from strfnet.layers.head import ReIDOutput
from strfnet.losses.objective import nvan_loss, strf_loss
from strfnet.losses.triplet import BatchHardTriplet
from strfnet.system.compat import TorchDispatchMode

LABELS = torch.arange(12) % 4
LOSSES = [("euclidean", None), ("euclidean", 0.3), ("cosine", None), ("cosine", 0.3)]


def output(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    embedding, feature, logits = (torch.randn(12, d, generator=generator).to(dtype) for d in (5, 5, 4))
    return ReIDOutput(*(tensor.requires_grad_() for tensor in (embedding, feature, logits)))


@pytest.mark.parametrize("loss", [strf_loss, nvan_loss])
def test_no_value_is_read_by_the_host(loss):
    objective, given = loss(smoothing=0.1), output()
    with HostReads() as reads:
        objective(given, LABELS).total.backward()
    assert reads.found == []


@pytest.mark.parametrize("loss", [strf_loss, nvan_loss])
def test_a_loss_compiles_to_one_graph(loss):
    objective, eager, compiled = loss(), output(), output()
    one = objective(eager, LABELS)
    other = torch.compile(objective, fullgraph=True, backend="aot_eager")(compiled, LABELS)
    one.total.backward(), other.total.backward()
    torch.testing.assert_close(tuple(other), tuple(one))
    for here, there in zip(eager, compiled, strict=True):
        assert (here.grad is None) == (there.grad is None)
        if here.grad is not None:
            torch.testing.assert_close(there.grad, here.grad)


class NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        assert not (isinstance(result, torch.Tensor) and result.dtype == torch.float64), function
        return result


@pytest.mark.parametrize("form", LOSSES)
def test_without_float64_the_same_pairs_are_mined(form, monkeypatch):
    loss = BatchHardTriplet(*form)
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    zeros = rows.clone()
    zeros[::7] = 0
    near = rows[:1] + 1e-3 * torch.arange(40)[:, None].square() * torch.tensor([0, 1.0, 0, 0, 0, 0])  # fine steps
    outlier = torch.cat([near[:39], torch.full((1, 6), 1e5)])
    batches = [(features, torch.arange(40) % 9) for features in (rows, zeros, near, outlier)]
    expected = [loss.per_anchor(*batch) for batch in batches]
    asked = []
    monkeypatch.setattr("strfnet.losses.triplet.has_float64", lambda device: asked.append(device))
    for batch, value in zip(batches, expected, strict=True):
        with NoFloat64():
            torch.testing.assert_close(loss.per_anchor(*batch), value, rtol=1e-4, atol=1e-6)
    assert asked == ["cpu"] * 4


def test_only_apples_devices_lack_float64():
    from strfnet.losses.triplet import has_float64

    assert [has_float64(kind) for kind in ("cpu", "cuda", "mps")] == [True, True, False]
