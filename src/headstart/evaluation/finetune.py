"""Full fine-tuning: backbone and a linear head trained together with all train labels (Chen et al. 2020, B.5)."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from headstart.data.arrays import Split, Standardize
from headstart.data.device_views import network_input
from headstart.data.views import Draw, Views, draw
from headstart.evaluation.features import extract_features
from headstart.randomness import generator
from headstart.replay import Replayed, on_cuda, rated

# SimCLR's: SGD with Nesterov momentum, batch 256, learning rate 0.05 at it, no weight decay
BATCH, RATE, MOMENTUM = 256, 0.05, 0.9


def finetune(
    backbone: nn.Module,
    train: Split,
    test: Split,
    views: Views,
    image_size: int,
    standardize: Standardize | None,
    *,
    num_features: int,
    num_classes: int,
    epochs: int,
    seed: int,
    on_epoch: Callable[[], object] = lambda: None,
) -> float:
    """Return the test accuracy of a copy of `backbone` and a head of zeros after `epochs` epochs of cross-entropy.

    Images are cropped, rotated and mirrored as `views` says, colours stay. The rate falls by a cosine per step to 0.
    Batches of 256, or the whole split where it is smaller; a last partial one is dropped. Draws depend on the seed
    and the step alone.
    """
    head = nn.utils.skip_init(nn.Linear, num_features, num_classes)  # draws nothing
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    model = nn.Sequential(copy.deepcopy(backbone), head).to(train.images.device)
    batch_size = min(BATCH, len(train.labels))
    steps = len(train.labels) // batch_size
    rate = RATE * batch_size / BATCH
    fused = True if on_cuda(list(model.parameters())) else None  # a fused step reads its rate on the device
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True, fused=fused)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    geometry = replace(views, jitter=0.0, grey=0.0, blur=0.0)
    step = _stepping(model, optimizer, train, geometry, image_size, standardize, calls=epochs * steps)
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(train.labels), generator=generator(seed, "finetune", "order", epoch))
        for k, rows in enumerate(order.split(batch_size)[:steps]):
            drawn = draw(geometry, train.sizes[rows], generator(seed, "finetune", "step", epoch * steps + k))
            step(optimizer.param_groups[0]["lr"], rows, train.labels[rows], *drawn.tensors())
            scheduler.step()
        on_epoch()
    predicted = extract_features(model, test, image_size, standardize).argmax(1)
    return float((predicted == test.labels.numpy()).mean())


def _stepping(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train: Split,
    geometry: Views,
    image_size: int,
    standardize: Standardize | None,
    calls: int,
) -> Replayed:
    """Return (rate, rows, labels, fields of Draw): a training step."""

    def step(rate: float | Tensor, rows: Tensor, labels: Tensor, *drawn: Tensor) -> None:
        x_BCHW = network_input(train.images[rows], Draw(*drawn), geometry, image_size, standardize)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(x_BCHW), labels).backward()
        with rated(optimizer, rate):
            optimizer.step()

    return Replayed(step, train.images.device, name="fine-tuning", calls=calls, changes=(model, optimizer))
