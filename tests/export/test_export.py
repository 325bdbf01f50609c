"""Exports, written as the command writes them: read back, loaded by what their card says alone, and predicted with."""

import argparse
import io
import json
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from headstart.commands import export as command
from headstart.commands.predict import predict as predict_command
from headstart.data.arrays import Split, Standardize
from headstart.errors import UserError
from headstart.evaluation.features import extract_features
from headstart.evaluation.probe import Linear
from headstart.export import graph
from headstart.export.bundle import Settings, plain_network, read_bundle
from headstart.export.card import loader
from headstart.export.predict import find_images
from headstart.ingest.decode import decode
from headstart.models.backbone import STEMS, Backbone, build_backbone
from headstart.models.convolution import SmallMapConv2d
from headstart.randomness import generator
from headstart.run.params import load_params
from tests.checkouts import ROOT

SIZE, STORED = 32, 48
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
WITH_GRAPH = not graph.missing_packages()  # optional
CROPPED = {"cifar": 7}  # rows below a picture, as below FGVC-Aircraft's
CLASSES = [f"class {number}" for number in range(10)]


def trained_network(stem: str) -> torch.nn.Module:
    """A backbone with the running statistics of some images."""
    network = build_backbone(Backbone("resnet18", stem, "none"), seed=3)
    with torch.no_grad():
        for number in range(20):
            network.train()(torch.rand(8, 3, SIZE, SIZE, generator=generator(number)) * 3 - 1.5)
    return network.eval()


def probe_of(width: int) -> dict[str, torch.Tensor]:
    source = generator(5, "probe")
    shapes = {"weight": (10, width), "bias": (10,), "mean": (width,)}
    tensors = {name: torch.randn(shape, generator=source, dtype=torch.float64) for name, shape in shapes.items()}
    return tensors | {"weight": tensors["weight"] / 10, "scale": torch.rand(width, generator=source).double() + 0.5}


