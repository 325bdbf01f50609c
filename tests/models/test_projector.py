"""Every initialisation of the head: what its first layer holds, what trains, what is shared."""

import hashlib
import itertools

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from headstart.models.backbone import Backbone, build_backbone
from headstart.models.projector import (
    ACTIVATIONS,
    PROJECTOR_INITS,
    SEEN,
    Projector,
    build_projector,
    layer_outputs,
    load_projector,
)
from headstart.randomness import generator, global_seed
from headstart.training.losses import nt_xent

# the others need a head of another kind, which has its own tests
MLP_INITS = [name for name, init in PROJECTOR_INITS.items() if init.apply_between is None]
NEEDY = [name for name, init in PROJECTOR_INITS.items() if init.autoencoder]
FREEZES = [True, False, "auto"]
FROZEN_BY_ITSELF = {
    "random": False,
    "autoencoder": True,
    "random_matched": True,
    "autoencoder_permuted": True,
    "autoencoder_shuffled": True,
    "autoencoder_noise": True,
    "autoencoder_untrained": True,
    "autoencoder_aligned": True,
    "orthogonal": True,
    "pca": True,
}


def embedding_of(features: int, hidden: int) -> dict[str, torch.Tensor]:
    """A layer with an uneven spectrum, as a trained one has; features, positive as a backbone's; and units."""
    source = generator(17, features, hidden)
    weight = torch.randn(hidden, features, generator=source) * torch.logspace(0, -3, hidden)[:, None]
    bias = torch.randn(hidden, generator=source)
    mixed = torch.randn(150, features, generator=source) @ torch.randn(features, features, generator=source)
    units = torch.randn(150, features, generator=source).relu()
    return {"weight": weight, "bias": bias, "features": mixed.relu() + 2, "units": units}


def built(
    init: str, *, features=64, hidden=16, out=8, freeze="auto", activation="relu", seed=0, **shape
) -> nn.Sequential:
    return build_projector(
        Projector(init, freeze, hidden, out, activation, **shape), features, seed, embedding_of(features, hidden)
    )


