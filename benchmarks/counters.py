"""What seven counters say of one network: multiply-adds of NVAN on a clip of 8 frames by default.

python benchmarks/counters.py
python benchmarks/counters.py --network strf_p3dc_resnet50 --clip 1 3 8 256 128

Each runs where it is installed: pip install fvcore calflops ptflops thop torchinfo. Counters differ by what they
leave out: hooks on modules see no matrix products outside modules, and several see no fused attention.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable
from typing import Any

import torch
from published import CLIP

import strfnet


def ours(network: torch.nn.Module, clip: torch.Tensor) -> float:
    return strfnet.profile(network, tuple(clip.shape)).macs


def of_torch(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        network(clip)
    return counter.get_total_flops() / 2


def of_fvcore(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from fvcore.nn import FlopCountAnalysis

    counter = FlopCountAnalysis(network, clip).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    return counter.total()  # it counts one for a multiply-add


def of_calflops(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from calflops import calculate_flops

    options = {"print_results": False, "print_detailed": False, "output_as_string": False}
    return calculate_flops(network, kwargs={"clip": clip}, **options)[1]


def of_ptflops(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from ptflops import get_model_complexity_info

    shape = tuple(clip.shape[1:])
    options: dict[str, Any] = {"print_per_layer_stat": False, "as_strings": False, "backend": "pytorch"}
    return get_model_complexity_info(network, shape, input_constructor=lambda _: {"clip": clip}, **options)[0]


def of_thop(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from thop import profile

    return profile(network, inputs=(clip,), verbose=False)[0]


def of_torchinfo(network: torch.nn.Module, clip: torch.Tensor) -> float:
    from torchinfo import summary

    return summary(network, input_data=clip, verbose=0).total_mult_adds


COUNTERS: dict[str, Callable[[torch.nn.Module, torch.Tensor], float]] = {
    "strfnet": ours,
    "torch": of_torch,
    "fvcore": of_fvcore,
    "calflops": of_calflops,
    "ptflops": of_ptflops,
    "thop": of_thop,
    "torchinfo": of_torchinfo,
}


def counted(name: str, network: str, clip: torch.Tensor) -> str:
    """Returns the MACs that a counter finds in a new network, which it may change, or why it finds none."""
    torch.manual_seed(0)
    built = strfnet.create_model(network, num_classes=None).eval()
    try:
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            return f"{COUNTERS[name](built, clip) / 2**30:.1f}"
    except ImportError as error:
        return f"not installed ({error})"
    except Exception as error:
        return f"failed ({type(error).__name__}: {next(iter(str(error).splitlines()), '')})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="nvan_resnet50", help="name for create_model")
    parser.add_argument("--clip", nargs=5, type=int, default=CLIP, metavar=tuple("bcthw"), help="another clip")
    given = parser.parse_args()
    clip = torch.zeros(given.clip)
    print(f"multiply-adds of {given.network} on {'x'.join(map(str, given.clip))}, in Gi (2^30)")
    for name in COUNTERS:
        print(f"{name:<10} {counted(name, given.network, clip)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
