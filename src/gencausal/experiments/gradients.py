r"""E4: the variance of the generator's gradient under propensity weights and under randomised pairs (specification 2.4; the claim C3).

x: a unit of the population (uniform over the fit rows), z: an arm, g(x, z): the gradient of the SiD loss of one pair in the generator's decoder,
its noise included; e(x) = p(z = 1 | x) the true propensity, p(z) = E p(z | x), w = p(z) / p(z | x), B pairs a batch.

`Eq. ipw-identity`:       E_{p(x,z)}[w g] = E_{p(x)p(z)}[g]
`Eq. variance-identity`:  Tr Cov_IPW - Tr Cov_RAND = (1/B) E_{p(x)p(z)}[(w - 1) |g|^2]
`Eq. chi2`:               E_{p(x)p(z)}[w] - 1 = chi2 = E_x[p1^2 / e + (1 - p1)^2 / (1 - e)] - 1,   p1 = E e

The right side is (1/B) chi2 E|g|^2 where |g|^2 does not go with w, and negative where it is large at w < 1: the sign is no theorem. Arms are drawn
afresh from e at every pair (a loss of the distillation needs no outcome), so the identity is exact up to Monte Carlo; its two sides come from
independent samples, z = (left - right) / se. Estimators of one gradient: `ipw`; `ipw_clipped` (e within [clip, 1 - clip]: biased); `ipw_self_normalised`
(weights of a batch sum to B: biased at order 1/B); `shuffle`; `bernoulli` (z ~ p1, which is RAND). `obs` and `bernoulli_half` estimate another gradient.

|g|^2 has a heavy tail (the loss divides by |y - D_phi|, and far units add theirs), so that a standard error of its mean says little and z of the raw
gradients is not standard normal. The identity holds for any vector of a pair, so it is also tested where moments exist:

`Eq. bounded`:  g -> g min(1, c / |g|)
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.func import functional_call

from gencausal import checks, seeding
from gencausal.checkpoints import config_hash, remember, tensor_hash
from gencausal.data.stack import prepare_tables, table_rows
from gencausal.data.table import CausalTable
from gencausal.diffusion import Denoiser
from gencausal.distillation import generate, sid_loss
from gencausal.estimators.outcomes import DistillationConfig, TeacherConfig, distil, only, train_teacher
from gencausal.schedules import sid_sigma

ESTIMATORS = ("ipw", "ipw_clipped", "ipw_self_normalised", "shuffle", "bernoulli", "obs", "bernoulli_half")


def chi2(e: np.ndarray) -> float:
    """chi2(p(x) p(z) || p(x, z)) of propensities e [n] in (0, 1) (Eq. chi2)."""
    e = checks.vector(e, "e")
    if not ((e > 0) & (e < 1)).all():
        raise checks.InputError("e must lie strictly between 0 and 1, else chi2 is infinite; clip it first.")
    p1 = e.mean()
    return float(np.mean(p1**2 / e + (1 - p1) ** 2 / (1 - e)) - 1)


def redrawn(table: CausalTable, clip: float, seed: int) -> CausalTable:
    """`table` with arms drawn again from its propensity clipped to [clip, 1 - clip], so that chi2 is finite; outcomes follow the new arms."""
    e = np.clip(table.propensity, clip, 1 - clip)
    t = (seeding.numpy_generator(seed, "redrawn", table.name, table.unit).random(len(e)) < e).astype(np.int64)
    return replace(table, unit=f"{table.unit} redrawn", t=t, y=table.potential[np.arange(len(t)), t], propensity=e)


# ---------------------------------------------------------------- exact, by enumeration


def enumerated(p_x: np.ndarray, e: np.ndarray, g: np.ndarray) -> dict[str, float]:
    """Both sides of Eq. variance-identity at B = 1, exactly, for a discrete law: p_x [m], e [m], gradients g [m, 2 arms, p] -> ipw, rand, left, right, chi2."""
    p_zx = np.stack([1 - e, e], 1)
    p_z = p_x @ p_zx
    w, joint, product = p_z / p_zx, p_x[:, None] * p_zx, p_x[:, None] * p_z
    square, mean = (g**2).sum(-1), (product[..., None] * g).sum((0, 1))
    ipw, rand = (joint * w**2 * square).sum() - mean @ mean, (product * square).sum() - mean @ mean
    return {"ipw": ipw, "rand": rand, "left": ipw - rand, "right": (product * (w - 1) * square).sum(), "chi2": (product * w).sum() - 1}


def toy(case: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p_x [3], e [3], g [3, 2, 2] of a drawn discrete law, x in three values. case: how |g| goes with w.

    `equal`: |g| = 1; `large`: |g|^2 = w^2, large at rare pairs; `reversed`: |g|^2 = w^-2, large at common pairs. The directions of g are random.
    """
    checks.choice(case, "case", ("equal", "large", "reversed"))
    rng = seeding.numpy_generator(seed, "toy", case)
    p_x, e = rng.dirichlet([3.0, 3.0, 3.0]), rng.uniform(0.1, 0.9, 3)
    p_zx = np.stack([1 - e, e], 1)
    length = (p_x @ p_zx / p_zx) ** {"equal": 0, "large": 1, "reversed": -1}[case]
    angle = rng.uniform(0, 2 * np.pi, (3, 2))
    return p_x, e, length[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)


