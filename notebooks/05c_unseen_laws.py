# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Do its laws hold where nobody trained it?
#
# **Question.** A referee wrote down what would settle the claim of Cond-FiP: on families of causal models outside of the training, are its interventional *laws* further from the truth, in total variation, than those of a model fitted to each data set (`condfip.E6`)? Here that is measured with exact densities. Then other graphs
# (`condfip.E7`), wrong graphs (`condfip.E8`), mechanisms and noise of other sizes (`condfip.E9`), real proteins and genes (`condfip.E11`), the equations of CSuite (`condfip.E12`), and what the choices hidden in the protocol are worth (`condfip.E15`).

# %%
import numpy as np
import pandas as pd

from gencausal import claims, figures, paths
from gencausal.data import regulatory
from gencausal.estimators.outcomes import resolve_device
from gencausal.experiments import scm_calibration, scm_laws, scm_methods, scm_published, scm_tables, scm_training
from gencausal.scm_models.fip import FiPConfig

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
network = "published"  # published weights, or a preset to train: tiny, cpu, study, paper
seeds = [0]  # trainings of the network
models = 2  # causal models a cell
nodes = 10  # nodes of a model
context = 100  # context rows
law_contexts = [100]  # context rows of the laws
fip_rounds = 10  # passes of the transformer that is fitted to each data set
graph_errors = [2]  # edges turned, added or deleted
fip_errors = [2]  # at which the transformer is fitted too, edges turned alone
severities = [1.0, 5.0]  # mechanisms or noise so many times as large
real = []  # of sachs, ecoli70, regulatory_graphs; they need the mirror or the web
real_context = 100  # context rows of the real tables
splits = 2  # random halves of a real table
permutations = 19  # behind every p
csuite_context = 100  # context rows of CSuite's equations
mixtures = False  # CSuite with mixtures for noise too
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
results = claims.open_results(notebook="05c_unseen_laws", profile=profile)
trained = scm_training.pretrained(network, seeds, paths.build(profile) / "checkpoints", place)
networks = {seed: model for seed, (model, _) in trained.items()}
fip = FiPConfig(rounds=fip_rounds, folder=paths.build(profile) / "checkpoints", device=place)
present = [name for name in real if scm_laws.available(name)]
print(f"not to be had here: {', '.join(name for name in real if name not in present) or 'none'}")

# %% [markdown]
# ## A case whose answer is known
#
# Two normal laws whose means differ by one standard deviation have a total variation of $2 \Phi(1/2) - 1$ (`Eq. tv`). And were a cell's mechanisms known, what is left of the total variation of its interventional laws would be that of the noise alone, which has to be fitted: the best that can be had below. Without any
# mechanism the joint law is nearly as far as can be; node by node, and more so in the marginals, there is less to lose.

# %%
held_out = [cell for n in law_contexts for cell in scm_tables.main_cells(("lin_out", "rff_out"), ((nodes, n),), models)]
rng = np.random.default_rng(0)
x = rng.normal(size=100_000)
print(f"two normal laws: {scm_laws.scm_metrics.total_variation(-x**2 / 2, -((x - 1) ** 2) / 2):.3g} by 100,000 draws, {scm_laws.gaussian_gap(1.0):.3g} exactly")
figures.table(pd.DataFrame([{"cell": cell.name, "mechanisms": name} | {metric: values.mean() for metric, values in scm_laws.variation(fitted, cell).items()} for cell in held_out for name, fitted in (("true", scm_methods.truth(cell)), ("none", scm_methods.fit("zero_mechanism", cell)))]))

# %% [markdown]
# ## What would settle it: `condfip.E6`
#
# **Design.** Families that the network has not seen: other graphs, Laplace noise, other ranges. Every method fits the scale of that noise to its own residuals on the context. Both laws are then known (`Eq. anm-density`), and the total variation is taken over the rows of $d$ interventions a model: jointly over all nodes (it saturates with $d$), node by
# node given true parents, `tv_node`, and of marginals by histograms of fresh draws, `tv_marginal`, where 100 rows an intervention leave little room between the two lines above. The noise of a method is fitted to its residuals on the context; whatever was fitted to these rows has residuals that are somewhat too small. **Rule** (the referee's): the claim falls if the amortised network is further from the truth than what is retrained.

