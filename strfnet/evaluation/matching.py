"""Whether a data set can be evaluated, which is known before any frame is embedded."""

from strfnet.data.tracklet import DataSet
from strfnet.evaluation.evaluation import gallery_of
from strfnet.evaluation.labels import Labels
from strfnet.evaluation.protocols import Protocol


def check_matches(data_set: DataSet, protocol: Protocol) -> None:
    """Checks that some query of a data set has a match under a protocol; otherwise there are no metrics.

    Raises: ValueError with the reason, such as one camera in all test tracklets.
    """
    test, query = data_set.test, data_set.query
    if not test:
        raise ValueError(f"{data_set.name} has no test tracklets")
    rows = gallery_of(data_set, protocol)
    columns = {row: column for column, row in enumerate(rows)}
    labels = Labels.encode(
        [test[row].identity for row in query],
        [test[row].identity for row in rows],
        [test[row].camera for row in query],
        [test[row].camera for row in rows],
        [columns.get(row) for row in query],
    )
    if not labels.are_matches(*labels.same_identity()).any():
        raise ValueError(
            f"no query of {data_set.name} has a match under protocol {protocol.name}: {_reason(data_set)}"
        )


def _reason(data_set: DataSet) -> str:
    test, query = data_set.test, data_set.query
    cameras = {item.camera for item in test}
    if cameras == {None}:
        return "no identity has two test tracklets, and their cameras are not known"
    if len(cameras) == 1:
        return f"all {len(test)} test tracklets are of camera {cameras.pop()}, and a match is of another one"
    if not query:
        return f"no identity of the {len(test)} test tracklets is seen by two of their {len(cameras)} cameras"
    return f"none of its {len(query)} queries has a gallery item of its identity and another camera"
