"""`strfnet check`."""

from collections import Counter

from strfnet.cli.options.check import Check
from strfnet.data import check_data, write_listing
from strfnet.system.files import check_writable


def run(call: Check) -> None:
    if call.write_listing is not None:
        check_writable(call.write_listing)
    data_set, findings = check_data(
        call.format,
        call.data,
        allow=call.allow,
        workers=call.workers,
        progress=True,
        split=call.split,
        complete=False,
        layout=call.layout,
    )
    for finding in findings:
        print(f"{finding.kind}: {finding.text}")
    if call.write_listing is not None and data_set is not None:
        left_out = {row for finding in findings for row in finding.rows}
        count = write_listing(call.write_listing, data_set, without=left_out)
        print(f"{count} tracklets without a finding are listed in {call.write_listing}")
    if findings:
        counts = Counter(finding.kind for finding in findings)
        raise ValueError(f"{call.data} has {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    print(f"nothing is wrong with {call.data}")
