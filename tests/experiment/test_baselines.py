"""What needs no training: two states of the initial backbone, and raw pixels, each against a plain computation."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from headstart.data.arrays import Standardize
from headstart.data.views import resize
from headstart.evaluation.features import in_memory
from headstart.evaluation.probe import Probe
from headstart.experiment import baselines
from headstart.experiment.baselines import calibrated, judge_baselines, pixels
from headstart.experiment.judging import Judge
from headstart.experiment.prepared import Images, Prepared
from headstart.models.backbone import Backbone, build_backbone
from headstart.run.params import load_params
from tests.checkouts import ROOT

RECIPE = Probe("converged", [0.01, 1.0], [5], [], 2, ["backbone", "hidden"], [], 0)
STANDARDIZE = Standardize((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))


def prepared(split_of, standardize=None) -> Prepared:
    train, val, test = (Images(split_of(*rows), 8, standardize) for rows in ((0, 600), (600, 800), (800, 1200)))
    return Prepared(tuple("0123456789"), "x", train, train, val, test)


def network() -> nn.Module:
    return build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)


@pytest.mark.parametrize("standardize", [None, STANDARDIZE])
def test_calibrated_statistics_are_those_of_batches_in_training_mode(split_of, monkeypatch, standardize):
    monkeypatch.setattr(baselines, "BATCH", 50)
    monkeypatch.setattr(baselines, "CALIBRATED_ON", 130)
    images, plain = Images(split_of(0, 600), 8, standardize), network()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    found = calibrated(plain, images)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.parameters(), plain.parameters(), strict=True))
    # the first norm by hand: mean over two whole batches of the mean, and of the unbiased variance
    x_NCHW = resize(split_of(0, 100).images, 8)
    x_NCHW = x_NCHW if standardize is None else standardize(x_NCHW)
    means, variances = [], []
    for batch in x_NCHW.split(50):
        values = plain.conv1(batch).transpose(0, 1).flatten(1)
        means.append(values.mean(1))
        variances.append(values.var(1))
    torch.testing.assert_close(found.bn1.running_mean, torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.bn1.running_var, torch.stack(variances).mean(0), atol=1e-5, rtol=1e-4)
    few = Images(split_of(0, 30), 8, standardize)  # fewer than a batch: all of them
    assert not torch.equal(calibrated(plain, few).bn1.running_mean, before["bn1.running_mean"])


def test_a_network_without_batch_norm_stays_as_it_is(split_of):
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    found = calibrated(plain, Images(split_of(0, 600), 8, None))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found.parameters(), plain.parameters(), strict=True))


def test_pixels_are_the_images_and_large_ones_are_shrunk(split_of):
    split = split_of(0, 20)
    assert pixels(Images(split, 8, STANDARDIZE)).tolist() == resize(split.images, 8).flatten(1).tolist()
    assert pixels(Images(split, 64, None)).shape == (20, 3 * 32 * 32)


def test_each_baseline_is_judged_as_a_trained_backbone_is(split_of):
    data = prepared(split_of)
    views = load_params(ROOT).views_of("digits")
    told: list[str] = []

    class Progress:
        def __init__(self, total, what):
            told.append(what)
            self.left = total

        def __enter__(self):
            return self.count

        def count(self):
            self.left -= 1

        def __exit__(self, *_):
            assert self.left == 0

    judge = Judge(data, RECIPE, views, 0, in_memory, Progress)
    found = judge_baselines(judge, network()).summary()
    assert told == ["untrained", "calibrated", "raw pixels"]
    assert found["majority"]["top1"] == pytest.approx(0.1, abs=0.03)
    train, test = (pixels(part) for part in (data.train, data.test))
    labels, truth = data.train.split.labels.numpy(), data.test.split.labels.numpy()
    neighbours = KNeighborsClassifier(20, metric="cosine", weights="distance").fit(train, labels)
    assert found["pixels"]["knn20"] == pytest.approx(neighbours.score(test, truth), abs=0.02)
    mean, scale = train.mean(0), train.std(0)
    scale[scale == 0] = 1
    fitted = LogisticRegression(C=found["pixels"]["strength"], max_iter=5000).fit((train - mean) / scale, labels)
    assert found["pixels"]["top1"] == pytest.approx(fitted.score((test - mean) / scale, truth), abs=0.01)
    assert found["untrained"]["top1"] == judge.evaluate(network(), None, "again").scores["top1"]
    assert {"top1", "few5", "knn20"} <= set(found["calibrated"])
    assert found["calibrated"]["top1"] != found["untrained"]["top1"]
