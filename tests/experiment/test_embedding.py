"""What autoencoders learn from: images, noise of their moments, nothing; and what their errors are set against."""

import pytest
import torch

from headstart.data.arrays import Split
from headstart.experiment import embedding
from headstart.experiment.embedding import mean_image_error, noise_like, train_embedding
from headstart.experiment.prepared import Images, Prepared
from headstart.experiment.pretraining import Start
from headstart.models.autoencoder import build_autoencoder
from headstart.randomness import generator
from headstart.training.reconstruction import Reconstruction, reconstruction_error
from headstart.training.resume import NoCheckpoint

RECIPE = Reconstruction(epochs=3, batch_size=50, learning_rate=1e-3, factor=0.5, patience=10)


@pytest.fixture
def data(split_of) -> Prepared:
    parts = [Images(split_of(*rows), 8, None) for rows in ((0, 400), (400, 500), (500, 600))]
    train, val, test = parts
    return Prepared(tuple("0123456789"), "x", train, train, val, test)


def trained(data: Prepared, learns_from: str, seed: int = 0):
    seen = []
    made = train_embedding(
        data,
        "mlp",
        RECIPE,
        learns_from=learns_from,
        features=64,
        dim=16,
        seed=seed,
        checkpoint=NoCheckpoint(),
        on_epoch=seen.append,
    )
    assert seen == made.curve
    return made


def test_noise_has_the_mean_and_spread_of_each_value_and_nothing_else():
    source = generator(5)
    mean, spread = 90 + 70 * torch.rand(192, generator=source), 5 + 20 * torch.rand(192, generator=source)
    bright = torch.randn(1500, 1, generator=source)  # of the whole image: its values go together
    images = (mean + spread * (0.9 * bright + 0.4 * torch.randn(1500, 192, generator=source))).round().byte()
    split = Split(images.view(1500, 8, 8, 3), torch.zeros(1500, dtype=torch.int64), torch.full((1500, 2), 8))
    noise = noise_like(split, 4000, seed=0)
    assert noise.images.shape == (4000, 8, 8, 3) and noise.images.dtype == torch.uint8
    own, theirs = split.images.flatten(1).double(), noise.images.flatten(1).double()
    torch.testing.assert_close(theirs.mean(0), own.mean(0), rtol=0, atol=2.0)
    torch.testing.assert_close(theirs.std(0), own.std(0), rtol=0.08, atol=0.3)
    correlations = [torch.corrcoef(values.T).fill_diagonal_(0).abs().max() for values in (own, theirs)]
    assert correlations[0] > 0.8 and correlations[1] < 0.1
    dark = Split(torch.zeros(9, 8, 8, 3, dtype=torch.uint8), split.labels[:9], split.sizes[:9])
    assert not noise_like(dark, 3, seed=0).images.any(), "what never changes stays"
    assert torch.equal(noise_like(split, 50, 0).images, noise_like(split, 50, 0).images)
    assert not torch.equal(noise_like(split, 50, 0).images, noise_like(split, 50, 1).images)


def test_noise_does_not_depend_on_how_many_images_are_drawn_together(split_of, monkeypatch):
    split = split_of(0, 300)
    moments = embedding._moments(split.images.flatten(1))
    monkeypatch.setattr(embedding, "ROWS", 7)
    for ours, theirs in zip(embedding._moments(split.images.flatten(1)), moments, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-4)


def test_an_untrained_autoencoder_is_as_it_was_initialised(data):
    made = trained(data, "nothing", seed=4)
    start = build_autoencoder("mlp", 8, 64, 16, seed=4)
    assert all(torch.equal(value, start.state_dict()[key]) for key, value in made.autoencoder.state_dict().items())
    assert made.curve == [] and made.summary["best_epoch"] == 0
    assert made.summary["test_mse"] == pytest.approx(reconstruction_error(start, data.test.split, 8))


def test_what_it_learns_from_decides_the_layer_and_errors_are_those_of_images(data):
    made = {seen: trained(data, seen) for seen in ("images", "noise", "nothing")}
    assert {seen: one.summary["learns_from"] for seen, one in made.items()} == {seen: seen for seen in made}
    errors = {seen: one.summary["test_mse"] for seen, one in made.items()}
    assert errors["images"] < errors["noise"] < errors["nothing"]
    weights = {seen: one.autoencoder.embedding.weight for seen, one in made.items()}
    assert not torch.equal(weights["images"], weights["noise"])
    assert len(made["noise"].curve) == 3 and made["noise"].curve[-1].train_mse < made["noise"].curve[0].train_mse


def test_the_mean_images_error_is_that_of_an_autoencoder_that_always_says_it(data):
    class MeanImage(torch.nn.Module):
        def forward(self, x_NCHW):
            seen = data.pretrain.split.images.permute(0, 3, 1, 2).float() / 255
            return seen.mean(0).expand_as(x_NCHW)

    assert mean_image_error(data) == pytest.approx(reconstruction_error(MeanImage(), data.test.split, 8), rel=1e-5)
    assert trained(data, "images").summary["mean_image_mse"] == mean_image_error(data)


def test_a_start_gives_back_the_autoencoder_that_its_files_hold(data):
    made = trained(data, "images")
    start = Start(made.autoencoder.state_dict(), made.summary)
    x_NCHW = data.test.plain(torch.arange(5))
    torch.testing.assert_close(start.autoencoder()(x_NCHW), made.autoencoder(x_NCHW))
    assert torch.equal(start.embedding()["weight"], made.autoencoder.embedding.weight)
