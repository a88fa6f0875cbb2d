"""`strfnet evaluate`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from strfnet.cli.commands.inputs import load, protocols_to_use, read
from strfnet.cli.commands.output import is_first, note, say
from strfnet.cli.options.evaluate import Evaluate
from strfnet.cli.options.groups import Data, Network, clip_sampler
from strfnet.data import DataSet
from strfnet.data.tracklet import check_labelled
from strfnet.evaluation import Evaluation, evaluate_protocols, mean_over_splits, table
from strfnet.evaluation import evaluate as evaluate_embeddings
from strfnet.inference import load_embeddings
from strfnet.models import LoadedNetwork
from strfnet.system.files import check_writable, write_atomically
from strfnet.training.sharing import join_processes


def run(call: Evaluate) -> None:
    clips = clip_sampler(call.clips) if call.clips else None
    if call.out is not None:
        check_writable(call.out)
    results = _evaluate_files(call, call.embeddings) if call.embeddings else _evaluate_network(call, clips)
    say(table(results))
    if call.out is not None and is_first():
        write_atomically(call.out, json.dumps([result.to_json() for result in results], indent=1).encode())
        say(f"\nmetrics written to {call.out}")


def _evaluate_network(call: Evaluate, clips: tuple[str, int] | None) -> list[Evaluation]:
    splits = _read_splits(call.data_set)
    protocols = protocols_to_use(call.protocol, next(iter(splits.values())))
    one_each = "{split}" in str(call.network.trained)  # a network for each split
    parts = []
    for group in [{split: data_set} for split, data_set in splits.items()] if one_each else [splits]:
        embedder, found = load(_of_split(call.network, *group) if one_each else call.network, call.inference)
        _check_not_trained_on(found, call.data_set, group)
        parts.append(
            evaluate_protocols(embedder.embed, list(group.values()), protocols, clips=clips, rerank=call.rerank)
        )
    return [mean_over_splits(of_protocol) for of_protocol in zip(*parts, strict=True)]


def _evaluate_files(call: Evaluate, files: list[Path]) -> list[Evaluation]:
    """The metrics of files of embeddings, under the protocols whose distance their vectors keep."""
    join_processes("cpu")
    loaded = load_embeddings(*files)
    if call.data_set.data is None:
        data_set = loaded.test_set()
        note(f"strfnet: {data_set.summary}")
        check_labelled(data_set.test, "an evaluation")
        splits = [(data_set, loaded.vectors)]
    else:
        data_sets = _read_splits(call.data_set).values()
        splits = [(data_set, loaded.vectors[loaded.rows_of(data_set.test)]) for data_set in data_sets]
    sampling = loaded.facts["clips"].replace(":", " ") if "clips" in loaded.facts else None
    results = []
    for protocol in protocols_to_use(call.protocol, splits[0][0]):
        if loaded.facts.get("metric") == "cosine" != protocol.distance:
            unfit = f"protocol {protocol.name} compares Euclidean distances, but {files[0]} holds vectors of length 1"
            if call.protocol != "all":
                raise ValueError(f"{unfit}: embed with --metric euclidean")
            note(f"strfnet: {unfit} (embed with --metric euclidean): it is skipped")
            continue
        parts = [
            evaluate_embeddings(vectors, data_set, protocol, sampling=sampling, reranked=call.rerank)
            for data_set, vectors in splits
        ]
        results.append(mean_over_splits(parts))
    return results


def _read_splits(data: Data) -> dict[int, DataSet]:
    """The data set of the split, or those of all splits."""
    first = read(data)
    check_labelled(first.test, "an evaluation")
    if data.split != "all":
        return {data.split: first}
    return {0: first} | {split: read(data, split) for split in range(1, first.splits)}


def _of_split(network: Network, split: int) -> Network:
    return replace(network, trained=Path(str(network.trained).replace("{split}", str(split))))


def _check_not_trained_on(found: LoadedNetwork, data: Data, splits: Mapping[int, DataSet]) -> None:
    """Raises: ValueError if the network was trained on another split, whose training identities these splits test."""
    trained = found.metadata.get("split", 0)
    several = any(data_set.splits > 1 for data_set in splits.values())
    if several and found.metadata.get("format") == data.format and set(splits) != {trained}:
        other = next(split for split in splits if split != trained)
        raise ValueError(
            f"{found.weights} was trained on split {trained} of {data.format}, and split {other} tests identities "
            "that it has seen; wanted a run for each split, such as --trained runs/ilids_{split}"
        )
