"""A recipe of probes that is fitted in a moment."""

import dataclasses

from headstart.evaluation.probe import Probe

RECIPE = Probe(
    protocol="converged",
    strengths=[0.001, 0.1],
    few_labels=[3],
    few_shares=[],
    few_draws=4,
    layers=["backbone"],
    datasets=[],
    finetune_epochs=0,
)


def recipe(**changes) -> Probe:
    return dataclasses.replace(RECIPE, **changes)
