"""Approximate candidates by faiss, for galleries that are too large to be searched exactly."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strfnet.evaluation.distances import unit_length
from strfnet.evaluation.nearest import Rows

_BLOCK = 2**26  # bytes of vectors that faiss gets at a time
_TRAINING = 40  # vectors for each list


class Approximate:
    """Vectors of 8 bits a number in lists around centres; a query is compared with the lists of the nearest centres.

    Args:
        index: of faiss.
        cosine: whether the vectors have length 1 and are compared by their inner product.

    Raises: ImportError if faiss is missing.
    """

    def __init__(self, index: Any, cosine: bool) -> None:
        self.index, self.cosine = index, cosine

    @classmethod
    def build(cls, vectors: Rows, cosine: bool) -> "Approximate":
        """Trains the lists on some vectors, and adds all. Memory: a byte for each number."""
        faiss = _import_faiss()
        count, width = vectors.shape
        lists = max(1, min(round(2 * math.sqrt(count)), count // _TRAINING))
        metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        index = faiss.index_factory(width, f"IVF{lists},SQ8", metric)
        sample = torch.linspace(0, count - 1, min(count, lists * _TRAINING), dtype=torch.float64).long()
        index.train(vectors[sample].float().numpy())
        for start in range(0, count, size := max(1, _BLOCK // (4 * width))):
            index.add(vectors[start : start + size].float().numpy())
        return cls(index, cosine)

    @classmethod
    def open(cls, path: Path, cosine: bool, probes: int) -> "Approximate":
        """Opens a file of `save`; its lists are read from disk when they are used."""
        faiss = _import_faiss()
        try:
            found = cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY), cosine)
        except RuntimeError as error:
            raise ValueError(f"cannot read {path}, wanted an index of faiss: {error}") from error
        found.probes = probes
        return found

    def save(self, path: Path) -> None:
        _import_faiss().write_index(self.index, str(path))

    @property
    def lists(self) -> int:
        """The number of lists."""
        return int(self.index.nlist)

    @property
    def probes(self) -> int:
        """The number of lists that are compared with a query."""
        return int(self.index.nprobe)

    @probes.setter
    def probes(self, number: int) -> None:
        self.index.nprobe = number

    def candidates(self, query: Tensor, count: int) -> Tensor:
        """Returns at most ``count`` rows that are near a query (1, d), in ascending order."""
        query = unit_length(query.double()) if self.cosine else query
        rows = self.index.search(query.float().numpy(), count)[1][0]
        return torch.from_numpy(np.sort(rows[rows >= 0]).astype(np.int64))


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError('an approximate index needs faiss: pip install "strfnet[faiss]"') from error
    return faiss
