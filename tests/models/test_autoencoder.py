"""The autoencoder's shape, size and error."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from headstart.data.views import resize
from headstart.models.autoencoder import (
    AUTOENCODERS,
    NOISE,
    add_noise,
    build_autoencoder,
    count_parameters,
    mean_squared_error,
    peak_signal_to_noise,
)
from headstart.randomness import generator


@pytest.mark.parametrize("arch", AUTOENCODERS)
@pytest.mark.parametrize(("image_size", "features", "latent_dim"), [(8, 512, 128), (9, 512, 16), (8, 2048, 256)])
def test_every_autoencoder_reconstructs_and_has_an_embedding_layer_for_the_backbone(
    arch, image_size, features, latent_dim
):
    autoencoder = build_autoencoder(arch, image_size, features, latent_dim, seed=0)
    x_BCHW = torch.rand(5, 3, image_size, image_size)
    y_BCHW = autoencoder(x_BCHW)
    assert y_BCHW.shape == x_BCHW.shape
    assert 0 <= y_BCHW.min() <= y_BCHW.max() <= 1
    assert isinstance(autoencoder.embedding, nn.Linear)
    assert autoencoder.embedding.weight.shape == (latent_dim, features)
    assert autoencoder.embedding.bias.shape == (latent_dim,)
    passed = []
    autoencoder.embedding.register_forward_hook(lambda _, x, y: passed.append(y.shape))
    autoencoder(x_BCHW)
    assert passed == [(5, latent_dim)]  # everything goes through the embedding


def test_mlp_is_the_papers():
    """C*H*W -> 512 ReLU -> d -> 512 ReLU -> C*H*W sigmoid, at 32 px with d = 128: 3,280,512 weights and biases."""
    autoencoder = build_autoencoder("mlp", 32, 512, 128, seed=0)
    pixels = 3 * 32 * 32
    expected = (pixels * 512 + 512) + (512 * 128 + 128) + (128 * 512 + 512) + (512 * pixels + pixels)
    assert count_parameters(autoencoder) == expected
    kinds = [type(module).__name__ for module in autoencoder.modules() if not list(module.children())]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "Linear", "ReLU", "Linear", "Sigmoid"]


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_autoencoder("mlp", 8, 64, 16, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = (build_autoencoder("mlp", 8, 64, 16, seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_error_is_the_mean_over_all_values(split_of):
    autoencoder = build_autoencoder("mlp", 8, 64, 16, seed=0)
    x_NCHW = resize(split_of(0, 7).images, 8)
    with torch.no_grad():
        y_NCHW = autoencoder(x_NCHW).double().numpy()
        error = mean_squared_error(autoencoder, x_NCHW)
    assert error.shape == ()
    assert error.item() == pytest.approx(np.mean((y_NCHW - x_NCHW.double().numpy()) ** 2), rel=1e-6)


@pytest.mark.parametrize("arch", AUTOENCODERS)
@pytest.mark.parametrize("image_size", [4, 13])
def test_every_autoencoder_takes_small_and_odd_images(arch, image_size):
    autoencoder = build_autoencoder(arch, image_size, 32, 8, seed=0)
    mean_squared_error(autoencoder, torch.rand(2, 3, image_size, image_size)).backward()
    assert all(parameter.grad is not None for parameter in autoencoder.parameters())


@pytest.mark.parametrize("arch", AUTOENCODERS)
def test_layer_before_the_embedding_is_the_backbones_width_after_a_relu(arch):
    """As the pooled features of a ResNet, ResNet-50's 2048 among them."""
    autoencoder = build_autoencoder(arch, 8, 2048, 16, seed=0)
    y = autoencoder.encoder(torch.rand(3, 3, 8, 8))
    assert y.shape == (3, 2048)
    assert y.min() == 0


def test_deep_and_wide_are_as_their_names_say():
    """Hidden widths: F, F, F and 4 F, F on each side; weights and biases counted by hand."""

    def dense(*widths: int) -> int:
        return sum(before * after + after for before, after in itertools.pairwise(widths))

    sides = {"mlp_deep": [32, 32, 32], "mlp_wide": [128, 32]}
    for arch, widths in sides.items():
        autoencoder = build_autoencoder(arch, 8, 32, 16, seed=0)
        assert count_parameters(autoencoder) == dense(192, *widths, 16, *widths[::-1], 192)


def test_denoising_is_the_papers_with_noise():
    plain, denoising = (build_autoencoder(arch, 8, 64, 16, seed=0) for arch in ("mlp", "denoising"))
    for ours, theirs in zip(plain.parameters(), denoising.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert (plain.noise, denoising.noise) == (0, NOISE)
    x_NCHW = torch.rand(500, 3, 8, 8)
    difference = add_noise(x_NCHW, 0.25, torch.randn(x_NCHW.shape, generator=generator(0, "noise"))) - x_NCHW
    assert difference.std().item() == pytest.approx(0.25, rel=0.01)
    assert difference.mean().item() == pytest.approx(0, abs=0.003)


def test_psnr_is_ten_decibels_a_decade():
    assert [peak_signal_to_noise(mse) for mse in (1, 0.1, 0.01, 0.0)] == pytest.approx([0, 10, 20, 120])