# %%
laws = ("condfip", "fip", "ols", "kernel_ridge")
results.record(scm_methods.over_seeds(networks, laws, lambda some, model, seed: scm_laws.variation_rows(held_out, some, model, seed, fip)))
e6 = results.rows[results.rows["experiment"] == "condfip.E6"]
figures.table(e6[e6["metric"] != "seconds"].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
figures.table(pd.DataFrame([scm_tables.paired(e6, cell.name, "tv_node", "condfip", b) for cell in held_out for b in laws[1:]]))

# %%
fig, panels = figures.new(height=3.2, columns=2, sharey=True)
for axis, family in zip(panels, ("lin_out", "rff_out")):
    for level, name in enumerate(laws):
        intervals = [scm_tables.spread(e6, f"{family}_d{nodes}_n{n}", name, "tv_node") for n in law_contexts]
        mean = np.array([i.mean for i in intervals])
        axis.errorbar(np.arange(len(law_contexts)) + 0.08 * level, mean, yerr=[mean - [i.low for i in intervals], [i.high for i in intervals] - mean], fmt="os^v"[level], color=figures.PALETTE[level], capsize=2, label=name)
    axis.set_xticks(range(len(law_contexts)), law_contexts)
    axis.set_title(family, fontsize=9)
    axis.set_xlabel("context rows")
panels[0].set_ylabel("total variation, node by node")
fig.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=4, loc="outside lower center")
figures.show(fig, alt="Total variation of interventional laws from the truth: " + "; ".join(f"{family} with {n} rows " + ", ".join(f"{name} {scm_tables.spread(e6, f'{family}_d{nodes}_n{n}', name, 'tv_node').mean:.2g}" for name in laws) for family in ("lin_out", "rff_out") for n in law_contexts) + ".", caption=f"Means over {models} models and 95 % bootstrap intervals over models; lower is better.")

# %%
results.claim("condfip.C2.law")

# %%
results.claim("condfip.C2.law.simple")

# %% [markdown]
# ## Graphs of another kind: `condfip.E7`
#
# Random mechanisms on neighbourhoods of the regulatory network of E. coli, loops and cycles broken, beside the random graphs of the training. (Held-out ranges and noise: notebook 05a; mechanisms never seen: notebook 05b.)

# %%
if "regulatory_graphs" in present:
    wild = [scm_tables.main_cells(("rff_in",), ((nodes, context),), models)[0], scm_tables.regulatory_cell("rff_in", regulatory.edges("ecoli"), nodes, context, models)]
    results.record(scm_methods.over_seeds(networks, ("condfip", "condfip_encoder", "ols", "kernel_ridge", "zero_mechanism"), lambda some, model, seed: scm_methods.table("condfip.E7", wild, some, model, seed)))
    figures.table(scm_calibration.protocol_table(wild))
    e7 = results.rows[results.rows["experiment"] == "condfip.E7"]
    figures.table(e7[e7["metric"].str.startswith("rmse")].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())
else:
    print("The regulatory networks are not to be had here; nothing is claimed of them.")

# %%
results.claim("condfip.C2.graphs")

# %% [markdown]
# ## The graph is wrong: `condfip.E8`
#
# **Design.** Some edges of every graph are turned, added or deleted at random (the graph stays acyclic), all methods get the same wrong graph, and are scored on the true data. The paper infers graphs with a pretrained network that is not available to us and finds that the graph's error dominates, whatever is fitted.

