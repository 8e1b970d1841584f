# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Why does the iteration end, and what does the network need?
#
# **Question.** Cond-FiP gives data from noise by iterating $z^{\ell+1} = T(z^\ell) + n$ (`Eq. fixed-point`). Reviewers asked whether that converges under conditioning, and a public rebuttal answers with a contraction. Neither contraction nor convergence is needed: this notebook shows it on trained networks and on random ones
# (`condfip.E5`), shows what does grow with depth, and then takes the network apart (`condfip.E4`), its training mix (`condfip.E14`) and its training's length (`condfip.E16`).
#
# **The argument.** In every block, queries start from the data set alone, keys and values of node $j$ read $z_j$ alone, and the mask holds parents only. So $T(z)_j$ depends on $z$ through the parents of $j$, for any weights (`Eq. triangular`). By induction on depth, after $\ell$ steps every node of depth below $\ell$ has its final value, whatever
# $z^0$: with $L$ edges on the longest path,
#
# $$z^{L+1} = z^{L+2} \quad \text{for every start and every weight}$$
#
# (`Eq. termination`). The fixed point is unique, and a node needs to be computed only once, after its parents (`Eq. levels`).

# %%
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from gencausal import amortised, claims, figures, paths
from gencausal.estimators.outcomes import resolve_device
from gencausal.experiments import scm_fixed_point, scm_tables, scm_training

# %% tags=["parameters"]
profile = "smoke"  # study profile: smoke, laptop, full or paper
network = "published"  # published weights, or a preset to train: tiny, cpu, study, paper
seeds = [0]  # trainings of the network
models = 2  # causal models a cell
nodes = 10  # nodes of the cells of the fixed point
context = 100  # their context rows
ablation = "tiny"  # preset whose networks are varied
ablation_seeds = [0]  # trainings of each variant
ablation_steps = 4  # steps of each
ablation_nodes = 5  # nodes of its models, in training and test
ablation_rows = 50  # context rows, in training and test
ablation_models = 2  # test models a cell
device = "auto"  # auto, cpu, cuda or mps

# %%
place = resolve_device(device)
folder = paths.build(profile) / "checkpoints"
results = claims.open_results(notebook="05b_fixed_point", profile=profile)
trained = scm_training.pretrained(network, seeds, folder, place)
first = trained[seeds[0]][0]
untrained = replace(amortised.PRESETS["cpu"], half=False)
random = amortised.make(untrained, 0).requires_grad_(False)
cell = scm_tables.main_cells(("rff_in",), ((nodes, context),), models)[0]

# %% [markdown]
# ## It ends: `condfip.E5`
#
# For each model: the largest entry of the Jacobian of $T$ outside the graph; the change in the step after $L + 1$; and the distance between the ends of iterations that start from the noise, from zero and from a thousand times a standard normal. All are zero, not small, for the trained network and for one with random weights.

# %%
for seed, (model, _) in trained.items():
    results.record(scm_fixed_point.exact_rows(model, cell, "condfip", seed))
    results.record(scm_fixed_point.exact_rows(amortised.make(untrained, seed).requires_grad_(False), cell, "condfip_random_weights", seed))
e5 = results.rows[results.rows["experiment"] == "condfip.E5"]
figures.table(e5.groupby(["method", "metric"])["value"].agg(["max", "size"]).reset_index().rename(columns={"max": "largest", "size": "models and trainings"}))

# %%
results.claim("condfip.E5")

# %% [markdown]
# Steps until nothing changes any more, beside the edges of the longest path: one more than these, from far away; from the noise sometimes fewer, where a path carries nothing.

# %%
ends = pd.DataFrame(scm_fixed_point.termination(first, cell))
figures.table(ends.groupby(["longest_path", "start"])["steps"].agg(["min", "max", "size"]).reset_index().rename(columns={"longest_path": "edges of the longest path", "min": "fewest steps", "max": "most", "size": "models"}))

# %% [markdown]
# **The counter-examples.** The structure does it, not the size of the slopes: let each node attend to itself as well, or to all nodes, and no number of steps is known to be enough: changes shrink as the slopes have it, if they do, down to rounding.

# %%
changes = {name: scm_fixed_point.counter_examples(model, cell, 25) for name, model in (("trained", first), ("random", random))}
fig, panels = figures.new(height=3.2, columns=2, sharey=True)
for axis, (name, found) in zip(panels, changes.items()):
    for level, (kind, values) in enumerate(found.items()):
        shown = np.where(values > 0, values, np.nan)
        axis.semilogy(np.arange(1, len(values) + 1), shown, marker="os^"[level], markersize=3, color=figures.PALETTE[level], label=kind)
    axis.set_title(f"{name} weights", fontsize=9)
    axis.set_xlabel("step")
