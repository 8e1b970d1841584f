# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What is claimed, and how to read the rest
#
# **Question.** Which claims does the study put to the test, on which data, and how is a verdict reached?
#
# This study re-runs published systems of generative causal inference from their formulas. Every published claim is listed; those that
# were run carry our number, its interval, the number of units and seeds, and a verdict, and the rest are marked *not run*. Four systems: *importance-weighted diffusion distillation* (IWDD, arXiv 2505.11444v1), *diffusion counterfactuals* (arXiv 2407.20553v1: images sampled under the guidance of a learned
# causal model), *variational causal inference* (VCI, arXiv 2410.12730v3: individual counterfactuals of cells and images) and *conditional fixed-point inference* (Cond-FiP, arXiv 2410.06128v3: one network that
# infers the mechanisms of any causal model from its data and graph). This page describes the first one's data; the notebooks of the others open with theirs. In IWDD a diffusion model
# learns the law $p(y \mid x, z)$ of an outcome $y$ given covariates $x$ and a binary treatment $z$ from observational data, and a
# one-step generator $y = G(\varepsilon; x, z)$ is distilled from it under a law in which $x$ and $z$ are independent, as in a trial.
#
# The quantity of interest is the effect of the treatment for a unit with covariates $x$,
#
# $$\tau(x) = \mathbb{E}[Y(1) - Y(0) \mid x] = \mu_1(x) - \mu_0(x),$$
#
# which no data set of observed outcomes shows directly: each unit is seen under one treatment only. The benchmarks below are
# semi-synthetic, so that $\mu_0$ and $\mu_1$ are known, and an estimate can be scored.

# %%
import pandas as pd

from gencausal import claims, figures
from gencausal.data import acic, synthetic

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
settings = [1, 2, 3]  # settings of ACIC 2016 to describe

# %% [markdown]
# ## What is claimed
#
# The ledger `claims.yaml` holds every claim we could read, with its source. The tables and the theorem of the paper are not available
# to us, so a claim is judged by what its text says, and by a criterion that we state ourselves.

# %%
ledger = pd.DataFrame([{"claim": c.key, "statement": c.statement, "source": c.source, "judged by": c.experiment if c.runs else c.reason} for c in claims.ledger()])
figures.table(ledger[ledger["claim"].str.fullmatch(r"iwdd\.C\d")])

# %% [markdown]
# Beside these, the ledger lists numbers that third parties report: labels of Figure 3, wins of a competing method, and a public log of
# the released code. How certain is a published value?

# %%
figures.table(pd.DataFrame([{"published value": c.published_status, "claim": c.key} for c in claims.ledger()]).groupby("published value").size().rename("claims").reset_index())

# %% [markdown]
# ## The data
#
# **ACIC 2016**: 4,802 real births with 58 covariates, on which treatment and outcomes were simulated, one law a *setting*. The first
# 80 % of the rows train, the rest test. The noise is Gaussian; its standard deviation is measured below.
#
# A difference of arm means compares unlike groups. If the treatment were assigned at random it would equal the average effect
# $\mathbb{E}[\tau(x)]$ up to noise; the distance between the two is confounding bias, which a method has to remove, plus sampling noise.
# Where the sd of the effect is 0, everyone has the same effect and there is no heterogeneity to find.

# %%
tables = [acic.load(setting) for setting in settings]
facts = pd.DataFrame([
    {
        "setting": data.unit,
        "units": len(data.y),
        "train": len(data.train),
        "test": len(data.test),
        "treated share": data.t.mean(),
        "average effect": (data.mu[:, 1] - data.mu[:, 0]).mean(),
        "sd of effect": (data.mu[:, 1] - data.mu[:, 0]).std(),
        "difference of arm means": data.y[data.t == 1].mean() - data.y[data.t == 0].mean(),
        "sd of noise": (data.potential - data.mu).std(),
    }
    for data in tables
])
figures.table(facts)

