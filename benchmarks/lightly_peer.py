"""Against lightly: SimCLRTransform in DataLoader workers, its NTXentLoss, the same backbone, two forwards."""

import warnings
from collections.abc import Callable

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks import setting
from benchmarks.measure import Row, interleave, num_cores, ratios, skipped, spread
from benchmarks.step import our_steps
from headstart.precision import use_bf16

BARS = {"cpu": 1.3, "cuda": 5.0}


class Views(Dataset):
    """lightly's two views of decoded images; the paper's strengths are its defaults."""

    def __init__(self, num: int, size: int):
        from lightly.transforms import SimCLRTransform

        self.images = setting.pictures(num, size)
        self.transform = SimCLRTransform(input_size=size, normalize=None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(Image.fromarray(self.images[index]))


def their_steps(batch_size: int, steps: int, device: torch.device) -> Callable[[], None]:
    """Return a function that trains one epoch of `steps` steps as lightly's SimCLR example does, in our precision."""
    from lightly.loss import NTXentLoss

    loader = DataLoader(
        Views(steps * batch_size, 32), batch_size, shuffle=True, drop_last=True, num_workers=num_cores()
    )
    backbone, head, optimizer = setting.peer(device)
    criterion = NTXentLoss(temperature=setting.TEMPERATURE)
    bf16 = use_bf16("auto", device)

    def run() -> None:
        for first, second in loader:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                z0, z1 = (head(backbone(view.to(device)).flatten(1)) for view in (first, second))
                loss = criterion(z0, z1)
            loss.backward()
            optimizer.step()

    return run


def main(device: torch.device, quick: bool) -> tuple[list[Row], str]:
    """Measure at both batch sizes of the step benchmark."""
    precision = "bf16" if use_bf16("auto", device) else "fp32"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its imports look for optional packages
            import lightly.loss
            import lightly.transforms  # noqa: F401
    except ImportError as error:
        return [skipped("ours over lightly", f"{error}; make bench installs it")], precision
    rows = []
    for batch_size in (32,) if quick else (256, 1280):
        steps = 1 if quick else 1280 // batch_size * (1 if device.type == "cpu" else 10)
        runs = {
            "ours": our_steps(setting.batches(steps * batch_size, 32, device), batch_size, steps),
            "lightly": their_steps(batch_size, steps, device),
        }
        seconds = interleave(runs, 1 if quick else 5, device)
        case = f"ResNet-34, 32 px, B = {batch_size}"
        rows.append(
            spread(
                f"{case}: ours over lightly", ratios(seconds["lightly"], seconds["ours"]), "x", bar=BARS[device.type]
            )
        )
        rows.append(spread(f"{case}: lightly", [steps * batch_size / lap for lap in seconds["lightly"]], "images/s"))
    return rows, precision
