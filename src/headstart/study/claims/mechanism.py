"""C6 to C8: why a pretrained first layer helps, if it does."""

import math
from dataclasses import replace

import pandas as pd

from headstart.study import statistics
from headstart.study.claims.contrasts import (
    MIN_CLUSTERS,
    Contrast,
    arm,
    counted,
    paired_effects,
    planning_effects,
    sentence,
)
from headstart.study.claims.paper import DEFAULT, PRETRAINED, between, no_pairs, run_arm, significant
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
    nothing,
)
from headstart.study.rows import arm_name

# What each control shares with the frozen autoencoder layer, so what is ruled out where the autoencoder beats it.
CONTROLS = {
    "random": "freezing",
    "random_matched": "freezing and the singular values",
    "autoencoder_shuffled": "freezing and the values of each row",
    "autoencoder_untrained": "freezing and how an autoencoder is initialised",
    "orthogonal": "freezing and a well-conditioned layer",
}
FROZEN = ("random", True)
MIN_CHECKPOINTS = 3  # of one stratum, for a rank correlation within it


def better_reconstruction_helps(rows: pd.DataFrame, margin: float) -> Verdict:
    """C6: over autoencoders, the error of reconstruction against the projector's gain, within a dataset and width.

    Where no width has three autoencoders, within a dataset; the error then changes with the width, which decides
    nothing.
    """
    contrast = between(rows, PRETRAINED, DEFAULT)
    decide = ["several autoencoders of one width: dvc exp run --queue -S 'autoencoder.epochs=1,10,100' ..."]
    pairs = contrast.pairs[contrast.pairs["autoencoder_test_mse_first"].notna()]
    if contrast.pairs.empty:
        return nothing(no_pairs(rows, PRETRAINED, DEFAULT), [run_arm(*PRETRAINED), run_arm(*DEFAULT)])
    points = by_autoencoder(rows, pairs)
    one_width = points.groupby(["dataset", "protocol", "width"])["error"].transform("size") >= MIN_CHECKPOINTS
    confounded = not one_width.any()
    points = points if confounded else points[one_width]
    sizes = points.groupby(["dataset", "protocol"])["error"].transform("size")
    points = points[sizes >= MIN_CHECKPOINTS]
    if points.empty:
        number = pairs["checkpoint"].nunique()
        reason = f"{number} autoencoders with a known error; a rank correlation needs {MIN_CHECKPOINTS} of one dataset."
        return nothing(reason, decide)
    strata = points["dataset"] + " " + points["protocol"]
    if not confounded:
        strata += " " + points["width"].astype(str)
    where = "within datasets" if confounded else "within datasets and widths"
    effects = [
        _rank_effect(points, "gain", strata, f"rank correlation {where}", pairs),
        _rank_effect(points, "failures", strata, f"rank correlation {where}", pairs),
        _rank_effect(points, "gain", pd.Series(0, points.index), "rank correlation over all", pairs),
    ]
    main = effects[0]
    text = (
        f"Rank correlation of reconstruction error and gain {where}: {main.value:+.2f} (p = {main.p:.2g}, "
        f"{len(points)} autoencoders); a negative one would support the claim."
    )
    missing = "The error changes with the layer's width here, so the two cannot be told apart." if confounded else ""
    known = [effect for effect in effects if not math.isnan(effect.value)]
    part = Part(significant(replace(main, value=-main.value)), text)
    return conclude([part], known, contrast.num_seeds, decide, missing)


def _rank_effect(points: pd.DataFrame, column: str, strata: pd.Series, measure: str, pairs: pd.DataFrame) -> Effect:
    value, p = statistics.stratified_rank_correlation(points["error"], points[column], strata)
    note = f"{len(points)} autoencoders"
    if strata.nunique() == 1 < points["dataset"].nunique():
        note += "; across datasets the images differ, not the autoencoders alone"
    words = {"gain": "gain", "failures": "share of failed runs"}[column]
    return counted(Effect(f"reconstruction error and {words}", measure, ALL, value, p=p, note=note), pairs)


