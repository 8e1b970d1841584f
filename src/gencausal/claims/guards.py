"""Guards: what would let a reader be told something that the rows do not say, a sentence for each.

An equation key is what follows `Eq.` in a notebook, a docstring or a test: a name of small letters (`Eq. a-name`), or a number with its source
(`Eq. 7, Someone et al. 2000`). A notebook's key must stand in `src` and in `tests` too, so that who reads a formula finds the code and its test.
The verdicts that README and index print are held against verdicts judged anew from the published rows.
"""

import re
from html import escape
from pathlib import Path

from gencausal import notebook, paths
from gencausal.claims.bundle import interval, number
from gencausal.claims.definitions import Claim, ledger
from gencausal.claims.overall import read_claims
from gencausal.claims.rows import read_published
from gencausal.claims.verdicts import VERDICTS, Verdict, verdict

KEY = re.compile(r"\bEq\. (\d[\w.]*, [A-Z][^`)\";:]*?\d{4}|[a-z0-9]+(?:-[a-z0-9]+)*)")
START, END = "<!-- verdicts: written by `gencausal readme` from reports/results -->", "<!-- end of verdicts -->"
PICTURE = "docs/verdicts.svg"
COLOURS = ("#0b6b45", "#1d7892", "#9a5f00", "#4b5563", "#a32020", "#777d86")  # in the order of VERDICTS
_TALLY = re.compile(r'<div><dt>(.*?), \d+ claims?</dt><dd>(.*?)</dd></div>', re.DOTALL)
_BADGE = re.compile(r'<span aria-hidden="true">.</span> (\d+) ([a-z ]+)</span>')


def keys(text: str) -> set[str]:
    """The equation keys in `text`; one that goes on in the next line is read whole."""
    return set(KEY.findall(re.sub(r"\s*\n[ #]*", " ", text)))


def places() -> dict[str, dict[str, list[Path]]]:
    """`{"src": {key: files}, "tests": {key: files}}`: where each equation key stands."""
    found: dict[str, dict[str, list[Path]]] = {"src": {}, "tests": {}}
    for folder, table in found.items():
        for file in sorted((paths.root() / folder).rglob("*.py")):
            for key in keys(file.read_text(encoding="utf-8")):
                table.setdefault(key, []).append(file)
    return found


def equations() -> list[str]:
    """Keys of notebooks that stand in no module, or in no test."""
    known, problems = places(), []
    for name in notebook.names():
        for key in sorted(keys(notebook.source_path(name).read_text(encoding="utf-8"))):
            missing = [folder for folder, found in known.items() if key not in found]
            if missing:
                problems.append(f"Notebook {name} cites Eq. {key}, which no file of {' and of '.join(missing)} names.")
    return problems


def judged() -> dict[str, tuple[Claim, Verdict]]:
    """The published claims that the ledger still has, judged anew from the published rows, by key; empty before the first report."""
    printed = read_claims(None)
    if printed is None:
        return {}
    rows, published = read_published(), set(printed["claim"])
    return {claim.key: (claim, verdict(claim, rows)) for claim in ledger() if claim.key in published}


def tally(found: dict[str, tuple[Claim, Verdict]]) -> dict[str, dict[str, int]]:
    """Counts by system and verdict, in the ledger's and the verdicts' order, of `judged()`."""
    table: dict[str, dict[str, int]] = {}
    for claim, made in found.values():
        table.setdefault(claim.system, dict.fromkeys(VERDICTS, 0))[made.verdict] += 1
    return table


def readme_block(names: dict[str, str], found: dict[str, tuple[Claim, Verdict]]) -> str:
    """What README says of the results (Markdown between its marks) from `judged()`: verdicts by system, their picture, and every refuted claim; `names` say what a system is called."""
    table = tally(found)
    lines = [START, "| | " + " | ".join(VERDICTS) + " |", "|---|" + "---:|" * len(VERDICTS)]
    lines += [f"| {names.get(system, system)} | " + " | ".join(str(counts[word] or "–") for word in VERDICTS) + " |" for system, counts in table.items()]
    refuted = [f"- `{claim.key}`: {claim.statement} Ours: {interval(made)}{f', published {number(claim.published)}' if claim.published is not None else ''}." for claim, made in found.values() if made.verdict == "refuted"]
    lines += ["", f"![Verdicts by system, as counted in the table above]({PICTURE})", "", f"<details><summary>Known disagreements: what our runs refute ({len(refuted)})</summary>", "", *refuted, "", "</details>"]
    return "\n".join([*lines, END])


