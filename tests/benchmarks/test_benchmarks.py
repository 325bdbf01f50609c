"""What benchmarks compare must compute the same, and what they report must be what they measured."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import measure, nt_xent, probe, setting
from benchmarks.authors import Pairs
from benchmarks.views import STORED
from headstart.data.views import draw
from headstart.evaluation.probe import converged_probe
from headstart.randomness import generator

CPU = torch.device("cpu")


@pytest.mark.parametrize("form", ["matmul", "broadcast"])
def test_every_form_of_nt_xent_is_the_same_function(form):
    """Values and gradients: the authors' broadcasting criterion and the plain form are ours, only slower."""
    z_ND = torch.randn(24, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    results = []
    for name in ("ours", form):
        leaf = z_ND.clone().requires_grad_()
        loss = nt_xent.FORMS[name](leaf)
        loss.backward()
        results.append((loss.detach(), leaf.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_it_runs_where_there_is_little_more_than_torch():
    """A GPU machine has torch, torchvision, numpy, scikit-learn and safetensors, and what those bring."""
    script = """
import importlib, sys
for name in "pydantic yaml dvc mlflow pandas matplotlib tqdm psutil rich lightly kornia".split():
    sys.modules[name] = None
from benchmarks.__main__ import NAMES
for name in NAMES:
    importlib.import_module(f"benchmarks.{name}")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


def test_the_gpus_tests_are_found_there_and_skip_elsewhere_by_saying_why():
    """With torch, torchvision, numpy, scipy, scikit-learn, safetensors, pydantic and pytest alone."""
    script = """
import sys
for name in "yaml dvc mlflow pandas matplotlib tqdm psutil rich filelock jinja2 statsmodels requests PIL".split():
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(["-q", "-rs", "-p", "no:cacheprovider", "tests/cuda"]))
"""
    environment = os.environ | {"HEADSTART_REHEARSE": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.cuda.is_available() or "needs a CUDA device: python -m pytest tests/cuda" in done.stdout


def test_what_is_compared_runs_in_turn_and_warm_ups_do_not_count():
    calls = []
    seconds = measure.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3, CPU)
    assert "".join(calls) in ("abbaabba", "baabbaab")
    assert {name: len(laps) for name, laps in seconds.items()} == {"a": 3, "b": 3}


def test_bars_from_both_sides():
    assert measure.Row("x", 0.9, bar=0.9).met is True
    assert measure.Row("x", 0.89, bar=0.9).met is False
    assert measure.Row("x", 0.91, bar=0.9, at_most=True).met is False
    assert measure.Row("x", 0.91).met is None
    assert measure.skipped("x", "no accelerator").met is None


def test_table_and_file_say_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    rows = [measure.spread("speed", [3.0, 1.0, 2.0], "x", bar=4.0), measure.skipped("other", "needs an accelerator")]
    table = measure.show(rows)
    assert "| speed | 2 x | 1 to 3 | at least 4 | NO |" in table
    assert "other (needs an accelerator) | not measured" in table
    tree = json.loads(measure.save("step", rows, CPU, "fp32").read_text())
    assert tree["rows"][0]["median"] == 2.0
    assert tree["rows"][0]["met"] is False
    assert torch.__version__.startswith(tree["machine"]["libraries"]["torch"])
    assert tree["machine"]["accelerator"] is None


def test_a_failing_process_is_reported_not_measured():
    assert "exit status" in measure.in_new_process("benchmarks.nt_xent", "no such form", 8, 1, "cpu")["error"]


def test_peak_memory_is_a_process_of_its_own():
    found = measure.in_new_process("benchmarks.nt_xent", "matmul", 512, 1, "cpu")
    assert len(found["seconds"]) == 1
    assert 4 * 1024**2 < found["bytes"] < 2**28  # at least one (2N, 2N) matrix


def test_authors_pairs_are_two_views_and_the_whole_image():
    torch.manual_seed(0)
    pairs = [Pairs(8, 16, 32)[index] for index in range(8)]
    assert all(whole.shape == left.shape == right.shape == (3, 16, 16) for whole, left, right, _ in pairs)
    assert not any(torch.equal(left, right) for _, left, right, _ in pairs)


def test_setting_is_the_papers():
    model = setting.model(CPU)
    assert [tuple(layer.weight.shape) for layer in (model[1][0], model[1][2])] == [(512, 512), (128, 512)]
    assert model[0].conv1.kernel_size == (7, 7)
    pictures = setting.pictures(3, STORED[96])
    assert pictures.shape == (3, 192, 192, 3)
    drawn = draw(setting.VIEWS, torch.full((4000, 2), 32), generator(0, "x"))
    assert drawn.blurred.float().mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.grey.float().mean() == pytest.approx(0.2, abs=0.03)


def test_objective_is_scikit_learns():
    data = probe.features(300, 0)
    fit = converged_probe(data, data, [0.01], probe.NUM_CLASSES)
    least, _ = probe.theirs(data, 0.01, 1e-8)
    assert least <= probe.objective(fit.probe, data, 0.01) <= least * (1 + 1e-4)


def test_interval_of_the_median_holds_it_in_at_least_95_of_100_samples():
    """Of the normal distribution, whose median is 0; and the ranks of a small sample, by the binomial's table."""
    random = np.random.default_rng(0)
    held = 0
    for sample in random.normal(size=(2000, 31)):
        low, high = map(float, re.findall(r"-?\d\.\d+", measure.median_interval(list(sample))))
        held += low <= 0 <= high
    assert 0.95 <= held / 2000 < 0.99
    assert measure.median_interval(range(1, 11)).endswith("2.000 to 9.000")
    assert measure.median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) == "too few for an interval of the median"
