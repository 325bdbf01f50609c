"""Heads of every shape from assembling to judging, on real digits: what is trained, written, read back and probed."""

import pytest
import torch

from headstart.data.views import Views
from headstart.evaluation.features import in_memory
from headstart.evaluation.probe import Probe
from headstart.experiment.judging import Judge
from headstart.experiment.prepared import Images, Prepared
from headstart.experiment.pretraining import Method, assemble
from headstart.models.backbone import Backbone
from headstart.models.projector import Projector, load_projector
from headstart.run import tensors
from headstart.training.diagnostics import Diagnostics
from headstart.training.resume import NoCheckpoint
from tests.training.recipe import RECIPE

PROBE = Probe("converged", [0.1], [5], [], 1, ["backbone", "hidden", "output"], [], 0)
HEADS = {
    "none": Projector("random", "auto", 16, 8, "relu", num_layers=0),
    "one layer": Projector("random", True, 16, 8, "relu", num_layers=1),
    "rbf": Projector("random", False, 16, 8, "relu", num_layers=3, kind="rbf"),
    "k-means, all kept": Projector("kmeans", (1, 2), 16, 8, "relu", kind="rbf"),
}


def method(head: Projector, views: Views, batch_size: int = 64) -> Method:
    return Method(
        Backbone("resnet18", "stride2", "none"), head, RECIPE, Diagnostics(every=4, dense_steps=1), views, batch_size, 0
    )


@pytest.mark.parametrize("name", HEADS)
def test_a_head_trains_is_written_and_judged(split_of, views_of, tmp_path, name):
    train, val, test = (Images(split_of(*rows), 8, None) for rows in ((0, 320), (320, 480), (480, 680)))
    data = Prepared(tuple("0123456789"), "x", train, train, val, test)
    head, views = HEADS[name], views_of(crop_scale=[0.6, 1.0], rotate=15.0)
    run = assemble(method(head, views), data, None)
    start = {key: value.clone() for key, value in run.projector.state_dict().items()}
    result = run.train(NoCheckpoint())
    assert result.curve[-1].train_loss < result.curve[0].train_loss or name == "one layer"
    assert all(row["gradient_ratio"] > 0 for row in result.measured)
    learnt = {key for key, value in run.projector.state_dict().items() if not torch.equal(value, start[key])}
    expected = {key for key, value in run.projector.named_parameters() if value.requires_grad}
    assert learnt == expected and bool(expected) == (name == "rbf")
    said = run.summary(result)
    assert said["projector_frozen"] == {"one layer": True, "k-means, all kept": "layers 1+2"}.get(name, False)
    assert said["projector_parameters"] == sum(value.numel() for value in start.values())

    for file, weights in run.weights().items():
        tensors.write_tensors(tmp_path / file, weights)
    state = tensors.read_tensors(tmp_path / "projector.safetensors", made_by="train_simclr")
    again = load_projector(head, 512, state)
    assert state.keys() == start.keys()
    judge = Judge(data, PROBE, views, 0, in_memory)
    scores = judge.evaluate(run.backbone, again, "trained").scores
    hidden = {"none": 0, "one layer": 0, "rbf": 2, "k-means, all kept": 1}[name]
    assert sum(key.startswith("top1_hidden") for key in scores) == hidden
    assert scores["top1_output"] > 0.15
    if name == "none":
        assert scores["top1_output"] == scores["top1"], "the same features, the same probe"