# %%
base = scm_tables.main_cells(("rff_in",), ((nodes, context),), models)
some_methods = ("condfip", "condfip_encoder", "ols", "kernel_ridge")
results.record(scm_methods.over_seeds(networks, some_methods, lambda some, model, seed: [row | {"experiment": "condfip.E8"} for row in scm_methods.table("condfip.E8", base, some, model, seed)]))
results.record(scm_methods.over_seeds(networks, some_methods, lambda some, model, seed: scm_tables.wrong_graph_rows(base, some, model, edges=tuple(graph_errors), seed=seed)))
results.record(scm_tables.wrong_graph_rows(base, ("fip",), networks[seeds[0]], ("flip",), tuple(fip_errors), fip=fip))
e8 = results.rows[results.rows["experiment"] == "condfip.E8"]
figures.table(e8[e8["metric"].str.startswith("rmse")].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("condfip.C6")

# %% [markdown]
# ## Larger mechanisms, larger noise: `condfip.E9`
#
# **Design.** The nonlinear held-out family with its mechanisms, or its noise, so many times as large. The models are the same at every size, up to that factor, and everything is standardised afterwards. The paper's error stays flat for mechanisms (0.10 to 0.18 over all sizes) and grows with noise.

# %%
shifts = {what: scm_tables.shifted_cells(("rff_out",), what, tuple(severities), nodes, context, models) for what in ("mechanism", "noise")}
results.record(scm_methods.over_seeds(networks, ("condfip", "condfip_encoder", "kernel_ridge", "zero_mechanism"), lambda some, model, seed: [row for cells in shifts.values() for row in scm_methods.table("condfip.E9", cells, some, model, seed, interventions=False)]))
e9 = results.rows[results.rows["experiment"] == "condfip.E9"]
fig, panels = figures.new(height=3.2, columns=2, sharey=True)
for axis, (what, cells) in zip(panels, shifts.items()):
    for level, name in enumerate(("condfip_encoder", "condfip", "kernel_ridge", "zero_mechanism")):
        intervals = [scm_tables.spread(e9, cell.name, name, "rmse_noise") for cell in cells]
        mean = np.array([i.mean for i in intervals])
        axis.errorbar(severities, mean, yerr=[mean - [i.low for i in intervals], [i.high for i in intervals] - mean], marker="os^v"[level], color=figures.PALETTE[level], capsize=2, label=name)
    if what == "noise" and nodes in scm_published.SHIFT and severities == [1.0, 2.0, 5.0, 10.0]:
        axis.plot(severities, scm_published.SHIFT[nodes], "k--", linewidth=1, label="the paper's, 400 rows")
    axis.set_xscale("log")
    axis.set_xticks(severities, [f"{value:g}" for value in severities])
    axis.minorticks_off()
    axis.set_title(f"{what} larger by", fontsize=9)
panels[0].set_ylabel("noise error, sd")
fig.legend(*panels[1].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=3, loc="outside lower center")
figures.show(fig, alt="Noise error against severity: " + "; ".join(f"{what} {severities[-1]:g} times as large condfip_encoder {scm_tables.spread(e9, cells[-1].name, 'condfip_encoder', 'rmse_noise').mean:.2g}, kernel ridge {scm_tables.spread(e9, cells[-1].name, 'kernel_ridge', 'rmse_noise').mean:.2g}" for what, cells in shifts.items()) + ".", caption=f"Means over {models} models and 95 % bootstrap intervals. Larger noise hides the mechanism, so that the share of a node's variance that is noise, and F = 0 with it, changes too.")

# %%
results.claim("condfip.C5.mechanism")

# %%
results.claim("condfip.C5.noise")

# %% [markdown]
# ## Real tables: `condfip.E11`
#
# **Design.** 853 observational rows of eleven proteins (Sachs and others, 2005), with each of two reference graphs that differ in four edges, raw and as $\ln(x + 10)$. A method learns from one random half, five times anew (so an interval is over splits of one table, not over samples), and draws fresh rows, with Gaussian noise fitted to its residuals; they are compared with the other half by $\mathrm{MMD}^2$ (`Eq. mmd`): unbiased with a
# permutation $p$, and biased with a narrow kernel, which seems to be what the paper prints, since its floor of 0.005 is just that of two halves, $2/n$. `context` is the other half itself. ECOLI70 is a fitted linear network of 46 genes, so that here the truth is known, total variation too (`Eq. anm-density`, ten interventions a table), and least squares has the right form; the transformer is not fitted to it.

# %%
some_methods = ("condfip", "fip", "ols", "kernel_ridge", "zero_mechanism")
if "sachs" in present:
    tables = scm_laws.sachs_cells(real_context, splits)
    results.record(scm_methods.over_seeds(networks, some_methods, lambda some, model, seed: [row for name, cells in tables.items() for row in scm_laws.mmd_rows(name, cells, some, model, seed, fip, permutations) if row["method"] != "context" or seed == seeds[0]]))
if "ecoli70" in present:
    genes = scm_laws.ecoli_cells(real_context, splits)
    plain = tuple(name for name in some_methods if name != "fip")
    results.record(scm_methods.over_seeds(networks, plain, lambda some, model, seed: [row for row in scm_laws.mmd_rows("ecoli70", genes, some, model, seed, fip, permutations) if row["method"] != "context" or seed == seeds[0]]))
    results.record(scm_methods.over_seeds(networks, plain, lambda some, model, seed: scm_laws.gene_rows(genes, some, model, seed)))
e11 = results.rows[results.rows["experiment"] == "condfip.E11"]
if len(e11):
    figures.table(e11.groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())
    print("The paper's MMD on Sachs: " + ", ".join(f"{name} {value:g}" for name, value in scm_published.SACHS.items()) + " (which graph, scale and kernel is not said).")
else:
    print("Neither table is to be had here; what is claimed of them is not run.")

# %%
results.claim("condfip.C7.sachs")

# %% [markdown]
# ## CSuite, and noise of two humps: `condfip.E12`
#
# **Design.** The seven generators of CSuite by their equations, noise taken as $X - F$ of the parents (the public code records another variable, against which an error means nothing), and two of them with six Gaussian mixtures for noise. Each is one causal model, so intervals are over the models of the suite. The paper shows figures only and calls itself competitive.

# %%
suite = scm_tables.csuite_cells(csuite_context, mixtures)
some_methods = ("condfip", "condfip_encoder", "fip", "ols", "kernel_ridge", "zero_mechanism")
for cell in suite:
    group = "csuite_gmm" if "_gmm" in cell.name else "csuite"
    results.record(scm_methods.over_seeds(networks, some_methods, lambda some, model, seed, cell=cell, group=group: [row for row in scm_tables.pooled(scm_methods.table("condfip.E12", [cell], some, model, seed, fip), group) if row["metric"] != "seconds"]))
e12 = results.rows[results.rows["experiment"] == "condfip.E12"]
figures.table(e12[e12["metric"] == "rmse_noise"].pivot_table(index=["dataset", "unit"], columns="method", values="value", sort=False).reset_index())
figures.table(e12.groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
results.claim("condfip.C7.csuite")

# %%
results.claim("condfip.C7.mixtures")

# %% [markdown]
# ## What the protocol's hidden choices are worth: `condfip.E15`
#
# Scaling by the context alone (`_scaled_on_context`) instead of by context and query; all nodes sharing one set of random features (`_shared`), as in the public generator; noise from the encoder with all query rows as its context at once (`condfip_encoder_all`) instead of batches as large as the context; and interventions for which the network reads the factual rows of
# the intervention's own test set in place of the context (`condfip_factual_rows`), as the public code does. The last would explain why the paper's interventional error hardly moves when its context shrinks. To tell which rows from how many: as many of them as the context has (`condfip_factual_few`), and as many fresh ones as the intervention has (`condfip_fresh_rows`).

# %%
results.record(scm_methods.over_seeds(networks, ("condfip", "condfip_encoder", "ols", "kernel_ridge"), lambda some, model, seed: scm_tables.fork_rows("rff_in", nodes, min(law_contexts), models, some, model, seed)))
e15 = results.rows[results.rows["experiment"] == "condfip.E15"]
figures.table(e15[e15["metric"].str.startswith("rmse")].groupby(["dataset", "method", "metric"], sort=False)["value"].mean().unstack("metric").reset_index())

# %%
name = f"rff_in_d{nodes}_n{min(law_contexts)}"
figures.table(pd.DataFrame([*(scm_tables.paired(e15, name, "rmse_intervention", a, b) for a, b in (("condfip_factual_rows", "condfip"), ("condfip_factual_few", "condfip"), ("condfip_fresh_rows", "condfip"), ("condfip_factual_rows", "condfip_fresh_rows"))), scm_tables.paired(e15, name, "rmse_noise", "condfip_encoder_all", "condfip_encoder")]))

# %%
results.claim("condfip.E15.factual")

# %%
results.claim("condfip.E15.same")

# %% [markdown]
# ## What this can say
#
# Total variation asks more than a point error: a law is as wrong as its noise is. Both sides here have additive noise of a known shape, so it is the mechanisms and one scale a node that are compared. Real tables have no known mechanisms, and a good MMD needs no causality: a method that ignored the graph but copied the
# table would have the best. An inferred graph is stood in for by random errors. Not run: the transformer with edges added or deleted, graphs with cycles.

# %%
results.save()
