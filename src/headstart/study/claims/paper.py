"""C1 to C5: what the paper says (arXiv:2408.14514, abstract), judged on matched runs."""

import math
from itertools import combinations

import pandas as pd

from headstart.study.claims.contrasts import (
    BEST,
    BEST_BY_VALIDATION,
    Contrast,
    arm,
    best_effects,
    match,
    paired_effects,
    planning_effects,
    sentence,
)
from headstart.study.claims.verdict import (
    ALL,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Effect,
    Part,
    Verdict,
    better,
    conclude,
    equal,
    hull,
    not_worse,
    nothing,
)
from headstart.study.rows import arm_name

PRETRAINED, DEFAULT = ("autoencoder", True), ("random", False)  # the paper's two projectors: (init, frozen)
SIGNIFICANT = 0.05


def autoencoder_beats_random(rows: pd.DataFrame, margin: float) -> Verdict:
    """C1, as the paper compares: the frozen autoencoder layer with the trainable random one."""
    contrast = between(rows, PRETRAINED, DEFAULT)
    if contrast.pairs.empty:
        return nothing(no_pairs(rows, PRETRAINED, DEFAULT), [run_arm(*PRETRAINED), run_arm(*DEFAULT)])
    effects = paired_effects(contrast)
    text = sentence(effects, contrast.name, margin)
    names = dict.fromkeys(row.dataset for row in effects if row.dataset != ALL)
    widest = {name: hull(effects, contrast.name, name) for name in names}
    crossing = [name for name, (low, high) in widest.items() if low <= 0 <= high]
    if crossing:
        text += f" The interval of {', '.join(crossing)} alone crosses zero."
    for measure, words in (
        (BEST, "Best run minus best run"),
        (BEST_BY_VALIDATION, "With the run chosen on validation"),
    ):
        rows_of_best = best_effects(contrast, by_validation=measure == BEST_BY_VALIDATION)
        if rows_of_best:
            mean = rows_of_best[0]
            text += f" {words}: {mean.value:+.2f} on average{f' ({mean.note})' if mean.note else ''}."
        effects += rows_of_best
    for frozen in (True, False):
        effects += paired_effects(between(rows, ("autoencoder", frozen), ("random", frozen)))
    effects += planning_effects(contrast)
    part = Part(better(*hull(effects, contrast.name), margin), text)
    decide = ["C7's controls: here initialisation and freezing change together"]
    return conclude([part], effects, contrast.num_seeds, decide)


def sigmoid_and_tanh_beat_relu(rows: pd.DataFrame, margin: float) -> Verdict:
    """C2: with the pretrained layer, in the mean over configurations and at the peak of each dataset."""
    parts, effects, seeds, absent = [], [], [], []
    for init, frozen in arms(rows):
        runs = arm(rows, init, frozen)
        for activation in ("sigmoid", "tanh"):
            name = f"{activation} - relu, {arm_name(init, frozen)}"
            first, second = (runs[runs["projector_activation"] == word] for word in (activation, "relu"))
            contrast = match(name, first, second, varied=["projector_activation"])
            found = paired_effects(contrast) + best_effects(contrast)
            effects += found
            if (init, frozen) != PRETRAINED:
                continue
            if not found:
                absent.append(activation)
                continue
            seeds.append(contrast.num_seeds)
            parts.append(Part(better(*hull(found, name), margin), sentence(found, name, margin)))
            peak = next(row for row in found if row.measure == BEST)
            text = f"At the peak {peak.value:+.2f} on average ({p_words(peak.p)})."
            parts.append(Part(significant(peak), text))
    decide = [run_arm(*PRETRAINED, extra=f"-S 'projector.activation=relu,{','.join(absent)}'")] if absent else []
    missing = f"No pairs of {' and '.join(absent)} with relu, {arm_name(*PRETRAINED)}." if absent else ""
    if not effects:
        return nothing("No runs that differ in nothing but the activation, relu against sigmoid or tanh.", decide)
    return conclude(parts, effects, min(seeds, default=0), decide, missing)


def frozen_beats_trainable(rows: pd.DataFrame, margin: float) -> Verdict:
    """C3: the autoencoder layer frozen against the same layer trained on."""
    contrast = between(rows, ("autoencoder", True), ("autoencoder", False))
    effects = paired_effects(contrast)
    parts = []
    if effects:
        covered = ", ".join(sorted(contrast.pairs["projector_activation"].unique()))
        text = f"{sentence(effects, contrast.name, margin)} The pairs cover {covered}."
        parts.append(Part(better(*hull(effects, contrast.name), margin), text))
        effects += best_effects(contrast) + planning_effects(contrast)
    for init in sorted(set(rows["projector_init"]) - {"autoencoder"}):
        effects += paired_effects(between(rows, (init, True), (init, False)))
    decide = [] if parts else [run_arm("autoencoder", True), run_arm("autoencoder", False)]
    missing = "" if parts else no_pairs(rows, ("autoencoder", True), ("autoencoder", False))
    return conclude(parts, effects, contrast.num_seeds, decide, missing) if effects else nothing(missing, decide)


