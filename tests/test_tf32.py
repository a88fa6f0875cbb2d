"""The switch for TF32 sets the flags of convolutions and products, and restores what the caller has set."""

import contextlib
import itertools

import pytest
import torch

from strfnet.deployment import allow_tf32
from strfnet.system.compat import tf32_is_allowed

MATMUL, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn
MODERN = hasattr(CUDNN, "conv")


def old_flags():
    return MATMUL.allow_tf32, CUDNN.allow_tf32, torch.get_float32_matmul_precision()


def new_flags():
    return tuple(part.fp32_precision for part in ((MATMUL, CUDNN.conv, CUDNN.rnn) if MODERN else ()))


@pytest.fixture(autouse=True)
def restored():
    yield
    for part in (MATMUL, CUDNN.conv, CUDNN.rnn) if MODERN else ():
        part.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    MATMUL.allow_tf32, CUDNN.allow_tf32 = False, True


@pytest.mark.parametrize(("products", "convolutions", "allowed"), list(itertools.product([True, False], repeat=3)))
def test_both_flags_are_set_and_restored(products, convolutions, allowed):
    MATMUL.allow_tf32, CUDNN.allow_tf32 = products, convolutions
    before = old_flags(), new_flags()
    assert tf32_is_allowed() == (products or convolutions)
    with contextlib.suppress(KeyError), allow_tf32(allowed):
        assert old_flags()[:2] == (allowed, allowed) and tf32_is_allowed() == allowed
        with allow_tf32(not allowed):
            assert old_flags()[:2] == (not allowed, not allowed) and tf32_is_allowed() != allowed
        assert old_flags()[:2] == (allowed, allowed)
        raise KeyError
    assert (old_flags(), new_flags()) == before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_the_precision_of_products_is_restored(precision):
    torch.set_float32_matmul_precision(precision)
    before = old_flags(), new_flags()
    with allow_tf32(False):
        assert torch.get_float32_matmul_precision() == "highest"
    assert (old_flags(), new_flags()) == before


@pytest.mark.skipif(not MODERN, reason="this PyTorch has no fp32_precision")
@pytest.mark.parametrize(("products", "convolutions"), list(itertools.product(["ieee", "tf32"], repeat=2)))
def test_flags_of_the_new_kind_are_set_and_restored(products, convolutions):
    MATMUL.fp32_precision, CUDNN.conv.fp32_precision = products, convolutions
    before = new_flags()
    assert tf32_is_allowed() == ("tf32" in (products, convolutions))
    for allowed, name in ((True, "tf32"), (False, "ieee")):
        with allow_tf32(allowed):
            assert tf32_is_allowed() == allowed
            assert (MATMUL.fp32_precision == "tf32") == (CUDNN.conv.fp32_precision == "tf32") == (name == "tf32")
        assert new_flags() == before
