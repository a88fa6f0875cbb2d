"""Named networks under FSDP2, on two processes of a gloo group on the CPU."""

import subprocess
import sys
from pathlib import Path

import two_ranks

NAMES = ("strf_p3dc_resnet8", "i3d_resnet8", "ste_nvan_resnet8")


def test_a_step_of_fsdp2_on_two_ranks_equals_that_of_one_process():
    script = Path(__file__).with_name("fsdp_on_two_ranks.py")
    run = subprocess.run([sys.executable, two_ranks.__file__, str(script), *NAMES], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = sorted(run.stdout.splitlines())
    assert len(lines) == 6
    assert all(int(line.split()[-2]) > 20 for line in lines), lines  # the ranks hold parts, not copies
