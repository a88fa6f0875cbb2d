"""`strfnet models`."""

from strfnet.cli.options.models import Models
from strfnet.models import list_models


def run(call: Models) -> None:
    print("\n".join(list_models()))
