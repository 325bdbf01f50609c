"""Full fine-tuning: backbone and a linear head trained together with all train labels (Chen et al. 2020, B.5)."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from headstart.data.arrays import Split, Standardize
from headstart.data.views import Views, draw, render
from headstart.evaluation.features import extract_features
from headstart.randomness import generator

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
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE * batch_size / BATCH, momentum=MOMENTUM, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    geometry = replace(views, jitter=0.0, grey=0.0, blur=0.0)
    for epoch in range(epochs):
        model.train()
        order = torch.randperm(len(train.labels), generator=generator(seed, "finetune", "order", epoch))
        for k, rows in enumerate(order.split(batch_size)[:steps]):
            drawn = draw(geometry, train.sizes[rows], generator(seed, "finetune", "step", epoch * steps + k))
            x_BCHW = render(train.images[rows.to(train.images.device)], drawn, geometry, image_size)
            _step(model, optimizer, standardize(x_BCHW) if standardize else x_BCHW, train.labels[rows])
            scheduler.step()
        on_epoch()
    predicted = extract_features(model, test, image_size, standardize).argmax(1)
    return float((predicted == test.labels.numpy()).mean())


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x_BCHW: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad(set_to_none=True)
    logits = model(x_BCHW.contiguous(memory_format=torch.channels_last))
    nn.functional.cross_entropy(logits, labels.to(logits.device)).backward()
    optimizer.step()
