"""C2D, with and without STRF, learns to tell drawn walkers apart who differ in nothing but their gait.

python examples/gait.py                    # about a minute and a half on one core
python examples/gait.py --seeds 0 1 2 3 4

A synthetic task: what it shows is that the unit makes order in time readable, not how good it is on real data.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

import strfnet
from strfnet.data.synthetic.walker_tasks import Scene, asked_and_searched, chance, plan_task
from strfnet.evaluation.distances import cosine_distances
from strfnet.evaluation.ranking import Ranking, rank
from strfnet.losses.objective import ReIDLoss
from strfnet.losses.triplet import BatchHardTriplet

NETWORKS = {"C2D": "c2d_resnet8", "C2D + STRF": "strf_c2d_resnet8"}
FRAMES = 8  # of a clip, one after the other


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    task = plan_task("gait")
    (group,) = task.tests["all"]
    print("synthetic task: who is it, if all look alike and differ in the frequency and arm swing of their gait?")
    train, test = draw(task.train, "drawing the training"), draw(group, "drawing the test")
    scores = {
        (name, seed): score(
            learn(network, train, task.train, seed, arguments.steps, f"{name}, seed {seed}"), test, group
        )
        for seed in arguments.seeds
        for name, network in NETWORKS.items()
    }

    query, gallery = asked_and_searched(group)
    print(f"\n{len(query)} queries of {len({s.identity for s in group})} new walkers, {len(gallery)} in the gallery")
    print(f"{'':12}{'mAP':>8}{'R1':>8}   mAP of each seed")
    print(f"{'chance':12}" + "".join(f"{100 * figure:8.1f}" for figure in chance(group)))
    for name in NETWORKS:
        rankings = [scores[name, seed] for seed in arguments.seeds]
        means = [100 * ranking.mean_average_precision for ranking in rankings]
        first = 100 * np.mean([ranking.cmc[0] for ranking in rankings])
        print(f"{name:12}{np.mean(means):8.1f}{first:8.1f}   " + " ".join(f"{mean:.1f}" for mean in means))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of initial weights and batches")
    parser.add_argument("--steps", type=int, default=300, help="of training")
    return parser.parse_args()


def draw(scenes: Sequence[Scene], what: str) -> Tensor:
    """Tracklets of 16 frames, (n, 3, 16, 64, 32) in bytes."""
    frames = np.stack([scene.draw() for scene in tqdm(scenes, what, unit="tracklet")])
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3)


def learn(name: str, tracklets: Tensor, scenes: Sequence[Scene], seed: int, steps: int, what: str) -> nn.Module:
    """A network trained on batches of 8 identities with 3 clips each; equal seeds give equal batches."""
    identities, labels = np.unique([scene.identity for scene in scenes], return_inverse=True)
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = strfnet.create_model(name, num_classes=len(identities))
    loss_of = ReIDLoss(BatchHardTriplet("cosine", 0.3), mined_on="feature", smoothing=0.1)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps, pct_start=0.15)
    bar = tqdm(range(steps), what, unit="step")
    for _ in bar:
        chosen = rng.choice(len(identities), 8, replace=False)
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == who), 3, replace=False) for who in chosen])
        starts = rng.integers(tracklets.shape[2] - FRAMES + 1, size=len(rows))
        clips = torch.stack([tracklets[row, :, at : at + FRAMES] for row, at in zip(rows, starts, strict=True)])
        loss = loss_of(network(clips / 127.5 - 1), torch.from_numpy(labels[rows])).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}", refresh=False)
    return network.eval()


def score(network: nn.Module, tracklets: Tensor, scenes: Sequence[Scene]) -> Ranking:
    """The middle frames of every tracklet embedded, and the other cameras' searched for the first one's."""
    start = (tracklets.shape[2] - FRAMES) // 2
    with torch.inference_mode():
        parts = [network(clips[:, :, start : start + FRAMES] / 127.5 - 1).embedding for clips in tracklets.split(48)]
    embeddings = torch.cat(parts)
    query, gallery = map(list, asked_and_searched(scenes))
    identities = [scene.identity for scene in scenes]
    return rank(
        cosine_distances(embeddings[query], embeddings[gallery]),
        [identities[row] for row in query],
        [identities[row] for row in gallery],
    )


if __name__ == "__main__":
    main()
