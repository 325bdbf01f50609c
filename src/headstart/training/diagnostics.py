"""What a head does to features and gradients while it trains: measured on some steps, without effect on any of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from headstart.geometry import alignment, effective_rank, rankme, singular_values, uniformity
from headstart.knobs import Range
from headstart.models.projector import is_activation, numbered


@dataclass(frozen=True)
class Diagnostics:
    """every: steps from one measurement to the next, 0: none at all; dense_steps: the first steps, each measured."""

    every: Annotated[int, Range(0)]
    dense_steps: Annotated[int, Range(0)]

    def due(self, step: int) -> bool:
        """Whether step, from 0, is to be measured."""
        return self.every > 0 and (step < self.dense_steps or step % self.every == 0)


# ---- features --------------------------------------------------------------------------------------------------------


def spread(z_ND: Tensor) -> Tensor:
    """Return the mean deviation of the columns on the unit sphere, times sqrt(D): 0 collapse, 1 spread over it.

    Chen & He 2021, figure 2, whose healthy value is 1 / sqrt(D).
    """
    return nn.functional.normalize(z_ND).std(0, correction=0).mean() * z_ND.shape[1] ** 0.5


def geometry(z_ND: Tensor) -> dict[str, Tensor]:
    """Return what features of 2B views look like: the measures above; effective_rank is that of centred features."""
    z_ND = z_ND.detach().float()
    return {
        "alignment": alignment(z_ND),
        "uniformity": uniformity(z_ND),
        "spread": spread(z_ND),
        "effective_rank": effective_rank(singular_values(z_ND - z_ND.mean(0))),
        "rankme": rankme(singular_values(z_ND)),
    }


# ---- activations and gradients ---------------------------------------------------------------------------------------

# What counts as saturated, (N, H) outputs -> share: of values where a slope has gone, of ReLU's units that are never on
SATURATED: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: lambda outputs: (outputs.abs() > 0.99).float().mean(),
    nn.Sigmoid: lambda outputs: ((outputs < 0.01) | (outputs > 0.99)).float().mean(),
    nn.ReLU: lambda outputs: (outputs <= 0).all(0).float().mean(),
}


def activation(layer: nn.Module, inputs: Tensor, outputs: Tensor) -> dict[str, Tensor]:
    """Return mean and deviation of all pre-activations (N, H) and, where SATURATED knows it, the saturated share."""
    inputs, found = inputs.detach().float(), SATURATED.get(type(layer))
    values = {"pre_mean": inputs.mean(), "pre_std": inputs.std(correction=0)}
    return values | ({"saturated": found(outputs.detach().float())} if found else {})


def layer_groups(backbone: nn.Module, projector: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return group -> its trainable parameters: `backbone_layer1` (a child of the backbone), `projector_1` (a layer).

    Linear layers are counted from 1, frozen ones too; a norm or an RBF network goes with the Linear before it.
    """
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in backbone.named_parameters():
        groups.setdefault(f"backbone_{name.partition('.')[0]}", []).append(parameter)
    for number, layer in numbered(projector):
        groups.setdefault(f"projector_{number}", []).extend(layer.parameters(recurse=False))
    trainable = {name: [each for each in group if each.requires_grad] for name, group in groups.items()}
    return {name: group for name, group in trainable.items() if group}


def matrices(projector: nn.Module) -> dict[str, Tensor]:
    """Return `projector_1`, .. -> the weight of that Linear layer, frozen ones too."""
    linear = {number: layer for number, layer in numbered(projector) if isinstance(layer, nn.Linear)}
    return {f"projector_{number}": layer.weight.detach() for number, layer in linear.items()}


def drift(weight: Tensor, start: Tensor) -> dict[str, Tensor]:
    """Return how far a matrix is from its start: |W - W0| / |W0| (Frobenius), and the cosine of the two as vectors."""
    weight, start = weight.double(), start.double()
    norm = torch.linalg.vector_norm(start)
    cosine = (weight * start).sum() / (torch.linalg.vector_norm(weight) * norm)
    return {"drift": torch.linalg.vector_norm(weight - start) / norm, "cosine": cosine}


def gradient_norm(parameters: list[nn.Parameter]) -> Tensor:
    """Return the norm of all gradients of the parameters as one vector."""
    return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


# ---- the steps of a training -----------------------------------------------------------------------------------------


