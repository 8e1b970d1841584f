r"""Training losses of Cond-FiP on data sets whose noise is known: target F(x) = x - n, in standardised units.

    row         mean over rows of (mean over nodes of e^2)^(1/2)                     `Eq. loss-row`       encoder, as released
    data_set    (mean over rows and nodes of e^2)^(1/2)                              `Eq. loss-data-set`  decoder, as released
    mse         mean of e^2                                                          `Eq. loss-mse`       as the paper's text has it
"""

import torch

from gencausal.cond_fip.networks import CondFiP

TINY = 1e-8


def row_loss(error: torch.Tensor, kind: str) -> torch.Tensor:
    """Mean over the data sets of the loss `kind` of `error [B, n, d]`, a scalar."""
    square = error.square()
    if kind == "row":
        return (square.mean(2) + TINY).sqrt().mean()
    return (square.mean((1, 2)) + TINY).sqrt().mean() if kind == "data_set" else square.mean()


def losses(model: CondFiP, context: torch.Tensor, context_target: torch.Tensor, query: torch.Tensor, query_target: torch.Tensor, adjacency: torch.Tensor, stage: str = "joint", mse: bool = False) -> dict[str, torch.Tensor]:
    """Named losses [1] of rows and targets [B, n, d], [B, m, d].

    stage: joint (both, the decoder's gradient enters the encoder), apart (both, it does not), encoder or decoder (one alone; the encoder is then frozen, as in the paper's two stages).
    """
    found = {}
    if stage == "decoder":
        with torch.no_grad():
            embedding = model.encode(context, adjacency)
    else:
        embedding = model.encode(context, adjacency)
        with model.precision(context):
            found["encoder"] = row_loss(model.encoder.mechanism(embedding) - context_target, "mse" if mse else "row")[None]
    if stage != "encoder":
        with model.precision(context):
            condition = model.decoder.condition(embedding if stage == "joint" else embedding.detach(), adjacency)
        found["decoder"] = row_loss(model.mechanism(query, condition) - query_target, "mse" if mse else "data_set")[None]
    return found