def toy_rows(seeds: list[int], laws: int = 3) -> list[dict]:
    """Rows of the enumerated laws, `laws` a case and seed: traces of ipw and bernoulli relative to the latter, both sides of the identity, chi2."""
    made = []
    for case in ("equal", "large", "reversed"):
        for seed in seeds:
            for i in range(laws):
                found = enumerated(*toy(case, seed * laws + i))
                values = {("ipw", "gradient_trace_relative"): found["ipw"] / found["rand"], ("shuffle", "gradient_trace_relative"): 1.0, ("identity", "identity_left"): found["left"] / found["rand"],
                          ("identity", "identity_right"): found["right"] / found["rand"], ("identity", "chi2"): found["chi2"]}
                made += [_row(f"toy_{case}", f"law {i + 1}", method, metric, seed, value, 6) for (method, metric), value in values.items()]
    return made


# ---------------------------------------------------------------- per-pair gradients


def pair_gradients(student: Denoiser, fake: Denoiser, teacher: Denoiser, e: torch.Tensor, eps: torch.Tensor, eps_score: torch.Tensor, sigma: torch.Tensor, config: DistillationConfig,
                   chunk: int = 2048) -> torch.Tensor:
    """Gradient of the SiD loss of each of N pairs in the student's trainable parameters, [N, p] (Eq. sid-split).

    Modules of one network (stack of one). e: embedded pairs, [N, h]; eps, eps_score: [N, M]; sigma: [N]. The stack axis does the work: every
    pair gets a copy of the weights as a network of its own, so that one backward pass gives all gradients.
    """
    trainable = {name: p.detach() for name, p in student.named_parameters() if p.requires_grad}
    made = []
    for i in range(0, len(e), chunk):
        part = slice(i, i + chunk)
        eb, sb = e[part, None], sigma[part, None, None]
        own = {name: p.expand(len(eb), *p.shape[1:]).requires_grad_(True) for name, p in trainable.items()}
        fixed = {name: p.detach().expand(len(eb), *p.shape[1:]) for name, p in student.named_parameters() if name not in own}
        y = functional_call(student, own | fixed, (config.sigma_init * eps[part, None], torch.as_tensor(config.sigma_init), eb))
        noisy = (y + sb * eps_score[part, None]).transpose(0, 1)
        both = [module(noisy, sb.transpose(0, 1), eb.transpose(0, 1)).transpose(0, 1) for module in (teacher, fake)]
        found = torch.autograd.grad(sid_loss(y, *both, config.alpha).sum(), list(own.values()), allow_unused=True)
        made.append(torch.cat([g.flatten(1) for g in found if g is not None], 1).detach())
    return torch.cat(made)


def weights(e: torch.Tensor, z: torch.Tensor, p1: float) -> torch.Tensor:
    """p(z) / p(z | x) at propensities e and arms z, any shape."""
    return torch.where(z == 1, p1 / e, (1 - p1) / (1 - e))