def kinds_of_images() -> dict[str, bytes]:
    """Images that a plain `Image.open(path).convert("RGB")` shows otherwise than the pipeline stores them."""
    random = np.random.default_rng(9)
    noise = random.integers(0, 256, (60, 90, 3)).astype(np.uint8)
    alpha = random.integers(0, 256, (60, 90)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    large = Image.fromarray(noise).resize((900, 600), Image.Resampling.BICUBIC)
    palette = Image.fromarray(noise).convert("P")
    deep = Image.fromarray((np.arange(60 * 90).reshape(60, 90) * 12).astype(np.uint16))
    turned = {f"turned{k}.tif": ("TIFF", Image.fromarray(noise), {"tiffinfo": {274: k}}) for k in (3, 6, 7)}
    found = {
        "turned.jpg": ("JPEG", Image.fromarray(noise), {"exif": exif, "quality": 95}),
        "turned_large.jpg": ("JPEG", large, {"exif": exif, "quality": 95}),  # its decoder reduces it
        "clear.png": ("PNG", Image.fromarray(np.dstack([noise, alpha])), {}),
        "clear_grey.png": ("PNG", Image.fromarray(np.dstack([noise[..., 0], alpha]), "LA"), {}),
        "clear_palette.png": ("PNG", palette, {"transparency": 3}),
        "deep.png": ("PNG", deep, {}),
        "deep.tif": ("TIFF", deep, {}),
        "inks.jpg": ("JPEG", Image.fromarray(noise).convert("CMYK"), {"quality": 95}),
        "bits.png": ("PNG", Image.fromarray(noise).convert("1"), {}),
        "frames.gif": ("GIF", palette, {"save_all": True, "append_images": [palette.rotate(180)]}),
        "broken.jpg": ("JPEG", Image.fromarray(noise), {"exif": b"Exif\0\0MM\0*\xff\xff\xff\xff", "quality": 95}),
        **turned,
    }
    encoded = {}
    for name, (kind, image, options) in found.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded[name] = buffer.getvalue()
    return encoded


@pytest.mark.parametrize("crop_bottom", [0, 7])
@pytest.mark.parametrize("side", [16, 48])
def test_the_card_sees_the_pixels_that_training_saw(side, crop_bottom, tmp_path):
    """To the bit, on every mode, by the code that stands in a card alone."""
    (start,) = [text for text in [loader(trained("cifar").settings)] if "def turn_of" in text]
    code = start[start.index("def turn_of") : start.index("def prepare")]
    names = {"np": np, "Image": Image}
    exec(code, names)
    for name, data in kinds_of_images().items():
        (tmp_path / name).write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = names["stored_pixels"](Image.open(tmp_path / name), side, crop_bottom)
        assert (seen == decode(data, side, crop_bottom)[0]).all(), name


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Photographs as files: larger, smaller and of another shape than what is stored, and what is no image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deeper").mkdir()
    random = np.random.default_rng(0)
    for number, size in enumerate([(48, 48), (60, 80), (30, 20), (100, 50), (48, 49)]):
        pixels = np.kron(random.integers(0, 255, (10, 10, 3)), np.ones((10, 10, 1)))[: size[0], : size[1]]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / ("deeper" if number % 2 else ".") / f"{number}.png")
    for name, data in kinds_of_images().items():
        (folder / name).write_bytes(data)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    """An export per stem, written by the command's own functions from a workspace with prepared test images."""
    folder = tmp_path_factory.mktemp("workspace")
    prepared = folder / "data" / "prepared" / "digits"
    prepared.mkdir(parents=True)
    random = np.random.default_rng(1)
    np.save(prepared / "test_images.npy", random.integers(0, 255, (20, STORED, STORED, 3)).astype(np.uint8))
    np.save(prepared / "test_labels.npy", np.zeros(20, dtype=np.int64))
    np.save(prepared / "test_sizes.npy", np.full((20, 2), STORED))
    params = load_params(ROOT)
    written = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stem in STEMS:
            written[stem] = folder / "export" / stem
            written[stem].mkdir(parents=True)
            here = replace(params, backbone=Backbone("resnet18", stem, "none"))
            # exporting a graph takes seconds: one stem, twice
            command.write(written[stem], "digits", here, trained(stem), with_graph=WITH_GRAPH and stem == "stride2")
        again = folder / "again"
        again.mkdir()
        command.write(
            again,
            "digits",
            replace(params, backbone=Backbone("resnet18", "stride2", "none")),
            trained("stride2"),
            with_graph=WITH_GRAPH,
        )
    return written | {"again": again}


def trained(stem: str) -> command.Trained:
    settings = Settings("digits", "resnet18", stem, 512, STORED, SIZE, MEAN, STD, CLASSES, CROPPED.get(stem, 0))
    scores = {"top1": 0.9, "macro_f1": 0.8, "val_top1": 0.7}
    meta = {"num_images": {"train": 70, "val": 10, "test": 20}, "hash": "0" * 32}
    return command.Trained(
        settings, plain_network(trained_network(stem)), probe_of(512), meta, {"trained": scores, "untrained": scores}
    )


