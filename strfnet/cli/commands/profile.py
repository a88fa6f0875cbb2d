"""`strfnet profile`."""

import torch

from strfnet.cli.options.profile import Profile
from strfnet.models import create_model
from strfnet.profiler import profile


def run(call: Profile) -> None:
    with torch.device("meta"):  # shapes suffice
        network = create_model(call.model, **(call.options or {}))
    report = profile(network, tuple(call.clip))
    print(report.to_json() if call.json else report.table(depth=call.depth))
