"""Whether a data set can be evaluated, which is known before any frame is embedded."""

from strfnet.data.tracklet import DataSet
from strfnet.evaluation.evaluation import gallery_of, labels_of, queries_of
from strfnet.evaluation.labels import Labels
from strfnet.evaluation.protocols import Protocol


def check_matches(data_set: DataSet, protocol: Protocol) -> None:
    """Checks that some query of a data set has a match under a protocol; otherwise there are no metrics.

    Raises: ValueError with the reason, such as one camera in all test tracklets.
    """
    if not data_set.test:
        raise ValueError(f"{data_set.name} has no test tracklets")
    if data_set.query:
        queries, gallery = queries_of(data_set, protocol), gallery_of(data_set, protocol)
        labels = Labels.encode(**labels_of(data_set, protocol, queries, gallery))
        if labels.are_matches(*labels.same_identity()).any():
            return
    reason = _reason(data_set, protocol)
    raise ValueError(f"no query of {data_set.name} has a match under protocol {protocol.name}: {reason}")


def _reason(data_set: DataSet, protocol: Protocol) -> str:
    test, query = data_set.test, data_set.query
    cameras = {item.camera for item in test}
    if all(item.identity is None for item in test):
        return f"its {len(test)} test tracklets have no identity"
    if cameras == {None}:
        return "no identity has two test tracklets, and their cameras are not known"
    if len(cameras) == 1:
        return f"all {len(test)} test tracklets are of camera {cameras.pop()}, and a match is of another one"
    if not query:
        return f"no identity of the {len(test)} test tracklets is seen by two of their {len(cameras)} cameras"
    rules = ", and of the protocol's attributes" if protocol.differing or protocol.common else ""
    return f"none of its {len(query)} queries has a gallery item of its identity and another camera{rules}"
