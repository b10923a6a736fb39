"""Selection of parts for each label's model, by lime's rules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpulime.engine.ridge import ridge

if TYPE_CHECKING:
    from gpulime.engine.settings import Settings

SELECTIONS = ("none", "auto", "forward_selection", "highest_weights", "lasso_path")


def select(gram: Tensor, cross: Tensor, counts: Tensor, samples: int, settings: Settings, x0: Tensor) -> Tensor:
    """Choose the parts that each label's model may use, by lime's rules.

    ``x0`` (n or 1, k) are the regressors of sample 0: "highest_weights" compares the coefficients times these.

    Returns
    -------
    (n, l, k) int64, the order of choice from 0; -1 if not chosen
    """
    n, l, k = cross.shape
    column = torch.arange(k, device=gram.device)
    valid = (column < counts[:, None])[:, None].expand(n, l, k)
    method, wanted = settings.feature_selection, settings.num_features
    if method == "auto":
        method = "forward_selection" if wanted is not None and wanted <= 6 else "highest_weights"
    if method == "none" or (wanted is None and method != "lasso_path"):  # only the lasso may still drop parts
        return column.where(valid[:, :1], -1).expand(n, l, k)
    wanted = k if wanted is None else min(wanted, k)
    if method == "highest_weights":
        size = (ridge(gram, cross, valid, 0.01)[0] * x0[:, None]).abs().where(valid, -1)
        order = size.argsort(dim=-1, descending=True, stable=True)
    elif method == "forward_selection":
        order = forward_selection(gram, cross, valid, wanted)
    else:
        chosen = lasso_path(gram, cross, counts, samples, wanted)
        return (chosen.cumsum(-1) - 1).masked_fill(~chosen, -1)
    ranks = torch.full((n, l, k), -1, device=gram.device)
    return ranks.scatter(-1, order[..., :wanted], column[:wanted].expand(n, l, -1)).where(valid, -1)


def forward_selection(gram: Tensor, cross: Tensor, valid: Tensor, wanted: int) -> Tensor:
    """Add, greedily, the part that raises the weighted R2 of an unpenalised fit most; the first of equals wins.

    Each choice is swept out of the moments, so a step costs one rank-one update instead of k fits.

    Returns
    -------
    (n, l, wanted) int64, parts in the order of choice, padded with invalid ones if an input has fewer
    """
    n, l, k = cross.shape
    rest = gram[:, None].repeat(1, l, 1, 1)
    scale = rest.diagonal(dim1=-2, dim2=-1).clone()
    right = cross.clone()
    picks: list[Tensor] = []
    taken = torch.zeros_like(valid)
    for _ in range(wanted):
        pivot = rest.diagonal(dim1=-2, dim2=-1)
        independent = pivot > 1e-10 * scale
        gain = torch.where(independent, right**2 / torch.where(independent, pivot, 1.0), 0.0)
        best = gain.masked_fill(~valid, -1).masked_fill(taken, -2).argmax(-1, keepdim=True)
        picks.append(best)
        if len(picks) == wanted:
            break
        taken = taken.scatter(-1, best, True)
        usable = independent.gather(-1, best)
        column = rest.gather(-1, best[..., None, :].expand(n, l, k, 1)).squeeze(-1)
        step = torch.where(usable, column / torch.where(usable, column.gather(-1, best), 1.0), 0.0)
        right = right - step * right.gather(-1, best)
        rest = rest - step[..., None] * column[..., None, :]
    return torch.cat(picks, -1)


def lasso_path(gram: Tensor, cross: Tensor, counts: Tensor, samples: int, wanted: int) -> Tensor:
    """Last point of the lasso's path with at most ``wanted`` parts; scikit-learn computes the path on the CPU."""
    from sklearn.linear_model import lars_path_gram

    chosen = torch.zeros(cross.shape, dtype=torch.bool)
    for i, count in enumerate(counts.tolist()):
        square = gram[i, :count, :count].cpu().numpy()
        for j in range(cross.shape[1]):
            _, _, path = lars_path_gram(cross[i, j, :count].cpu().numpy(), square.copy(), n_samples=samples, method="lasso")
            used = [column != 0 for column in path.T[:0:-1]] or [path.T[0] == path.T[0]]
            point = next((nonzero for nonzero in used if nonzero.sum() <= wanted), used[-1])
            chosen[i, j, :count] = torch.from_numpy(point)
    return chosen.to(cross.device)
