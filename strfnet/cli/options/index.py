"""The arguments of `strfnet index`."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Index:
    """Add files of embeddings to an index on disk, which strfnet search takes as its gallery.

    Args:
        embeddings: Files of strfnet embed, all of one network.
        out: Folder of the index, made if it is missing.
        faiss: Build an approximate index too, for millions of tracklets, and print its recall.
        recall: Fraction of the nearest 10 tracklets that the approximate index finds at least.
    """

    embeddings: list[Path] = field(metadata={"metavar": "FILE"})
    out: Path = field(metadata={"metavar": "DIR"})
    faiss: bool = False
    recall: float = 0.95
