"""The graph of the study as inline SVG: what each notebook reads, and how far it came."""

from markupsafe import Markup, escape

from gencausal.report import layout

# A notebook that reads another's checkpoints or rows; the ledger's notebook reads all.
READS = {"02a_score_distillation": ("01_diffusion_pretraining",), "02b_treatment_effects": ("01_diffusion_pretraining",),
         "03a_counterfactual_images": ("01b_image_diffusion",), "03b_image_benchmark": ("03a_counterfactual_images",), "03c_image_trust": ("03a_counterfactual_images",)}
LEDGER = "06_claims"
_WIDTH, _HEIGHT, _ACROSS, _DOWN = 240, 46, 36, 16


def columns(names: list[str]) -> list[list[str]]:
    """Notebooks in columns, each right of what it reads; the ledger's last."""
    depth: dict[str, int] = {}
    for name in names:
        depth[name] = 1 + max((depth[read] for read in READS.get(name, ()) if read in depth), default=-1)
    if LEDGER in depth:
        depth[LEDGER] = 1 + max((deep for name, deep in depth.items() if name != LEDGER), default=-1)
    return [[name for name in names if depth[name] == deep] for deep in range(max(depth.values(), default=-1) + 1)]


def graph(notebooks: list[dict]) -> Markup:
    """SVG of `notebooks` (dicts with `name`, `state`, `href` or empty), boxes that link to their pages; empty for no notebook."""
    if not notebooks:
        return Markup("")
    known = {notebook["name"]: notebook for notebook in notebooks}
    grid = columns(list(known))
    tall = max(len(column) for column in grid)
    height = tall * (_HEIGHT + _DOWN) - _DOWN + 4
    width = len(grid) * (_WIDTH + _ACROSS) - _ACROSS + 4
    corner = {}
    for across, column in enumerate(grid):
        free = (tall - len(column)) * (_HEIGHT + _DOWN) / 2 if column == [LEDGER] else 0
        for down, name in enumerate(column):
            corner[name] = (2 + across * (_WIDTH + _ACROSS), 2 + free + down * (_HEIGHT + _DOWN))
    lines = []
    for name in known:
        reads = [other for other in known if other not in (LEDGER, "00_overview")] if name == LEDGER else READS.get(name, ())
        for read in (other for other in reads if other in corner):
            (x, y), (to_x, to_y) = corner[read], corner[name]
            x, y, to_y, bend = x + _WIDTH, y + _HEIGHT / 2, to_y + _HEIGHT / 2, to_x - _ACROSS / 2
            lines.append(f'<path d="M{x:g} {y:g}H{bend - 8 if to_x - x > _ACROSS else bend:g}C{bend + 12:g} {y:g} {bend - 4:g} {to_y:g} {to_x - 7:g} {to_y:g}"/>')
            lines.append(f'<path class="head" d="M{to_x - 8:g} {to_y - 4:g}L{to_x:g} {to_y:g}L{to_x - 8:g} {to_y + 4:g}Z"/>')
    boxes = []
    for name, (x, y) in corner.items():
        state = layout.badge(known[name]["state"])
        box = f'<rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="4"/><text x="{x + 12:g}" y="{y + 19:g}">{escape(name)}</text>'
        box += f'<text class="state" x="{x + 12:g}" y="{y + 36:g}">{state.shape} {escape(state.word)}</text>'
        href = known[name]["href"]
        boxes.append(f'<a href="{escape(href)}">{box}</a>' if href else f'<g class="unrun">{box}</g>')
    title = "Notebooks and what they read: " + "; ".join(f"{name} {known[name]['state']}" for name in known)
    return Markup(
        f'<svg class="graph" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="group" aria-label="{escape(title)}">'
        f"{''.join(lines)}{''.join(boxes)}</svg>"
    )
