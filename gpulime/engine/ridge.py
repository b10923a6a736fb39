"""Batched weighted ridge, solved from the scatter of parts and outputs, and its leave-one-out errors in closed form.

References
----------
Allen, "The relationship between variable selection and data augmentation and a method for prediction", Technometrics 1974
(PRESS, and the closed form).
Golub, Heath and Wahba, "Generalized cross-validation as a method for choosing a good ridge parameter", Technometrics 1979
(the closed form with a ridge penalty).
MacKinnon and White, "Some heteroskedasticity-consistent covariance matrix estimators", Journal of Econometrics 1985 (HC3).
Bell and McCaffrey, "Bias reduction in standard errors for linear regression with multi-stage samples", 2002 (CR2).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gpulime import device as devices

# If 1 - leverage is below this, the sample determines a coefficient alone and the other samples cannot predict it.
LEAST_FREE = 1e-10
# Entries of the samples of all labels whose errors are computed together: on a CPU, only if they stay in its cache.
LABEL_ENTRIES = defaultdict(lambda: 2**23, cpu=2**18)
LEAST_DEGREES = 0.5  # of freedom: fewer count as this, with errors 20 times as large
SURELY_REGULAR = 1e-6  # from this alpha on no system is singular, and the check is skipped


def ridge(gram: Tensor, cross: Tensor, chosen: Tensor, alpha: float | Tensor) -> tuple[Tensor, Tensor]:
    """Solve ``(G + alpha I) beta = c`` on the chosen parts of each label.

    Parameters
    ----------
    gram : (n, k, k), cross : (n, l, k), chosen : (n, l, k) bool
    alpha : number, or (n, 1, 1, 1) that makes every system regular

    Returns
    -------
    beta : (n, l, k), exactly 0 for parts that are not chosen
    root : (n, l, k, k), or (n, 1, k, k) if all labels have the same parts: ``root' root`` is the inverse of ``G + alpha I``,
        0 for parts that are not chosen
    """
    _, l, k = cross.shape
    alike = l == 1 or chosen.stride(1) == 0  # expanded: all labels use the same parts and share one factorisation
    groups = chosen[:, :1] if alike else chosen
    both = groups[..., None] & groups[..., None, :]
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    # A part that is not chosen becomes an equation of its own, 1 * beta = 0.
    system = gram[:, None] * both + torch.where(groups[..., None], alpha * eye, eye)
    right = cross * chosen
    right = right.mT[:, None] if alike else right[..., None]
    factor, info = torch.linalg.cholesky_ex(system)
    # Two triangular solves, since torch.cholesky_solve makes the host wait for a GPU.
    beta = torch.linalg.solve_triangular(factor.mT, torch.linalg.solve_triangular(factor, right, upper=False), upper=True)
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    if not isinstance(alpha, Tensor) and alpha < SURELY_REGULAR:
        singular = (info > 0) | (
            factor.diagonal(dim1=-2, dim2=-1).amin(-1) ** 2 < 1e-12 * gram.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None]
        )
        if bool(singular.any()):
            beta[singular] = devices.product(torch.linalg.pinv(system[singular], hermitian=True, rtol=1e-12), right[singular])
            root[singular] = _pinv_root(system[singular])
    beta = beta[:, 0].mT if alike else beta[..., 0]
    return beta * chosen, root * groups[..., None, :]


def _pinv_root(systems: Tensor) -> Tensor:
    """Root of the pseudoinverse of (m, k, k): ``root' root`` is the pseudoinverse."""
    values, vectors = torch.linalg.eigh(systems)
    kept = values > 1e-12 * values.amax(-1, keepdim=True)
    root: Tensor = (vectors * torch.where(kept, values, torch.inf).rsqrt()[..., None, :]).mT
    return root


