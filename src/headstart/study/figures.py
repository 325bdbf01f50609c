"""Figures of runs, each with what it shows in words and on how many runs and seeds it stands."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from headstart.study import forest, svg
from headstart.study.claims import Answer
from headstart.study.claims.mechanism import by_autoencoder
from headstart.study.claims.paper import DEFAULT, PRETRAINED, arms, between
from headstart.study.claims.verdict import ALL, PAIRED_MEAN, Verdict, deciding, hull
from headstart.study.gains import with_arm
from headstart.study.page import Figure
from headstart.study.protocols import groups
from headstart.study.rows import SCORE, arm_name
from headstart.study.writing import counted

MEAN = "mean of datasets"


def arm_names(runs: pd.DataFrame) -> list[str]:
    """Return the names of the arms that the runs hold, in the order of their colours: the paper's two come first."""
    order = sorted(arms(runs), key=lambda which: (which != PRETRAINED, which != DEFAULT, which[0], str(which[1])))
    return [arm_name(*which) for which in order]


def labelled(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with `arm`, `percent` (their score) and `group`: dataset, with what tells its protocols apart."""
    return with_arm(runs).assign(group=groups(runs), percent=100 * runs[SCORE])


def stands_on(runs: pd.DataFrame) -> str:
    """Return on how many runs and seeds a figure stands."""
    failed = int(runs["failed"].sum())
    words = f"{counted(len(runs), 'run')}, {counted(runs['seed'].nunique(), 'seed')}"
    return words + (f", {failed} failed" if failed else "") + "."


# ---- effects of a claim ----------------------------------------------------------------------------------------------


def effects(answer: Answer, margin: float) -> Figure | None:
    """Return the differences that the claim's verdict rests on, overall and per dataset; None where it has none."""
    everything, rest = answer.everything, answer.without_failed
    means = [effect for effect in everything.effects if effect.measure == PAIRED_MEAN]
    names = deciding(everything)
    if not names:
        return None
    panels = tuple(_effect_panel(name, everything, rest, margin) for name in names)
    overall = [next(row for row in means if row.contrast == name) for name in names]
    seeds = max(row.num_seeds for row in overall)
    caption = (
        f"Paired differences in points of {answer.score} with 95 % intervals, the widest of pairs, autoencoders and "
        f"seeds; that over all datasets decides. The grey band is the margin of ±{margin:g}. "
    )
    if rest is not None:
        caption += "Open marks: without failed runs. "
    counts = sorted({row.num_runs for row in overall})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return Figure(f"{answer.claim}-effects", f"{caption}{runs} runs, {counted(seeds, 'seed')}.", panels)


def _effect_panel(contrast: str, everything: Verdict, rest: Verdict | None, margin: float) -> Markup:
    drawn = _estimates(everything, contrast)
    if len(drawn) == 2:  # of one dataset, which is all of them
        (only,) = (name for name in drawn if name != ALL)
        drawn = {ALL: drawn[ALL]}
    else:
        only = "all datasets"
    others = _estimates(rest, contrast, open=True, name="without failed runs") if rest else {}
    rows = [
        forest.Row(only if name == ALL else name, (own, others.get(name)) if others else (own,), strong=name == ALL)
        for name, own in drawn.items()
    ]
    return forest.panel(contrast, "accuracy points", rows, margin, numbers=True)


def _estimates(verdict: Verdict, contrast: str, **look: Any) -> dict[str, forest.Estimate]:
    """Dataset (ALL first) -> a contrast's paired mean with the widest bounds."""
    own = [row for row in verdict.effects if (row.contrast, row.measure) == (contrast, PAIRED_MEAN)]
    if not own:
        return {}
    values = {row.dataset: row.value for row in own}
    return {name: forest.Estimate(value, *hull(own, contrast, name), **look) for name, value in values.items()}


# ---- heat maps -------------------------------------------------------------------------------------------------------


def heat_maps(runs: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Return (title, heat map of hidden x out, a panel per arm and activation): over all datasets first, then each.

    Over several datasets a cell is the mean over those that have it of the accuracy minus the dataset's own mean, in
    points; within one dataset it is the mean accuracy in percent.
    """
    table = labelled(runs)
    keys = ["arm", "projector_activation", "projector_hidden_dim", "projector_out_dim"]
    panels_of = [(str(name), part.groupby(keys)["percent"].mean()) for name, part in table.groupby("group")]
    found = []
    if len(panels_of) > 1:
        centred = table["percent"] - table.groupby("group")["percent"].transform("mean")
        cells = table.assign(percent=centred).groupby([*keys, "group"])["percent"].mean().groupby(keys).mean()
        one = table["dataset"].nunique() == 1
        over, own = ("settings", "setting") if one else ("datasets", "dataset")
        caption = (
            f"Hidden width (rows) by output width (columns), a panel per projector and activation: mean "
            f"over {len(panels_of)} {over} of the accuracy minus the {own}'s own mean, in points. "
        )
        found.append((MEAN, _heat_map("heat-all", table, cells, caption, "+.1f")))
    for number, (name, cells) in enumerate(panels_of):
        caption = f"{name}: mean test accuracy in percent, hidden width (rows) by output width (columns). "
        own = table[table["group"] == name]
        found.append((name, _heat_map(f"heat-{number}", own, cells, caption, ".1f")))
    return found


def _heat_map(name: str, table: pd.DataFrame, cells: pd.Series, caption: str, style: str) -> Figure:
    hidden, out = (sorted(table[f"projector_{word}_dim"].unique()) for word in ("hidden", "out"))
    centre = 0.0 if style.startswith("+") else float(cells.median())
    reach = float((cells - centre).abs().max()) or 1.0
    panels: list[Markup] = []
    for arm in arm_names(table):
        panels += [svg.BREAK] if panels else []
        for activation in sorted(table.loc[table["arm"] == arm, "projector_activation"].unique()):
            own = cells[arm][activation]
            panels.append(_heat_panel(arm, activation, own, (hidden, out), (centre, reach), style))
    colours = (
        "Blue is above" + (" the mean" if centre == 0.0 else f" {centre:.1f}") + ", orange below, dashed: no run. "
    )
    return Figure(name, caption + colours + stands_on(table), tuple(panels))


def _heat_panel(
    arm: str,
    activation: str,
    cells: pd.Series,
    widths: tuple[Sequence[int], Sequence[int]],
    colour: tuple[float, float],
    style: str,
) -> Markup:
    hidden, out = widths
    left, top, wide, high = 34, 46, 40, 26
    marks = [svg.text(0, 12, activation, "strong"), svg.text(0, 26, arm, "muted")]
    marks += [svg.text(left + wide * (k + 0.5), top - 5, str(width), "muted", "middle") for k, width in enumerate(out)]
    words = []
    for row, h in enumerate(hidden):
        marks.append(svg.text(left - 5, top + high * (row + 0.5) + 4, str(h), "muted", "end"))
        for column, o in enumerate(out):
            value = float(cells.get((h, o), math.nan))
            box = {"x": left + wide * column + 0.5, "y": top + high * row + 0.5, "width": wide - 1, "height": high - 1}
            if math.isnan(value):
                marks.append(svg.tag("rect", **box, rx=2, cls="none"))
                continue
            share = (value - colour[0]) / colour[1]
            side = "up" if share > 0 else "down"
            marks.append(svg.tag("rect", **box, rx=2, cls=side, fill_opacity=f"{0.55 * abs(share):.2f}"))
            shown = format(round(value, 1) + 0.0, style).replace("-", "−")  # + 0.0: no negative zero
            marks.append(svg.text(left + wide * (column + 0.5), top + high * (row + 0.5) + 4, shown, "", "middle"))
            words.append(f"{h}-{o} {format(value, style)}")
    label = f"{arm}, {activation}, hidden-out: {', '.join(words)}."
    return svg.panel(left + wide * len(out) + 2, top + high * len(hidden) + 2, label, marks)


# ---- accuracies ------------------------------------------------------------------------------------------------------


def distribution(runs: pd.DataFrame) -> Figure:
    """Return every run's accuracy by arm, a panel per dataset, with each arm's quartiles and median."""
    table = labelled(runs)
    names = arm_names(runs)
    panels = tuple(_strips(str(name), part, names) for name, part in table.groupby("group"))
    caption = "Test accuracy of every run, percent; boxes: quartiles and median; open marks: failed runs. "
    return Figure("distribution-figure", caption + stands_on(runs), panels, svg.legend(names))


def _strips(name: str, part: pd.DataFrame, names: Sequence[str]) -> Markup:
    there = [arm for arm in names if (part["arm"] == arm).any()]
    top, step, left, right = 24.0, 46.0, 6.0, 354.0
    bottom = top + step * len(there)
    x, at = svg.scale(part["percent"], left, right, limits=svg.PERCENT)
    marks = [svg.text(0, 12, name, "strong")]
    marks += [svg.line(x(value), top, x(value), bottom, "grid") for value in at]
    marks += [svg.text(x(value), bottom + 15, svg.number(value, at), "muted", "middle") for value in at]
    sentences = []
    for row, arm in enumerate(there):
        own = part[part["arm"] == arm]
        series, y = names.index(arm), top + step * (row + 0.5)
        # spread over the strip in a fixed order, so that points do not hide each other
        for k, (percent, failed) in enumerate(zip(own["percent"], own["failed"], strict=True)):
            marks.append(svg.mark(x(percent), y + 15 * ((k * 0.618034) % 1 - 0.5) + 9, series, open_=bool(failed)))
        low, middle, high = own["percent"].quantile([0.25, 0.5, 0.75])
        colour = f"s{series % svg.NUM_SERIES}"
        marks.append(
            svg.tag("rect", x=x(low), y=y - 16, width=max(0.5, x(high) - x(low)), height=11.0, cls=f"box {colour}")
        )
        marks.append(svg.line(x(middle), y - 18, x(middle), y - 3, f"bar {colour}"))
        sentences.append(f"{arm}: median {middle:.1f}, quartiles {low:.1f} to {high:.1f}, {len(own)} runs")
    return svg.panel(360, bottom + 22, f"Test accuracy in percent, {name}. {'; '.join(sentences)}.", marks)


def loss_and_accuracy(runs: pd.DataFrame) -> Figure | None:
    """Return every run's final training loss against its accuracy, a panel per dataset; None without finite losses."""
    table = labelled(runs)
    finite = table[table["train_loss"].abs() < math.inf]
    if finite.empty:
        return None
    names = arm_names(runs)
    panels = tuple(_loss_panel(str(name), part, names) for name, part in finite.groupby("group"))
    caption = (
        f"Final training loss ({losses_named(finite)}) against test accuracy (percent); open marks: failed runs. "
        f"{stands_on(finite)}"
    )
    return Figure("loss-figure", caption, panels, svg.legend(names))


def losses_named(runs: pd.DataFrame) -> str:
    """Return what the runs minimised, as simclr.loss names it."""
    return ", ".join(dict.fromkeys(runs["loss"]))


def _loss_panel(name: str, part: pd.DataFrame, names: Sequence[str]) -> Markup:
    x, y = svg.scale(part["train_loss"], 40, 292), svg.scale(part["percent"], 208, 26, limits=svg.PERCENT)
    marks = [svg.text(40, 14, name, "strong"), *svg.frame(x, y, (40, 24, 292, 210))]
    marks.append(svg.text(292, 240, "training loss", "muted", "end"))
    columns = ("arm", "train_loss", "percent", "failed")
    for arm, loss, percent, failed in zip(*(part[column] for column in columns), strict=True):
        marks.append(svg.mark(x[0](loss), y[0](percent), names.index(arm), open_=bool(failed)))
    varied = part["train_loss"].nunique() > 1 and part["percent"].nunique() > 1
    rank = f"Spearman's rank correlation {part['train_loss'].corr(part['percent'], 'spearman'):+.2f}." if varied else ""
    losses, shares = part["train_loss"], part["percent"]
    label = (
        f"{name}: {len(part)} runs, training loss {losses.min():.2f} to {losses.max():.2f}, accuracy "
        f"{shares.min():.1f} to {shares.max():.1f} percent. {rank}"
    )
    return svg.panel(300, 248, label.strip(), marks)


def reconstruction_and_gain(runs: pd.DataFrame) -> Figure | None:
    """Return each autoencoder's test error against the mean gain of the projectors that start from it, or None."""
    pairs = between(runs, PRETRAINED, DEFAULT).pairs
    pairs = pairs[pairs["autoencoder_test_mse_first"].notna()]
    if pairs.empty:
        return None
    points = by_autoencoder(runs, pairs)
    y = svg.scale([*points["gain"], 0.0], 178, 30)
    panels = tuple(_gain_panel(str(name), part, y) for name, part in points.groupby("dataset"))
    caption = (
        "Test error (MSE of pixels) of each autoencoder against the mean gain, in points, of the projectors that start "
        f"from it over random ones; numbers are the layer's width. {len(points)} autoencoders, {len(pairs)} pairs of "
        f"runs, {counted(pairs['seed'].nunique(), 'seed')}."
    )
    return Figure("gain-figure", caption, panels)


def _gain_panel(name: str, part: pd.DataFrame, y: tuple[svg.Scale, list[float]]) -> Markup:
    x = svg.scale(part["error"], 40, 220, 0.2)
    marks = [svg.text(40, 14, name, "strong"), *svg.frame((x[0], x[1][::2]), y, (40, 24, 226, 180))]
    marks += [svg.line(40, y[0](0), 226, y[0](0), "zero"), svg.text(226, 212, "test MSE", "muted", "end")]
    words = []
    for width, error, gain in zip(*(part[column] for column in ("width", "error", "gain")), strict=True):
        marks.append(svg.mark(x[0](error), y[0](gain), 0))
        marks.append(svg.text(x[0](error), y[0](gain) - 7, str(width), "muted", "middle"))
        words.append(f"{width} wide: MSE {error:.4f}, gain {gain:+.2f}")
    label = f"Reconstruction error and mean gain in points of {len(part)} autoencoders, {name}. {'; '.join(words)}."
    return svg.panel(236, 220, label, marks)