# %%
fig, axes = figures.new(height=1.6 + 0.22 * len(facts))
axes.errorbar(facts["average effect"], facts.index, xerr=facts["sd of effect"], fmt="o", color=figures.PALETTE[0], label="true effect: mean, sd over units")
axes.plot(facts["difference of arm means"], facts.index, "D", color=figures.PALETTE[1], label="difference of arm means")
axes.set_yticks(facts.index, facts["setting"])
axes.invert_yaxis()
axes.set_xlabel("effect on the outcome")
axes.set_ylabel("ACIC setting")
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
figures.show(
    fig,
    alt=f"For ACIC settings {', '.join(facts['setting'])}: the true average effect with the spread of effects over units, and beside it the difference of arm means, which is off by up to {(facts['difference of arm means'] - facts['average effect']).abs().max():.2g}.",
    caption="True effects of ACIC 2016 and what a plain comparison of the arms would report. Bars: plus and minus one sd over units, not an interval.",
)

# %% [markdown]
# **A design with a dial for overlap.** In one dimension, $x \sim N(0, 1)$, $e(x) = P(z = 1 \mid x) = \operatorname{sigmoid}(-k(x + 1))$ and
# $Y(z) = \sin(2x) + z\,e^{x} + \varepsilon$, $\operatorname{Var}\varepsilon = 0.01$. The paper's own design is $k = \infty$: the treatment is a function of $x$, and the effect is not
# identified anywhere. The root mean square of the effect is $e = 2.718\ldots$ at every $k$, a known answer: its estimate
# from 10,000 draws has a standard error of about 0.1. The three designs share their $x$, so this is one check and not three.

# %%
designs = [synthetic.load(seed=0, k=k) for k in (0.5, 2.0, float("inf"))]
figures.table(pd.DataFrame([
    {"k": d.unit.removeprefix("k="), "treated share in train": d.t[d.train].mean(), "smallest e(x)": d.propensity.min(), "RMS of effect": ((d.mu[:, 1] - d.mu[:, 0]) ** 2).mean() ** 0.5}
    for d in designs
]))

# %% [markdown]
# ## How to read the rest
#
# - `01_diffusion_pretraining` trains the diffusion model of the observed outcomes, `02a_score_distillation` takes the one-step generator's mechanism apart,
#   `02b_treatment_effects` puts it beside every other method, `02d_stress_tests` leaves its assumptions, `02c_your_data` reads a table of yours.
#   `01b_image_diffusion` trains the image models, `03a_counterfactual_images` guides them, `03b_image_benchmark` and `03c_image_trust` ask what can be relied on.
#   `04a_variational_causal_inference` takes VCI apart where counterfactuals are known, `04b_unseen_cells` predicts groups of cells never seen treated, `04c_variational_digits` draws digits.
#   `05a_cond_fip` asks whether one network infers any causal model, `05b_fixed_point` why its iteration ends and what its parts do, `05c_unseen_laws` what it does away from its training.
#   `06_claims` puts our numbers beside the published ones. Each opens with its question and ends with what holds and what does not.
# - Errors of effects are *normalised PEHE*: $\sqrt{\tfrac1n \sum_i (\hat\tau(x_i) - \tau(x_i))^2}$ divided by the standard deviation of the
#   pooled $\mu_0(x_i), \mu_1(x_i)$ over all rows. Lower is better; out of sample unless said otherwise.
# - Every comparison is paired over units (settings), seeds averaged first, with a 95 % bootstrap interval over units. It is a difference,
#   judged against zero, or a ratio, judged against a bound that the ledger states.
# - A verdict is one of: **reproduced** (within its tolerance), **reproduced in direction** (the whole interval lies on the claimed
#   side, and no published number is there to match), **partial** (holds in a stated range, or by one of several rules, only), **not shown** (the
#   interval covers zero or crosses the bound, or there is only one unit or one seed), **refuted** (the whole interval lies on the other
#   side), **not run**.
# - A report shows one profile: `smoke` (a few minutes), `laptop`, `full` (what the study publishes) or `paper` (a GPU). Fewer units and
#   seeds usually make wider intervals.
