"""A small made-up study for the report tests: a root with notebooks and a ledger, executed notebooks, rows and run records."""

import base64
import io
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from gencausal import claims, paths, provenance
from gencausal.claims import bundle, guards

LEDGER = """
papers:
  iwdd: {title: A paper on distillation, source: "arXiv 0000.00000"}
  vci: {title: A paper on variational inference, source: "arXiv 0000.00001"}
claims:
  - {key: iwdd.C4, system: iwdd, statement: The generator has a lower error than gradient boosting., source: "abstract; Table 1", published: null,
     published_status: not available, notebook: 02a_score_distillation, experiment: iwdd.E0,
     rules: [{kind: difference, dataset: acic2016, metric: pehe_normalised, method: iwdd, against: hgb_t}]}
  - {key: iwdd.C5, system: iwdd, statement: The generator stays within 5 % of its teacher., source: "Section 4", published: 1.0,
     published_status: second-hand, notebook: 02a_score_distillation, experiment: iwdd.E0,
     rules: [{kind: ratio, dataset: acic2016, metric: pehe_normalised, method: iwdd, against: teacher, at_most: 1.05}]}
  - {key: iwdd.C8, system: iwdd, statement: The naive effect is better than no effect., source: "made up", published: 0.9,
     published_status: verified, notebook: 02a_score_distillation, experiment: iwdd.E0,
     rules: [{kind: difference, dataset: acic2016, metric: pehe_normalised, method: naive_ate, against: oracle_ate}]}
  - {key: vci.C1, system: vci, statement: "Counterfactual outcomes <b>beat</b> the baselines.", source: "Table 2", published: 0.93,
     published_status: verified, notebook: 04_variational_causal_inference, experiment: vci.E1,
     rules: [{kind: not_run, reason: "planned: experiment E1"}]}
"""
SOURCES = ("00_overview", "01_diffusion_pretraining", "02a_score_distillation", "04_variational_causal_inference", "06_claims")
HEADER = "# ---\n# jupyter:\n#   kernelspec: {display_name: Python 3, language: python, name: python3}\n# ---\n\n# %%\n"
PARAMETERS = HEADER.replace("# %%", '# %% tags=["parameters"]') + 'profile = "smoke"\nseeds = [0, 1, 2]\nsteps = 40\n'
HEADER_END = "\n# %%\n"


