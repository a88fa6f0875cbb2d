"""Which regions of two clips make their embeddings similar, measured by hiding them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from strfnet.evaluation.protocols import Distance
from strfnet.layers.clip import check_clip
from strfnet.system.modes import in_evaluation


@dataclass(frozen=True, eq=False)
class MatchedRegions:
    """What the regions of two clips contribute to the similarity of their embeddings.

    A region is a cell of a grid of rows and columns, in all frames of a clip. Hiding region i of the query changes
    its embedding from q to q_i, hiding region j of the gallery item changes g to g_j.

    Attributes:
        similarity: q g, the cosine; for Euclidean distances minus half of their square.
        query: (rows, columns), the loss of similarity when a region of the query is hidden. Below 0, the region
            speaks against the match.
        gallery: (rows, columns), the same for the gallery item.
        pairs: (rows, columns, rows, columns), the similarity (q - q_i) (g - g_j) of what two regions contribute.
    """

    similarity: float
    query: Tensor
    gallery: Tensor
    pairs: Tensor

    def strongest(self, count: int) -> list[tuple[tuple[int, int], tuple[int, int], float]]:
        """Returns the pairs of regions that contribute most, each region at most once, with their similarity > 0."""
        rows, columns = self.query.shape
        left, found = self.pairs.reshape(rows * columns, rows * columns).clone(), []
        for _ in range(min(count, rows * columns)):
            one, other = divmod(int(left.argmax()), rows * columns)
            if left[one, other] <= 0:
                break
            found.append((divmod(one, columns), divmod(other, columns), float(left[one, other])))
            left[one], left[:, other] = -torch.inf, -torch.inf
        return found


def match_regions(
    network: nn.Module,
    query: Tensor,
    gallery: Tensor,
    *,
    grid: tuple[int, int] = (8, 4),
    distance: Distance = "cosine",
    batch: int = 8,
) -> MatchedRegions:
    """Measures what each region of two clips contributes to their similarity, and which regions resemble each other.

    Each region is hidden in turn, by ImageNet's mean colour in all frames, and the clip is embedded again. So any
    network on clips will do, whatever its layers. The network runs 2 (1 + rows columns) clips, in evaluation mode,
    and stays as it is.

    Args:
        network: takes clips (b, 3, t, h, w) and returns embeddings (b, d), or an object with ``embedding``.
        query: (3, t, h, w), as `strfnet.data.read_clip` returns it.
        gallery: (3, t, h, w) of another tracklet; t may differ.
        grid: rows and columns of regions.
        distance: "cosine" or "euclidean", by which the embeddings are compared.
        batch: clips that are embedded at a time.

    Raises: ValueError for a grid finer than the clip, a clip of another shape, or another output of the network.
    Source: hiding is that of Zeiler and Fergus, ECCV 2014, arXiv:1311.2901. The products of pairs are ours.
    """
    for name, clip in (("query", query), ("gallery", gallery)):
        check_clip(clip[None], name=name)
        if not all(1 <= cells <= size for cells, size in zip(grid, clip.shape[2:], strict=True)):
            raise ValueError(f"grid is {grid}, wanted rows and columns from 1 to {tuple(clip.shape[2:])} of {name}")
    network = in_evaluation(network)
    with torch.no_grad():
        vectors, others = (_without_regions(network, clip, grid, batch) for clip in (query, gallery))
    if distance == "cosine":
        vectors, others = F.normalize(vectors, dim=1), F.normalize(others, dim=1)
    one, other = vectors[0], others[0]

    def apart(hidden: Tensor, whole: Tensor) -> Tensor:
        return (hidden - whole).square().sum(dim=-1) / 2  # of unit vectors 1 - cosine

    distance_of_clips = apart(one, other)
    pairs = (one - vectors[1:]) @ (other - others[1:]).T
    return MatchedRegions(
        similarity=float(one @ other if distance == "cosine" else -distance_of_clips),
        query=(apart(vectors[1:], other) - distance_of_clips).view(grid),
        gallery=(apart(others[1:], one) - distance_of_clips).view(grid),
        pairs=pairs.view(*grid, *grid),
    )


def _without_regions(network: nn.Module, clip: Tensor, grid: tuple[int, int], batch: int) -> Tensor:
    """Embeddings (1 + regions, d) of a clip, whole and with each region hidden, in float64 on the CPU."""
    like = next(network.parameters(), clip)
    clip = clip.to(like.device, like.dtype)
    h, w = clip.shape[2:]
    rows = torch.arange(h, device=clip.device) * grid[0] // h
    columns = torch.arange(w, device=clip.device) * grid[1] // w
    region = rows[:, None] * grid[1] + columns  # of each pixel
    vectors = []
    for numbers in torch.arange(-1, grid[0] * grid[1], device=clip.device).split(batch):
        hidden = region == numbers.view(-1, 1, 1)  # none for -1
        output = network(clip[None].expand(len(numbers), -1, -1, -1, -1).masked_fill(hidden[:, None, None], 0.0))
        embedding = getattr(output, "embedding", output)
        if not isinstance(embedding, Tensor) or embedding.shape[:1] != numbers.shape or embedding.ndim != 2:
            raise ValueError(f"the network returns {type(output).__name__}, wanted embeddings ({len(numbers)}, d)")
        vectors.append(embedding.double().cpu())
    return torch.cat(vectors)
