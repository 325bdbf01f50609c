"""What the page on one run and the page on many share: the order of sections, and those that both can have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from headstart.study import curves, gradients, mechanism, svg
from headstart.study.lines import Line, figure
from headstart.study.page import Block, Figure, Page, Picture, Section, Text
from headstart.study.writing import counted

QUESTION = (
    "What does SimCLR's projection head owe to how its first layer was initialised? The paper (arXiv:2408.14514) "
    "replaces that layer by the frozen embedding layer of an autoencoder, pretrained on the same images, and reports "
    "up to 2.9 points more linear-probe accuracy."
)
TO_RUN = ("dvc exp run --queue -S 'seed=range(0,3)' -S 'projector.init=autoencoder,random'", "dvc queue start -j 1")
TO_COMPARE = f"`{TO_RUN[0]}`, then `{TO_RUN[1]}` and `make report`"
# anchor -> title, name in the navigation; a page has those for which it has anything to say
SECTIONS = {
    "result": ("Result", "Result"),
    "classes": ("By class, and how sure", "Classes"),
    "transfer": ("Other datasets", "Transfer"),
    "sensitivity": ("Can these runs tell?", "Sensitivity"),
    "verdicts": ("Verdicts", "Verdicts"),  # a section per claim follows
    "maps": ("Accuracy by width and activation", "Widths"),
    "distribution": ("Accuracy by initialisation", "Distribution"),
    "loss": ("Loss and accuracy", "Loss"),
    "reconstruction": ("Reconstruction", "Reconstruction"),
    "curves": ("Training curves", "Curves"),
    "gradients": ("Gradient flow early in training", "Gradients"),
    "mechanism": ("Ranks, drift and gradient while training", "Mechanism"),
    "views": ("Views", "Views"),
    "confusion": ("Confusion", "Confusion"),
    "cost": ("Cost", "Cost"),
    "runs": ("Runs", "Runs"),
    "made": ("How this page was made", "Made"),
}
# a picture's file is <dataset>_<kind>.png -> what it shows, and the section that shows it
PICTURES = {
    "views": (
        "views",
        "Training images, one a column: above as they are, below four random views, as SimCLR sees them.",
    ),
    "reconstructions": ("reconstruction", "Test images above, what the autoencoder makes of them below."),
    "confusion": ("confusion", "Confusion of the linear probe on the test split: true classes by row."),
}
# a figure that the report stage also leaves as a file, beside the page in Markdown
FILES = {
    "curves-figure": "plots/images/simclr_loss.svg",
    "gradients-figure": "plots/images/gradient_flow.svg",
    "rank-figure": "plots/images/hidden_rank.svg",
    "output-rank-figure": "plots/images/output_rank.svg",
    "drift-figure": "plots/images/drift.svg",
    "share-figure": "plots/images/gradient_share.svg",
}


def build(title: str, lead: str, blocks: Mapping[str, Sequence[Block]], claims: Sequence[Section] = ()) -> Page:
    """Return the page of the blocks of each section, in the order of SECTIONS; the claims follow the verdicts."""
    sections: list[Section] = []
    for name, (heading, short) in SECTIONS.items():
        if blocks.get(name):
            sections.append(Section(name, heading, tuple(blocks[name]), short))
        if name == "verdicts":
            sections += claims
    return Page(title, QUESTION, lead, tuple(sections))


def nothing_to_compare(num_runs: int, num_seeds: int) -> str:
    """Return the sentence for runs that hold no matched pair, with what to run."""
    return f"{counted(num_runs, 'run')}, {counted(num_seeds, 'seed')}: nothing to compare. Run {TO_COMPARE}."


@dataclass(frozen=True)
class Measured:
    """Lines of what was measured while runs trained: losses, gradient flow, and columns of mechanism.PLOTS.

    loss: what the runs minimised, as simclr.loss names it.
    """

    losses: Sequence[Line] = ()
    flows: Sequence[Line] = ()
    trainings: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    loss: str = "loss"


def measured(found: Measured, arms: Sequence[str], files: bool = False) -> dict[str, tuple[Block, ...]]:
    """Return the sections of curves, of gradients and of the mechanism, each where there are any lines.

    arms: the names of all arms, in the order of their colours. files: the figures lie where FILES says, too.
    """
    plots = {
        "curves": [(curves.plot(found.loss), found.losses)],
        "gradients": [(gradients.PLOT, found.flows)],
        "mechanism": [(plot, found.trainings.get(column, ())) for column, plot in mechanism.PLOTS.items()],
    }
    drawn = {
        name: tuple(
            replace(figure(plot, lines, arms), path=FILES[plot.name] if files else "") for plot, lines in own if lines
        )
        for name, own in plots.items()
    }
    return {name: figures for name, figures in drawn.items() if figures}


def pictured(pictures: Sequence[Picture], nothing: Mapping[str, str]) -> dict[str, tuple[Block, ...]]:
    """Return the sections of pictures; nothing: what a section says that has none."""
    found: dict[str, tuple[Block, ...]] = {}
    for kind, (section, _) in PICTURES.items():
        own = tuple(picture for picture in pictures if picture.name.endswith(kind))
        found[section] = own or ((Text(nothing[section]),) if section in nothing else ())
    return found


def captioned(name: str, png: bytes, path: str = "") -> Picture | None:
    """Return the picture of a file <dataset>_<kind>.png, or None where its kind is none that a page shows.

    path: where it lies as seen from the page in Markdown.
    """
    dataset, _, kind = name.rpartition("_")
    if kind not in PICTURES or not dataset:
        return None
    words = f"{PICTURES[kind][1]} 1 run, 1 seed."
    return Picture(
        name, f"{dataset}. {words}", png, f"{kind.capitalize()} of {dataset}: {words[0].lower()}{words[1:]}", path
    )


def files(page: Page) -> dict[str, str]:
    """Return path -> text of the figures of a page that also lie beside it."""
    figures = [(section.title, block) for section in page.sections for block in section.blocks]
    return {
        block.path: svg.standalone(title, block.panels, block.legend, [block.caption])
        for title, block in figures
        if isinstance(block, Figure) and block.path
    }
