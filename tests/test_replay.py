"""A recorded function against the same called plainly: with a stand-in that replays operators with their constants."""

import copy

import pytest
import torch
from torch import nn

from headstart import replay
from headstart.replay import Feed, Replayed, unchanged
from tests.standin import StandIn

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch) -> StandIn:
    """The CPU as a device that records."""
    found = StandIn()
    monkeypatch.setattr(replay, "cuda", lambda device: found)
    return found


def training(rate_as_number: bool = False):
    """A network, its optimiser, and a step (rate, x) -> loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, fused=True)

    def step(rate, x):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 if rate_as_number else rate
        optimizer.zero_grad(set_to_none=True)
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return model, optimizer, step


def inputs(num: int, rows: int = 6):
    torch.manual_seed(1)
    return [(0.1 / (k + 1), torch.randn(rows, 5)) for k in range(num)]


def plainly(num: int, step) -> list[float]:
    return [step(torch.tensor(rate), x).item() for rate, x in inputs(num)]


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_replayed_steps_equal_plain_ones_rates_momentum_and_statistics_included(gpu):
    model, optimizer, step = training()
    replayed = Replayed(step, CPU, name="step", calls=100, changes=(model, optimizer))
    losses = [replayed(rate, x).item() for rate, x in inputs(8)]
    twin, _, plain = training()
    assert losses == plainly(8, plain) and same(model, twin)
    assert gpu.recorded == 1 and gpu.replayed == 8  # the first real step is a replay already


def test_the_stand_in_shows_a_rate_that_is_baked_in(gpu):
    """Else the tests above would prove nothing."""
    model, optimizer, step = training(rate_as_number=True)
    replayed = Replayed(step, CPU, name="step", calls=100, changes=(model, optimizer))
    losses = [replayed(rate, x).item() for rate, x in inputs(4)]
    assert losses[0] == plainly(4, training()[2])[0] and losses[2:] != plainly(4, training()[2])[2:]


def test_a_state_that_is_restored_after_the_recording_is_not_seen(gpu):
    """load_state_dict of an optimiser replaces its tensors: so states are restored before the first call."""
    model, optimizer, step = training()
    replayed = Replayed(step, CPU, name="step", calls=100, changes=(model, optimizer))
    for rate, x in inputs(3):
        replayed(rate, x)
    state = copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values["momentum_buffer"].zero_()
    optimizer.load_state_dict(state)
    replayed(*inputs(4)[3])
    assert all(values["momentum_buffer"].abs().max() == 0 for values in optimizer.state.values())


@pytest.mark.parametrize("calls", [0, replay.LEAST_CALLS - 1])
def test_a_handful_of_calls_is_not_recorded(gpu, calls):
    model, optimizer, step = training()
    replayed = Replayed(step, CPU, name="step", calls=calls, changes=(model, optimizer))
    assert [replayed(rate, x).item() for rate, x in inputs(3)] == plainly(3, training()[2])
    assert gpu.recorded == 0


def test_other_shapes_and_watched_steps_run_kernel_by_kernel_on_the_same_state(gpu):
    model, optimizer, step = training()
    replayed = Replayed(step, CPU, name="step", calls=100, changes=(model, optimizer))
    twin, _, plain = training()
    seen = []
    for k, (rate, x) in enumerate(inputs(9)):
        if k % 3 == 1:
            with model[0].register_forward_hook(lambda *passed: seen.append(1)):
                ours = replayed.kernel_by_kernel(rate, x)
        elif k % 3 == 2:
            x = x[:4]
            ours = replayed(rate, x)
        else:
            ours = replayed(rate, x)
        assert ours.item() == plain(torch.tensor(rate), x).item()
    assert same(model, twin) and len(seen) == 3 and gpu.replayed == 3


def test_what_cannot_be_recorded_runs_kernel_by_kernel_from_the_first_step_and_says_so_once(gpu, capsys):
    model, optimizer, step = training()

    def waits(rate, x):
        loss = step(rate, x)
        return loss if loss.item() > 0 else -loss

    replayed = Replayed(waits, CPU, name="the step", calls=100, changes=(model, optimizer))
    twin, _, plain = training()
    assert [replayed(rate, x).item() for rate, x in inputs(5)] == plainly(5, plain) and same(model, twin)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the step: no CUDA graph (") and "not permitted" in line and len(line) < 300
    assert gpu.recorded == 1 and gpu.replayed == 0


def test_a_warm_up_leaves_no_trace():
    model, optimizer, step = training()
    before = copy.deepcopy(model.state_dict())
    with unchanged((model, optimizer)):
        for rate, x in inputs(3):
            step(rate, x)
        assert not torch.equal(model[0].weight, before["0.weight"])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(state["momentum_buffer"].abs().max() == 0 for state in optimizer.state.values())


def test_a_warm_up_in_the_middle_keeps_momentum():
    model, optimizer, step = training()
    step(*inputs(1)[0])
    kept = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    with unchanged((model, optimizer)):
        step(*inputs(2)[1])
    now = [state["momentum_buffer"] for state in optimizer.state.values()]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def test_inputs_arrive_whatever_their_dtypes_and_shapes(gpu):
    values = (
        0.25,
        torch.arange(3),
        torch.tensor([True, False, True]),
        torch.randn(2, 3),
        torch.tensor(7, dtype=torch.uint8),
    )
    found = Replayed(lambda *parts: [part.clone() for part in parts], CPU, name="copy", calls=0)(*values)
    for value, part in zip(values, found, strict=True):
        assert torch.equal(torch.as_tensor(value), part) and torch.as_tensor(value).dtype == part.dtype


def test_no_buffer_is_overwritten_while_it_is_read():
    """Per slot: the host waits for the copy before it writes again, the copy for the work that read the buffer."""
    gpu = StandIn()
    feed = Feed(CPU, gpu)
    for _ in range(6):
        with feed.sent((1.0, torch.arange(4))):
            pass
    steps = gpu.log
    copies = [place for place, entry in enumerate(steps) if entry[0] == "copy"]
    assert len(copies) == 6 and len({steps[place][1] for place in copies}) == 2  # one copy a call, two slots
    assert [steps[place][1] for place in copies[::2]] == [steps[copies[0]][1]] * 3
    for first, second in zip(copies, copies[2:], strict=False):
        _, copied, free = steps[first]
        between = steps[first + 1 : second]
        assert ("record", free) in between and ("wait", copied) in between
        assert between.index(("record", free)) < between.index(("wait", copied))
        other = [entry for entry in between if entry[0] == "wait" and entry[1] != copied]
        assert len(other) == 1  # of the call between them: it waited for its own slot alone


def test_on_the_cpu_the_function_is_called_as_it_is():
    seen = []
    result = Replayed(lambda *values: seen.append(values), CPU, name="x", calls=100)(0.5, "anything")
    assert result is None and seen == [(0.5, "anything")]
