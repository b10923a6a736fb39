"""Batched weighted ridge, solved from the scatter of parts and outputs."""

from __future__ import annotations

import torch
from torch import Tensor

SURELY_REGULAR = 1e-6  # from this alpha on no system is singular, and the check is skipped


def ridge(gram: Tensor, cross: Tensor, chosen: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Solve ``(G + alpha I) beta = c`` on the chosen segments of each label.

    Parameters
    ----------
    gram : (n, k, k), cross : (n, l, k), chosen : (n, l, k) bool

    Returns
    -------
    beta : (n, l, k), exactly 0 for segments that are not chosen
    root : (n, l, k, k), or (n, 1, k, k) if all labels have the same segments: ``root' root`` is the inverse of ``G + alpha I``,
        0 for segments that are not chosen
    """
    _, l, k = cross.shape
    alike = l == 1 or chosen.stride(1) == 0  # expanded: all labels use the same segments and share one factorisation
    groups = chosen[:, :1] if alike else chosen
    both = groups[..., None] & groups[..., None, :]
    eye = torch.eye(k, dtype=gram.dtype, device=gram.device)
    # A segment that is not chosen becomes an equation of its own, 1 * beta = 0.
    system = gram[:, None] * both + eye * gram.new_tensor(1.0).where(~groups, alpha)[..., None]
    right = cross * chosen
    right = right.mT[:, None] if alike else right[..., None]
    factor, info = torch.linalg.cholesky_ex(system)
    beta = torch.cholesky_solve(right, factor)
    root = torch.linalg.solve_triangular(factor, eye, upper=False)
    if alpha < SURELY_REGULAR:
        singular = (info > 0) | (
            factor.diagonal(dim1=-2, dim2=-1).amin(-1) ** 2 < 1e-12 * gram.diagonal(dim1=-2, dim2=-1).amax(-1)[:, None]
        )
        if bool(singular.any()):
            beta[singular] = torch.linalg.pinv(system[singular], hermitian=True, rtol=1e-12) @ right[singular]
            root[singular] = _pinv_root(system[singular])
    beta = beta[:, 0].mT if alike else beta[..., 0]
    return beta * chosen, root * groups[..., None, :]


def _pinv_root(systems: Tensor) -> Tensor:
    """Root of the pseudoinverse of (m, k, k): ``root' root`` is the pseudoinverse."""
    values, vectors = torch.linalg.eigh(systems)
    kept = values > 1e-12 * values.amax(-1, keepdim=True)
    root: Tensor = (vectors * torch.where(kept, values, torch.inf).rsqrt()[..., None, :]).mT
    return root
