"""Networks of images and their training: `guided`, the generator and guide of the method, and its rivals at the same backbone and budget, `causaldiffae`, `label_ddpm` and `cond_vae`
(spec diffusion_counterfactuals 2.2, E1), and a `predictor` that judges them all.

Two more rivals need no network of their own: Diff-SCM steers by the intervened factor alone (`Sampling(which="intervened")`), no guidance is `Sampling(kappa=0)`.
Images are [N, C, S, S] in [0, 1] here and in [-1, 1] inside the networks; factors are standardised, [N, n].
"""

from gencausal.image_models import causaldiffae, cond_vae, guided, label_ddpm, predictor

__all__ = ["causaldiffae", "cond_vae", "guided", "label_ddpm", "predictor"]
