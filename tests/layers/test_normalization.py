import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import wake
from torch import nn

from strfnet.deployment.in_place_norm import InPlaceNorm, in_place_norms


def frames(seed, n=3, c=5, h=4, w=3):
    maps = torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return maps.contiguous(memory_format=torch.channels_last)


def both(affine=True, seed=0):
    plain = wake(nn.BatchNorm2d(5, affine=affine).double(), seed)
    return plain.eval(), in_place_norms(copy.deepcopy(plain))


@given(seed=st.integers(0, 2**20), affine=st.booleans())
def test_in_evaluation_it_writes_the_plain_norms_answer_over_its_input(seed, affine):
    plain, norm = both(affine, seed)
    assert type(norm) is InPlaceNorm
    x = frames(seed)
    expected = plain(x)
    with torch.no_grad():
        answer = norm(x)
    torch.testing.assert_close(answer, expected.detach(), rtol=1e-12, atol=1e-12)
    assert answer.data_ptr() == x.data_ptr()


def test_with_gradients_in_training_and_in_other_orders_the_input_stays():
    plain, norm = both()
    x = frames(0)
    kept = x.clone()
    norm(x)
    assert torch.equal(x, kept)
    with torch.no_grad():
        copy.deepcopy(norm).train()(x)
        assert torch.equal(x, kept)
        for other in (x.contiguous(), x[:, :, ::2]):
            kept = other.clone()
            torch.testing.assert_close(norm(other), plain(kept))
            assert torch.equal(other, kept)


def test_without_running_statistics_it_is_the_plain_norm():
    norm = in_place_norms(nn.BatchNorm2d(5, track_running_stats=False).double()).eval()
    x = frames(1)
    with torch.no_grad():
        assert norm(x).mean().abs() < 1e-12
    assert norm(x).data_ptr() != x.data_ptr()


def test_only_plain_norms_are_changed():
    class Other(nn.BatchNorm2d):
        pass

    network = in_place_norms(nn.Sequential(nn.BatchNorm2d(2), Other(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2)))
    assert [type(module) for module in network] == [InPlaceNorm, Other, nn.BatchNorm3d, nn.SyncBatchNorm]
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(network)[0]) is nn.SyncBatchNorm
