"""One executed notebook to the body of one page: folded code, MathML, described figures, claim cards, harmless HTML."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from traitlets import default
from traitlets.config import Config

from gencausal import claims
from gencausal.claims import bundle
from gencausal.report import clean, figures, layout, maths, overview

_TYPES = [claims.MIME, "text/html", "text/markdown", "image/svg+xml", "text/latex", "image/png", "image/jpeg", "text/plain"]
_TOKEN = re.compile("\ue000(\\d+)\ue001")
_NUMBER = re.compile(r"[-+−]?[\d.,]+(e[-+−]?\d+)?\s*%?$|nan$|–$")


@dataclass
class Page:
    """The body of a page. `contents`: (anchor, level, heading as HTML); `claims`: claim key to (cell id, note); `undescribed`: cells of figures without alt text."""

    name: str
    title: str = ""
    body: str = ""
    contents: list[tuple[str, int, str]] = field(default_factory=list)
    claims: dict[str, tuple[str, str]] = field(default_factory=dict)
    undescribed: list[str] = field(default_factory=list)
    cells: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether every code cell ran to its end."""
        return set(self.cells) == {"completed"}


class _Markdown(IPythonRenderer):
    """Markdown whose formulas are handed to `hold` in place of being printed."""

    def __init__(self, hold: Callable[[str, bool], str], **options):
        super().__init__(**options)
        self.hold = hold

    def inline_math(self, body: str) -> str:
        return self.hold(body, False)

    def block_math(self, body: str) -> str:
        return self.hold(body, True)

    def latex_environment(self, name: str, body: str) -> str:
        return self.hold(f"\\begin{{{name}}}{body}\\end{{{name}}}", True)

    def block_mermaidjs(self, code: str) -> str:
        return f"<pre>{self.escape_html(code)}</pre>"


def cards(profile: str) -> dict[str, dict]:
    """Every claim judged from all accepted rows of `profile`, as its cell displays it: a page shows that, whatever rows the cell had when it ran."""
    rows = claims.read(profile)
    return {claim.key: bundle.make(claim, claims.verdict(claim, rows), profile)[claims.MIME] for claim in claims.ledger()}


def card(content: dict, claim: claims.Claim | None) -> str:
    """The card of one judged claim (`content` as in its bundle), with what the ledger says of it."""
    told = {"statement": claim.statement, "source": f"{claim.paper}; {claim.source}", "measured": overview.measured(claim)} if claim else {}
    return layout.render("claim.html.j2", claim=content | told)


def _plain(html: str) -> str:
    return _TOKEN.sub("", BeautifulSoup(html, "html.parser").get_text())


def _state(cell) -> str:
    """`completed`, `failed`, `running` or `pending`, as papermill left it."""
    return str(cell.metadata.get("papermill", {}).get("status") or "pending")


