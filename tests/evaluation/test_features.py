"""Features of real digits against the backbone called by hand."""

import copy

import numpy as np
import pytest
import torch

from headstart.data.arrays import Standardize
from headstart.evaluation.features import extract_features, extract_layers
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import Projector, build_projector


@pytest.fixture(scope="module")
def backbone():
    network = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)
    with torch.no_grad():
        network.train()(torch.rand(32, 3, 8, 8))  # running statistics that differ from a batch's
    return network


@pytest.mark.parametrize("standardize", [None, Standardize((0.3, 0.4, 0.5), (0.2, 0.25, 0.5))])
def test_features_are_the_backbones_in_order(backbone, split_of, standardize):
    split = split_of(0, 20)
    features = extract_features(backbone, split, 8, standardize)
    assert features.dtype == np.float32
    assert features.shape == (20, 512)
    x_NCHW = split.images.permute(0, 3, 1, 2).float() / 255
    if standardize:
        x_NCHW = (x_NCHW - torch.tensor([[[0.3]], [[0.4]], [[0.5]]])) / torch.tensor([[[0.2]], [[0.25]], [[0.5]]])
    with torch.no_grad():
        theirs = copy.deepcopy(backbone).eval()(x_NCHW)
    np.testing.assert_allclose(features, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_batches_change_nothing(backbone, split_of, batch_size):
    split = split_of(0, 20)
    whole = extract_features(backbone, split, 8, None)
    np.testing.assert_allclose(extract_features(backbone, split, 8, None, batch_size), whole, atol=1e-4)


def test_no_statistic_is_touched_and_no_graph_kept(backbone, split_of):
    before = copy.deepcopy(backbone.state_dict())
    extract_features(backbone.train(), split_of(0, 20), 8, None)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_images_are_resized_to_the_training_size(backbone, split_of):
    split = split_of(0, 4)
    assert extract_features(backbone, split, 16, None).shape == (4, 512)
    assert not np.allclose(extract_features(backbone, split, 16, None), extract_features(backbone, split, 8, None))


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
def test_layers_of_the_projector_follow_the_backbones_features(backbone, split_of, activation):
    head = build_projector(Projector("random", False, 24, 16, activation), 512, seed=0)
    made = []

    def allocate(shape):
        made.append(shape)
        return np.full(shape, np.nan, np.float32)

    layers = extract_layers(backbone, head, split_of(0, 20), 8, None, 7, allocate)
    assert {name: values.shape for name, values in layers.items()} == {
        "backbone": (20, 512),
        "hidden": (20, 24),
        "output": (20, 16),
    }
    assert made == [(20, 512), (20, 24), (20, 16)]
    np.testing.assert_array_equal(layers["backbone"], extract_features(backbone, split_of(0, 20), 8, None, 7))
    with torch.no_grad():
        hidden = head[1](head[0](torch.from_numpy(layers["backbone"])))
        np.testing.assert_allclose(layers["hidden"], hidden.numpy(), atol=1e-5)
        np.testing.assert_allclose(layers["output"], head[2](hidden).numpy(), atol=1e-5)