@dataclass
class Observer:
    """Measures some steps of a training and keeps a row of each; what it holds stays on the device until asked for.

    A row has `step`, from 0, the measures of geometry for backbone, hidden layers and output, those of `activation` per
    hidden layer, gradient norms per layer group, at the backbone's features and at the loss's input, the ratio of
    these two, the backbone's share of the squared norm of all trained parameters' gradient, and of each of the head's
    layers the `drift` since `begin`. Weights are those before the step. Of a group of processes the first observes its
    own share of a batch.
    """

    settings: Diagnostics
    steps: list[int] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    start: dict[str, Tensor] = field(default_factory=dict)

    def begin(self, projector: nn.Module) -> None:
        """Remember the head's initial weights; a resumed run calls it before it restores what it had reached."""
        self.start = {name: weight.clone() for name, weight in matrices(projector).items()}

    @contextmanager
    def watching(self, step: int, backbone: nn.Module, projector: nn.Module, scale: int = 1) -> Iterator[bool]:
        """Measure the training step that runs inside, if it is due: forward, backward and optimiser; yield whether.

        scale: what the loss was multiplied by before its backward pass, and gradients of parameters were not.
        """
        if not self.settings.due(step):
            yield False
            return
        now = matrices(projector)
        before = {
            f"{name}_{key}": value
            for name, start in self.start.items()
            for key, value in drift(now[name], start).items()
        }
        with _captured(projector) as (layers, pairs, gradients):
            yield True
        row = {f"{name}_{key}": value for name, z_ND in layers.items() for key, value in geometry(z_ND).items()}
        for name, (layer, inputs, outputs) in pairs.items():
            row |= {f"{name}_{key}": value for key, value in activation(layer, inputs, outputs).items()}
        row |= self._gradients(layer_groups(backbone, projector)) | before
        at_features, at_loss = (gradients[name].float().norm() / scale for name in ("backbone", "output"))
        row |= {"gradient_features": at_features, "gradient_loss": at_loss, "gradient_ratio": at_features / at_loss}
        self.steps.append(step)
        self.columns = list(row)
        self.values.append(torch.stack([value.double() for value in row.values()]))

    @staticmethod
    def _gradients(groups: dict[str, list[nn.Parameter]]) -> dict[str, Tensor]:
        norms = {f"gradient_{name}": gradient_norm(group) for name, group in groups.items()}
        of_backbone = [norm for name, norm in norms.items() if name.startswith("gradient_backbone_")]
        squares = (torch.stack(each).square().sum() for each in (of_backbone, list(norms.values())))
        return norms | {"gradient_share_backbone": torch.divide(*squares)}

    def rows(self, begin: int = 0) -> list[dict[str, float]]:
        """Return the rows from number `begin` on, six digits of each value."""
        if not self.values[begin:]:
            return []
        table = torch.stack([values.cpu() for values in self.values[begin:]]).tolist()  # restored ones lie there
        return [
            {"step": step} | {name: float(f"{value:.6g}") for name, value in zip(self.columns, row, strict=True)}
            for step, row in zip(self.steps[begin:], table, strict=True)
        ]

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds of it."""
        return {"steps": list(self.steps), "columns": list(self.columns), "values": list(self.values)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.steps, self.columns, self.values = (list(state[name]) for name in ("steps", "columns", "values"))


Captured = tuple[dict[str, Tensor], dict[str, tuple[nn.Module, Tensor, Tensor]], dict[str, Tensor]]


@contextmanager
def _captured(projector: nn.Module) -> Iterator[Captured]:
    """Yield what passes inside: layer -> values, hidden layer -> (activation, inputs, outputs), layer -> gradient."""
    layers: dict[str, Tensor] = {}
    pairs: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}
    gradients: dict[str, Tensor] = {}

    def keep(name: str, values: Tensor) -> None:
        layers[name] = values.detach()
        values.register_hook(lambda gradient: gradients.update({name: gradient}))

    def hidden(layer: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        name = f"hidden{len(pairs) + 1 if pairs else ''}"
        layers[name], pairs[name] = outputs.detach(), (layer, inputs[0].detach(), outputs.detach())

    # features as the head gets them, of both views, however many passes the backbone made of them
    hooks = [projector.register_forward_pre_hook(lambda module, inputs: keep("backbone", inputs[0]))]
    hooks += [layer.register_forward_hook(hidden) for layer in projector.modules() if is_activation(layer)]
    hooks += [projector.register_forward_hook(lambda module, inputs, outputs: keep("output", outputs))]
    try:
        yield layers, pairs, gradients
    finally:
        for hook in hooks:
            hook.remove()
