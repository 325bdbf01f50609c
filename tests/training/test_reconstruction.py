"""The autoencoder's loop on real digits: against a plain loop and torch's plateau, interrupted and resumed."""

import copy
import dataclasses
import io

import numpy as np
import pytest
import torch
from torch import nn

from headstart.errors import UserError
from headstart.models.autoencoder import build_autoencoder
from headstart.randomness import generator
from headstart.training.reconstruction import AutoencoderEpoch, Reconstruction, reconstruction_error, train_autoencoder

RECIPE = Reconstruction(epochs=4, batch_size=30, learning_rate=1e-3, factor=0.5, patience=10)


def recipe(**changes) -> Reconstruction:
    return dataclasses.replace(RECIPE, **changes)


@pytest.fixture(scope="module")
def splits(split_of):
    """70 digits to train on (two batches of 30 and one of 10), 25 to validate on."""
    return split_of(0, 70), split_of(70, 95)


def run(splits, settings: Reconstruction = RECIPE, **options) -> tuple[nn.Module, list[AutoencoderEpoch]]:
    autoencoder = build_autoencoder("mlp", 8, 32, 16, seed=0)
    return autoencoder, train_autoencoder(autoencoder, *splits, settings, **{"image_size": 8, "seed": 0, **options})


def equal(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def pixels(split) -> torch.Tensor:
    return split.images.permute(0, 3, 1, 2).float() / 255


class Memory:
    """A checkpoint of bytes that is always due."""

    content = None

    def load(self):
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def due(self) -> bool:
        return True

    def save(self, state) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.content = file.getvalue()


def test_loop_equals_a_plain_one(splits):
    model, curve = run(splits)
    train, val = (pixels(split) for split in splits)
    plain = build_autoencoder("mlp", 8, 32, 16, seed=0)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for epoch, row in enumerate(curve):
        total = 0.0
        for rows in torch.randperm(70, generator=generator(0, "autoencoder", epoch)).split(30):
            optimizer.zero_grad()
            loss = (plain(train[rows]) - train[rows]).square().mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.no_grad():
            val_mse = (plain(val) - val).square().mean().item()
        assert row.train_mse == pytest.approx(total / 70, rel=1e-4)
        assert row.val_mse == pytest.approx(val_mse, rel=1e-4)
        assert (row.epoch, row.learning_rate) == (epoch + 1, 1e-3)
    assert curve[-1].val_mse == min(row.val_mse for row in curve)  # so the last weights are the ones kept
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_denoising_loop_equals_a_plain_one(splits):
    """Noisy inputs, clean targets; the errors of validation are of clean images."""
    autoencoder = build_autoencoder("denoising", 8, 32, 16, seed=0)
    curve = train_autoencoder(autoencoder, *splits, recipe(epochs=2), image_size=8, seed=0)
    train, val = (pixels(split) for split in splits)
    plain = build_autoencoder("mlp", 8, 32, 16, seed=0)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for epoch, row in enumerate(curve):
        source, total = generator(0, "autoencoder noise", epoch), 0.0
        for rows in torch.randperm(70, generator=generator(0, "autoencoder", epoch)).split(30):
            optimizer.zero_grad()
            seen = train[rows] + 0.25 * torch.randn(train[rows].shape, generator=source)
            loss = (plain(seen) - train[rows]).square().mean()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        with torch.no_grad():
            val_mse = (plain(val) - val).square().mean().item()
        assert (row.train_mse, row.val_mse) == (pytest.approx(total / 70, rel=1e-4), pytest.approx(val_mse, rel=1e-4))


@pytest.mark.parametrize("arch", ["conv", "denoising"])
def test_other_autoencoders_resume_to_the_same_bits(splits, arch):
    def trained(**options) -> tuple[nn.Module, list[AutoencoderEpoch]]:
        autoencoder = build_autoencoder(arch, 8, 32, 16, seed=0)
        return autoencoder, train_autoencoder(autoencoder, *splits, RECIPE, image_size=8, seed=0, **options)

    def stop(row: AutoencoderEpoch) -> None:
        if row.epoch == 3:
            raise KeyboardInterrupt

    model, curve = trained()
    memory = Memory()
    with pytest.raises(KeyboardInterrupt):
        trained(checkpoint=memory, on_epoch=stop)
    resumed, resumed_curve = trained(checkpoint=memory)
    assert resumed_curve == curve
    assert equal(resumed, model)


def test_error_falls(splits):
    _, curve = run(splits, recipe(epochs=40))
    assert curve[-1].val_mse < 0.7 * curve[0].val_mse
    assert curve[-1].train_mse < 0.7 * curve[0].train_mse


def test_learning_rate_follows_torchs_plateau(splits):
    """The rule of Reduce-on-plateau, applied by hand to the errors that were seen."""
    _, curve = run(splits, recipe(epochs=25, learning_rate=0.05, factor=0.5, patience=2))
    rate, best, bad = 0.05, float("inf"), 0
    for row in curve:
        assert row.learning_rate == pytest.approx(rate)
        if row.val_mse < best * (1 - 1e-4):
            best, bad = row.val_mse, 0
        else:
            bad += 1
        if bad > 2:
            rate, bad = rate * 0.5, 0
    assert rate < 0.05, "the rate never fell: this run shows nothing"


def test_weights_of_the_lowest_validation_error_are_kept(splits):
    autoencoder, states = build_autoencoder("mlp", 8, 32, 16, seed=0), []
    curve = train_autoencoder(
        autoencoder,
        *splits,
        recipe(epochs=12, learning_rate=0.1),
        image_size=8,
        seed=0,
        on_epoch=lambda row: states.append(copy.deepcopy(autoencoder)),
    )
    best = min(range(12), key=lambda epoch: curve[epoch].val_mse)
    assert best != 11, "the last epoch is the best: choose another learning rate, this run shows nothing"
    assert equal(autoencoder, states[best])
    assert reconstruction_error(autoencoder, splits[1], 8) == curve[best].val_mse


def test_two_runs_are_bitwise_equal_and_another_seed_is_not(splits):
    first, second, other = run(splits), run(splits), run(splits, seed=1)
    assert first[1] == second[1]
    assert equal(first[0], second[0])
    assert other[1] != first[1]


@pytest.mark.parametrize("epoch", [1, 4, 7, 8])
def test_run_killed_after_any_epoch_resumes_to_the_same_bits(splits, epoch):
    """Rates that fall on the way included: the plateau's memory is part of the state."""
    settings = recipe(epochs=8, learning_rate=0.2, patience=1)
    model, curve = run(splits, settings)
    assert curve[5].learning_rate < 0.2
    memory, rows = Memory(), []

    def on_epoch(row: AutoencoderEpoch) -> None:
        if row.epoch == epoch:
            raise KeyboardInterrupt
        rows.append(row)

    with pytest.raises(KeyboardInterrupt):
        run(splits, settings, checkpoint=memory, on_epoch=on_epoch)
    resumed, resumed_curve = run(splits, settings, checkpoint=memory, on_epoch=rows.append)
    assert resumed_curve == rows == curve
    assert equal(resumed, model)
    assert run(splits, settings, checkpoint=memory, on_epoch=rows.append)[1] == curve
    assert len(rows) == 8  # a finished run trains no more


@pytest.mark.parametrize("batch_size", [1, 7, 95, 1000])
def test_error_is_the_mean_over_all_values_of_the_split(split_of, batch_size):
    autoencoder, split = build_autoencoder("mlp", 8, 32, 16, seed=0), split_of(0, 95)
    with torch.no_grad():
        difference = autoencoder(pixels(split)).double().numpy() - pixels(split).double().numpy()
    expected = np.mean(difference**2)
    assert reconstruction_error(autoencoder, split, 8, batch_size) == pytest.approx(expected, rel=1e-6)


def test_images_are_resized_to_the_training_size(split_of):
    autoencoder = build_autoencoder("mlp", 12, 32, 16, seed=0)
    curve = train_autoencoder(autoencoder, split_of(0, 30), split_of(30, 40), RECIPE, image_size=12, seed=0)
    assert len(curve) == 4


def test_error_that_is_not_finite(splits):
    with pytest.raises(UserError) as error:
        run(splits, recipe(learning_rate=1e38))
    assert str(error.value) == (
        "autoencoder error is not finite at epoch 1 (lr 1e+38): lower autoencoder.learning_rate"
    )