panels[0].set_ylabel("largest change")
fig.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=3, loc="outside lower center")
last = {name: {kind: int((values > 0).sum()) for kind, values in found.items()} for name, found in changes.items()}
figures.show(fig, alt="Largest change in each step: with the graph it is zero after " + " and ".join(f"{counts['graph']} steps ({name} weights)" for name, counts in last.items()) + "; with a diagonal or no mask some change is left in " + " and ".join(f"{max(counts[kind] for kind in counts if kind != 'graph')} of 25 ({name} weights)" for name, counts in last.items()) + ".", caption="A step without a change has no mark. The graph's lines end; with a diagonal added or without a mask changes shrink or grow as the slopes have it.")

# %% [markdown]
# **What may grow is error.** With depth the mechanism's own error, at true parents, may change, and what is inherited from generated parents is added to it. The map from noise to data has slope $(I - J)^{-1}$ (`Eq. propagation`), so its largest singular value says by how much an error of the mechanisms can grow on its way.

# %%
depth = scm_fixed_point.error_by_depth(first, cell)
growth = scm_fixed_point.propagation(first, cell)
fig, axes = figures.new(height=2.8)
for level, (name, place_) in enumerate((("true parents", 0), ("generated parents", 1))):
    at, intervals = zip(*((k + 0.08 * level, scm_tables.mean_interval(values[place_], f"depth {k}")) for k, values in depth.items()))
    mean = np.array([i.mean for i in intervals])
    axes.errorbar(at, mean, yerr=[mean - [i.low for i in intervals], [i.high for i in intervals] - mean], marker="os"[level], color=figures.PALETTE[level], capsize=2, label=name)
axes.set_xlabel("depth of the node (edges of the longest path to it)")
axes.set_ylabel("mean absolute error, sd")
axes.set_xticks(list(depth))
axes.legend(frameon=False)
deepest = max(depth)
figures.show(fig, alt=f"Mean absolute error by depth: with true parents {depth[0][0].mean():.2g} at roots and {depth[deepest][0].mean():.2g} at depth {deepest}, with generated parents {depth[deepest][1].mean():.2g} there.", caption=f"First training, means over those of {models} nonlinear models that have nodes so deep ({len(depth[deepest][0])} at the deepest), 95 % bootstrap intervals over models (none for one). Largest singular value of the map from noise to data: median {np.median(growth):.2g}, largest {growth.max():.2g}.")

# %% [markdown]
# ## What the network needs: `condfip.E4`
#
# **Design.** Small networks of the same preset, each trained for the same number of steps on models of one size, with one change: no adaptive norms (codes alone), the condition added to the input, adaptive norms without gates (`film`), mean for maximum over rows, softmax over the parents for DAG-attention (a root gets nothing from either; the error at roots
# stands apart), a start of its own for the query stream, `apart` (the decoder reads the encoder but sends it no gradient, near to the paper's two stages) and squared loss. `recall`, ours, lets a query look up the context rows again (`Eq. recall`), where the paper squeezes all that is known of a mechanism into one pooled vector.
# It has more weights and takes longer than the default in as many steps. The budget is small: this tells what helps early, not what would help at the end.

# %%
base = scm_training.small(ablation, ablation_steps, ablation_nodes, ablation_rows)
cells = scm_tables.main_cells(("lin_in", "rff_in"), ((ablation_nodes, ablation_rows),), ablation_models)
results.record(scm_training.variant_rows("condfip.E4", scm_training.CONDITIONING, base, cells, tuple(ablation_seeds), folder))
e4 = results.rows[results.rows["experiment"] == "condfip.E4"]
names = [f"condfip_{name}" for name in scm_training.CONDITIONING]
figures.table(pd.DataFrame([{"method": name} | {f"{metric}, {c.name[:3]}": scm_tables.spread(e4, c.name, name, metric).mean for metric in ("rmse_noise", "rmse_generation", "rmse_noise_roots") for c in cells} | {f"encoder's noise, {c.name[:3]}": scm_tables.spread(e4, c.name, f"{name}_encoder", "rmse_noise").mean for c in cells} for name in names]))

# %% [markdown]
# Paired differences to the default (variant minus default, below zero where the variant is better; 95 % bootstrap over models, trainings averaged first: the interval does not hold what another training would change, which the table below shows).

# %%
gaps = pd.DataFrame([scm_tables.paired(e4, c.name, "rmse_noise", name, "condfip_default") for c in cells for name in names[1:]])
fig, panels = figures.new(height=3.4, columns=len(cells), sharey=True)
for axis, c in zip(panels, cells):
    part = gaps[gaps["dataset"] == c.name]
    axis.axvline(0, color="0.4", linewidth=1, linestyle="--")
    axis.errorbar(part["difference"], range(len(part)), xerr=[part["difference"] - part["low"], part["high"] - part["difference"]], fmt="o", color=figures.PALETTE[0], capsize=2)
    axis.set_yticks(range(len(part)), [name.removeprefix("condfip_") for name in part["a"]], fontsize=8)
    axis.set_title(c.name, fontsize=9)
    axis.xaxis.set_major_locator(MaxNLocator(3))