def variance_identity(student: Denoiser, fake: Denoiser, teacher: Denoiser, embedded: torch.Tensor, propensity: torch.Tensor, config: DistillationConfig, seed: int, batch: int = 64, batches: int = 100,
                      clip: float = 0.1, level: float = 0.98) -> dict[tuple[str, str], float]:
    """Traces of the covariance of a batch gradient under `ESTIMATORS` with standard errors, and the two sides of Eq. variance-identity.

    Modules of one network; embedded: the population under every arm, [n, K, h]; propensity [n]; batch B pairs, `batches` batches for each of
    five independent samples. -> (method, metric): `gradient_trace`, its standard error `gradient_trace_se`, `gradient_trace_relative` (over that of
    `bernoulli`), `gradient_bias` = |mean - mean under bernoulli| / |the latter|, Monte-Carlo error included; method identity: `identity_left`,
    `identity_right` (over the trace of bernoulli) and `identity_z`; the same, prefixed `bounded_`, of Eq. bounded with c the `level` quantile of |g| in a
    sample of its own; method design: `chi2` and `tail_share`, the share of E_{p(x)p(z)}|g|^2 in its largest thousandth of pairs.
    """
    e, p1 = propensity.double(), propensity.double().mean().item()
    samples = {law: _sample(law, student, fake, teacher, embedded, e, config, seed, batch, batches) for law in ("obs", "bernoulli", "bernoulli_half", "shuffle", "again")}
    pilot = _sample("pilot", student, fake, teacher, embedded, e, config, seed, batch, max(batches // 4, 2))[0].norm(dim=1)
    square = samples["again"][0].square().sum(1).sort().values
    made = {("design", "chi2"): chi2(e.numpy()), ("design", "tail_share"): (square[-max(len(square) // 1000, 1):].sum() / square.sum()).item()}
    for prefix, bound in (("", None), ("bounded_", pilot.quantile(level))):
        made |= {(method, prefix + metric): value for (method, metric), value in _compare(samples, p1, batch, batches, clip, bound).items()}
    return made


def _sample(law: str, student: Denoiser, fake: Denoiser, teacher: Denoiser, embedded: torch.Tensor, e: torch.Tensor, config: DistillationConfig, seed: int, batch: int, batches: int):
    """Per-pair gradients [N, p], propensities [N] and arms [N] of N = batch batches pairs of one law; `again` and `pilot` are further samples of bernoulli."""
    rng, count = seeding.generator(seed, "gradients", law), batch * batches
    row = torch.randint(len(e), (count,), generator=rng)
    p = e[row] if law in ("obs", "shuffle") else torch.full_like(e[row], 0.5 if law == "bernoulli_half" else e.mean().item())
    z = (torch.rand(count, generator=rng, dtype=torch.float64) < p).long()
    if law == "shuffle":
        z = z.view(batches, batch).gather(1, torch.rand(batches, batch, generator=rng).argsort(1)).flatten()
    eps, eps_score = torch.randn(2, count, config.draws, generator=rng)
    sigma = sid_sigma(config.t_max * torch.rand(count, generator=rng))
    return pair_gradients(student, fake, teacher, embedded[row, z], eps, eps_score, sigma, config), e[row], z


def _compare(samples: dict, p1: float, batch: int, batches: int, clip: float, bound: torch.Tensor | None) -> dict[tuple[str, str], float]:
    """The values of `variance_identity` for gradients as they are, or with their norms bounded (Eq. bounded)."""
    count = batch * batches

    def gradients_of(law: str):
        g, own, z = samples[law]
        return g if bound is None else g * (bound / g.norm(dim=1, keepdim=True).clamp(min=1e-30)).clamp(max=1), own, z

    def of_pairs(g: torch.Tensor, w: torch.Tensor | None = None):
        """Trace of the batch gradient of independent pairs, its standard error, the mean gradient."""
        g = g if w is None else g * w[:, None].float()
        mean = g.mean(0)
        spread = (g - mean).square().sum(1).double() / batch
        return spread.mean().item() * count / (count - 1), spread.std().item() / count**0.5, mean

    def of_batches(g: torch.Tensor):
        """The same from the batch gradients themselves, [batches, p]."""
        mean = g.mean(0)
        spread = (g - mean).square().sum(1).double()
        return spread.mean().item() * batches / (batches - 1), spread.std().item() / batches**0.5, mean

    g, own, z = gradients_of("obs")
    w, clipped = weights(own, z, p1), weights(own.clamp(clip, 1 - clip), z, p1)
    normalised = (w.view(batches, batch) / w.view(batches, batch).sum(1, keepdim=True)).float()
    found = {"obs": of_pairs(g), "ipw": of_pairs(g, w), "ipw_clipped": of_pairs(g, clipped), "ipw_self_normalised": of_batches(torch.einsum("rb,rbp->rp", normalised, g.view(batches, batch, -1))),
             "bernoulli": of_pairs(gradients_of("bernoulli")[0]), "bernoulli_half": of_pairs(gradients_of("bernoulli_half")[0]), "shuffle": of_batches(gradients_of("shuffle")[0].view(batches, batch, -1).mean(1))}
    g, own, z = gradients_of("again")
    excess = (weights(own, z, p1) - 1) * g.square().sum(1).double() / batch
    reference, truth = found["bernoulli"][0], found["bernoulli"][2]
    left, right = found["ipw"][0] - reference, excess.mean().item()
    error = (found["ipw"][1] ** 2 + found["bernoulli"][1] ** 2 + excess.var().item() / count) ** 0.5
    made = {("identity", "identity_left"): left / reference, ("identity", "identity_right"): right / reference, ("identity", "identity_z"): (left - right) / error}
    for method, (trace, se, mean) in found.items():
        made |= {(method, "gradient_trace"): trace, (method, "gradient_trace_se"): se, (method, "gradient_trace_relative"): trace / reference,
                 (method, "gradient_bias"): ((mean - truth).norm() / truth.norm()).item()}
    return made


def run(tables: list[CausalTable], teacher_config: TeacherConfig, config: DistillationConfig, stages: dict[str, int], seed: int, batch: int = 64, batches: int = 100, clip: float = 0.1,
        folder: Path | None = None, device: torch.device | str = "cpu") -> list[dict]:
    """Rows of `variance_identity` for every table and stage, one stack of teachers for all (each table with its propensity).

    stages: name -> rounds of distillation (shuffle) after which theta and psi are read; at 0 rounds the gradient is exactly zero (psi = phi).
    unit: "<table's unit>, <stage>". Gradients are computed on the CPU.
    """
    if bare := [t.unit for t in tables if t.propensity is None]:
        raise checks.InputError(f"tables: {bare[0]} has no propensity; the identity needs the true e(x).")
    if min(stages.values()) < 1:
        raise checks.InputError("stages: at 0 rounds fake score and teacher agree and every gradient is zero; use 1 round or more.")
    checks.choice(config.trainable, "config.trainable", ("decoder",))
    data = prepare_tables(tables, seed, device)
    teacher = train_teacher(data, teacher_config, seed, folder).modules["teacher"]
    made = []
    for stage, rounds in stages.items():
        trained = distil(teacher, data, replace(config, law="shuffle", rounds=rounds, score_every=rounds), seed, folder)
        for i, table in enumerate(tables):
            own, phi = only(data, teacher, i)
            theta, psi = (only(data, trained.modules[name], i)[1].cpu() for name in ("generator", "fake"))
            phi = phi.cpu().requires_grad_(False)
            for name, p in theta.named_parameters():
                p.requires_grad_(not name.startswith(("network.gates", "network.trunk", "network.heads")))
            with torch.no_grad():
                embedded = phi.encode(table_rows(own.x, own.fit).cpu())[0]
            propensity = torch.as_tensor(table.propensity[table.train][own.fit[0].cpu().numpy()])
            sizes = {"batch": batch, "batches": batches, "clip": clip, "seed": seed, "config": config_hash({k: v for k, v in vars(config).items()})}
            known = tensor_hash(*theta.state_dict().values(), *psi.state_dict().values(), *phi.state_dict().values(), embedded, propensity)

            def compute() -> dict[str, torch.Tensor]:
                values = variance_identity(theta, psi, phi, embedded, propensity, config, seed, batch, batches, clip)
                return {"|".join(key): torch.tensor(value, dtype=torch.float64) for key, value in values.items()}

            values = remember(folder, "gradients", sizes | {"known": known}, compute)
            made += [_row(table.name, f"{table.unit}, {stage}", *key.split("|"), seed, value.item(), batch * batches) for key, value in values.items()]
    return made


def _row(dataset: str, unit: str, method: str, metric: str, seed: int, value: float, n: int) -> dict:
    return {"experiment": "iwdd.E4", "dataset": dataset, "unit": unit, "method": method, "metric": metric, "seed": seed, "value": float(value), "n": n}
