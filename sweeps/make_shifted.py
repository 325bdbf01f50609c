"""Write archives/digits-shifted.zip: scikit-learn's digits blurred, paler, with noise. For sweeps/shift.yaml."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

TRAIN = 1078  # of 1,797; the rest is the test split


def main() -> None:
    """Write the archive: equal runs write equal bytes."""
    random, digits = np.random.default_rng(0), load_digits()
    out = Path("archives/digits-shifted.zip")
    out.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(out, "w") as archive:
        for number, place in enumerate(random.permutation(len(digits.images))):
            strength = 3 + 0.6 * gaussian_filter(digits.images[place], 0.5) + random.normal(0, 2, (8, 8))
            pixels = (strength.clip(0, 16) * 255 / 16).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).convert("RGB").save(file, "png")
            split = "train" if number < TRAIN else "test"
            entry = zipfile.ZipInfo(f"{split}/{digits.target[place]}/{place:04d}.png")
            archive.writestr(entry, file.getvalue())


if __name__ == "__main__":
    main()
