"""How a verdict is displayed: a MIME bundle with our own JSON, a small table for readers, and plain text."""

from html import escape

import numpy as np

from gencausal.claims.definitions import Claim
from gencausal.claims.verdicts import Verdict

MIME = "application/vnd.gencausal.claim+json"
SHAPES = {"reproduced": "●", "reproduced in direction": "▲", "partial": "◐", "not shown": "○", "refuted": "✕", "not run": "–"}


def number(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant digits, a dash for none."""
    if value is None or not np.isfinite(value):
        return "–"
    return str(int(value)) if float(value).is_integer() and abs(value) < 10**6 else f"{value:.{digits}g}"


def interval(verdict: Verdict) -> str:
    """`ours [low, high]`, or ours and the lack of an interval, or a dash."""
    if not np.isfinite(verdict.ours):
        return "–"
    return f"{number(verdict.ours)} [{number(verdict.ci_low)}, {number(verdict.ci_high)}]" if np.isfinite(verdict.ci_low) else f"{number(verdict.ours)} (no interval)"


def make(claim: Claim, verdict: Verdict, profile: str) -> dict[str, object]:
    """The MIME bundle of one judged claim; every number is rounded, so that a rerun prints the same text."""
    published = number(claim.published) if claim.published is not None else claim.published_status
    table = {
        "Claim": f"{claim.key}: {claim.statement}",
        "Source": f"{claim.paper}; {claim.source}",
        "Published": f"{published} ({claim.published_status})" if claim.published is not None else published,
        "Ours": f"{interval(verdict)}, {_count(verdict.n_units, 'unit')}, {_count(verdict.n_seeds, 'seed')}, profile {profile}",
        "Verdict": f"{SHAPES[verdict.verdict]} {verdict.verdict}",
        "Why": verdict.note,
    }
    if verdict.extras:
        table["Beside it"] = "; ".join(f"{name.replace('_', ' ')} {number(value)}" for name, value in verdict.extras.items())
    body = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>' for name, text in table.items() if text)
    slug = verdict.verdict.replace(" ", "-")
    return {
        MIME: {
            "claim": claim.key, "verdict": verdict.verdict, "ours": _plain(verdict.ours), "ci_low": _plain(verdict.ci_low), "ci_high": _plain(verdict.ci_high),
            "n_units": verdict.n_units, "n_seeds": verdict.n_seeds, "published": claim.published, "published_status": claim.published_status,
            "profile": profile, "note": verdict.note, "extras": {name: _plain(value) for name, value in verdict.extras.items()},
            "parts": [{"verdict": p.verdict, "ours": _plain(p.ours), "ci_low": _plain(p.ci_low), "ci_high": _plain(p.ci_high), "note": p.note} for p in verdict.parts],
        },
        "text/html": f'<table class="claim verdict-{slug}" data-claim="{escape(claim.key)}"><tbody>{body}</tbody></table>',
        "text/plain": "\n".join(f"{name}: {text}" for name, text in table.items() if text),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _plain(value: float) -> float | None:
    return float(f"{value:.4g}") if np.isfinite(value) else None
