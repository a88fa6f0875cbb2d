"""Named networks under FSDP2, on two processes of a gloo group on the CPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import two_ranks

NAMES = ("strf_p3dc_resnet8", "i3d_resnet8", "ste_nvan_resnet8")


@pytest.mark.slow
def test_a_step_of_fsdp2_on_two_ranks_equals_that_of_one_process():
    script = Path(__file__).with_name("fsdp_on_two_ranks.py")
    run = subprocess.run([sys.executable, two_ranks.__file__, str(script), *NAMES], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = re.findall(r"holds parts of (\d+) tensors", run.stdout)
    assert len(parts) == 2 * len(NAMES)
    assert min(map(int, parts)) > 20  # the ranks hold parts, not copies
