r"""An adversarial autoencoder in the manner of the compositional perturbation autoencoder (CPA, Lotfollahi et al. 2023): the rival of VCI that makes its latent independent by force (spec vci, E3).

The encoder sees the outcome alone; treatment and covariates enter as vectors added to the latent, and two classifiers try to read them from it:

    z = e(y),   yhat ~ N(d(z + V t + U x)),   minimise  L0 - lambda (CE_t + CE_x),   classifiers minimise CE_t + CE_x         `Eq. cpa`

L0 is that of VCI (Eq. reconstruction). Networks, data stream, optimiser and rounds are those of `stack`, so that the two differ in the objective alone.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from gencausal import seeding
from gencausal.cell_models.stack import Cells, Config, Fitted, Member, identity, informed
from gencausal.checkpoints import config_hash
from gencausal.data.cell_table import CellTable
from gencausal.nn.mlp import StackedLinear
from gencausal.training import Player, fit
from gencausal.vci.networks import CellNetworks, Trunk
from gencausal.vci.objective import gaussian_head


class Adversarial(nn.Module):
    """S autoencoders with additive treatment and covariates; `genes`, `treatments`, `covariates` are G, T, C, `config` gives the widths."""

    def __init__(self, stack: int, genes: int, treatments: int, covariates: int, config: Config, rng: torch.Generator):
        super().__init__()
        self.networks = CellNetworks(stack, genes, 0, (), rng, config.width, config.latent, config.embedding, relu_heads=False, norm=config.norm, sees_treatment=False, sees_covariates=False)
        self.treatment, self.covariates = StackedLinear(stack, treatments, config.latent, rng), StackedLinear(stack, covariates, config.latent, rng)

    def encode(self, outcome: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The basal latent [S, B, L], and zeros for its spread: it is deterministic. Treatment and covariates are not read."""
        mean = self.networks.encode(outcome, treatment[..., :0], covariates)[0]
        return mean, torch.zeros_like(mean)

    def hidden(self, latent: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor) -> torch.Tensor:
        """Last hidden layer of the decoder, [S, B, width], of z + V t + U x."""
        return self.networks.hidden(latent + self.treatment(treatment) + self.covariates(covariates), treatment[..., :0])

    def predict(self, outcome: torch.Tensor, treatment: torch.Tensor, covariates: torch.Tensor, treatment_cf: torch.Tensor) -> torch.Tensor:
        """Counterfactual outcomes [S, B, G]."""
        return self.networks.mean(self.hidden(self.encode(outcome, treatment, covariates)[0], treatment_cf, covariates))


class Classifiers(nn.Module):
    """S pairs of classifiers of the condition and of the stratum from the latent."""

    def __init__(self, stack: int, latent: int, conditions: int, strata: int, config: Config, rng: torch.Generator):
        super().__init__()
        self.trunk = Trunk(stack, [latent, config.width, config.width], "layer", rng)
        self.condition, self.stratum = StackedLinear(stack, config.width, conditions, rng), StackedLinear(stack, config.width, strata, rng)

    def forward(self, latent: torch.Tensor, condition: torch.Tensor, stratum: torch.Tensor) -> torch.Tensor:
        """CE_t + CE_x, [S], of labels [S, B]; a label that has one value only costs nothing."""
        h = self.trunk(latent)
        return sum(cross_entropy(head(h).transpose(1, 2), label, reduction="none").mean(1) for head, label in ((self.condition, condition), (self.stratum, stratum)))


def train(tables: list[CellTable], members: list[Member], config: Config, strength: float, checkpoint: Path | None = None, device: torch.device | str = "cpu") -> Fitted:
    """Train one autoencoder a member, at the `strength` lambda of Eq. cpa (the weights of the members are not used); each member has its own table and seed."""
    device, table, S = torch.device(device), tables[0], len(members)
    cells = Cells(tables, [(m.table, m.seed) for m in members], config, device)
    build = [Adversarial(1, table.outcome.shape[1], table.condition_treatment.shape[1], table.covariates.shape[1], config, seeding.generator(m.seed, "adversarial", device=device)) for m in members]
    for one, member in zip(build, members):
        informed(one.networks, tables[member.table])
    model = Adversarial(S, table.outcome.shape[1], table.condition_treatment.shape[1], table.covariates.shape[1], config, seeding.generator(0, "adversarial", device=device))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.cat([one.get_parameter(name) for one in build]))
    judge = Classifiers(S, config.latent, len(table.conditions), len(table.strata), config, seeding.generator(0, "classifiers", device=device))

    def labels(batch) -> tuple[torch.Tensor, torch.Tensor]:
        condition = (batch.treatment[..., None, :] == cells.condition_treatment).all(-1).int().argmax(-1)
        stratum = (batch.covariates[..., None, :] == cells.stratum_covariates).all(-1).int().argmax(-1)
        return condition, stratum

    def loss() -> dict[str, torch.Tensor]:
        batch = cells.draw(1)
        latent = model.encode(batch.outcome, batch.treatment, batch.covariates)[0]
        head = model.networks.decoder_head
        hidden = model.hidden(latent, batch.treatment, batch.covariates)[:, None]
        return {"reconstruction": gaussian_head(hidden, head.weight, head.bias, batch.outcome), "adversary": -strength * judge(latent, *labels(batch))}

    def judged() -> dict[str, torch.Tensor]:
        batch = cells.draw(1)
        with torch.no_grad():
            latent = model.encode(batch.outcome, batch.treatment, batch.covariates)[0]
        return {"cross_entropy": judge(latent, *labels(batch))}

    about = {"method": "adversarial", "recipe": 1, "config": asdict(config), "strength": strength, **identity(tables, members)}
    path = None if checkpoint is None else checkpoint / f"adversarial-{config_hash(about)}.safetensors"
    common = dict(lr=config.lr, betas=(0.9, 0.999), weight_decay=config.weight_decay, average=config.average, clip=config.clip)
    done = fit({"judge": Player(judge, judged, **common), "model": Player(model, loss, **common)}, config.rounds, cells.generators, config=about, warmup=config.warmup, checkpoint=path, label="adversarial", log_every=max(config.rounds // 40, 1))
    return Fitted(done.modules["model"], members, tables, done.history, done.seconds)
