# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The claims and their verdicts
#
# **Question.** Which published claims hold at this profile, and by what rule?
#
# This notebook trains nothing. It reads the rows that the other notebooks recorded at this profile, judges each claim of the ledger by its
# rule, and shows what holds, what does not, and what was not run. The rules are typed out in `claims.yaml`:
#
# - *difference*: $\frac1U \sum_u (b_u - a_u)$ over the $U$ units that both methods share, where $a_u$ and $b_u$ are the means over seeds of the
#   error of the method and of the one it is compared with. It holds where the 95 % bootstrap interval over units lies above zero and the
#   relative gain is at least 5 %.
# - *ratio*: $\sum_u a_u / \sum_u b_u$. It holds where the whole interval lies within the bound; the bounds are ours, so a ratio without a
#   published value is at most *reproduced in direction*.
# - *value*: the mean over units beside a published number, within a tolerance.
#
# One unit or one seed is never enough for a claim to hold.

# %%
import pandas as pd

from gencausal import claims, figures

# %% tags=["parameters"]
profile = "smoke"  # study profile whose rows are read

# %% [markdown]
# ## What was recorded

# %%
rows = claims.read(profile)
figures.table(rows.groupby("experiment", as_index=False).agg(datasets=("dataset", "nunique"), units=("unit", "nunique"), methods=("method", "nunique"), metrics=("metric", "nunique"), seeds=("seed", "nunique"), rows=("value", "size")))

# %% [markdown]
# ## A case with a known answer
#
# Two methods whose errors differ by exactly 0.1 on every unit, over two seeds: the rule must give 0.1 with an interval of no width, and
# without a second seed it must not call the claim shown.

# %%
toy = pd.DataFrame([
    {"experiment": "iwdd.E0", "dataset": "acic2016", "unit": str(unit), "method": method, "metric": "pehe_normalised", "seed": seed, "value": level + unit / 10, "higher_is_better": False}
    for unit in range(4)
    for seed in range(2)
    for method, level in (("iwdd", 0.2), ("teacher", 0.3))
])
for seeds in (2, 1):
    made = claims.verdict(claims.find("iwdd.E0.teacher"), toy[toy["seed"] < seeds])
    print(f"{seeds} seeds: {claims.interval(made)}: {made.verdict}")

# %% [markdown]
# ## The ledger

# %%
judged = claims.evaluate(profile)
print(f"Verdicts at profile {profile}: {claims.counts(judged)}.")

# %%
ran = judged[judged["claim"].isin([c.key for c in claims.ledger() if c.runs])]
figures.table(ran[["claim", "verdict", "ours", "ci_low", "ci_high", "n_units", "n_seeds", "published", "statement"]])

# %% [markdown]
# Why each verdict is what it is, rule by rule:

# %%
parts = claims.parts(profile)
figures.table(parts[["claim", "kind", "ours", "ci_low", "ci_high", "verdict", "note"]])

# %%
figures.forest(
    parts[(parts["kind"] == "difference") & (parts["metric"] == "pehe_normalised")], reference=0, xlabel="normalised PEHE of the other method minus that of the first",
    alt="Forest plot of the claimed differences in normalised PEHE: our number, its interval where there is one, and a line at zero; the numbers are those of the table above.",
    caption="Claimed differences in normalised PEHE. Right of zero is the claimed side; hollow markers have no interval.",
)

# %%
figures.forest(
    parts[parts["claim"] == "iwdd.C5"], reference=1, bound=1.05, xlabel="ratio, one-step generator over teacher",
    alt="Forest plot of the error of the generator over that of its teacher: our number, its interval where there is one, and lines at one and at the bound 1.05; the numbers are those of the table above.",
    caption="Generator over teacher, normalised PEHE. Below one (dashed) the generator errs less than its teacher; dotted is the bound that the whole interval must keep to.",
)

# %% [markdown]
# ## What was not run
#
# These stand in the ledger so that nobody takes silence for success.

# %%
figures.table(pd.DataFrame([{"claim": c.key, "published": c.published, "status": c.published_status, "why not": c.reason, "statement": c.statement} for c in claims.ledger() if not c.runs]))

# %% [markdown]
# ## What holds, what does not
#
# A verdict speaks of the profile named above. At `smoke` size the models are hardly trained and there are few units, so its verdicts only
# show that the chain works; the published report is the `full` profile. The tables and the theorem of the paper are not available to us: where
# the ledger says *reproduced in direction*, our own comparison went the way the text claims, and no number of the paper was matched.
