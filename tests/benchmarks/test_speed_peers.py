"""The speed benchmark beside checkouts of published code, which are drawn up here."""

import sys
import textwrap

import pytest
import torch

STE = """
    from restatements import Folded
    import strfnet

    class CNN(Folded):
        def __init__(self, out_dim, model_type, num_class, non_layers, stripes, temporal):
            assert (out_dim, model_type, non_layers) == (2048, "resnet50_NL_stripe_hr", [0, 2, 3, 0])
            super().__init__(strfnet.create_model("ste_nvan_resnet18", num_classes=None))
            self.classifier = __import__("torch").nn.Linear(512, num_class, bias=False)

        def forward(self, x):
            return super().forward(x.transpose(1, 2)).embedding
"""
AP3D = {
    "ResNet": """
    import torchvision
    from torch.hub import load_state_dict_from_url
    from restatements import Inflated
    from models.AP3D import P3DC
    import strfnet

    class ResNet503D(Inflated):
        def __init__(self, num_classes, block, c3d_idx, nl_idx):
            assert block is P3DC and c3d_idx == [[], [0, 2], [0, 2, 4], []] and nl_idx == [[]] * 4
            assert "fc.weight" in load_state_dict_from_url("nowhere")
            torchvision.models.resnet50(weights="IMAGENET1K_V1")
            super().__init__(strfnet.create_model("p3dc_resnet18", num_classes=None))

        def forward(self, x):  # features by frame, as the neck is the caller's
            feature = super().forward(x).feature
            return feature[:, None].repeat(1, x.shape[2], 1)
    """,
    "AP3D": "P3DC = object()",
}


def write(folder, files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


@pytest.mark.parametrize(
    ("form", "folder", "files"),
    [("ste_nvan_{}", "net", {"models": STE, "__init__": ""}), ("p3dc_{}", "models", AP3D | {"__init__": ""})],
)
def test_a_checkout_is_timed_with_the_same_weights(rooms, by_quantity, tmp_path, form, folder, files):
    write(tmp_path / "checkout" / folder, files)
    path, modules = list(sys.path), {name for name in sys.modules if name.split(".")[0] in ("net", "models")}
    rows = by_quantity(rooms.peers.compared(tmp_path / "checkout", form, rooms.settings))
    assert rows["eager: output differs"].reached and rows["eager: the checkout takes"].value > 0
    assert sys.path == path
    assert {name for name in sys.modules if name.split(".")[0] in ("net", "models")} == modules


def test_a_checkout_that_does_not_take_the_clip_is_named(rooms, tmp_path):
    fails = "\n\n        def forward(self, x):\n            raise RuntimeError('shape [1, 3] is invalid')\n"
    write(tmp_path / "net", {"models": STE.rstrip() + fails, "__init__": ""})
    with pytest.raises(
        ValueError, match=r"resnet50_NL_stripe_hr does not take a clip of \(1, 3, .*\[1, 3\] is invalid"
    ):
        rooms.peers.compared(tmp_path, "ste_nvan_{}", rooms.settings)


def test_a_checkout_of_another_shape_is_refused(rooms, tmp_path):
    write(tmp_path / "net", {"models": "class CNN:\n    def __init__(self, depth): pass", "__init__": ""})
    with pytest.raises(ValueError, match=r"does not build resnet50_NL as it should.*model_type"):
        rooms.peers.build(tmp_path, "nvan_{}")
    write(tmp_path / "other" / "models", {"ResNet": "class ResNet503D: pass", "AP3D": "", "__init__": ""})
    with pytest.raises(ValueError, match=r"does not build P3DC as it should.*P3DC"):
        rooms.peers.build(tmp_path / "other", "p3dc_{}")
    network = rooms.cases.awake("c2d_resnet18", rooms.settings)
    with pytest.raises(ValueError, match=r"parameters are not on both sides, such as bias, bn\.bias"):
        rooms.peers.with_weights_of(network, torch.nn.Linear(1, 1))
