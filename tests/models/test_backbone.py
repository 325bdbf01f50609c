"""Backbones against torchvision's: shapes, keys, initial weights, weights from files, errors."""

import itertools

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from headstart.errors import UserError
from headstart.models.backbone import (
    ARCHS,
    STEM_REDUCTION,
    STEMS,
    Backbone,
    build_backbone,
    check_image_size,
    num_features,
)
from headstart.randomness import generator

PLAIN = Backbone("resnet18", "stride2", "none")


@pytest.fixture(scope="module")
def published():
    """A ResNet-18 as torchvision publishes them, with other random weights and statistics, classifier included."""
    with torch.random.fork_rng():
        torch.manual_seed(99)
        network = torchvision.models.resnet18()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.weight)
    return network.state_dict()


@pytest.mark.parametrize(("arch", "stem"), list(itertools.product(ARCHS, STEMS)))
def test_every_backbone_maps_images_to_features_and_keeps_torchvisions_keys(arch, stem):
    backbone = Backbone(arch, stem, "none")
    deep = arch in ("resnet101", "resnet152")  # shapes alone: their initial weights take seconds
    with torch.device("meta" if deep else "cpu"), torch.no_grad():
        network = build_backbone(backbone, seed=0).eval()
        assert network(torch.rand(2, 3, 16, 16)).shape == (2, num_features(backbone))
    with torch.device("meta"):
        theirs = getattr(torchvision.models, arch)().state_dict()
    ours = network.state_dict()
    assert set(ours) == {key for key in theirs if not key.startswith("fc.")}
    different = {key for key in ours if ours[key].shape != theirs[key].shape}
    assert different == (set() if stem == "imagenet" else {"conv1.weight"})


@pytest.mark.parametrize("stem", STEMS)
def test_stem_reduces_the_image_as_its_table_says(stem):
    network = build_backbone(Backbone("resnet18", stem, "none"), seed=0).eval()
    sizes = {}
    for name in ("layer1", "layer2", "layer3", "layer4"):
        getattr(network, name).register_forward_hook(lambda _, x, y, name=name: sizes.update({name: y.shape[-1]}))
    with torch.no_grad():
        network(torch.rand(1, 3, 64, 64))
    whole = 64 // STEM_REDUCTION[stem]
    assert sizes == {"layer1": whole, "layer2": whole // 2, "layer3": whole // 4, "layer4": whole // 8}


@pytest.mark.parametrize("stem", STEMS)
def test_least_image_size_is_where_the_third_stage_still_has_a_pixel_of_its_own(stem):
    """Below it layer3 no longer halves anything; the network itself runs on any size, so nothing else would say so."""
    least = STEM_REDUCTION[stem] * 4
    check_image_size(Backbone("resnet18", stem, "none"), least)
    network = build_backbone(Backbone("resnet18", stem, "none"), seed=0)
    sizes = []
    for name in ("layer2", "layer3"):
        getattr(network, name).register_forward_hook(lambda _, x, y: sizes.append(y.shape[-1]))
    network(torch.rand(2, 3, least, least)).sum().backward()
    network(torch.rand(2, 3, least // 2, least // 2)).sum().backward()
    assert sizes == [2, 1, 1, 1]
    with pytest.raises(UserError) as error:
        check_image_size(Backbone("resnet18", stem, "none"), least - 1, "datasets.yaml: digits.image_size")
    head = f"datasets.yaml: digits.image_size: {least - 1} is too small for backbone.stem {stem}: "
    smaller = {"imagenet": ", or choose stem cifar or stride2", "cifar": "", "stride2": ", or choose stem cifar"}
    assert str(error.value) == f"{head}must be at least {least}{smaller[stem]}"


def test_weights_are_a_function_of_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_backbone(PLAIN, seed=5).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second, other = build_backbone(PLAIN, seed=5).state_dict(), build_backbone(PLAIN, seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["layer4.1.conv2.weight"], other["layer4.1.conv2.weight"])


@pytest.mark.parametrize("stem", STEMS)
def test_first_convolution_is_initialised_as_torchvision_does(stem):
    """Kaiming normal, fan-out: deviation sqrt(2 / (64 k k)), for the replaced stems too."""
    weight = build_backbone(Backbone("resnet18", stem, "none"), seed=0).conv1.weight
    expected = (2 / (64 * weight.shape[-1] ** 2)) ** 0.5
    assert weight.std().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("stem", STEMS)
def test_weights_come_from_a_file(published, tmp_path, suffix, stem):
    path = tmp_path / f"weights{suffix}"
    save_file(published, path) if suffix == ".safetensors" else torch.save(published, path)
    ours = build_backbone(Backbone("resnet18", stem, str(path)), seed=0).state_dict()
    fresh = build_backbone(Backbone("resnet18", stem, "none"), seed=0).state_dict()
    for key, value in ours.items():
        # another stem cannot take the 7x7 filters
        expected = fresh[key] if key == "conv1.weight" and stem != "imagenet" else published[key]
        assert torch.equal(value, expected), key


def test_weights_of_its_own_stem_come_back_whole(tmp_path):
    path = tmp_path / "backbone.safetensors"
    state = build_backbone(PLAIN, seed=7).state_dict()
    save_file(state, path)
    ours = build_backbone(Backbone("resnet18", "stride2", str(path)), seed=0).state_dict()
    assert all(torch.equal(ours[key], state[key]) for key in state)


def test_published_weights_are_torchvisions(published, tmp_path, monkeypatch):
    """From torch's own cache, where the download would put them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    name = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rpartition("/")[2]
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.save(published, tmp_path / "hub/checkpoints" / name)
    ours = build_backbone(Backbone("resnet18", "imagenet", "imagenet1k"), seed=0)
    x_BCHW = torch.rand(2, 3, 32, 32, generator=generator(0))
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(published)
    theirs.fc = nn.Identity()
    torch.testing.assert_close(ours.eval()(x_BCHW), theirs.eval()(x_BCHW), atol=1e-5, rtol=1e-5)


def refused(weights: object, arch: str = "resnet18") -> str:
    with pytest.raises(UserError) as error:
        build_backbone(Backbone(arch, "imagenet", str(weights)), seed=0)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"params.yaml: backbone.weights {weights}")
    assert len(message) < 400
    return message


def test_weights_that_cannot_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "cannot download https://download.pytorch.org/" in refused("imagenet1k")


def test_weights_that_are_not_there(tmp_path):
    assert "no such file" in refused(tmp_path / "absent.pth")
    assert "no such file" in refused(tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights at all, only a sentence that is long enough to be read as a header"]
)
def test_weights_that_cannot_be_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert "not a readable state dict" in refused(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"conv1.weight": "text"}, {1: torch.zeros(2)}])
def test_files_that_hold_no_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "weights.pth")
    assert "not a readable state dict" in refused(tmp_path / "weights.pth")


def test_weights_that_run_code_are_not_loaded(tmp_path):
    torch.save(torchvision.models.resnet18(), tmp_path / "weights.pth")  # a pickled module
    assert "not a readable state dict" in refused(tmp_path / "weights.pth")


def test_weights_of_another_network(published, tmp_path):
    torch.save(published, tmp_path / "weights.pth")
    assert "does not fit resnet50" in refused(tmp_path / "weights.pth", arch="resnet50")
    torch.save({"state_dict": published["conv1.weight"]}, tmp_path / "wrapped.pth")
    assert "does not fit resnet18" in refused(tmp_path / "wrapped.pth")