panels[0].invert_yaxis()
fig.supxlabel("noise error minus the default's, sd", fontsize=9)
figures.show(fig, alt="Difference of noise error to the default by variant: " + "; ".join(f"{row.a.removeprefix('condfip_')} {row.difference:+.2g} on {row.dataset}" for row in gaps.itertuples()) + ".", caption=f"{ablation_models} models a cell, {len(ablation_seeds)} trainings of {ablation_steps} steps each. Right of the line: worse than the default.")

# %% [markdown]
# The same differences training by training: how many of them are below zero.

# %%
each = [{"variant": name.removeprefix("condfip_"), "data set": c.name, "seed": seed, "difference": scm_tables.paired(e4[e4["seed"] == seed], c.name, "rmse_noise", name, "condfip_default")["difference"]} for c in cells for name in names[1:] for seed in ablation_seeds]
by = pd.DataFrame(each).groupby(["variant", "data set"], sort=False)["difference"]
figures.table(pd.DataFrame({"least": by.min(), "largest": by.max(), "below zero": by.apply(lambda gaps: int((gaps < 0).sum())), "trainings": by.size()}).reset_index())

# %%
results.claim("condfip.E4.attention")

# %%
results.claim("condfip.E4.recall")

# %% [markdown]
# ## What it must have seen: `condfip.E14`
#
# The paper's ablation of the training mix: linear alone, nonlinear alone, or both, here for encoder and decoder together. Its encoder that saw linear models only is about twice as bad on nonlinear ones.

# %%
mixes = scm_training.MIXES[1:]
results.record(scm_training.variant_rows("condfip.E14", scm_training.MIXES, base, cells, tuple(ablation_seeds), folder))
e14 = results.rows[results.rows["experiment"] == "condfip.E14"]
figures.table(pd.DataFrame([{"trained on": {"default": "both", "lin_only": "linear", "rff_only": "nonlinear"}[name]} | {f"{label}, {c.name[:3]}": scm_tables.spread(e14, c.name, f"condfip_{name}{head}", metric).mean for label, head, metric in (("encoder's noise", "_encoder", "rmse_noise"), ("noise", "", "rmse_noise"), ("generation", "", "rmse_generation")) for c in cells} for name in scm_training.MIXES]))

# %%
results.claim("condfip.C8.linear")

# %%
results.claim("condfip.C8.both")

# %% [markdown]
# ## How long it must learn: `condfip.E16`
#
# Held-out noise error against causal models seen, from the log of the training of the published network. The learning rate falls along a cosine, so the last part of a curve is steeper than a longer training's would be there. A training that starts from the weights of another, as the published networks' second ones did, begins at the full rate again: the hump halfway.

# %%
curves = {seed: scm_training.scale_curve(meta) for seed, (_, meta) in trained.items()}
fig, panels = figures.new(height=3.2, columns=2, sharey=True)
for axis, head in zip(panels, ("encoder", "decoder")):
    for level, family in enumerate(("lin_in", "rff_in")):
        for seed, curve in curves.items():
            part = curve[(curve["head"] == head) & (curve["family"] == family) & (curve["scms"] > 0)]
            axis.loglog(part["scms"], part["rmse_noise"], color=figures.PALETTE[level], linestyle=("-", "--", ":")[list(curves).index(seed) % 3], label=f"{family}, training {seed}")
    axis.set_title(head, fontsize=9)
    axis.set_xlabel("causal models seen")
panels[0].set_ylabel("held-out noise error, sd")
fig.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=7, ncols=2, loc="outside lower center")
ends = {family: [curve[(curve["head"] == "encoder") & (curve["family"] == family)]["rmse_noise"].iloc[-1] for curve in curves.values()] for family in ("lin_in", "rff_in")}
figures.show(fig, alt="Held-out noise error against causal models seen; at the end the encoder's is " + " and ".join(f"{np.mean(values):.2g} on {family}" for family, values in ends.items()) + ".", caption="24 validation models a family, 10 nodes, 100 context rows.")

# %% [markdown]
# ## What this can say
#
# The argument needs the graph to have no cycle and nothing else: it holds for every weight, so it says nothing about whether $T$ is right. Errors travel down the graph, which is why generation is harder than noise and deep graphs are harder than shallow ones. The ablations are short trainings of small networks on small models.

# %%
results.save()