def small_matches_wide(rows: pd.DataFrame, margin: float) -> Verdict:
    """C4: for each pair of widths, the pretrained narrow projector against the random wide one, at most `margin` worse.

    Beside it: narrow against wide within either arm, which tells what the width costs.
    """
    parts, effects, seeds = [], [], []
    pretrained, default = arm(rows, *PRETRAINED), arm(rows, *DEFAULT)
    for column, word in (("projector_out_dim", "out"), ("projector_hidden_dim", "hidden")):
        for small, wide in combinations(sorted(rows[column].unique()), 2):
            for first, second, whose in (
                (pretrained, default, "autoencoder (frozen) - random (trainable)"),
                (pretrained, pretrained, arm_name(*PRETRAINED)),
                (default, default, arm_name(*DEFAULT)),
            ):
                name = f"{word} {small} - {word} {wide}, {whose}"
                narrow, broad = first[first[column] == small], second[second[column] == wide]
                contrast = match(name, narrow, broad, varied=[column])
                found = paired_effects(contrast)
                effects += found
                if found and second is default and first is pretrained:
                    seeds.append(contrast.num_seeds)
                    parts.append(Part(not_worse(*hull(found, name), margin), sentence(found, name, margin)))
    if not parts:
        decide = ["runs of both projectors in two widths: dvc exp run --queue -S 'projector.out_dim=32,64,128' ..."]
        return nothing("No runs that differ in the projector's width, pretrained against random.", decide)
    pairs = [f"{part.sentence} ({'matches' if part.points_to == SUPPORTED else part.points_to})" for part in parts]
    listed = [Part(part.points_to, text) for part, text in zip(parts, pairs, strict=True)]
    return conclude(listed, effects, min(seeds))


def standardisation_does_not_matter(rows: pd.DataFrame, margin: float) -> Verdict:
    """C5: images as they are against standardised ones: within `margin` of no difference in every arm."""
    parts, effects, seeds = [], [], []
    for init, frozen in arms(rows):
        runs = arm(rows, init, frozen)
        name = f"standardise off - on, {arm_name(init, frozen)}"
        contrast = match(name, runs[~runs["standardize"]], runs[runs["standardize"]], varied=["standardize"])
        found = paired_effects(contrast)
        if found:
            seeds.append(contrast.num_seeds)
            parts.append(Part(equal(*hull(found, name), margin), sentence(found, name, margin)))
            effects += found + best_effects(contrast)
    if not parts:
        decide = ["runs with and without: dvc exp run --queue -S 'data.standardize=true,false' ..."]
        return nothing("No runs that differ in nothing but standardisation.", decide)
    return conclude(parts, effects, min(seeds))


def between(rows: pd.DataFrame, first: tuple[str, bool | str], second: tuple[str, bool | str]) -> Contrast:
    """Return the matched runs of two arms, each an (init, frozen)."""
    return match(f"{arm_name(*first)} - {arm_name(*second)}", arm(rows, *first), arm(rows, *second))


def arms(rows: pd.DataFrame) -> list[tuple[str, bool | str]]:
    """Return the arms that the rows hold; of an initialisation: trainable, frozen, then those with certain layers."""
    pairs = rows[["projector_init", "projector_frozen"]].drop_duplicates().itertuples(index=False)
    found = [(str(init), frozen if isinstance(frozen, str) else bool(frozen)) for init, frozen in pairs]
    return sorted(found, key=lambda which: (which[0], str(which[1])))


def p_words(p: float) -> str:
    """Return a p in words."""
    return "no p: too few clusters" if math.isnan(p) else f"p = {p:.2g}"


def significant(effect: Effect) -> str:
    """Judge a difference by its p alone; without one it is undecided."""
    if effect.p < SIGNIFICANT:
        return SUPPORTED if effect.value > 0 else REFUTED
    return UNDECIDED


def no_pairs(rows: pd.DataFrame, first: tuple[str, bool], second: tuple[str, bool]) -> str:
    """Say which arm is missing, or that none of their runs match."""
    absent = [arm_name(*which) for which in (first, second) if arm(rows, *which).empty]
    if absent:
        return f"There is no run of {' and none of '.join(absent)}."
    return f"No run of {arm_name(*first)} agrees with one of {arm_name(*second)} in all else."


def run_arm(init: str, frozen: bool, extra: str = "") -> str:
    """Return the command that makes runs of an arm."""
    command = f"dvc exp run -S projector.init={init} -S projector.freeze={str(frozen).lower()} {extra}".strip()
    return command.replace("exp run", "exp run --queue") if extra else command
