"""What runs in MLflow are called, and which parameters and metrics stand under which names."""

from collections.abc import Sequence

from headstart import settings
from headstart.models.projector import Projector
from headstart.settings import DATASETS, PARAMS, Tree
from headstart.tracking.record import texts

DETAILS = "details/"  # before the names of numbers that few people compare: a section of its own in MLflow's charts


def run_name(datasets: Sequence[str], head: Projector, seed: int) -> str:
    """Return what a run is in a few words: "digits autoencoder frozen relu 128-64 seed 0"."""
    depth = f" {head.num_layers} layers" if head.num_layers != 2 else ""
    text = f"{head.init} {head.frozen_words} {head.between} {head.hidden_dim}-{head.out_dim}{depth}"
    if head.num_layers < 2:
        text = f"linear {head.frozen_words} {head.out_dim}" if head.num_layers else "no head"
    return f"{', '.join(datasets)} {text} seed {seed}"


def parent_params(tree: Tree) -> dict[str, str]:
    """Return the settings in force of a run as texts, but for those of tracking."""
    return texts(settings.without(settings.flat(settings.of_run(tree)), "tracking"))


def child_params(tree: Tree, known: dict[str, str], stage: str, dataset: str) -> dict[str, str]:
    """Return those of a run's parameters, as `parent_params` has them, that a stage on a dataset reads."""
    block = settings.resolved(tree).get(DATASETS, {}).get(dataset) or {}
    views = tree[PARAMS].get("views")
    names = {"block.": f"{DATASETS}:{dataset}."} | ({"views.": f"views.{block.get('views')}."} if views else {})
    found = {}
    for key in settings.deciding(tree, stage, dataset):
        prefix = next((one for one in names if key.startswith(one)), "")
        name = f"{names[prefix]}{key.removeprefix(prefix)}" if prefix else key
        if name in known:
            found[name] = known[name]
    return found
