"""What runs are called."""

import pytest

from headstart.models.projector import Projector
from headstart.study.report import describe
from headstart.tracking.names import run_name


@pytest.mark.parametrize(
    ("shape", "name", "text"),
    [
        ({}, "random trainable relu 128-64", "random (trainable) first layer, 128 hidden, 64 out, relu"),
        ({"freeze": True}, "random frozen relu 128-64", "random (frozen) first layer, 128 hidden, 64 out, relu"),
        (
            {"freeze": (2, 1), "kind": "rbf", "num_layers": 3},
            "random layers 1+2 frozen rbf 128-64 3 layers",
            "random (layers 1+2 frozen) first layer, 128 hidden, 64 out, rbf; 3 layers, random at 1, norm none",
        ),
        ({"num_layers": 0}, "no head", "none: the loss is that of the backbone's features"),
        ({"num_layers": 1, "freeze": True}, "linear frozen 64", "one linear layer (frozen), 64 out"),
    ],
)
def test_names_and_texts_tell_the_head(shape, name, text):
    head = Projector("random", shape.pop("freeze", "auto"), 128, 64, "relu", **shape)
    assert run_name(["digits", "cifar10"], head, 3) == f"digits, cifar10 {name} seed 3"
    assert describe(head, 3, "default")["projector"] == text