@pytest.mark.parametrize(("init", "freeze"), list(itertools.product(MLP_INITS, FREEZES)))
@pytest.mark.parametrize(("features", "hidden", "out"), [(64, 16, 8), (512, 128, 32), (64, 64, 128), (32, 48, 1)])
def test_every_head_has_the_shape_that_its_widths_say(init, freeze, features, hidden, out):
    if init == "pca" and hidden > features:
        pytest.skip("as many directions as features at the most")
    for activation in ACTIVATIONS:
        head = built(init, features=features, hidden=hidden, out=out, freeze=freeze, activation=activation)
        assert head(torch.rand(3, features)).shape == (3, out)
        assert [tuple(p.shape) for p in head.parameters()] == [(hidden, features), (hidden,), (out, hidden), (out,)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_head_computes_linear_activation_linear(activation):
    functions = {
        "relu": torch.relu,
        "silu": lambda x: x * torch.sigmoid(x),
        "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
        "elu": lambda x: torch.where(x > 0, x, torch.expm1(x)),
        "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
        "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
        "tanh": torch.tanh,
        "identity": lambda x: x,
    }
    head = built("autoencoder", activation=activation).double()
    first, second = head[0], head[-1]
    x_BD = torch.randn(5, 64, generator=generator(0), dtype=torch.float64)
    hidden = functions[activation](x_BD @ first.weight.T + first.bias)
    torch.testing.assert_close(head(x_BD), hidden @ second.weight.T + second.bias)


@pytest.mark.parametrize("init", MLP_INITS)
def test_freeze_auto_is_what_the_paper_does(init):
    for freeze in FREEZES:
        frozen = FROZEN_BY_ITSELF[init] if freeze == "auto" else freeze
        head = built(init, freeze=freeze)
        assert Projector(init, freeze, 16, 8, "relu").frozen == frozen
        assert [p.requires_grad for p in head.parameters()] == [not frozen, not frozen, True, True]


def test_inits_that_need_an_autoencoder_say_so():
    assert set(MLP_INITS) - set(NEEDY) == {"random", "orthogonal", "pca"}
    learnt_from = {init: PROJECTOR_INITS[init].autoencoder for init in NEEDY}
    assert {init for init, seen in learnt_from.items() if seen != "images"} == {
        "autoencoder_noise",
        "autoencoder_untrained",
    }
    assert set(learnt_from.values()) == set(SEEN)
    for init in MLP_INITS:
        head = Projector(init, "auto", 16, 8, "relu")
        assert head.needs_autoencoder == (init in NEEDY)
        if head.needs_autoencoder:
            with pytest.raises(ValueError, match="needs an autoencoder's embedding"):
                build_projector(head, 64, seed=0)
            with pytest.raises(ValueError, match="does not fit"):
                build_projector(head, 64, seed=0, embedding=embedding_of(64, 17))
            if head.needs_units:
                for lacking in ("features", "units"):
                    rest = {name: values for name, values in embedding_of(64, 16).items() if name != lacking}
                    with pytest.raises(ValueError, match=f"needs .*{lacking}"):
                        build_projector(head, 64, seed=0, embedding=rest)
        elif head.needs_features:
            with pytest.raises(ValueError, match="needs features of the initial backbone"):
                build_projector(head, 64, seed=0)
        else:
            build_projector(head, 64, seed=0)


def test_random_is_pytorchs_own_initialisation():
    """Uniform in +-1 / sqrt(D), which Linear draws for weight and bias."""
    first = built("random", features=400, hidden=100)[0]
    for values in (first.weight, first.bias):
        assert values.abs().max() <= 400**-0.5
        assert values.std().item() == pytest.approx(400**-0.5 / 3**0.5, rel=0.15)


def test_autoencoder_is_the_embedding_layer_itself():
    embedding = embedding_of(64, 16)
    first = built("autoencoder")[0]
    assert torch.equal(first.weight, embedding["weight"])
    assert torch.equal(first.bias, embedding["bias"])
    first.weight.data.zero_()
    assert embedding["weight"].abs().sum() > 0  # a copy: training cannot change what others start from


@pytest.mark.parametrize(("features", "hidden"), [(64, 16), (512, 128), (32, 48)])
def test_random_matched_has_the_spectrum_and_no_content(features, hidden):
    embedding = embedding_of(features, hidden)
    first = built("random_matched", features=features, hidden=hidden)[0]
    expected = torch.linalg.svdvals(embedding["weight"].double())
    spectrum = torch.linalg.svdvals(first.weight.double())
    torch.testing.assert_close(spectrum, expected, atol=1e-5 * expected[0].item(), rtol=0)
    assert first.bias.norm().item() == pytest.approx(embedding["bias"].norm().item(), rel=1e-5)
    similarity = nn.functional.cosine_similarity(first.weight.flatten(), embedding["weight"].flatten(), dim=0)
    assert abs(similarity) < 0.15
    other = built("random_matched", features=features, hidden=hidden, seed=1)[0]
    assert not torch.allclose(first.weight, other.weight)


def test_autoencoder_permuted_shuffles_the_input_columns():
    embedding = embedding_of(64, 16)
    first = built("autoencoder_permuted")[0]
    columns = {tuple(column) for column in first.weight.T.tolist()}
    assert columns == {tuple(column) for column in embedding["weight"].T.tolist()}
    assert len(columns) == 64
    moved = (first.weight != embedding["weight"]).any(0).sum()
    assert moved > 50
    torch.testing.assert_close(torch.linalg.svdvals(first.weight), torch.linalg.svdvals(embedding["weight"]))
    assert torch.equal(first.bias, embedding["bias"])
    assert not torch.equal(first.weight, built("autoencoder_permuted", seed=1)[0].weight)


def test_autoencoder_shuffled_keeps_the_values_of_each_row_and_no_column():
    embedding = embedding_of(64, 16)
    first = built("autoencoder_shuffled")[0]
    assert torch.equal(first.weight.sort(1).values, embedding["weight"].sort(1).values)
    columns = {tuple(column) for column in embedding["weight"].T.tolist()}
    assert not columns & {tuple(column) for column in first.weight.T.tolist()}
    orders = {tuple(first.weight[row].argsort().argsort().tolist()) for row in range(16)}
    assert len(orders) == 16  # each row in an order of its own
    assert torch.equal(first.bias, embedding["bias"])
    assert not torch.equal(first.weight, built("autoencoder_shuffled", seed=1)[0].weight)


def test_autoencoder_aligned_finds_units_that_were_permuted_and_no_order_correlates_more():
    """Units that are features in another order, scaled and shifted: the layer gets its columns back in that order."""
    given = embedding_of(64, 16)
    order = torch.randperm(64, generator=generator(3))
    units = 0.3 * given["features"][:, order] + 5 + 0.01 * torch.randn(150, 64, generator=generator(4))
    head = build_projector(Projector("autoencoder_aligned", "auto", 16, 8, "relu"), 64, 0, given | {"units": units})
    assert torch.equal(head[0].weight[:, order], given["weight"])
    assert torch.equal(head[0].bias, given["bias"])
    # against every order of four
    small = {name: values[:, :4] for name, values in given.items() if values.ndim == 2}
    small |= {"bias": given["bias"], "weight": torch.eye(16, 4)}
    head = build_projector(Projector("autoencoder_aligned", "auto", 16, 8, "relu"), 4, 0, small)
    chosen = head[0].weight[:4].argmax(0).tolist()  # channel -> unit
    correlation = np.corrcoef(small["features"].T.double(), small["units"].T.double())[:4, 4:]
    totals = {units: sum(correlation[range(4), units]) for units in itertools.permutations(range(4))}
    assert totals[tuple(chosen)] == pytest.approx(max(totals.values()))


def test_a_unit_that_never_changes_is_matched_to_what_is_left():
    given = embedding_of(64, 16)
    given["units"][:, 5] = 1.0
    given["features"][:, 9] = 0.0
    head = build_projector(Projector("autoencoder_aligned", "auto", 16, 8, "relu"), 64, 0, given)
    assert torch.equal(head[0].weight.sort(1).values, given["weight"].sort(1).values)


def test_permuting_the_columns_of_a_frozen_layer_is_no_control_of_content():
    """A network whose last channels are permuted with the layer's columns trains in the very same way.

    The last convolution and batch norm of a random backbone are drawn independently for each channel, so permuted ones
    are as probable: a permuted layer on one backbone is the layer itself on another one of the same distribution.
    """
    given, order = embedding_of(12, 16), torch.randperm(12, generator=generator(5))
    images = torch.randn(6, 16, 3, 8, 8, generator=generator(6), dtype=torch.float64)

    def trained(permute: bool) -> tuple[list[float], torch.Tensor]:
        with global_seed(0, "permutation test"):
            first, last, norm = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12)
            second = nn.Linear(16, 8)
        layer = nn.Linear(12, 16)
        with torch.no_grad():
            layer.weight.copy_(given["weight"][:, order] if permute else given["weight"])
            layer.bias.copy_(given["bias"])
            if permute:
                last.weight.copy_(last.weight[order])
                last.bias.copy_(last.bias[order])
        layer.requires_grad_(False)
        trunk = nn.Sequential(first, nn.ReLU(), last, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
        model = nn.Sequential(trunk, layer, nn.ReLU(), second).double()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3, momentum=0.9)
        losses = []
        for x_NCHW in images:
            loss = nt_xent(model(x_NCHW), 0.5)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, trunk.eval()(images[0]).detach()

    (plain, features), (permuted, moved) = trained(False), trained(True)
    assert permuted == pytest.approx(plain, abs=1e-12)
    torch.testing.assert_close(moved, features[:, order], atol=1e-12, rtol=0)


