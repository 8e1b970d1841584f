"""The frame of every page: templates with escaping switched on, words of the verdicts, numbers as they are printed."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from gencausal import claims

TEMPLATES = Path(__file__).parent / "templates"


class Badge(NamedTuple):
    """How a verdict looks: its word, a shape that needs no colour, and the class that colours it."""

    word: str
    shape: str
    style: str


_STYLES = ("verdict-reproduced", "verdict-direction", "verdict-partial", "verdict-unshown", "verdict-refuted", "verdict-unrun")
VERDICTS = {word: Badge(word, claims.SHAPES[word], style) for word, style in zip(claims.VERDICTS, _STYLES, strict=True)}
STATES = {
    "completed": Badge("completed", "●", "verdict-reproduced"),
    "failed": Badge("failed", "✕", "verdict-refuted"),
    "incomplete": Badge("incomplete", "◐", "verdict-partial"),
    "not run": VERDICTS["not run"],
}
PROFILES = {
    "smoke": "a check of a few minutes that every step runs; sizes are cut down, so read no number here as a result",
    "laptop": "the same experiments on fewer units and seeds, in minutes on two cores",
    "full": "the largest size that the study runs, and what it publishes; the seeds behind each number stand beside it",
    "paper": "the papers' own sizes, trained on a GPU",
}
SYSTEMS = {
    "iwdd": "Importance-weighted diffusion distillation",
    "dc": "Diffusion counterfactuals",
    "vci": "Variational causal inference",
    "condfip": "Conditional fixed-point inference",
    "reading_list": "The reading list of diffusion and causality",
}


def badge(verdict) -> Badge:
    """The badge of a verdict or a run state. A word that is none of them stays neutral, never green."""
    word = str(verdict)
    return VERDICTS.get(word) or STATES.get(word) or Badge(word or "not run", "–", "verdict-unrun")


def number(value, digits: int = 3) -> str:
    """A number with `digits` significant digits (whole numbers whole, missing ones as a dash), any other text as it is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "–"
    try:
        value = float(value)
    except (TypeError, ValueError):
        return str(value)
    if math.isnan(value):
        return "–"
    if abs(value) < 1e-12:  # rounding error of a sum that is zero
        return "0"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    text = f"{value:.{digits}g}" if not 1e-3 <= abs(value) < 1e6 else f"{value:.{max(digits - 1 - math.floor(math.log10(abs(value))), 0)}f}"
    return text.replace("-", "−").replace("e−0", "e−")


def plain(value) -> str:
    """A published number as the paper prints it, without added zeros; any other text as it is."""
    return f"{value:g}".replace("-", "−") if isinstance(value, int | float) else str(value)


def with_interval(value, low, high) -> str:
    """`0.161 [0.150, 0.172]`, or the value with the words that there is no interval."""
    shown = number(value)
    if shown == "–":
        return shown
    bounds = [number(low), number(high)]
    return f"{shown} [no interval]" if "–" in bounds else f"{shown} [{bounds[0]}, {bounds[1]}]"


def count(value, word: str) -> str:
    """`1 seed`, `3 seeds`, `– seeds`."""
    return f"{number(value)} {word}{'' if value == 1 else 's'}"


def duration(seconds) -> str:
    """`48 s`, `3 min 12 s`, `2 h 05 min`."""
    if seconds is None or seconds != seconds:
        return "–"
    seconds = float(seconds)
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@cache
def environment() -> jinja2.Environment:
    """Jinja over `templates/`: everything is escaped and an unknown name is an error."""
    made = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"number": number, "plain": plain, "duration": duration}
    made.globals |= {"badge": badge, "count": count, "with_interval": with_interval, "style": Markup((TEMPLATES / "style.css").read_text(encoding="utf-8"))}
    return made


def render(template: str, **values) -> str:
    """The text of `templates/<template>` with `values`."""
    return environment().get_template(template).render(**values)
