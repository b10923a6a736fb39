"""Leave-one-out errors of weighted ridge models, in closed form, without refitting.

References
----------
Allen, "The relationship between variable selection and data augmentation and a method for prediction", Technometrics 1974
(PRESS, and the closed form).
Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", Technometrics 1979
(the closed form with a ridge penalty).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# If 1 - leverage is below this, the sample determines a coefficient alone and the other samples cannot predict it.
LEAST_FREE = 1e-10


@dataclass
class LeaveOneOut:
    """Sum of squared leave-one-out errors (PRESS) of fitted models, summed over pieces of the samples.

    The error of the model fitted without sample i is ``e_i / (1 - h_i)``: e_i is the residual of the model fitted to all
    samples, h_i the leverage ``w_i / sum(w) + w_i d_i' (X'WX + alpha I)^-1 d_i`` of the centred mask d_i. The weights, the
    penalty and the selected segments are kept fixed.

    Attributes
    ----------
    weight : (n, 1, 1), sum of the samples' weights
    mean : (n, 1, k), weighted mean of the masks
    root : (n, l or 1, k, k), ``root' root`` is the inverse of each label's system; 1 if all labels share it
    beta : (n, l, k), coefficients
    intercepts : (n, l)
    press : (n, l), weighted; NaN if a sample's leverage is 1
    """

    weight: Tensor
    mean: Tensor
    root: Tensor
    beta: Tensor
    intercepts: Tensor
    press: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.press = torch.zeros_like(self.intercepts)

    def add(self, masks: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Add samples: masks (n, s, k) bool, outputs (n, s, l), weights (n, s) float64."""
        x, w = masks.double(), weights[..., None]
        residual = outputs.double() - torch.baddbmm(self.intercepts[:, None], x, self.beta.mT)
        # One label at a time, to bound memory. Centring happens inside baddbmm, so no centred copy of the masks is made.
        norms = [torch.baddbmm(-self.mean @ root.mT, x, root.mT).norm(dim=-1) for root in self.root.unbind(1)]
        free = 1 - w * (torch.stack(norms, -1).square() + 1 / self.weight)
        error = residual / free.where(free > LEAST_FREE, torch.nan)
        self.press += (w * error.square()).sum(1)
