"""CMC curves and training curves show the numbers that they are given, and say by which rule."""

import math
import sys

import pytest
from strategies import normal

from strfnet.data.synthetic import draw_set
from strfnet.evaluation.evaluation import evaluate
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.training.log import Log, read_log
from strfnet.visualization.curves import draw_cmc, draw_training
from strfnet.visualization.page import png


@pytest.fixture(scope="module")
def evaluations():
    data = draw_set(train=1, test=4, frames=1, height=8)
    vectors = normal(len(data.test), 6)
    return [evaluate(vectors, data, PROTOCOLS[name], sampling="evenly 4", ranks=9) for name in ("nvan", "ap3d")]


def test_every_curve_is_its_cmc_and_names_its_rule(evaluations):
    figure = draw_cmc(evaluations, ranks=7, title="a $ in a name")
    (axes,) = figure.axes
    for line, told in zip(axes.get_lines(), evaluations, strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert line.get_ydata().tolist() == (100 * told.cmc[:7]).tolist()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    for label, told, rule in zip(labels, evaluations, ("trapezoids", "rectangles"), strict=True):
        assert label.startswith(f"{told.protocol.name} on synthetic walkers: R1 {100 * told.cmc[0]:.1f}, ")
        assert label.endswith(f"mAP {100 * told.mean_average_precision:.1f} (AP by {rule}); evenly 4")
    assert png(figure).startswith(b"\x89PNG")


def test_a_training_curve_is_that_of_the_log(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    for step in range(6):
        loss = math.nan if step == 3 else float(step)
        log.write("step", step + 1, {"epoch": step // 2, "batch": 1 + step % 2, "loss": loss, "triplet_loss": 0.5})
    for epoch in (1, 3):
        log.write("evaluation", 2 * epoch, {"epoch": epoch, "mAP": 0.25 * epoch, "R1": None})
    log.close()
    figure = draw_training(read_log(tmp_path / "log.jsonl"), title="run")
    losses, shares = figure.axes
    raw, means, *_ = losses.get_lines()
    assert list(raw.get_xdata()) == [0.5, 1, 1.5, 2, 2.5, 3]
    assert [y for y in raw.get_ydata() if not math.isnan(y)] == [0, 1, 2, 4, 5]
    assert list(zip(means.get_xdata(), means.get_ydata(), strict=True)) == [(0.5, 0.5), (1.5, 2), (2.5, 4.5)]
    assert [text.get_text() for text in losses.get_legend().get_texts()] == ["loss", "triplet loss"]
    line = shares.get_lines()[0]
    assert (line.get_label(), list(line.get_xdata()), list(line.get_ydata())) == ("mAP", [1, 3], [25, 75])
    assert png(figure).startswith(b"\x89PNG")
    assert len(draw_training([{"kind": "step", "epoch": 0, "batch": 1, "loss": 1.0}]).axes) == 1


def test_nothing_to_draw_and_no_matplotlib_are_told(evaluations, monkeypatch):
    with pytest.raises(ValueError, match="got 0 evaluations"):
        draw_cmc([])
    with pytest.raises(ValueError, match="has no step"):
        draw_training([{"kind": "start", "step": 0}])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.ticker", None)
    with pytest.raises(ImportError, match=r'pip install "strfnet\[viz\]"'):
        draw_cmc(evaluations)