def picture(names: dict[str, str], found: dict[str, tuple[Claim, Verdict]]) -> str:
    """The verdicts by system as an SVG of stacked bars, each part with its count; on white, so that it reads in either colour scheme."""
    table, left, unit = tally(found), 8, 760
    most = max((sum(counts.values()) for counts in table.values()), default=1)
    height = 34 + 52 * len(table)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="776" height="{height}" viewBox="0 0 776 {height}" role="img" font-family="sans-serif" font-size="13">', "<title>Verdicts by system</title>", '<rect width="100%" height="100%" fill="#fff"/>']
    for row, (system, counts) in enumerate(table.items()):
        x, y = left, 6 + 52 * row
        parts.append(f'<text x="{x}" y="{y + 13}" fill="#1d2126">{escape(names.get(system, system))}, {sum(counts.values())} claims</text>')
        for word, colour in zip(VERDICTS, COLOURS, strict=True):
            if counts[word]:
                width = unit * counts[word] / most
                parts.append(f'<rect x="{x:.1f}" y="{y + 20}" width="{width - 1:.1f}" height="22" fill="{colour}"/><text x="{x + width / 2:.1f}" y="{y + 36}" fill="#fff" text-anchor="middle">{counts[word]}</text>')
                x += width
    x = left
    for word, colour in zip(VERDICTS, COLOURS, strict=True):
        parts.append(f'<rect x="{x}" y="{height - 20}" width="12" height="12" fill="{colour}"/><text x="{x + 17}" y="{height - 9}" fill="#1d2126">{word}</text>')
        x += 17 + 8 * len(word) + 22
    return "\n".join([*parts, "</svg>", ""])


def in_readme(text: str) -> str:
    """The verdict table that stands in README `text`, with its marks; empty where a mark is missing."""
    start, end = text.find(START), text.find(END)
    return text[start : end + len(END)] if 0 <= start < end else ""


def write_readme(names: dict[str, str]) -> Path:
    """Put the verdicts of the published rows into README.md, and draw its picture."""
    path = paths.root() / "README.md"
    text = path.read_text(encoding="utf-8")
    if not (old := in_readme(text)):
        raise ValueError(f"README.md has no place for the verdicts: put the lines {START} and {END} into it.")
    found = judged()
    paths.write_whole(paths.root() / PICTURE, picture(names, found))
    return paths.write_whole(path, text.replace(old, readme_block(names, found)))


def published(names: dict[str, str]) -> list[str]:
    """Where the published claims table, the index page or README say another verdict than the published rows."""
    printed, problems, made = read_claims(None), [], judged()
    if printed is None:
        return []
    for row in printed.itertuples():
        if row.claim in made and made[row.claim][1].verdict != row.verdict:
            problems.append(f"Claim {row.claim} is {made[row.claim][1].verdict} by the published rows and {row.verdict} in reports/results/claims.csv: publish again.")
        elif row.claim not in made:
            problems.append(f"Claim {row.claim} stands in reports/results/claims.csv and no more in claims.yaml: publish again.")
    expected = {names.get(system, system): {word: count for word, count in counts.items() if count} for system, counts in tally(made).items()}
    index = paths.root() / "reports" / "index.html"
    shown = {name: {word: int(count) for count, word in _BADGE.findall(badges)} for name, badges in _TALLY.findall(index.read_text(encoding="utf-8"))} if index.is_file() else {}
    problems += [f"The verdicts of {name} on reports/index.html are not those of the published rows: publish again." for name in sorted(set(expected) | set(shown)) if expected.get(name) != shown.get(name)]
    readme = paths.root() / "README.md"
    if in_readme(readme.read_text(encoding="utf-8")) != readme_block(names, made):
        problems.append("The verdicts in README.md are not those of the published rows: run `gencausal readme`.")
    drawn = paths.root() / PICTURE
    if not drawn.is_file() or drawn.read_text(encoding="utf-8") != picture(names, made):
        problems.append(f"The picture {PICTURE} is not that of the published rows: run `gencausal readme`.")
    return problems

