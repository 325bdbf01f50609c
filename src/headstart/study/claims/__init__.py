"""The claims C1 to C9: rows in, verdicts with their numbers out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from headstart.errors import UserError
from headstart.knobs import nearest
from headstart.study.claims import mechanism, paper
from headstart.study.claims.sensitivity import Assay, assays
from headstart.study.claims.verdict import CANNOT_TELL, MARGIN, Verdict
from headstart.study.metrics import TOP1
from headstart.study.rows import judged_by
from headstart.study.statements import STATEMENTS

# claim -> the function (rows, margin in points) -> verdict that judges it
CLAIMS: dict[str, Callable[[pd.DataFrame, float], Verdict]] = {
    "C1": paper.autoencoder_beats_random,
    "C2": paper.sigmoid_and_tanh_beat_relu,
    "C3": paper.frozen_beats_trainable,
    "C4": paper.small_matches_wide,
    "C5": paper.standardisation_does_not_matter,
    "C6": mechanism.better_reconstruction_helps,
    "C7": mechanism.content_explains_the_gain,
    "C8": mechanism.loss_explains_the_gain,
    "C9": mechanism.freezing_explains_the_gain,
}


@dataclass(frozen=True)
class Answer:
    """A claim's verdict on all runs, and on those that did not fail (None where none failed).

    score: what the runs are compared by; margin: points of it below which a difference does not matter. reason: that
    of the verdict on all runs, without what is said of runs that cannot tell.
    """

    claim: str
    statement: str
    everything: Verdict
    without_failed: Verdict | None
    score: str = TOP1
    margin: float = MARGIN
    reason: str = ""

    @property
    def verdicts(self) -> list[tuple[str, Verdict]]:
        """Both verdicts, each with the name of its runs."""
        rest = [] if self.without_failed is None else [("without failed runs", self.without_failed)]
        return [("all runs", self.everything), *rest]


def evaluate(runs: pd.DataFrame, claims: Sequence[str] = (), margin: float = MARGIN, score: str = TOP1) -> list[Answer]:
    """Return the answers to the claims (default: all) from finished runs; see rows.finished.

    margin: points below which a difference does not matter; score: what runs are compared by, as of rows.judged_by.
    Runs of a dataset that fails its positive control (sensitivity.assays) are left out where others pass; where none
    does, every verdict is that these runs cannot tell. Raises UserError for an unknown claim.
    """
    runs = judged_by(runs, score)
    able, words = _able(runs, assays(runs, score, margin))
    void, runs = able.empty, runs if able.empty else able
    answers = []
    for name in claims or CLAIMS:
        if name not in CLAIMS:
            raise UserError(f"{name}: must be one of {', '.join(CLAIMS)}{nearest(name, CLAIMS)}")
        judge, rest = CLAIMS[name], runs[~runs["failed"]]
        verdicts = [judge(runs, margin), judge(rest, margin) if len(rest) < len(runs) else None]
        everything, again = (verdict and _held(verdict, void, words) for verdict in verdicts)
        assert verdicts[0] is not None and everything is not None
        answers.append(Answer(name, STATEMENTS[name], everything, again, score, margin, verdicts[0].reason))
    return answers


def _able(runs: pd.DataFrame, found: Sequence[Assay]) -> tuple[pd.DataFrame, str]:
    """The runs that can tell, or of which it is unknown, and what is said of the others."""
    failing = [assay for assay in found if assay.passes is False]
    unable = pd.Series(False, runs.index)
    for assay in failing:
        unable |= (runs["dataset"] == assay.dataset) & (runs["protocol"] == assay.protocol)
    return runs[~unable], " ".join(dict.fromkeys(assay.reason for assay in failing))


def _held(verdict: Verdict, void: bool, words: str) -> Verdict:
    """A verdict with what is said of runs that cannot tell."""
    if void:
        return replace(verdict, verdict=CANNOT_TELL, reason=f"{CANNOT_TELL.capitalize()}: {words} {verdict.reason}")
    return replace(verdict, reason=f"{verdict.reason} Left out: {words}") if words else verdict