class ReportExporter(HTMLExporter):
    """nbconvert's exporter with the template in `templates/cells`: no script, no address to load, everything escaped."""

    @default("template_name")
    def _template_name_default(self):
        return "cells"

    @property
    def default_config(self):
        own = Config({"NbConvertBase": {"display_data_priority": _TYPES}, "ClearMetadataPreprocessor": {"enabled": False}})
        config = super().default_config.copy()
        config.merge(own)
        return config

    def __init__(self, **options):
        super().__init__(extra_template_basedirs=[str(layout.TEMPLATES)], **options)
        self._held: list = []
        self._page = Page("")
        self.ledger = {claim.key: claim for claim in claims.ledger()}
        self.judged: dict[str, dict] = {}  # claims judged anew from the accepted rows (`cards`), in place of what their cells displayed

    def default_filters(self):
        yield from super().default_filters()
        yield from {
            "harmless": clean.html,
            "formula": self._formula,
            "figure": self._figure,
            "claim_card": self._claim_card,
            "cell_label": self._cell_label,
            "cell_state": self._cell_state,
        }.items()

    def _hold(self, item) -> str:
        """A token in place of `item`, a formula or finished HTML, which `page` puts back after everything was cleaned."""
        self._held.append(item)
        return f"\ue000{len(self._held) - 1}\ue001"

    def _hold_formula(self, tex: str, display: bool) -> str:
        return self._hold((tex, display))

    def _formula(self, tex: str) -> str:
        stripped = tex.strip()
        for mark, display in (("$$", True), ("$", False)):
            if stripped.startswith(mark) and stripped.endswith(mark):
                return f"<p>{self._hold_formula(stripped.strip('$'), display)}</p>"
        return f"<p>{self._hold_formula(stripped, True)}</p>"

    def markdown2html(self, source) -> str:
        renderer = _Markdown(self._hold_formula, escape=False, exclude_anchor_links=True)
        return clean.html(MarkdownWithMath(renderer=renderer).render(source))

    def _figure(self, output, mime: str, cell: str) -> str:
        figure = figures.from_output(output, mime)
        if not figure.alt:
            self._page.undescribed.append(cell)
        return self._hold(figure.html())

    def _claim_card(self, output, cell: str) -> str:
        content = output["data"].get(claims.MIME)
        if not isinstance(content, dict) or not content.get("claim"):
            return f"<pre class=\"printed\" tabindex=\"0\">{layout.Markup.escape(output['data'].get('text/plain', ''))}</pre>"
        key = str(content["claim"])
        content = content | self.judged.get(key, {})
        self._page.claims.setdefault(key, (cell, str(content.get("note") or "")))
        return self._hold(card(content, self.ledger.get(key)))

    @staticmethod
    def _cell_label(cell) -> str:
        tags = cell.metadata.get("tags", [])
        lines = len(cell.source.strip().splitlines())
        what = {"parameters": "Parameters: the defaults (profile smoke)", "injected-parameters": "Parameters of this run"}
        label = next((words for tag, words in what.items() if tag in tags), "Code")
        return f"{label}, {lines} line{'s' if lines > 1 else ''}"

    @staticmethod
    def _cell_state(cell) -> str:
        state = _state(cell)
        if state == "completed" or not cell.source.strip():
            return ""
        return f'<p class="unfinished">✕ This cell is {layout.Markup.escape(state)}: what it shows is not a result.</p>'

    def page(self, notebook: nbformat.NotebookNode, name: str) -> Page:
        """The page of an executed notebook; ValueError, with the notebook's name, where a formula cannot be read."""
        notebook = _without_tokens(clean.every_text(copy.deepcopy(notebook)))
        self._held, self._page = [], Page(name)
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        for cell in code:
            self._page.cells[_state(cell)] = self._page.cells.get(_state(cell), 0) + 1
        html, _ = self.from_notebook_node(notebook)
        soup = BeautifulSoup(html, "html.parser")
        _tables(soup)
        title = _headings(soup, self._page)
        formulas = [(index, item) for index, item in enumerate(self._held) if isinstance(item, tuple)]
        try:
            made = maths.mathml([item for _, item in formulas])
        except ValueError as error:
            raise ValueError(f"notebook {name}: {error}") from None
        for (index, (_, display)), formula in zip(formulas, made, strict=True):
            self._held[index] = f'<span class="equation" role="group" aria-label="Equation" tabindex="0">{formula}</span>' if display else formula
        fill = lambda text: _TOKEN.sub(lambda match: self._held[int(match[1])], text)  # noqa: E731
        self._page.title = fill(title) or name
        self._page.contents = [(anchor, level, fill(heading)) for anchor, level, heading in self._page.contents]
        self._page.body = fill(str(soup))
        return self._page


def _without_tokens(value):
    """The notebook without the two private characters that mark a token, so that data cannot ask for one."""
    if isinstance(value, str):
        return value.replace("\ue000", "").replace("\ue001", "")
    if isinstance(value, list):
        return [_without_tokens(item) for item in value]
    return type(value)({key: _without_tokens(item) for key, item in value.items()}) if isinstance(value, dict) else value


def _tables(soup: BeautifulSoup) -> None:
    """Tables and printed blocks that scroll sideways by themselves (also by keyboard), empty header cells as cells, numbers to the right."""
    for block in soup("pre"):
        block["tabindex"] = "0"
    for place, table in enumerate(soup("table"), 1):
        table.attrs.pop("border", None)
        for header in table("th"):
            if header.get_text(strip=True):
                header["scope"] = "col" if header.find_parent("thead") else "row"
            else:
                header.name = "td"
        for cell in table("td"):
            words = cell.get_text(strip=True)
            if words and (_NUMBER.match(words) or len(words) > 40):
                cell["class"] = "number" if _NUMBER.match(words) else "prose"
        _align(table)
        table.wrap(soup.new_tag("div", attrs={"class": "scroll", "role": "group", "tabindex": "0", "aria-label": f"Table {place}"}))


def _align(table) -> None:
    """Column heads stand to the right where every cell below them is a number; rows of another length leave them as they are."""
    head, body = table.find("thead"), table.find("tbody")
    rows = [row(["td", "th"], recursive=False) for row in body("tr")] if body else []
    for row in head("tr") if head else []:
        for place, cell in enumerate(row(["td", "th"], recursive=False)):
            below = [cells[place] for cells in rows if len(cells) > place]
            if below and all("number" in (other.get("class") or "") for other in below):
                cell["class"] = "number"


def _headings(soup: BeautifulSoup, page: Page) -> str:
    """Anchors on the headings of the text and the page's contents; takes the first top heading out and returns its HTML, for the title."""
    title, used = "", {"content", "contents", "equations", "provenance"}
    for heading in soup(["h1", "h2", "h3", "h4", "h5", "h6"]):
        if not heading.find_parent(class_="text"):
            heading.name = "p"
            continue
        html = heading.decode_contents().strip()
        if heading.name == "h1" and not title:
            title = html
            heading.decompose()
            continue
        level = max(int(heading.name[1]), 2)
        heading.name = f"h{level}"
        base = re.sub(r"[^\w]+", "-", _plain(html).lower()).strip("-") or "section"
        anchor, again = base, 2
        while anchor in used:
            anchor, again = f"{base}-{again}", again + 1
        used.add(anchor)
        heading["id"] = anchor
        if level <= 3:
            page.contents.append((anchor, level, html))
    return title
