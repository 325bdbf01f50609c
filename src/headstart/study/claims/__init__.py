"""The claims C1 to C8: rows in, verdicts with their numbers out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.study.claims import mechanism, paper
from headstart.study.claims.verdict import MARGIN, Verdict


@dataclass(frozen=True)
class Claim:
    """What is claimed, and the function (rows, margin in points) -> verdict that judges it."""

    statement: str
    judge: Callable[[pd.DataFrame, float], Verdict]


CLAIMS = {
    "C1": Claim("An autoencoder's embedding layer beats a random first layer", paper.autoencoder_beats_random),
    "C2": Claim("Sigmoid and tanh beat ReLU, in peaks and means", paper.sigmoid_and_tanh_beat_relu),
    "C3": Claim("The frozen layer beats the trainable one", paper.frozen_beats_trainable),
    "C4": Claim("Small projectors with a pretrained layer match wide random ones", paper.small_matches_wide),
    "C5": Claim("Standardisation does not matter", paper.standardisation_does_not_matter),
    "C6": Claim("Better reconstruction gives a better projector", mechanism.better_reconstruction_helps),
    "C7": Claim(
        "The gain is the autoencoder's content, not freezing, scale or spectrum", mechanism.content_explains_the_gain
    ),
    "C8": Claim("The final contrastive loss explains the gain", mechanism.loss_explains_the_gain),
}


@dataclass(frozen=True)
class Answer:
    """A claim's verdict on all runs, and on those that did not fail (None where none failed)."""

    claim: str
    statement: str
    everything: Verdict
    without_failed: Verdict | None

    @property
    def verdicts(self) -> list[tuple[str, Verdict]]:
        """Both verdicts, each with the name of its runs."""
        rest = [] if self.without_failed is None else [("without failed runs", self.without_failed)]
        return [("all runs", self.everything), *rest]


def evaluate(runs: pd.DataFrame, claims: Sequence[str] = (), margin: float = MARGIN) -> list[Answer]:
    """Return the answers to the claims (default: all) from finished runs; see rows.finished.

    margin: points below which a difference does not matter. Raises UserError for an unknown claim.
    """
    answers = []
    for name in claims or CLAIMS:
        if name not in CLAIMS:
            raise UserError(f"{name}: must be one of {', '.join(CLAIMS)}{nearest(name, CLAIMS)}")
        claim = CLAIMS[name]
        rest = runs[~runs["failed"]]
        again = claim.judge(rest, margin) if len(rest) < len(runs) else None
        answers.append(Answer(name, claim.statement, claim.judge(runs, margin), again))
    return answers
