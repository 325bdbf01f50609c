"""The paper's CIFAR-10 setting, as every benchmark of training takes it."""

import numpy as np
import torch
import torchvision
from torch import nn

from headstart.data.arrays import Split
from headstart.data.views import Views
from headstart.models.backbone import Backbone, build_backbone, num_features
from headstart.models.projector import Projector, build_projector
from headstart.training.contrastive import Batches, Network, SimCLR

IMAGES = 45_000
BACKBONE = Backbone(arch="resnet34", stem="imagenet", weights="none")
PROJECTOR = Projector(init="random", freeze=False, hidden_dim=512, out_dim=128, activation="relu")
VIEWS = Views(
    crop_scale=[0.08, 1.0],
    crop_ratio=[3 / 4, 4 / 3],
    rotate=0.0,
    flip=0.5,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.2,
    grey=0.2,
    blur=0.5,
    blur_kernel=0.1,
    blur_sigma=[0.1, 2.0],
)
MOMENTUM, WEIGHT_DECAY, TEMPERATURE = 0.9, 1e-5, 0.5


def recipe(precision: str = "auto") -> SimCLR:
    """Return the paper's contrastive recipe."""
    return SimCLR(
        epochs=150,
        temperature=TEMPERATURE,
        learning_rate=0.3,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        schedule="cosine_per_epoch",
        warmup_epochs=0,
        final_lr=0.02,
        precision=precision,
        num_processes=1,
        sync_batchnorm=False,
        monitor_epochs=0,
    )


def pictures(num: int, size: int) -> np.ndarray:
    """Return (num, size, size, 3) uint8 crops of scikit-learn's two photographs: pixels as pictures have them."""
    from sklearn.datasets import load_sample_images

    photographs = load_sample_images().images
    random = np.random.default_rng(0)
    crops = np.empty((num, size, size, 3), dtype=np.uint8)
    for crop in crops:
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(side - size + 1) for side in photograph.shape[:2])
        crop[:] = photograph[top : top + size, left : left + size]
    return crops


def split(num: int, size: int, device: torch.device) -> Split:
    """Return pictures as a split on the device."""
    sizes = torch.full((num, 2), size)
    return Split(torch.from_numpy(pictures(num, size)), torch.zeros(num, dtype=torch.int64), sizes).to(device)


def batches(num: int, size: int, device: torch.device, stored: int | None = None) -> Batches:
    """Return the source of view pairs of `size` pixels, from images stored at `stored` (default: the same)."""
    return Batches(split(num, stored or size, device), VIEWS, size, None)


def model(device: torch.device, backbone: Backbone = BACKBONE, head: Projector = PROJECTOR) -> Network:
    """Return backbone and projector as `train_simclr` holds them, in training mode."""
    projector = build_projector(head, num_features(backbone), seed=0)
    return Network(build_backbone(backbone, seed=0), projector).to(device, memory_format=torch.channels_last).train()


def peer(device: torch.device) -> tuple[nn.Module, nn.Module, torch.optim.SGD]:
    """Return torchvision's backbone without its classifier, the head and their optimiser, as peers write them."""
    backbone = nn.Sequential(*list(torchvision.models.resnet34(weights=None).children())[:-1])
    head = nn.Sequential(
        nn.Linear(512, PROJECTOR.hidden_dim), nn.ReLU(), nn.Linear(PROJECTOR.hidden_dim, PROJECTOR.out_dim)
    )
    model = nn.ModuleList([backbone, head]).to(device).train()
    return backbone, head, torch.optim.SGD(model.parameters(), 1e-3, MOMENTUM, weight_decay=WEIGHT_DECAY)


def sgd(module: nn.Module) -> torch.optim.SGD:
    """Return the optimiser of `train_simclr`."""
    return torch.optim.SGD(module.parameters(), lr=0.1, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True)
