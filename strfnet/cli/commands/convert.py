"""`strfnet convert`."""

from strfnet.cli.options.convert import Convert
from strfnet.models import convert


def run(call: Convert) -> None:
    print(convert(call.source, call.target, name=call.name, options=call.options))
