"""Gaussian radial functions against a loop, k-means against its definition, and the heads that they make."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch import nn

from headstart.models.projector import Projector, build_projector, layer_outputs, load_projector
from headstart.models.rbf import GaussianRBF, fill_from_data, fill_random, rbf_layers
from headstart.randomness import derived_seed, generator
from headstart.training.losses import nt_xent


def layer(width: int = 5, kernels: int = 4, out: int = 3) -> GaussianRBF:
    made = GaussianRBF(width, kernels, out)
    fill_random(made, 0, "test")
    return made.double()


def inputs(number: int = 6, width: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(number, width, generator=generator(seed, "inputs"), dtype=torch.float64)


def blobs(number: int = 200, width: int = 16) -> torch.Tensor:
    """Features above zero, around eight places, float32."""
    places = 3 * torch.rand(8, width, generator=generator(0, "places"))
    return (places.repeat(number // 8, 1) + 0.1 * torch.randn(number, width, generator=generator(1, "blobs"))).relu()


def head(init: str = "random", freeze=False, **shape) -> Projector:
    return Projector(init, freeze, 8, 4, "relu", **{"kind": "rbf", "num_layers": 3, **shape})


def test_outputs_are_combinations_of_gaussians_by_a_loop():
    made, x_Bd = layer(), inputs()
    expected = torch.zeros(6, 3, dtype=torch.float64)
    for b, h, k in itertools.product(range(6), range(3), range(4)):
        squared = sum((x_Bd[b, j] - made.centres[k, j]).item() ** 2 for j in range(5))
        width = math.exp(made.log_widths[k].item())
        expected[b, h] += made.weight[h, k].item() * math.exp(-((math.sqrt(squared) / (width * math.sqrt(5))) ** 2))
    torch.testing.assert_close(made(x_Bd), expected, atol=1e-12, rtol=1e-12)


def test_a_kernel_is_1_at_its_centre_and_1_over_e_at_its_width():
    made = layer()
    phi = made.kernels(made.centres)
    torch.testing.assert_close(phi.diagonal(), torch.ones(4).double(), atol=1e-12, rtol=0)
    assert ((phi >= 0) & (phi <= 1)).all()
    step = torch.zeros(4, 5, dtype=torch.float64)
    step[:, 0] = made.widths.detach() * 5**0.5
    at_width = made.kernels(made.centres + step).diagonal()
    torch.testing.assert_close(at_width, torch.full((4,), math.exp(-1), dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [64, 512, 2048])
def test_wide_layers_still_tell_inputs_apart_in_float32(width):
    """Which is what the division by sqrt(d) is for: without it every function is 0 there."""
    made = GaussianRBF(width, 32, 32)
    fill_random(made, 0, "wide")
    x_Bd = torch.randn(64, width, generator=generator(0)).relu()
    phi = made.kernels(x_Bd)
    assert phi.min() > 0.05 and phi.std(0).min() > 1e-4
    assert torch.exp(-torch.cdist(x_Bd, made.centres).square()).max() < 1e-3


def test_gradients_by_differences():
    made, x_Bd = layer(), inputs().requires_grad_()
    names, values = zip(*made.named_parameters(), strict=True)

    def outputs(x_Bd, *values):
        return torch.func.functional_call(made, dict(zip(names, values, strict=True)), (x_Bd,))

    assert torch.autograd.gradcheck(outputs, (x_Bd, *values))


def test_random_is_as_the_module_says():
    made = GaussianRBF(400, 300, 200)
    fill_random(made, 3, "a")
    assert made.centres.abs().max() <= 1 and made.centres.std().item() == pytest.approx(3**-0.5, rel=0.02)
    assert made.log_widths.mean().item() == pytest.approx(0, abs=0.03)
    assert made.log_widths.std().item() == pytest.approx(0.1, rel=0.15)
    bound = (6 / (300 + 200)) ** 0.5
    assert made.weight.abs().max() <= bound and made.weight.std().item() == pytest.approx(bound * 3**-0.5, rel=0.02)
    again, other = GaussianRBF(400, 300, 200), GaussianRBF(400, 300, 200)
    fill_random(again, 3, "a")
    fill_random(other, 3, "b")
    assert torch.equal(made.centres, again.centres) and not torch.equal(made.centres, other.centres)


def test_centres_from_data_are_those_of_k_means_and_widths_of_the_two_nearest():
    x_Nd, made = blobs(), GaussianRBF(16, 8, 8)
    fill_from_data(made, x_Nd, seed=5)
    theirs = KMeans(8, n_init=1, random_state=derived_seed(5, "k-means") % 2**32).fit(x_Nd.double().numpy())
    np.testing.assert_allclose(made.centres.detach().numpy(), theirs.cluster_centers_, atol=1e-5)
    # the definition: each centre is the mean of the inputs nearest to it
    centres = made.centres.detach()
    nearest = torch.cdist(x_Nd, centres).argmin(1)
    means = torch.stack([x_Nd[nearest == k].mean(0) for k in range(8)])
    torch.testing.assert_close(centres, means, atol=1e-4, rtol=0)
    for k in range(8):
        distances = sorted((centres[k] - centres[j]).norm().item() for j in range(8) if j != k)
        expected = math.sqrt((distances[0] ** 2 + distances[1] ** 2) / 2 / 16)
        assert made.widths[k].item() == pytest.approx(expected, rel=1e-4)


def test_k_means_needs_as_many_different_inputs_as_centres():
    with pytest.raises(ValueError, match="kmeans finds 2 to 3 centres, hidden_dim is 4"):
        fill_from_data(GaussianRBF(5, 4, 4), inputs(3).float().repeat(4, 1), seed=0)
    with pytest.raises(ValueError, match="hidden_dim is 1"):
        fill_from_data(GaussianRBF(5, 1, 1), inputs().float(), seed=0)


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("num_layers", [2, 3, 4])
def test_a_head_is_an_mlp_with_networks_for_activations(num_layers, norm):
    settings = head(num_layers=num_layers, norm=norm)
    made = build_projector(settings, 16, 0)
    kinds = ["Linear", *(["BatchNorm1d"] if norm == "batch" else []), "GaussianRBF"] * (num_layers - 1)
    assert [type(part).__name__ for part in made] == [*kinds, "Linear"]
    mlp = build_projector(head(num_layers=num_layers, norm=norm, kind="mlp"), 16, 0)
    shared = [(ours, theirs) for ours, theirs in zip(made, mlp, strict=True) if isinstance(ours, nn.Linear)]
    assert all(torch.equal(ours.weight, theirs.weight) for ours, theirs in shared), "kinds share their Linear layers"
    outputs = layer_outputs(made.eval(), blobs())
    assert list(outputs) == ["hidden", *(f"hidden{k}" for k in range(2, num_layers)), "output"]
    assert outputs["output"].shape == (200, 4)
    found = list(rbf_layers(made))
    assert [(tuple(centres.shape), tuple(widths.shape)) for centres, widths in found] == [((8, 8), (8,))] * (
        num_layers - 1
    )
    networks = [part for part in made if isinstance(part, GaussianRBF)]
    for (centres, widths), part in zip(found, networks, strict=True):
        assert torch.equal(centres, part.centres) and torch.equal(widths, part.log_widths.exp())
        assert not centres.requires_grad and not widths.requires_grad
    for first, second in itertools.combinations(networks, 2):
        assert not torch.equal(first.centres, second.centres)
    assert not list(rbf_layers(mlp))


def test_a_published_head_has_as_many_parameters():
    """4,983,040: results/imagenet-100 of the authors' repository, SimCLR, 2 layers, less ResNet-50's 23,508,032."""
    made = nn.Sequential(nn.Linear(2048, 2048), GaussianRBF(2048, 128, 2048), nn.Linear(2048, 128))
    assert sum(part.numel() for part in made.parameters()) == 28491072 - 23508032 == 4983040


@pytest.mark.parametrize(("num_layers", "position"), [(2, 1), (3, 1), (3, 2)])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_kmeans_starts_from_what_its_layer_makes_of_the_features(num_layers, position, norm):
    features = blobs()
    shape = {"num_layers": num_layers, "position": position, "norm": norm}
    made = build_projector(head("kmeans", **shape), 16, 7, {"features": features})
    plain = build_projector(head(**shape), 16, 7)
    step = 2 if norm == "none" else 3
    place = step * position - 1
    x_NH = features
    for part in made.train()[:place]:
        x_NH = part(x_NH)
    expected = GaussianRBF(8, 8, 8)
    fill_from_data(expected, x_NH.detach(), seed=7)
    torch.testing.assert_close(made[place].centres, expected.centres)
    torch.testing.assert_close(made[place].widths, expected.widths)
    fresh = build_projector(head("kmeans", **shape), 16, 7, {"features": features})
    moved = {name for name, value in fresh.state_dict().items() if not torch.equal(value, plain.state_dict()[name])}
    assert moved == {f"{place}.centres", f"{place}.log_widths"}, "all else is as with random"
    with pytest.raises(ValueError, match="needs features of the initial backbone"):
        build_projector(head("kmeans"), 16, 7)


@pytest.mark.parametrize("init", ["random", "kmeans"])
@pytest.mark.parametrize("layers", [False, (1,), (2,), (3,), (1, 2, 3)])
def test_a_network_is_kept_with_the_layer_before_it_and_gradients_pass(init, layers):
    made = build_projector(head(init, layers), 16, 0, {"features": blobs()})
    x_BD = blobs()[:8].requires_grad_()
    nt_xent(made(x_BD), 0.5).backward()
    assert x_BD.grad.abs().sum() > 0
    for place, part in enumerate(made):
        kept = place // 2 + 1 in (layers or ())
        for name, parameter in part.named_parameters():
            assert parameter.requires_grad != kept, (place, name)
            assert kept or parameter.grad.abs().sum() > 0, (place, name)


def test_a_trained_head_is_loaded_without_features():
    settings = head("kmeans", norm="batch")
    made = build_projector(settings, 16, 0, {"features": blobs()})
    again = load_projector(settings, 16, made.state_dict())
    assert torch.equal(again.eval()(blobs()), made.eval()(blobs()))
