"""The study on one screen: of each set of rows the paper's gain, and what of it is freezing and what is content."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from headstart.study import forest, svg, writing
from headstart.study.claims.contrasts import paired_effects
from headstart.study.claims.mechanism import FROZEN
from headstart.study.claims.paper import DEFAULT, PRETRAINED, between
from headstart.study.claims.sensitivity import PERMUTED, Assay, assays, highest
from headstart.study.claims.verdict import hull, outcome
from headstart.study.rows import SCORE, judged_by

ENOUGH = 5  # pairs that a spread is told of
# question -> the two arms whose difference answers it; the paper's gain is the sum of the next two
QUESTIONS = {
    "the paper's gain": (PRETRAINED, DEFAULT),
    "freezing": (FROZEN, DEFAULT),
    "content": (PRETRAINED, FROZEN),
    "noise (A/A)": (PRETRAINED, PERMUTED),
}
EXPLAINED = (
    "The paper's gain: frozen autoencoder layer minus trainable random one. Freezing: frozen random minus trainable "
    "random. Content: frozen autoencoder minus frozen random. Noise: frozen autoencoder minus itself with its columns "
    "permuted, which is the same layer drawn again."
)


@dataclass(frozen=True)
class Answered:
    """A question's mean difference in points with its widest interval, NaN where there is none, and the outcome.

    spread: standard deviation of the pairs' differences, as a share of what runs that share no draws would give.
    """

    value: float
    low: float
    high: float
    outcome: str
    num_pairs: int
    num_seeds: int
    spread: float


@dataclass(frozen=True)
class Line:
    """What a grid's rows say on a dataset by a score; answers: None where no runs match.

    endpoint: whether the score is the one that the grid names beforehand.
    """

    name: str
    setting: str
    assay: Assay
    answers: tuple[Answered | None, ...]
    endpoint: bool

    @property
    def splits_the_gain(self) -> bool:
        """Whether the rows tell freezing from content."""
        return self.answers[1] is not None

    @property
    def label(self) -> str:
        """The line's name in a figure."""
        return f"{self.name}: {self.setting}, {self.assay.score}"


def lines(name: str, runs: pd.DataFrame, score: str, margin: float, endpoint: bool) -> list[Line]:
    """Return a line per dataset and protocol of finished runs that answer any question but the noise."""
    judged = judged_by(runs, score)
    found = []
    for assay in assays(judged, score, margin):
        own = judged[(judged["dataset"] == assay.dataset) & (judged["protocol"] == assay.protocol)]
        answers = tuple(_answered(own, *arms, margin) for arms in QUESTIONS.values())
        if any(answers[:3]):
            found.append(Line(name, assay.place, assay, answers, endpoint))
    return found


def ordered(found: Iterable[Line]) -> list[Line]:
    """Return lines as a reader wants them: first what tells freezing from content, of that what can tell at all.

    Then stands first the grid whose endpoint has the narrowest interval of the paper's gain, with all its lines.
    """
    found = list(found)
    width: dict[str, float] = {}
    for line in found:
        if line.endpoint and line.answers[0] is not None:
            own = line.answers[0].high - line.answers[0].low
            width[line.name] = min(width.get(line.name, math.inf), math.inf if math.isnan(own) else own)
    able = {True: 0, None: 1, False: 2}

    def place(line: Line) -> tuple[bool, int, float, str, str, bool]:
        wide = width.get(line.name, math.inf)
        return not line.splits_the_gain, able[line.assay.passes], wide, line.name, line.setting, not line.endpoint

    return sorted(found, key=place)


def _answered(runs: pd.DataFrame, first: tuple[str, bool], second: tuple[str, bool], margin: float) -> Answered | None:
    contrast = between(runs, first, second)
    effects = paired_effects(contrast)
    if not effects:
        return None
    low, high = hull(effects, contrast.name)
    main = effects[0]
    sides = [100 * contrast.pairs[f"{SCORE}_{side}"] for side in ("first", "second")]
    apart = math.hypot(*(side.std() for side in sides))
    spread = float(contrast.pairs["difference"].std()) / apart if apart else math.nan
    return Answered(main.value, low, high, outcome(low, high, margin), main.num_pairs, main.num_seeds, spread)


def markdown(found: Sequence[Line]) -> str:
    """Return the lines as a Markdown table."""
    heads = ["rows", "score", "SimCLR minus its highest start", "can they tell?", *QUESTIONS]
    records = []
    for line in found:
        assay = line.assay
        over = highest(assay.gains)
        start = writing.span(over.value, over.low, over.high) if over else writing.UNKNOWN
        name = f"[{line.name}]({line.name}.md), {line.setting}"
        score = f"**{assay.score}**" if line.endpoint else assay.score
        records.append([name, score, start, assay.able, *map(_cell, line.answers)])
    return writing.markdown(heads, records, numeric=())


def _cell(answer: Answered | None) -> str:
    if answer is None:
        return writing.UNKNOWN
    pairs = f"{writing.counted(answer.num_pairs, 'pair')}, {writing.counted(answer.num_seeds, 'seed')}"
    decided = "" if math.isnan(answer.low) else f" **{answer.outcome}**"
    return f"{writing.gain(answer.value, answer.low, answer.high)}{decided} ({pairs})"


def shared_draws(found: Sequence[Line]) -> str:
    """Return in a sentence what it buys that runs of one seed share draws: of endpoints, from five pairs on."""
    parts = []
    for line in found:
        known = [
            f"{name} {answer.spread:.2f}"
            for name, answer in zip(QUESTIONS, line.answers, strict=True)
            if answer and answer.num_pairs >= ENOUGH
        ]
        if line.endpoint and line.splits_the_gain and known:
            parts.append(f"{line.name}, {line.assay.score}: {', '.join(known)}")
    return (
        "Runs of one seed share all draws but their arm's own. The spread of their differences, as a share of what "
        f"runs without any shared draw would have: {'; '.join(parts)}."
    )


def drawing(found: Sequence[Line], title: str) -> str:
    """Return the lines as the text of an SVG file: a colour and mark per question."""
    names = list(QUESTIONS)
    rows = [
        forest.Row(
            line.label,
            tuple(
                forest.Estimate(answer.value, answer.low, answer.high, name, number) if answer else None
                for number, (name, answer) in enumerate(zip(names, line.answers, strict=True))
            ),
        )
        for line in found
    ]
    note = f"{EXPLAINED} Points of the score, with the widest 95 % interval; without a bar: no interval."
    return svg.standalone(title, [forest.panel("", "points", rows)], svg.legend(names), (note,))
