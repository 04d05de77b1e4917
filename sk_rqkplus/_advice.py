"""Advice in words: what a figure beyond its threshold means, and what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# Rules of thumb. docs/report.rst says where each of them comes from.
COLLAPSE = 0.3
FEW_ROWS = 4.0
RANDOM_COLLISIONS = 0.1
EXCESS_COLLISIONS = 0.3
DUPLICATES = 0.01
# Below 0 by more than rounding.
EXPLAINED = -0.001


@dataclass(frozen=True)
class Advice:
    """One piece of advice, with the figure that triggers it.

    Attributes
    ----------
    topic : str
        What it is about, such as ``"collapse"``.

    severity : {"warning", "note"}
        Whether something should change, or is good to know.

    figure : str
        Name of the figure.

    value, threshold : float
        The figure, and the value beyond which it triggers the advice.

    text : str
        What it means and what to do.
    """

    topic: str
    severity: str
    figure: str
    value: float
    threshold: float
    text: str

    def trigger(self) -> str:
        """Figure in words, such as "perplexity / size of level 1: 0.07, below 0.3"."""
        relation = ""
        if self.value != self.threshold:
            side = "below" if self.value < self.threshold else "above"
            relation = f", {side} {self.threshold:.3g}"
        return f"{self.figure}: {self.value:.3g}{relation}"


def advise(figures: dict[str, dict], levels: Sequence[dict], model: dict) -> list:
    """Advice on a report, warnings first.

    Parameters
    ----------
    figures : dict of str to dict
        Figures of the report, each with its ``value`` and what it is compared with.

    levels : sequence of dict
        Figures of every level.

    model : dict
        What the model is: ``n_items``, ``codebook_sizes``, ``largest_prefix``,
        ``best_epoch``.

    Returns
    -------
    advice : list of Advice
        Empty where nothing is out of the ordinary.
    """
    found = [
        *_collapse(levels, model["n_items"]),
        *_too_large(levels, model["n_items"]),
        *_too_small(figures, model),
        *_duplicates(figures, model["n_items"]),
        *_lengths(figures, model),
        *_meaning(levels, figures),
        *_worse_than_the_mean(figures),
        *_no_gain(model),
    ]
    return sorted(found, key=lambda advice: advice.severity != "warning")


def _collapse(levels: Sequence[dict], n_items: int) -> Iterator[Advice]:
    for number, level in enumerate(levels):
        # So many codewords could be in use; with few rows that is fewer than there are.
        share = level["perplexity"] / min(level["size"], n_items)
        if level["size"] > 1 and n_items > 1 and share < COLLAPSE:
            yield Advice(
                "collapse",
                "warning",
                f"perplexity / size of level {number}",
                share,
                COLLAPSE,
                f"Level {number} is collapsed: its items are spread as if it had "
                f"{level['perplexity']:.0f} codewords, not {level['size']:,}. Balance "
                "this level, give it fewer codewords, or fit with augment='auto' where "
                "there are few rows per codeword.",
            )


def _too_large(levels: Sequence[dict], n_items: int) -> Iterator[Advice]:
    largest = max(level["size"] for level in levels)
    if largest > 1 and n_items / largest < FEW_ROWS:
        yield Advice(
            "codebooks too large",
            "warning",
            f"rows per codeword of a codebook of {largest:,}",
            n_items / largest,
            FEW_ROWS,
            "Codewords stand for so few rows that codebooks learn them by heart: the "
            "error of new items is a multiple of that of these rows. Choose smaller "
            "codebooks, see suggest_codebook_sizes.",
        )


def _too_small(figures: dict[str, dict], model: dict) -> Iterator[Advice]:
    collisions = figures["collision_rate"]
    random, floor = collisions["baseline"], collisions["floor"]
    if random > RANDOM_COLLISIONS:
        yield Advice(
            "codebooks too small",
            "warning",
            "collision rate of random codes",
            random,
            RANDOM_COLLISIONS,
            "There are too few codes for so many items: even codes drawn at random "
            "would collide this often. Enlarge the codebooks or add a level.",
        )
    excess = collisions["value"] - max(random, floor)
    if excess > EXCESS_COLLISIONS:
        yield Advice(
            "crowded codes",
            "warning",
            "collision rate above that of random codes and of copies",
            excess,
            EXCESS_COLLISIONS,
            "There are codes enough, but many items crowd on few of them. Balance the "
            "last level, or add a level.",
        )


def _duplicates(figures: dict[str, dict], n_items: int) -> Iterator[Advice]:
    floor = figures["collision_rate"]["floor"]
    if floor > 0:
        yield Advice(
            "duplicates",
            "warning" if floor >= DUPLICATES else "note",
            "share of rows that are copies of another row",
            floor,
            DUPLICATES if floor >= DUPLICATES else 0.0,
            f"{round(floor * n_items):,} rows are bit-identical to a row before them. "
            "No model tells them apart. Remove them, or let a suffix count them.",
        )


def _lengths(figures: dict[str, dict], model: dict) -> Iterator[Advice]:
    share = figures["suffix_rate"]["value"]
    if share > 0:
        more = model["largest_prefix"] - model["codebook_sizes"][-1]
        reason = (
            f"The largest prefix has {model['largest_prefix']:,} items for "
            f"{model['codebook_sizes'][-1]:,} last codewords: enlarge the last "
            "codebook or add a level. "
            if more > 0
            else ""
        )
        yield Advice(
            "mixed lengths",
            "warning",
            "share of IDs with a suffix above 0",
            share,
            0.0,
            f"{reason}Write tokens with suffix='always': with suffix='on_collision' "
            "IDs have different lengths, and readers that take the first "
            f"{len(model['codebook_sizes'])} tokens read several items as one.",
        )


def _meaning(levels: Sequence[dict], figures: dict[str, dict]) -> Iterator[Advice]:
    cohesion = levels[0]["cohesion"]
    baseline = figures["path_average_similarity"]["baseline"]
    if None not in (baseline, cohesion["high"]) and cohesion["high"] < baseline:
        yield Advice(
            "prefixes without meaning",
            "warning",
            "similarity of items that share the first code",
            cohesion["value"],
            baseline,
            "Items that share their first code are no more alike than any two items. "
            "Check that the rows of X are the ones the model was fitted on, and that "
            "the embeddings have structure.",
        )


def _worse_than_the_mean(figures: dict[str, dict]) -> Iterator[Advice]:
    explained = figures["reconstruction_r2"]["value"]
    if explained is not None and explained < EXPLAINED:
        yield Advice(
            "worse than the mean",
            "warning",
            "explained variance",
            explained,
            EXPLAINED,
            "Reconstructions are further from the embeddings than their mean is. Train "
            "for longer, and check that X is in the units of the fitted rows.",
        )


def _no_gain(model: dict) -> Iterator[Advice]:
    if model.get("best_epoch") == 0 and model.get("n_epochs", 0) > 0:
        yield Advice(
            "no gain from fine-tuning",
            "note",
            "best epoch",
            0.0,
            0.0,
            "No epoch was better than the first stage, which is what this model is. "
            "Use RQKMeans, or train for longer with a lower lr.",
        )
