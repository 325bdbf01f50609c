"""Digits' pixels as features."""

import numpy as np
import pytest

from headstart.evaluation.probe import Labelled


@pytest.fixture(scope="session")
def labelled(digits):
    """`labelled(start, stop, classes=10)`: those digits below `classes`, pixels as features."""

    def make(start: int, stop: int, classes: int = 10) -> Labelled:
        images, labels = digits
        features = images[start:stop, :, :, 0].reshape(-1, 64).astype(np.float32) / 255
        kept = labels[start:stop] < classes
        return Labelled(features[kept], labels[start:stop][kept])

    return make
