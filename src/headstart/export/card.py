"""The model card: what the weights are, what they were trained on and how well they did, and how to load them."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headstart.data import SPLITS, UNLABELLED
from headstart.export.bundle import ONNX, PROBE, SETTINGS, WEIGHTS, Settings
from headstart.ingest import decode
from headstart.ingest.about import About
from headstart.models.timm_models import PREFIX

# what torchvision's ResNet must be given before the weights fit
STEM_LINES = {
    "imagenet": "",
    "cifar": "network.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)\n"
    "network.maxpool = torch.nn.Identity()\n",
    "stride2": "network.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)\n"
    "network.maxpool = torch.nn.Identity()\n",
}
STEM_WORDS = {
    "imagenet": "Its stem is torchvision's own: nothing to change but the classifier `fc`, which is left out.",
    "cifar": "Its stem is not torchvision's: `conv1` is 3x3, stride 1, and there is no max-pool. `fc` is left out.",
    "stride2": "Its stem is not torchvision's: `conv1` is 3x3, stride 2, and there is no max-pool. `fc` is left out.",
}


LABELLED, LABEL_FREE = ("top1", "macro_f1", "val_top1"), ("view_top1", "alignment", "uniformity", "rankme")
WORDS = "Of linear probes on the test split, as fractions; `untrained` is the same backbone before SimCLR."
WORDS_WITHOUT_LABELS = (
    "There were no labels, so nothing was probed. `view_top1`: share of images one view of which finds the other among "
    "those of all test images; alignment and uniformity: Wang & Isola 2020, less is better; `rankme`: effective rank "
    "(Garrido et al. 2023), more is better. `untrained` is the same backbone before SimCLR."
)


@dataclass(frozen=True)
class Origin:
    """Where an export comes from, as text: commit (`unknown` without git), DVC experiment, hash of the arrays."""

    commit: str
    experiment: str
    data_hash: str


def model_card(
    settings: Settings,
    about: About | None,
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    scores: Mapping[str, Mapping[str, float]],
    origin: Origin,
    use: list[str],
) -> str:
    """Return the card as Markdown, without a date.

    about: what is known of the dataset, None for a user's own images; data: num_images by split and, where there are
    any, num_unlabelled; recipe: names -> values; scores: name of a backbone -> its metrics; use: lines on how to load.
    """
    counts = ", ".join(
        f"{data['num_images'][name]} {name}" for name in (*SPLITS, UNLABELLED) if name in data["num_images"]
    )
    free = sum(data.get("num_unlabelled", {}).values())
    known = LABELLED if settings.classes else LABEL_FREE
    metrics = [name for name in known if any(name in row for row in scores.values())]
    lines = [
        f"# {settings.arch} on {settings.dataset}, trained with SimCLR",
        "",
        f"A backbone of {settings.num_features} features, trained without labels by Headstart, which studies",
        f"arXiv:2408.14514{', and a linear probe fitted on its frozen features' if settings.classes else ''}.",
        "",
        "## Data",
        "",
        *_data(settings, about),
        f"- images: {counts}; {f'{len(settings.classes)} classes' if settings.classes else 'no labels'}"
        + (f", {free} unlabelled" if free else ""),
        f"- size: stored at {settings.stored_size} px, seen at {settings.image_size} px, squashed to a square"
        + (f", without the lowest {settings.crop_bottom} rows" if settings.crop_bottom else ""),
        "",
        "## Metrics",
        "",
        WORDS if settings.classes else WORDS_WITHOUT_LABELS,
        "",
        f"| backbone | {' | '.join(metrics)} |",
        "|---" * (len(metrics) + 1) + "|",
        *(
            f"| {name} | {' | '.join(f'{row[key]:.4f}' if key in row else '–' for key in metrics)} |"
            for name, row in scores.items()
        ),
        "",
        "## Recipe",
        "",
        "| key | value |",
        "|---|---|",
        *(f"| `{key}` | {value} |" for key, value in recipe.items()),
        "",
        "## Origin",
        "",
        f"- git commit: {origin.commit}",
        f"- DVC experiment: {origin.experiment}",
        f"- hash of the prepared images: {origin.data_hash}",
        "",
        "## Use",
        "",
        *use,
    ]
    return "\n".join(lines) + "\n"


def _data(settings: Settings, about: About | None) -> list[str]:
    if about is None:
        return [f"- {settings.dataset}: the user's own images", "- licence: the images' own; not known here"]
    return [
        f"- {about.title} ({about.citation}; {about.homepage})",
        f"- licence of the data: {about.licence}",
    ]


def how_to_use(settings: Settings, files: list[str]) -> list[str]:
    """Return the lines on how to load an export that consists of `files`."""
    timm = settings.arch.startswith(PREFIX)
    words = (
        f"The weights are timm's `{settings.arch.removeprefix(PREFIX)}` without classifier."
        if timm
        else (f"The weights are torchvision's `{settings.arch}`: names and shapes. {STEM_WORDS[settings.stem]}")
    )
    lines = [words, f"`{SETTINGS}` holds the sizes, statistics and class names. In this folder:", "", "```python"]
    lines += loader(settings).splitlines()
    lines += ["```"]
    if PROBE in files:
        lines += ["", "Class probabilities, from the probe:", "", "```python", *_PROBE_LINES.splitlines(), "```"]
    if ONNX in files:
        lines += ["", "The same features by onnxruntime:", "", "```python", *_ONNX_LINES.splitlines(), "```"]
    return [*lines, "", "With Headstart: `python -m headstart predict THIS_FOLDER IMAGES --out features.npz`."]


def loader(settings: Settings) -> str:
    """Return Python that loads the weights and makes features of image files, without Headstart."""
    if settings.arch.startswith(PREFIX):
        name = settings.arch.removeprefix(PREFIX)
        library, build = "timm", f'network = timm.create_model("{name}", num_classes=0)\n'
    else:
        library = "torchvision"
        build = f"network = torchvision.models.{settings.arch}()\n{STEM_LINES[settings.stem]}"
        build += "network.fc = torch.nn.Identity()\n"
    decoding = "\n\n".join(inspect.getsource(function) for function in decode.CARD).rstrip()
    return _LOADER.format(library=library, build=build, weights=WEIGHTS, settings=SETTINGS, decoding=decoding)


_LOADER = """import json

import numpy as np
import torch
import {library}
from PIL import Image
from safetensors.torch import load_file

{build}network.load_state_dict(load_file("{weights}"), strict=True)
network.eval()
settings = json.load(open("{settings}"))


{decoding}


def prepare(path):
    side, size = settings["stored_size"], settings["image_size"]
    pixels = stored_pixels(Image.open(path), side, settings["crop_bottom"])
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    if side != size:
        x = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
    if settings["mean"] is not None:
        mean, std = (torch.tensor(settings[name])[:, None, None] for name in ("mean", "std"))
        x = (x - mean) / torch.where(std > 0, std, 1.0)
    return x


@torch.no_grad()
def features(paths):
    return network(torch.cat([prepare(path) for path in paths]))
"""

_PROBE_LINES = f"""probe = load_file("{PROBE}")


def probabilities(features):
    x = (features.double() - probe["mean"]) / probe["scale"]
    return torch.softmax(x @ probe["weight"].T + probe["bias"], 1)  # columns: settings["classes"]
"""

_ONNX_LINES = f"""import onnxruntime

session = onnxruntime.InferenceSession("{ONNX}", providers=["CPUExecutionProvider"])


def onnx_features(paths):
    images = torch.cat([prepare(path) for path in paths]).numpy()
    return session.run(["features"], {{"images": images}})[0]
"""
