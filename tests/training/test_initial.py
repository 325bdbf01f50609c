"""Features that a projector may start from: those of the first training steps, without a trace left in the backbone."""

import copy

import torch

from headstart.data.arrays import Standardize
from headstart.data.views import resize
from headstart.models.autoencoder import build_autoencoder
from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import Projector, build_projector
from headstart.randomness import generator
from headstart.training import initial
from headstart.training.initial import initial_features, initial_units


def test_features_are_the_training_modes_of_whole_batches(split_of):
    split, standardize = split_of(0, 70), Standardize((0.3, 0.3, 0.3), (0.4, 0.4, 0.4))
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0).eval()
    before = copy.deepcopy(backbone.state_dict())
    features = initial_features(backbone, split, 8, standardize, batch_size=32, seed=3)
    assert features.shape == (64, 512)
    assert not backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    rows = torch.randperm(70, generator=generator(3, "initial features"))[:64].split(32)
    for number, chosen in enumerate(rows):
        expected = backbone.train()(standardize(resize(split.images[chosen], 8)))
        torch.testing.assert_close(features[32 * number :][:32], expected.detach(), atol=1e-5, rtol=1e-4)
    again = initial_features(
        build_backbone(Backbone("resnet18", "stride2", "none"), 0), split, 8, standardize, batch_size=32, seed=3
    )
    assert torch.equal(again, features)


def test_there_is_a_batch_even_where_it_is_larger_than_the_most_images(split_of, monkeypatch):
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)
    monkeypatch.setattr(initial, "MOST_IMAGES", 20)
    sizes = [len(initial_features(backbone, split_of(0, 70), 8, None, batch_size=size, seed=0)) for size in (8, 20, 64)]
    assert sizes == [16, 20, 64]


def test_units_are_the_encoders_of_the_very_images_whose_features_are_taken(split_of):
    split = split_of(0, 70)
    autoencoder = build_autoencoder("mlp", 8, 512, 16, seed=0)
    units = initial_units(autoencoder.encoder, split, 8, batch_size=32, seed=3)
    rows = torch.randperm(70, generator=generator(3, "initial features"))[:64]
    torch.testing.assert_close(units, autoencoder.encoder(resize(split.images[rows], 8)).detach())
    other_size = initial_units(build_autoencoder("mlp", 4, 512, 16, 0).encoder, split, 4, batch_size=32, seed=3)
    assert other_size.shape == units.shape == (64, 512)


def test_pca_head_gives_centred_codes_of_falling_variance_on_them(split_of):
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)
    features = initial_features(backbone, split_of(0, 128), 8, None, batch_size=64, seed=0)
    head = build_projector(Projector("pca", "auto", 16, 8, "relu"), 512, 0, {"features": features})
    code = head[0](features)
    torch.testing.assert_close(code.mean(0), torch.zeros(16), atol=1e-3, rtol=0)
    assert code.var(0).diff().max() <= 0
