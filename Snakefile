# The graph of the study. Every rule is one call of the runner, which works without Snakemake too:
#     snakemake --profile profiles/local --cores 2 --config profile=laptop
# Outputs live in build/<profile>/ alone; `gencausal publish` is the only writer of reports/.
# An edited notebook, one of the modules it imports, or a changed parameter reruns exactly what depends on it.

import json
import os

from gencausal import notebook, paths, provenance

PROFILE = config.get("profile", "laptop")
notebook.check_profile(PROFILE)
BUILD = os.path.relpath(paths.build(PROFILE))
NOTEBOOKS = notebook.names()
PLANS = {name: notebook.plan(name, PROFILE) for name in NOTEBOOKS}
SOURCES = {name: [f"notebooks/{name}.py", *(path.as_posix() for path in provenance.modules(name))] for name in NOTEBOOKS}
# A notebook with several seeds first trains each seed in a job of its own, then finds every checkpoint finished; at smoke size that would cost more than it saves.
SEEDS = {name: plan.parameters["seeds"] if PROFILE != "smoke" and len(plan.parameters.get("seeds", [])) > 1 else [] for name, plan in PLANS.items()}
# Distillation starts from the pretrained model; the ledger reads every other notebook's rows.
AFTER = {name: ["01_diffusion_pretraining"] if name in ("02a_score_distillation", "02b_treatment_effects") else ["01b_image_diffusion"] if name == "03a_counterfactual_images" else ["03a_counterfactual_images"] if name in ("03b_image_benchmark", "03c_image_trust") else [] for name in NOTEBOOKS}
AFTER |= {name: [other for other in NOTEBOOKS if other != name] for name in NOTEBOOKS if name.endswith("_claims")}
AFTER = {name: [other for other in others if other in NOTEBOOKS] for name, others in AFTER.items()}


def executed(names):
    return [f"{BUILD}/notebooks/{name}.ipynb" for name in names]


def written(name):
    """Tables that notebook `name` leaves."""
    source = open(f"notebooks/{name}.py", encoding="utf-8").read()
    return [f"{BUILD}/results/{name}.csv"] * ("open_results(" in source) + [f"{BUILD}/results/claims.csv"] * ("claims.evaluate(" in source)


localrules: all, report


rule all:
    input: f"{BUILD}/reports/index.html"


rule seed:
    input:
        lambda w: SOURCES[w.name],
        lambda w: [f"{BUILD}/seeds/{other}-{w.seed}.json" for other in AFTER[w.name] if int(w.seed) in SEEDS[other]],
        lambda w: [f"{BUILD}/seeds/{w.name}-{SEEDS[w.name][0]}.json"] * (int(w.seed) != SEEDS[w.name][0]),  # what all seeds share, the first one makes
    output: f"{BUILD}/seeds/{{name}}-{{seed}}.json"
    log: f"{BUILD}/seeds/{{name}}-{{seed}}.ipynb"
    params: parameters=lambda w: json.dumps({key: value for key, value in PLANS[w.name].parameters.items() if key != "seeds"}, sort_keys=True)
    wildcard_constraints: name="[0-9]{2}[a-z]?_[a-z_]+", seed="[0-9]+"
    threads: 1
    resources: mem_mb=3000, runtime=90, gpu=int(PROFILE == "paper")
    shell: f"gencausal run {{wildcards.name}} --profile {PROFILE} --seed {{wildcards.seed}} --threads {{threads}}"


for name in NOTEBOOKS:
    rule:
        name: name
        input: SOURCES[name], "claims.yaml", [f"{BUILD}/seeds/{name}-{seed}.json" for seed in SEEDS[name]], executed(AFTER[name])
        output: executed([name]), written(name)
        log: f"{BUILD}/provenance/{name}.json"
        params: name=name, parameters=json.dumps(PLANS[name].parameters, sort_keys=True)
        threads: 1  # small matrices gain nothing from a second thread, and two jobs on two cores lose much by it
        resources: mem_mb=3000, runtime=90, gpu=int(PROFILE == "paper" and "seeds" in PLANS[name].parameters)
        shell: f"gencausal run {{params.name}} --profile {PROFILE} --threads {{threads}}"  # evaluated after the loop: no {name} here


rule report:
    input: executed(NOTEBOOKS), "claims.yaml", "summaries.yaml", sorted(path.relative_to(paths.root()).as_posix() for path in (paths.root() / "src/gencausal/report").rglob("*") if path.suffix in (".py", ".j2", ".html", ".css", ".js"))
    output: f"{BUILD}/reports/index.html"
    shell: f"gencausal report --profile {PROFILE}"
