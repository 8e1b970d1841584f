"""Neural outcome regressions trained as stacked networks: one batched network holds all tables of a call (spec iwdd, section 5.4 and experiment E6).

Of the literature, without gates (squared error):

    tarnet          shared representation, a head an arm, losses balanced over arms              Shalit et al. 2017
    cfr             tarnet with a discrepancy penalty between the arms' representations          Shalit et al. 2017
    dragonnet       tarnet with a propensity head and targeted regularisation                    Shi et al. 2019
    mlp_s           one network of covariates and arm

Twins of the teacher (E6): its gates, trunk, heads, widths, optimiser and number of steps, another loss:

    mlp_gated       squared error
    mlp_gated_ipw   squared error weighted by inverse propensities, cross-fitted, clipped and self-normalised
    gaussian_mlp    heteroscedastic Gaussian likelihood
    quantile_mlp    pinball loss on a grid of levels
    flow            exact likelihood of a one-dimensional normalising flow
"""

from gencausal.baselines.networks.config import DEFAULTS, GRID, LAWS, LITERATURE, NAMES, TWINS, LiteratureConfig, NetworkConfig, TwinConfig
from gencausal.baselines.networks.fitting import fit_predict, held_out_loss, parameter_count, propensities, train, weights

__all__ = ["DEFAULTS", "GRID", "LAWS", "LITERATURE", "NAMES", "TWINS", "LiteratureConfig", "NetworkConfig", "TwinConfig", "fit_predict", "held_out_loss", "parameter_count", "propensities", "train", "weights"]