def figure(alt: str | None = "Four coloured lines that fall from one to zero as the noise grows", caption: str = "") -> nbformat.NotebookNode:
    """A display output with a PNG, described unless `alt` is None."""
    file = io.BytesIO()
    with plt.style.context("default"):  # whatever style an earlier test has set
        picture, axes = plt.subplots(figsize=(7, 4))
        x = np.linspace(0, 5, 200)
        for decay in (0.3, 0.6, 1.0, 2.0):
            axes.plot(x, np.exp(-decay * x), label=f"decay {decay}")
        axes.set(xlabel="noise level", ylabel="weight")
        axes.legend()
        picture.savefig(file, dpi=100, metadata={"Software": None})
    plt.close(picture)
    metadata = {"image/png": {"alt": alt, "caption": caption}} if alt is not None else {}
    return new_output("display_data", {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": "<Figure>"}, metadata=metadata)


def html(source: str) -> nbformat.NotebookNode:
    """A display output with HTML."""
    return new_output("display_data", {"text/html": source, "text/plain": "a table"})


def printed(text: str, name: str = "stdout") -> nbformat.NotebookNode:
    """A stream output."""
    return new_output("stream", name=name, text=text)


def code(cell: str, source: str, outputs=(), status: str = "completed", tags=()) -> nbformat.NotebookNode:
    """An executed code cell with id `cell`."""
    return new_code_cell(source, id=cell, outputs=list(outputs), execution_count=1, metadata={"papermill": {"status": status}, "tags": list(tags)})


def text(cell: str, source: str) -> nbformat.NotebookNode:
    """A markdown cell with id `cell`."""
    return new_markdown_cell(source, id=cell)


def rows(profile: str, units: int = 10, seeds: int = 3, levels: dict[str, float] | None = None) -> list[dict]:
    """Rows of iwdd.E0 with known means: one method a level, units spread around it the same way."""
    levels = levels or {"iwdd": 0.16, "teacher": 0.17, "hgb_t": 0.27, "ridge_t": 0.31, "zero": 0.95, "naive_ate": 0.52, "oracle_ate": 0.48}
    made = []
    for method, level in levels.items():
        for unit in range(1, units + 1):
            made += [
                {"experiment": "iwdd.E0", "dataset": "acic2016", "unit": str(unit), "method": method, "metric": "pehe_normalised", "seed": seed, "value": level * (1 + 0.02 * (unit - (units + 1) / 2)), "n": 960}
                for seed in range(seeds)
            ]
    return made


TABLE = """<style scoped>td {color: red}</style><table border="1" class="dataframe"><thead><tr style="text-align: right;"><th></th><th>method</th><th>PEHE</th><th>a column with a long name</th><th>another one with a long name</th></tr></thead>
<tbody><tr><th>0</th><td>iwdd</td><td>0.161</td><td>−0.02</td><td>12.5</td></tr><tr><th>1</th><td>hgb_t</td><td>0.272</td><td>1e-3</td><td>nan</td></tr></tbody></table>"""

EQUATIONS = r"""## The model

With $x_t = \alpha_t x + \sigma_t \epsilon$ the denoiser is the posterior mean $D(x_t; \sigma) = \mathbb{E}[x \mid x_t]$, and the loss (Eq. 7, Karras et al. 2022) is

$$\mathcal{L}(\theta) = \mathbb{E}_{\sigma, x, \epsilon}\left[\lambda(\sigma)\,\lVert D_\theta(x + \sigma\epsilon; \sigma) - x\rVert^2\right].$$

\begin{align}
\tau(x) &= \mathbb{E}[Y(1) - Y(0) \mid X = x] \\
w(x, t) &= \frac{\mathbf{1}\{t = 1\}}{e(x)} + \frac{\mathbf{1}\{t = 0\}}{1 - e(x)}
\end{align}

| symbol | meaning | range |
|---|:---:|---:|
| $\sigma$ | noise level | $[0.002, 80]$ |
| `log_w` | log importance weight | any |

See [the diffusion notebook](01_diffusion_pretraining.ipynb), [its module](../src/gencausal/diffusion.py), [a file that is gone](../nothing.md) and [the paper](https://arxiv.org/abs/2206.00364)."""


def notebooks(profile: str) -> dict[str, list]:
    """Cells of the executed notebooks."""
    table = claims.tidy(rows(profile), profile)
    shown = [nbformat.from_dict({"output_type": "display_data", "data": bundle.make(claim, claims.verdict(claim, table), profile), "metadata": {}}) for claim in claims.ledger() if claim.runs]
    parameters = [
        code("parameters", f'profile = "smoke"  # smoke, laptop, full or paper\nseeds = [0]\nsteps = 40  # training steps', tags=["parameters"]),
        code("params", f'profile = "{profile}"\nseeds = [0, 1, 2]', tags=["injected-parameters"]),
    ]
    return {
        "00_overview": [text("title", "# What is claimed, and how to read the rest\n\nFour systems, one question each."), *parameters, code("a", "x = 1", [printed("x is 1\n")])],
        "01_diffusion_pretraining": [
            text("title", "# Diffusion pretraining: does the denoiser reach its closed form?\n\nFor a Gaussian the best denoiser is known, so the network can be held against it. The claims are `iwdd.C4` and `iwdd.C5`."),
            *parameters,
            text("model", EQUATIONS),
            code("train", "from gencausal import diffusion\n\n# ten settings at once\nhistory = diffusion.train(steps=steps, seed=seeds[0])  # a comment that is long enough to make the line scroll sideways on a phone\nfor step, loss in history:\n    print(f'{step:4d}  {loss:.4g}')", [printed("   0  1.204\n  20  0.3121\n  40  0.2203\n"), printed("UserWarning: something about /" + "home/ann/project/x.py\n", "stderr")]),
            text("result", "### Weights by noise level\n\nThe loss is weighted so that each noise level counts the same.\n\n- first\n- second"),
            code("plot", "show(history)", [figure(caption="Weight of each noise level; the interval is the band around each line.")]),
            code("table", "summary", [html(TABLE)]),
            text("holds", "## What holds\n\nThe closed form is reached to three digits.\n\n### What does not\n\nNothing here."),
        ],
        "02a_score_distillation": [
            text("title", "# Score distillation: is one step enough for $\\tau(x)$?"),
            *parameters,
            code("claims", 'for key in ("iwdd.C4", "iwdd.C5"):\n    results.claim(key)', shown),
            text("holds", "## What holds, what does not, why\n\nThe generator keeps to its teacher."),
        ],
        "06_claims": [text("title", "# The ledger"), *parameters, code("evaluate", "claims.evaluate(profile)", [html(TABLE)])],
    }


def record(name: str, profile: str, **changed) -> dict:
    """A run record as `provenance.collect` makes it."""
    made = {
        "notebook": name, "profile": profile, "parameters": {"profile": profile, "seeds": [0, 1, 2], "steps": 40}, "seeds": [0, 1, 2], "commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False,
        "source_sha256": provenance.sha256(paths.root() / "notebooks" / f"{name}.py"), "modules": {"src/gencausal/diffusion.py": provenance.sha256(paths.root() / "src/gencausal/diffusion.py")},
        "data": {"acic2016": "ab" * 32}, "lock_sha256": "cd" * 32, "started": "2026-11-22T01:00:00+00:00", "wall_seconds": 72.41, "cpu_seconds": 130.2, "peak_memory_mib": 812.4, "python": "3.11.7",
        "platform": "Linux x86_64", "torch": "2.13.0", "cpu_capability": "AVX512", "threads": 2, "device": "cpu", "versions": {"numpy": "2.4.0", "pandas": "2.3.3"}, "status": "completed",
        "cells": {"completed": 4, "failed": 0, "pending": 0, "running": 0}, "run_id": "abcdef012345",
    }
    return made | changed


def write_notebook(name: str, profile: str, cells: list) -> Path:
    """Put an executed notebook where a run leaves it."""
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}})
    return paths.write_whole(paths.build(profile) / "notebooks" / f"{name}.ipynb", nbformat.writes(notebook))


def make_root(folder: Path) -> Path:
    """A study's root: ledger, notebook sources and parameters, one module and its test, a README."""
    files = {f"notebooks/{name}.py": PARAMETERS + HEADER_END + "1\n" for name in SOURCES}
    files |= {f"config/{profile}.yaml": "".join(f"{name}: {{seeds: [0, 1, 2]}}\n" for name in SOURCES) for profile in ("laptop", "full")}
    files |= {"README.md": f"# A study\n\n{guards.START}\n{guards.END}\n\nThe end.\n", "claims.yaml": LEDGER, "src/gencausal/diffusion.py": '"""A module."""\n', "tests/test_diffusion.py": '"""Its test."""\n', ".gitignore": "build/\n"}
    for name, content in files.items():
        paths.write_whole(folder / name, content)
    return folder


def run(profile: str) -> None:
    """Leave under build/<profile>/ what a run of four of the five notebooks leaves."""
    for name, cells in notebooks(profile).items():
        write_notebook(name, profile, cells)
        paths.write_whole(paths.build(profile) / "provenance" / f"{name}.json", json.dumps(record(name, profile)))
    claims.record(rows(profile), notebook="02a_score_distillation", profile=profile)
    claims.evaluate(profile)