def by_autoencoder(rows: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per autoencoder of pairs: dataset, protocol, width, error (MSE), mean gain, share of failed runs."""
    failed = pairs["row_first"].map(rows["failed"]).astype(float)
    groups = pairs.assign(failures=failed).groupby("checkpoint", sort=True)
    return groups.agg(
        dataset=("dataset", "first"),
        protocol=("protocol", "first"),
        width=("projector_hidden_dim", "first"),
        error=("autoencoder_test_mse_first", "first"),
        gain=("difference", "mean"),
        failures=("failures", "mean"),
    )


def content_explains_the_gain(rows: pd.DataFrame, margin: float) -> Verdict:
    """C7: the frozen autoencoder layer beats every frozen control, each of which shares all but the content with it.

    `autoencoder_permuted` is none: it is a second draw of the same layer (see PROJECTOR_INITS).
    """
    if arm(rows, *PRETRAINED).empty:
        return nothing(f"There is no run of {arm_name(*PRETRAINED)}.", [run_arm(*PRETRAINED)])
    parts, effects, seeds, absent = [], [], [], []
    for init, shared in CONTROLS.items():
        contrast = between(rows, PRETRAINED, (init, True))
        found = paired_effects(contrast)
        if not found:
            absent.append(init)
            continue
        seeds.append(contrast.num_seeds)
        text = f"{sentence(found, contrast.name, margin)} (the control shares {shared})"
        parts.append(Part(better(*hull(found, contrast.name), margin), text))
        effects += found + planning_effects(contrast)
        effects += paired_effects(between(rows, (init, True), DEFAULT))
    names = ", ".join(f"{init} (frozen)" for init in absent)
    missing = (
        f"Controls without matching runs: {names}; freezing, scale or spectrum may explain the gain." if absent else ""
    )
    decide = [run_arm(init, True) for init in absent]
    return conclude(parts, effects, min(seeds), decide, missing) if parts else nothing(missing, decide)


def freezing_explains_the_gain(rows: pd.DataFrame, margin: float) -> Verdict:
    """C9: a random layer that stays as it is beats the same layer trained on.

    Beside it: the frozen autoencoder layer against that frozen random one, which tells what is left for content.
    """
    contrast = between(rows, FROZEN, DEFAULT)
    effects = paired_effects(contrast)
    if not effects:
        return nothing(no_pairs(rows, FROZEN, DEFAULT), [run_arm(*FROZEN), run_arm(*DEFAULT)])
    text = sentence(effects, contrast.name, margin)
    part = Part(better(*hull(effects, contrast.name), margin), text)
    for first, second in ((PRETRAINED, DEFAULT), (PRETRAINED, FROZEN)):
        beside = between(rows, first, second)
        if found := paired_effects(beside):
            part = replace(part, sentence=f"{part.sentence} {sentence(found, beside.name, margin)}")
            effects += found
    return conclude([part], effects + planning_effects(contrast), contrast.num_seeds)


def loss_explains_the_gain(rows: pd.DataFrame, margin: float) -> Verdict:
    """C8: at an equal final contrastive loss nothing (within `margin`) is left of the gain.

    Pairs' accuracy differences are regressed on their loss differences, one slope per dataset; the intercept is the
    gain at equal loss. The training loss decides; the validation loss stands beside it.
    """
    contrast = between(rows, PRETRAINED, DEFAULT)
    effects = paired_effects(contrast)
    if not effects:
        return nothing(no_pairs(rows, PRETRAINED, DEFAULT), [run_arm(*PRETRAINED), run_arm(*DEFAULT)])
    at_equal = [effect for loss in ("train_loss", "val_loss") for effect in _at_equal_loss(contrast, loss)]
    decide = ["an intervention on the loss itself: a correlation over runs cannot tell cause from company"]
    if not at_equal or "train_loss" not in at_equal[0].measure:
        reason = "Too few pairs with finite training losses."
        return conclude([], effects, contrast.num_seeds, decide, reason)
    main = at_equal[0]
    text = (
        f"{sentence(effects, contrast.name, margin)} At equal training loss {main.value:+.2f} points "
        f"[{main.low:.2f}, {main.high:.2f}] are left."
    )
    if better(*hull(effects, contrast.name), margin) != SUPPORTED:
        part = Part(UNDECIDED, f"{text} There is no clear gain to explain.")
    elif equal(main.low, main.high, margin) == SUPPORTED:
        part = Part(SUPPORTED, text)
    else:
        part = Part(REFUTED if main.low > 0 else UNDECIDED, text)
    return conclude([part], [*effects, *at_equal], contrast.num_seeds, decide)


def _at_equal_loss(contrast: Contrast, loss: str) -> list[Effect]:
    """The gain left at equal loss, and how the two differences go together."""
    gap = contrast.pairs[f"{loss}_first"] - contrast.pairs[f"{loss}_second"]
    finite = gap.abs() < math.inf
    pairs, gap = contrast.pairs[finite], gap[finite]
    if len(pairs) < 3 * pairs["dataset"].nunique() or pairs.empty:
        return []
    clusters, kind = pairs["checkpoint"], "checkpoint"
    if (clusters == "").any() or clusters.nunique() < MIN_CLUSTERS:
        return []
    value, bounds = statistics.mean_at_equal_covariate(pairs["difference"], gap, pairs["dataset"], clusters)
    interval = f"least squares by {kind} ({clusters.nunique()})"
    left = Effect(contrast.name, f"mean at equal {loss}", ALL, value, bounds.low, bounds.high, interval)
    rank, p = statistics.stratified_rank_correlation(gap, pairs["difference"], pairs["dataset"])
    if clusters.nunique() < len(pairs):
        p = math.nan  # pairs of one autoencoder are no independent ones
    together = Effect(f"{loss} and accuracy, differences", "rank correlation within datasets", ALL, rank, p=p)
    return [counted(left, pairs), counted(together, pairs)]