def blocks(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


CLEAN = """
import os, sys
import numpy as np
for folder in sys.argv[2:]:
    os.chdir(folder)
    names = {}
    for block in open("snippets.txt").read().split("#----"):
        exec(block, names)
    paths = open(sys.argv[1]).read().splitlines()
    features = names["features"](paths)
    found = {"features": features.numpy(), "probabilities": names["probabilities"](features).numpy()}
    if "onnx_features" in names:
        found |= {"onnx": names["onnx_features"](paths), "one": names["onnx_features"](paths[:1])}
    np.savez("loaded.npz", **found)
assert not [name for name in sys.modules if name.startswith(("headstart", "stages"))]
"""


@pytest.fixture(scope="module")
def loaded(exports, images) -> dict[str, dict[str, np.ndarray]]:
    """What the cards' snippets give, run by an isolated Python that imports nothing of ours."""
    folders = {stem: exports[stem] for stem in STEMS}
    listing = images / "listing"
    listing.write_text("\n".join(str(path) for path in find_images([images])))
    for folder in folders.values():
        (folder / "snippets.txt").write_text("#----\n".join(blocks((folder / "README.md").read_text())))
    arguments = [str(listing), *map(str, folders.values())]
    done = subprocess.run([sys.executable, "-I", "-c", CLEAN, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {stem: dict(np.load(folder / "loaded.npz")) for stem, folder in folders.items()}
    for folder in folders.values():
        (folder / "snippets.txt").unlink()
        (folder / "loaded.npz").unlink()
    return found


def predicted(folder: Path, images: list[Path], out: Path) -> Path:
    predict_command(argparse.Namespace(model=folder, images=images, out=out, device="cpu"))
    return out


@pytest.mark.parametrize("stem", STEMS)
def test_cards_snippets_give_our_features_and_probabilities(exports, images, loaded, tmp_path, stem):
    ours = np.load(predicted(exports[stem], [images], tmp_path / "out.npz"))
    theirs = loaded[stem]
    assert ours["features"].shape == (5 + len(kinds_of_images()), 512)
    scale = max(1.0, np.abs(ours["features"]).max())
    assert ("onnx" in theirs) == (WITH_GRAPH and stem == "stride2")
    for name in {"features", "onnx", "one"} & set(theirs):
        expected = ours["features"][: len(theirs[name])]
        np.testing.assert_allclose(theirs[name], expected, atol=1e-4 * scale, rtol=0)
    np.testing.assert_allclose(theirs["probabilities"], ours["probabilities"], atol=1e-4)
    assert np.ptp(ours["features"], axis=0).max() > 0.01, "the images are told apart"


@pytest.mark.parametrize("stem", STEMS)
def test_state_dict_is_torchvisions_but_for_the_classifier_and_the_stem(exports, stem):
    state = load_file(exports[stem] / "backbone.safetensors")
    theirs = torchvision.models.resnet18().state_dict()
    assert set(theirs) - set(state) == {"fc.weight", "fc.bias"}
    assert set(state) <= set(theirs)
    different = {key for key in state if state[key].shape != theirs[key].shape}
    assert different == (set() if stem == "imagenet" else {"conv1.weight"})
    card = (exports[stem] / "README.md").read_text()
    assert ("nothing to change but the classifier" in card) == (stem == "imagenet")


def test_predictions_are_the_pipelines_on_its_own_stored_images(exports, tmp_path):
    """extract_features and the probe, as fit_probe applies them."""
    stored = np.random.default_rng(2).integers(0, 255, (3, STORED, STORED, 3)).astype(np.uint8)
    for number, pixels in enumerate(stored):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    ours = np.load(predicted(exports["stride2"], [tmp_path], tmp_path / "out.npz"))
    split = Split(torch.from_numpy(stored), torch.zeros(3).long(), torch.full((3, 2), STORED))
    features = extract_features(trained_network("stride2"), split, SIZE, Standardize(tuple(MEAN), tuple(STD)))
    np.testing.assert_allclose(ours["features"], features, atol=1e-4 * np.abs(features).max())
    logits = Linear(**{name: value.numpy() for name, value in probe_of(512).items()}).logits(features)
    expected = torch.softmax(torch.from_numpy(logits), 1).numpy()
    np.testing.assert_allclose(ours["probabilities"], expected, atol=1e-4)
    assert ours["predicted"].tolist() == [CLASSES[k] for k in expected.argmax(1)]
    assert ours["paths"].tolist() == [str(tmp_path / f"{number}.png") for number in range(3)]


def test_parquet_holds_what_npz_holds(exports, images, tmp_path):
    arrays = np.load(predicted(exports["cifar"], [images], tmp_path / "out.npz"))
    table = pd.read_parquet(predicted(exports["cifar"], [images], tmp_path / "out.parquet"))
    assert table["path"].tolist() == arrays["paths"].tolist()
    assert np.array_equal(np.stack(table["features"]), arrays["features"])
    assert table["predicted"].tolist() == arrays["predicted"].tolist()
    assert np.array_equal(table[[f"probability {name}" for name in CLASSES]].to_numpy(), arrays["probabilities"])


def test_files_repeat_and_name_neither_this_machine_nor_a_time(exports):
    names = {file.name for file in exports["again"].iterdir()}
    assert names - {"backbone.onnx"} == {"export.json", "backbone.safetensors", "probe.safetensors", "README.md"}
    assert ("backbone.onnx" in names) == WITH_GRAPH
    for name in names:
        content = (exports["again"] / name).read_bytes()
        assert content == (exports["stride2"] / name).read_bytes(), name
        assert b"site-packages" not in content, name
        assert str(ROOT).encode() not in content, name


def test_card_tells_data_licence_recipe_metrics_and_origin(exports):
    card = (exports["stride2"] / "README.md").read_text()
    for words in (
        *("licence of the data: CC BY 4.0", "Alpaydin", "70 train, 10 val, 20 test; 10 classes", "stored at 48 px"),
        *("| trained | 0.9000 | 0.8000 | 0.7000 |", "| `projector.init` | autoencoder |", "| `seed` | 0 |"),
        *("git commit: ", "DVC experiment: ", "`conv1` is 3x3, stride 2, and there is no max-pool"),
    ):
        assert words in card, words


def test_network_is_torchs_own_in_an_export_and_ours_when_read_back(exports):
    bundle = read_bundle(exports["stride2"])
    assert any(type(module) is SmallMapConv2d for module in bundle.network.modules())
    assert not any(type(module) is SmallMapConv2d for module in plain_network(bundle.network).modules())
    assert json.loads((exports["stride2"] / "export.json").read_text())["mean"] == MEAN


@pytest.mark.skipif(not WITH_GRAPH, reason="onnx, onnxscript and onnxruntime are optional")
def test_graph_that_differs_is_refused(exports):
    network = trained_network("stride2")
    with torch.no_grad():
        network.conv1.weight.mul_(1.01)
    with pytest.raises(UserError, match="differ from torch's by"):
        graph.check_graph(exports["stride2"] / "backbone.onnx", network, torch.rand(2, 3, SIZE, SIZE))


def refused(call, *arguments) -> str:
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_mistakes_are_one_line(exports, images, tmp_path):
    out = tmp_path / "out.npz"
    assert "no export here, export.json is missing" in refused(predicted, tmp_path, [images], out)
    assert "no such file or folder" in refused(predicted, exports["cifar"], [tmp_path / "absent"], out)
    assert "must end in .npz or .parquet" in refused(predicted, exports["cifar"], [images], tmp_path / "out.csv")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(predicted, exports["cifar"], [tmp_path / "empty"], out)
    assert "not an image that Pillow knows" in refused(predicted, exports["cifar"], [images / "notes.txt"], out)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "export.json").write_text("{}")
    assert "not a readable export" in refused(read_bundle, tmp_path / "broken")
    assert not out.exists()


@pytest.mark.parametrize(("name", "width"), [("resnet10t", 512), ("mobilenetv3_small_050", 1024)])
def test_timm_models_load_by_timm_alone(name, width, exports, images, tmp_path):
    pytest.importorskip("timm", reason="timm is optional")
    backbone = Backbone(f"timm/{name}", "imagenet", "none")
    settings = Settings("digits", backbone.arch, backbone.stem, width, STORED, SIZE, MEAN, STD, CLASSES)
    network = plain_network(build_backbone(backbone, seed=3)).eval()
    result = replace(trained("stride2"), settings=settings, network=network, probe=probe_of(width))
    folder = tmp_path / name
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(exports["stride2"].parents[1])
        params = replace(load_params(ROOT), backbone=backbone)
        command.write(folder, "digits", params, result, with_graph=WITH_GRAPH)
    (folder / "snippets.txt").write_text("#----\n".join(blocks((folder / "README.md").read_text())))
    listing = tmp_path / "listing"
    listing.write_text("\n".join(str(path) for path in find_images([images])))
    arguments = [sys.executable, "-I", "-W", "ignore", "-c", CLEAN, str(listing), str(folder)]
    subprocess.run(arguments, check=True)
    found, ours = np.load(folder / "loaded.npz"), np.load(predicted(folder, [images], tmp_path / "out.npz"))
    np.testing.assert_allclose(found["features"], ours["features"], atol=1e-4 * np.abs(ours["features"]).max())
    np.testing.assert_allclose(found["probabilities"], ours["probabilities"], atol=1e-4)
    if WITH_GRAPH:
        np.testing.assert_allclose(found["onnx"], ours["features"], atol=1e-4 * np.abs(ours["features"]).max())
