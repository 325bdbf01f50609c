"""Backbones of timm: widths, names, weights, what is said where timm or a model is missing."""

import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save_file

from headstart.errors import UserError
from headstart.models.backbone import Backbone, build_backbone, check_forward, num_features
from headstart.models.timm_models import build_timm, timm_features

# of different families: by pooled map, by token, with a layer between pooling and classifier
MODELS = {"resnet10t": 512, "convnext_atto": 320, "mobilenetv3_small_050": 1024, "vit_tiny_patch16_224": 192}


def backbone_of(name: str, weights: str = "none") -> Backbone:
    return Backbone(f"timm/{name}", "imagenet", weights)


def message(call, *arguments) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_timm_one_line_names_the_file_to_install_from(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for call in (num_features, lambda backbone: build_backbone(backbone, seed=0)):
        text = message(call, backbone_of("resnet10t"))
        assert text.startswith("params.yaml: backbone.arch: timm/... needs the package timm")
        assert text.endswith("python -m pip install -r requirements-optional.txt")


def test_resnets_and_params_import_no_timm():
    code = (
        "import sys; from headstart.models.backbone import Backbone, build_backbone; import headstart.run.params; "
        "build_backbone(Backbone('resnet18', 'cifar', 'none'), 0); assert 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestWithTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return pytest.importorskip("timm")

    @pytest.mark.parametrize("name", MODELS)
    def test_width_is_asked_of_the_model(self, name):
        size = 224 if name.startswith("vit") else 32
        network = build_backbone(backbone_of(name), seed=0).eval()
        with torch.no_grad():
            y_BD = network(torch.rand(2, 3, size, size))
        assert y_BD.shape == (2, MODELS[name])
        assert num_features(backbone_of(name)) == timm_features(f"timm/{name}") == MODELS[name]

    def test_weights_are_a_function_of_the_seed_alone(self):
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = build_backbone(backbone_of("resnet10t"), seed=5).state_dict()
        assert torch.equal(torch.random.get_rng_state(), before)
        second, other = (build_backbone(backbone_of("resnet10t"), seed).state_dict() for seed in (5, 6))
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])

    def test_weights_come_from_a_file_without_its_classifier(self, timm, tmp_path):
        published = timm.create_model("resnet10t", num_classes=7)
        save_file(published.state_dict(), tmp_path / "weights.safetensors")
        ours = build_backbone(backbone_of("resnet10t", str(tmp_path / "weights.safetensors")), seed=0).state_dict()
        assert set(published.state_dict()) - set(ours) == {"fc.weight", "fc.bias"}
        assert all(torch.equal(value, published.state_dict()[key]) for key, value in ours.items())

    def test_weights_that_cannot_be_downloaded(self, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        code = (
            "from headstart.models.timm_models import build_timm\n"
            "try: build_timm('timm/resnet10t', pretrained=True)\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("UserError params.yaml: backbone.weights imagenet1k: timm cannot bring")
        assert done.stdout.count("\n") == 1

    def test_name_that_timm_does_not_know(self, timm):
        text = message(build_timm, "timm/convnext_tinny")
        assert text == (
            f"params.yaml: backbone.arch: 'timm/convnext_tinny' is no model of timm {timm.__version__} "
            "(nearest: timm/convnext_tiny)"
        )

    def test_image_size_that_a_model_does_not_take(self):
        backbone = backbone_of("vit_tiny_patch16_224")
        network = build_backbone(backbone, seed=0)
        check_forward(network, backbone, 224)
        assert network.training
        text = message(check_forward, network, backbone, 32)
        assert text.startswith("params.yaml: backbone.arch: timm/vit_tiny_patch16_224 does not run at 32 px: ")
