"""SimCLR's losses over the epochs of runs."""

from collections.abc import Iterable, Mapping

from headstart.study.lines import Line, Plot, Points

CURVES = "metrics/plots/simclr_loss.csv"  # as the report stage writes it, in every finished experiment's commit


def curve(run: str, dataset: str, group: str, arm: str, seed: int, rows: Iterable[Mapping[str, str]]) -> list[Line]:
    """Return training and, dashed, validation loss of the rows that are of the dataset, none where none is.

    group: the panel, see protocols.groups.
    """
    own = [row for row in rows if row.get("dataset", dataset) == dataset]
    losses = {name: {int(row["epoch"]): float(row[name]) for row in own} for name in ("train_loss", "val_loss")}
    return [
        Line(run, group, arm, seed, dict(sorted(points.items())), dashed=name == "val_loss")
        for name, points in losses.items()
        if points
    ]


def _told(mean: Points) -> str:
    first, *_, last = mean.values() if len(mean) > 1 else [*mean.values()] * 2
    return f"training loss {first:.2f} to {last:.2f} over {len(mean)} epochs"


def plot(loss: str) -> Plot:
    """Return how the losses of runs are drawn; loss: which they are, as simclr.loss names them."""
    return Plot(
        "curves-figure",
        f"SimCLR's loss over epochs ({loss}): training solid, validation dashed (fixed views, eval mode).",
        *("epoch", f"loss, {loss}", "Loss over epochs", "mean", _told),
    )