@dataclass(frozen=True)
class LeaveOneOut:
    """Errors of fitted models, from the residual of each sample in the fit to all other samples.

    The residual of sample i in the model fitted without it is ``e_i / (1 - h_i)``: e_i is its residual in the model fitted to
    all samples, h_i its leverage ``w_i / sum(w) + w_i d_i' (X'WX + alpha I)^-1 d_i`` with the centred mask d_i. The weights,
    the penalty and the selected parts are kept fixed.
    """

    weight: Tensor  # (n, 1, 1), sum of the samples' weights
    mean: Tensor  # (n, 1, k), weighted mean of the masks
    root: Tensor  # (n, l or 1, k, k): ``root' root`` is the inverse of each label's system, which all may share
    beta: Tensor  # (n, l, k)
    intercepts: Tensor  # (n, l)
    alpha: Tensor | float  # penalty, or (n, 1, 1, 1)

    def of_parts(self, parts: Tensor) -> LeaveOneOut:
        """The same for some columns (m,) of the regressors; the fits must use no others."""
        mean, beta = self.mean[..., parts], self.beta[..., parts]
        return replace(self, mean=mean, beta=beta, root=self.root[..., parts[:, None], parts])

    def errors(
        self, regressors: Tensor, outputs: Tensor, weights: Tensor, partner: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sum the errors over samples: regressors (n, s, k), outputs (n, s, l) and weights (n, s) are as for `Moments.add`.

        Parameters
        ----------
        partner : (s,) int64 or None
            Place, among these samples, of the other one of a pair; a sample's own if it is alone.

        Returns
        -------
        press : (n, l), weighted sum of squared residuals; NaN if the leverage of a sample is 1
        variances : (n, l, k) of the coefficients, valid if the noise differs from sample to sample (HC3). Terms of a pair are
            added before they are squared, with residuals that are as large as the noise on average (CR2); for few pairs they
            are larger, so that 1.96 errors are Student's interval.
        """
        x, w = regressors.double(), weights[:, None, :, None]
        residual = (outputs.double() - torch.baddbmm(self.intercepts[:, None], x, self.beta.mT))[:, None]
        if self.root.shape[1] == 1:
            return self._errors(x, self.root, residual, w, partner)
        # Each label has its own parts: some labels at a time, to bound memory.
        some = max(1, LABEL_ENTRIES[x.device.type] // max(1, x.numel()))
        groups = zip(self.root.split(some, 1), residual.transpose(1, 3).split(some, 1), strict=True)
        found = [self._errors(x, root, of_labels, w, partner) for root, of_labels in groups]
        press, variances = zip(*found, strict=True)
        return torch.cat(press, 1), torch.cat(variances, 1)

    def _errors(self, x: Tensor, root: Tensor, residual: Tensor, w: Tensor, partner: Tensor | None) -> tuple[Tensor, Tensor]:
        """Errors for groups of labels with the same parts, of ``root`` (n, g, k, k) and ``residual`` (n, g, s, l / g)."""
        columns = root.mT
        shift = devices.product(-self.mean[:, None], columns)
        # Centred masks times root (n, g, s, k). Centring happens inside baddbmm, so no centred copy of the masks is made.
        d = torch.baddbmm(_side_by_side(shift), x, _side_by_side(columns)).unflatten(-1, root.shape[1:3]).transpose(1, 2)
        weight = self.weight[:, None]
        free = 1 - w * (torch.linalg.vector_norm(d, dim=-1, keepdim=True).square() + 1 / weight)
        error = residual / free.where(free > LEAST_FREE, torch.nan)
        press = (w * error.square()).sum(2).flatten(1)
        influence = devices.product(d, root)
        if partner is None:
            return press, devices.product((w * error).square().mT, influence.square()).flatten(1, 2)
        # Noise of variance 1 leaves residuals with the covariance (1 - H)^2, whose block of a pair is [[a, c], [c, b]]; to the
        # power of -1/2 it makes residuals as large as the noise again.
        scale = w.sqrt()
        alone = (partner == torch.arange(len(partner), device=partner.device))[:, None]
        a = free - self.alpha * w * influence.square().sum(-1, keepdim=True)
        b = a[:, :, partner]
        products = d * d[:, :, partner] + self.alpha * influence * influence[:, :, partner]
        c = -scale * scale[:, :, partner] * (products.sum(-1, keepdim=True) + 1 / weight)
        c = c.masked_fill(alone, 0.0)
        one = scale * residual
        root_det = (a * b - c.square()).clamp(min=0).sqrt()
        size = (a + b + 2 * root_det).sqrt() * root_det
        both = scale * ((b + root_det) * one - c * one[:, :, partner]) / size
        crossed = (both * both[:, :, partner]).masked_fill(alone, 0.0)
        variances = both.square().mT @ influence.square() + crossed.mT @ (influence * influence[:, :, partner])
        # What is left of the pairs' differences after the fit, in degrees of freedom.
        degrees = ((a - c) / 2).masked_fill(alone, 0.0).sum(2)[..., None]
        return press, (variances * _student(degrees)).flatten(1, 2)


def _student(degrees: Tensor) -> Tensor:
    """Factor of variances by which 1.96 standard errors are Student's interval of 95 % (Cornish and Fisher's expansion)."""
    one = 1 / degrees.clamp(min=LEAST_DEGREES)
    found: Tensor = (1 + 1.21 * one + 1.44 * one**2 + 1.3 * one**3).square()
    return found


def _side_by_side(matrices: Tensor) -> Tensor:
    """Put g matrices (n, g, r, k) into one (n, r, g k)."""
    return matrices.transpose(1, 2).flatten(2)