def test_orthogonal_rows_are_orthonormal():
    first = built("orthogonal")[0]
    torch.testing.assert_close(first.weight @ first.weight.T, torch.eye(16), atol=1e-5, rtol=0)
    assert not first.bias.any()
    wide = built("orthogonal", features=32, hidden=48)[0]  # more rows than columns: then the columns are
    torch.testing.assert_close(wide.weight.T @ wide.weight, torch.eye(32), atol=1e-5, rtol=0)


def test_pca_is_the_closed_form_linear_autoencoder():
    """scikit-learn's PCA; no layer of its width loses less of the features (Eckart and Young), and it is centred."""
    x_ND = embedding_of(64, 16)["features"]
    first = built("pca")[0]
    theirs = PCA(16, svd_solver="full").fit(x_ND.double().numpy())
    torch.testing.assert_close(first.weight, torch.from_numpy(theirs.components_).float(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        first(x_ND), torch.from_numpy(theirs.transform(x_ND.double().numpy())).float(), atol=1e-4, rtol=1e-4
    )

    def lost(weight_HD: torch.Tensor) -> float:
        """Squared error of the best linear decoder of x @ weight.T."""
        centred = (x_ND - x_ND.mean(0)).double()
        code = centred @ weight_HD.double().T
        return (centred - code @ torch.linalg.lstsq(code, centred).solution).square().sum().item()

    best = lost(first.weight)
    for init in ("random", "orthogonal", "autoencoder"):
        assert best < 0.9 * lost(built(init)[0].weight)
    assert best <= lost(first.weight + 0.01 * torch.randn(16, 64, generator=generator(0)))


def test_pca_needs_as_many_features_and_images_as_directions():
    head = Projector("pca", "auto", 48, 1, "relu")
    with pytest.raises(ValueError, match="at most 32 directions, hidden_dim is 48"):
        build_projector(head, 32, 0, {"features": torch.rand(100, 32)})
    with pytest.raises(ValueError, match="at most 19 directions"):
        build_projector(head, 64, 0, {"features": torch.rand(20, 64)})


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(("num_layers", "position"), [(2, 1), (3, 1), (3, 2), (6, 1), (6, 4), (6, 5)])
def test_deep_heads_keep_the_width_of_features_before_the_layer(num_layers, position, norm):
    head = built("autoencoder", num_layers=num_layers, position=position, norm=norm, activation="tanh")
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    widths = [64] * position + [16] * (num_layers - position) + [8]
    assert [(layer.in_features, layer.out_features) for layer in linears] == list(itertools.pairwise(widths))
    assert torch.equal(linears[position - 1].weight, embedding_of(64, 16)["weight"])
    frozen = [not layer.weight.requires_grad for layer in linears]
    assert frozen == [place == position for place in range(1, num_layers + 1)]
    kinds = ["Linear", *(["BatchNorm1d"] if norm == "batch" else []), "Tanh"] * (num_layers - 1)
    assert [type(layer).__name__ for layer in head] == [*kinds, "Linear"]
    assert head(torch.rand(3, 64)).shape == (3, 8)


def test_inits_share_all_layers_but_the_initialised_one_and_no_two_layers_are_equal():
    shape = {"features": 32, "hidden": 32, "out": 32, "num_layers": 6, "position": 3}
    heads = {
        init: [layer.weight for layer in built(init, **shape) if isinstance(layer, nn.Linear)]
        for init in ("random", "pca")
    }
    equal = [torch.equal(*pair) for pair in zip(*heads.values(), strict=True)]
    assert equal == [True, True, False, True, True, True]
    for first, second in itertools.combinations(heads["random"], 2):
        assert not torch.equal(first, second)


def test_position_must_be_before_the_last_layer():
    with pytest.raises(ValueError, match=r"projector\.position 2 must be below projector\.num_layers, 2"):
        built("random", position=2)


def test_seed_decides_everything_and_inits_share_the_second_layer():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    heads = {init: built(init, seed=4) for init in MLP_INITS}
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    for init, head in heads.items():
        again, other = built(init, seed=4), built(init, seed=5)
        assert torch.equal(head[0].weight, again[0].weight)
        assert torch.equal(head[2].weight, heads["random"][2].weight)
        assert torch.equal(head[2].bias, heads["random"][2].bias)
        assert not torch.equal(head[2].weight, other[2].weight)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("init", MLP_INITS)
def test_gradients_reach_all_trainable_and_no_frozen_parameters(init, freeze):
    backbone = build_backbone(Backbone("resnet18", "stride2", "none"), seed=0)
    model = nn.Sequential(backbone, built(init, features=512, freeze=freeze, activation="silu"))
    nt_xent(model(torch.rand(8, 3, 8, 8, generator=generator(0))), 0.5).backward()
    for name, parameter in model.named_parameters():
        frozen = freeze and name in ("1.0.weight", "1.0.bias")
        assert parameter.requires_grad != frozen, name
        if frozen:
            assert parameter.grad is None, name
        else:
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("freeze", [True, False])
def test_gradients_pass_every_activation(activation, freeze):
    head = built("autoencoder", freeze=freeze, activation=activation)
    x_BD = torch.randn(8, 64, generator=generator(0)).requires_grad_()
    nt_xent(head(x_BD), 0.5).backward()
    assert x_BD.grad.abs().sum() > 0
    assert [p.grad is None for p in head.parameters()] == [freeze, freeze, False, False]
    assert all(p.grad.abs().sum() > 0 for p in head.parameters() if p.requires_grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_trained_head_is_loaded_without_an_autoencoder_and_tells_its_layers(activation):
    settings = Projector("autoencoder", "auto", 16, 8, activation)
    head = build_projector(settings, 32, 0, embedding_of(32, 16))
    again = load_projector(settings, 32, head.state_dict())
    features = torch.randn(5, 32, generator=generator(1))
    outputs = layer_outputs(again, features)
    assert list(outputs) == ["hidden", "output"]
    assert torch.equal(outputs["hidden"], head[1](head[0](features)))
    assert torch.equal(outputs["output"], head(features))


def test_hidden_layers_of_a_deep_head_are_counted():
    head = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    features = torch.randn(5, 4, generator=generator(1))
    outputs = layer_outputs(head.eval(), features)
    assert list(outputs) == ["hidden", "hidden2", "output"]
    assert torch.equal(outputs["hidden2"], head[:5](features))


# --- the ladder, and freezing by layer ---


def test_no_layers_are_no_head():
    settings = Projector("random", "auto", 16, 8, "relu", num_layers=0)
    head = build_projector(settings, 32, seed=0)
    features = torch.randn(5, 32, generator=generator(1))
    assert head(features) is features
    assert not head.state_dict()
    again = load_projector(settings, 32, {})
    outputs = layer_outputs(again, features)
    assert list(outputs) == ["output"] and outputs["output"] is features


def test_one_layer_is_drawn_as_the_last_of_a_deeper_head():
    one = built("random", num_layers=1, features=16)  # as wide as the deeper head's hidden layer
    two = built("random", num_layers=2, features=16, hidden=16)
    assert [tuple(p.shape) for p in one.parameters()] == [(8, 16), (8,)]
    assert torch.equal(one[0].weight, two[2].weight) and torch.equal(one[0].bias, two[2].bias)
    assert built("random", num_layers=1, features=64)[0].weight.shape == (8, 64)
    assert list(layer_outputs(one, torch.rand(3, 16))) == ["output"]
    kept = built("random", num_layers=1, freeze=True)
    assert not any(p.requires_grad for p in kept.parameters())


@pytest.mark.parametrize(
    ("shape", "frozen", "words", "kept"),
    [
        ({"freeze": ()}, False, "trainable", set()),
        ({"freeze": (1,)}, True, "frozen", {1}),
        ({"freeze": (2,)}, "layer 2", "layer 2 frozen", {2}),
        ({"freeze": (2, 1)}, "layers 1+2", "layers 1+2 frozen", {1, 2}),
        ({"freeze": (2,), "num_layers": 3, "position": 2}, True, "frozen", {2}),
        ({"freeze": (1,), "num_layers": 3, "position": 2}, "layer 1", "layer 1 frozen", {1}),
        ({"freeze": (4, 1, 3), "num_layers": 6}, "layers 1+3+4", "layers 1+3+4 frozen", {1, 3, 4}),
        ({"freeze": True, "num_layers": 3, "position": 2}, True, "frozen", {2}),
        ({"freeze": True, "num_layers": 1}, True, "frozen", {1}),
        ({"freeze": "auto", "num_layers": 0}, False, "trainable", set()),
    ],
)
def test_freeze_by_layer(shape, frozen, words, kept):
    settings = Projector("random", shape.pop("freeze"), 16, 8, "relu", norm="batch", **shape)
    assert (settings.frozen, settings.frozen_words) == (frozen, words)
    head = build_projector(settings, 64, seed=0)
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    for place, layer in enumerate(linears, 1):
        assert all(p.requires_grad != (place in kept) for p in layer.parameters()), place
    norms = [layer for layer in head if isinstance(layer, nn.BatchNorm1d)]
    assert all(p.requires_grad for layer in norms for p in layer.parameters()), "a norm always learns"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"init": "autoencoder", "num_layers": 0}, r"projector\.init autoencoder must be random with .*num_layers 0"),
        ({"init": "orthogonal", "num_layers": 1}, r"projector\.init orthogonal must be random with .*num_layers 1"),
        ({"kind": "rbf", "num_layers": 0}, r"projector\.kind rbf must be mlp with .*num_layers 0"),
        ({"kind": "rbf", "num_layers": 1}, r"projector\.kind rbf must be mlp with .*num_layers 1"),
        ({"position": 2, "num_layers": 1}, r"projector\.position 2 must be below"),
        ({"position": 2, "num_layers": 0}, r"projector\.position 2 must be below"),
        ({"init": "kmeans"}, r"projector\.init kmeans needs projector\.kind rbf"),
        ({"freeze": (3,)}, r"projector\.freeze \[3\] must name no layer above .*: the head has 2 layers"),
        ({"freeze": (1,), "num_layers": 0}, r"projector\.freeze \[1\] .*: there is no head"),
        ({"freeze": True, "num_layers": 0}, r"projector\.freeze True .*: there is no head"),
        ({"freeze": (1, 1)}, r"projector\.freeze \[1, 1\] must name no layer twice"),
    ],
)
def test_settings_that_contradict_each_other(shape, words):
    with pytest.raises(ValueError, match=words):
        built(shape.pop("init", "random"), **shape)


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        (("random", False, 16, 8, "relu"), "5a93adeb2c037916"),
        (("autoencoder", "auto", 16, 8, "tanh", 3, 2, "batch"), "1209e5b09eb990cc"),
        (("orthogonal", True, 16, 8, "gelu", 6, 4), "8c1826d77f28d8c8"),
    ],
)
def test_heads_hold_the_bits_that_they_held_before_other_kinds_came(settings, known):
    """Digests of weights, of what trains and of the structure, as the commit a30f2bd built them (float32, CPU)."""
    head = build_projector(Projector(*settings), 64, 5, embedding_of(64, 16))
    digest = hashlib.sha256()
    for name, value in head.state_dict().items():
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    digest.update(str([(name, value.requires_grad) for name, value in head.named_parameters()]).encode())
    digest.update(str(head).encode())
    assert digest.hexdigest()[:16] == known
