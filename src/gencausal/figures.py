"""Figures and tables of the notebooks: one style, a palette that colour-blind readers can tell apart, a description on every figure.

A figure is drawn 4.8 inches wide and shown as a PNG of 960 pixels at half that size, so that its text stays legible at 360 pixels.
"""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn
from IPython.display import display
from matplotlib.figure import Figure

from gencausal.checks import InputError

WIDTH, DPI = 4.8, 200
PALETTE = seaborn.color_palette("colorblind")
MARKERS = {"reproduced": "o", "reproduced in direction": "^", "partial": "D", "not shown": "s", "refuted": "X", "not run": "_"}
COLOURS = {"reproduced": PALETTE[2], "reproduced in direction": PALETTE[2], "partial": PALETTE[1], "not shown": PALETTE[7], "refuted": PALETTE[3], "not run": PALETTE[7]}


def new(height: float = 3.2, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure `WIDTH` inches wide and `height` high with its axes [rows, columns] (a single Axes if both are 1), in the study's style."""
    seaborn.set_theme(context="paper", style="ticks", palette=PALETTE, font_scale=1.15, rc={"axes.spines.top": False, "axes.spines.right": False, "figure.facecolor": "white"})
    return plt.subplots(rows, columns, figsize=(WIDTH, height), layout="constrained", **options)


def show(fig: Figure, alt: str, caption: str = "") -> None:
    """Display `fig` as PNG and close it. alt: what a reader who cannot see it needs to know; caption: printed below."""
    if len(alt.split()) < 4:
        raise InputError("alt must describe the figure in a sentence; say what is drawn and what it shows.")
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    width, height = (round(side * DPI / 2) for side in fig.get_size_inches())
    plt.close(fig)
    picture = base64.b64encode(buffer.getvalue()).decode()
    display({"image/png": picture, "text/plain": f"Figure: {alt}"}, raw=True, metadata={"image/png": {"alt": alt, "caption": caption, "width": width, "height": height}})


def pictures(rows: dict, alt: str, caption: str = "") -> None:
    """Show images `[N, C, S, S]` in [0, 1], one row of the grid for each name in `rows`; the names stand on the left."""
    rows = {name: np.asarray(images, dtype=float).clip(0, 1) for name, images in rows.items()}
    columns = max(len(images) for images in rows.values())
    fig, axes = new(height=0.15 + 0.82 * len(rows) * WIDTH / columns, rows=len(rows), columns=1, squeeze=False, gridspec_kw={"hspace": 0.02})
    for axis, (name, images) in zip(axes[:, 0], rows.items()):
        strip = np.concatenate(list(images.transpose(0, 2, 3, 1)), 1)
        axis.imshow(strip[..., 0] if strip.shape[2] == 1 else strip, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_ylabel(str(name).replace(" ", "\n"), rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    show(fig, alt, caption)


def forest(table: pd.DataFrame, reference: float, xlabel: str, alt: str, caption: str = "", bound: float | None = None) -> None:
    """Show one line for each row of `table` (columns label, ours, ci_low, ci_high, verdict): the number, its 95 % interval, the verdict by
    marker and colour, a dashed line at `reference` and a dotted one at `bound`. A row without an interval is drawn hollow. Prints a sentence if there is no row."""
    table = table[np.isfinite(table["ours"].astype(float))]
    if table.empty:
        print("No claim of this kind has a number at this profile.")
        return
    fig, axes = new(height=1.1 + 0.55 * len(table))
    axes.axvline(reference, color="0.4", linewidth=1, linestyle="--")
    if bound is not None:
        axes.axvline(bound, color="0.4", linewidth=1.5, linestyle=":")
    for place, row in enumerate(table.itertuples()):
        known = np.isfinite(row.ci_low)
        if known:
            axes.plot([row.ci_low, row.ci_high], [place, place], color=COLOURS[row.verdict], linewidth=2)
        axes.plot(row.ours, place, MARKERS[row.verdict], color=COLOURS[row.verdict], markersize=8, markerfacecolor=None if known else "white")
        axes.annotate(row.verdict, (row.ours, place), xytext=(0, 9), textcoords="offset points", ha="center", fontsize=9)
    axes.margins(x=0.25)
    axes.set_yticks(range(len(table)), table["label"])
    axes.set_ylim(len(table) - 0.4, -0.8)
    axes.set_xlabel(xlabel)
    show(fig, alt, caption)


def table(frame: pd.DataFrame, digits: int = 3) -> None:
    """Display `frame`, rounded, as an HTML table without its index and as plain text."""
    text = rounded(frame, digits).rename_axis(None, axis=1)  # a pivot's name for its columns would head a blank one
    display({"text/html": text.to_html(index=False, border=0, justify="left"), "text/plain": text.to_string(index=False)}, raw=True)


def rounded(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """`table` as text with at most `digits` significant digits, whole numbers in full, a dash for what is missing."""
    if not 1 <= digits <= 4:
        raise InputError(f"digits is {digits}; use 1 to 4, because other machines agree on no more.")
    return table.map(lambda value: _text(value, digits))


def _text(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(value)
    if isinstance(value, (float, np.floating)):
        value = 0.0 if abs(value) < 1e-10 else value  # rounding noise, other on every machine
        return str(int(value)) if float(value).is_integer() and abs(value) < 10**6 else f"{value:.{digits}g}"
    return str(value)
