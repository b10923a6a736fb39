"""Proximity weights, selection of segments and the batched weighted ridge: the linear model that explains.

Everything is fitted from weighted moments, which are gathered over pieces of the samples: memory does not grow with s.
All of it runs in float64, so the user's TF32 setting has no part in it.

References
----------
Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
Efroymson, "Multiple regression analysis", 1960 (forward selection by sweeping).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from gpulime import device as devices
from gpulime.errors import check, unknown, whole
from gpulime.leave_one_out import LeaveOneOut

T = TypeVar("T")

Distance = str | Callable[[Tensor], Any]
Kernel = str | Callable[[Tensor, float], Any]
Samples = tuple[Tensor, Tensor, Tensor]  # masks (n, s, k) bool, outputs (n, s, l), weights (n, s) float64

# Between a binary row with `on` of k ones and the row of all ones.
DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cosine": lambda on, k: 1 - (on / k).sqrt(),
    "euclidean": lambda on, k: (k - on).sqrt(),
    "sqeuclidean": lambda on, k: k - on,
    "manhattan": lambda on, k: k - on,
    "chebyshev": lambda on, k: (on < k).double(),
    "hamming": lambda on, k: 1 - on / k,
    "jaccard": lambda on, k: 1 - on / k,
    "dice": lambda on, k: (k - on) / (k + on),
}
KERNELS: dict[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "exponential": lambda d, width: (-(d**2) / (2 * width**2)).exp(),
    "uniform": lambda d, width: torch.ones_like(d),
}
SELECTIONS = ("none", "auto", "forward_selection", "highest_weights", "lasso_path")
# An output whose weighted spread is under so many roundings of its dtype is constant: nothing else moves it.
CONSTANT = 4
MATRICES = 5  # of k x k numbers, that the fit of an image has at once, at least
SURELY_REGULAR = 1e-6  # from this alpha on no system is singular, and none need be looked at


@dataclass(frozen=True)
class Surrogate:
    """Fitted linear models, all float64.

    Attributes
    ----------
    coefficients : (n, l, k), 0 for segments that were not selected and beyond an image's count
    intercepts : (n, l)
    scores : (n, l) weighted R2; NaN where the output is constant, for then it is undefined
    scores_loo : (n, l) weighted leave-one-out R2: R2 of the predictions of each sample by the model fitted to all others; NaN
        where ``scores`` is, and if a sample fixes a coefficient alone
    spreads : (n, l) weighted standard deviation of the output over the masked samples; NaN if all of these have weight 0
    local_predictions : (n, l), the linear model's answer for the whole image
    ranks : (n, l, k) int64, the order in which the segments were selected, from 0; -1 for those that were not
    """

    coefficients: Tensor
    intercepts: Tensor
    scores: Tensor
    scores_loo: Tensor
    spreads: Tensor
    local_predictions: Tensor
    ranks: Tensor


@dataclass(frozen=True)
class Settings:
    """How to weigh and fit; see `gpulime.Explainer` for each."""

    alpha: float = 1.0
    kernel: Kernel = "exponential"
    kernel_width: float | None = 0.25
    distance: Distance = "cosine"
    feature_selection: str = "auto"
    num_features: int | None = None

    def __post_init__(self) -> None:
        if not callable(self.kernel) and not (isinstance(self.kernel, str) and self.kernel in KERNELS):
            raise unknown("kernel", self.kernel, KERNELS)
        if not callable(self.distance) and not (isinstance(self.distance, str) and self.distance in DISTANCES):
            raise unknown("distance", self.distance, DISTANCES)
        if self.feature_selection not in SELECTIONS:
            raise unknown("feature_selection", self.feature_selection, SELECTIONS)
        fits = isinstance(self.alpha, Real) and not isinstance(self.alpha, bool) and 0 <= self.alpha < math.inf
        check(fits, f"alpha must be a number, 0 or more, and finite; got {self.alpha!r}")
        width = self.kernel_width
        fits = width is None or (isinstance(width, Real) and width > 0 and 0 < float(width) ** 2 < math.inf)
        check(fits, f"kernel_width must be a positive number, or None for 0.75 * sqrt(k); got {width!r}")
        if self.num_features is not None:
            whole("num_features", self.num_features, 1, ", or None for all")


def check_memory(k: int, device: torch.device) -> None:
    """Refuse segments by whose number alone a fit cannot be, before any forward is spent on them.

    Raises
    ------
    GpulimeError
        If ``device`` has less memory than the matrices of one image.
    """
    needed, there = MATRICES * 8.0 * k * k, devices.memory(device)
    check(
        needed <= there,
        lambda: (
            f"k = {k:,} segments need {needed / 1e9:,.1f} GB for the fit of an image, whose matrices are k x k; "
            f"{device} has {there / 1e9:,.1f} GB: take fewer, larger segments"
        ),
    )


def proximity(masks: Tensor, counts: Tensor, settings: Settings) -> Tensor:
    """The weight of each sample: near 1 where much of the image is shown.

    Parameters
    ----------
    masks : (n, s, k) bool, False beyond an image's count
    counts : (n,) segments of each image

    Returns
    -------
    (n, s) float64; by default ``exp(-d**2 / (2 * kernel_width**2))`` of the cosine distance ``d = 1 - sqrt(on / k)``

    Raises
    ------
    GpulimeError
        If a callable returns another shape, or weights that are negative or not finite.
    """
    s = masks.shape[1]
    k = counts[:, None].double()
    if callable(settings.distance):
        pieces = [settings.distance(masks[i, :, :count].double()) for i, count in enumerate(counts.tolist())]
        distances = torch.stack([_checked("distance", piece, (s,), masks.device) for piece in pieces])
    else:
        distances = DISTANCES[settings.distance](masks.sum(-1).double(), k)
    if callable(settings.kernel):
        widths = [settings.kernel_width or 0.75 * count**0.5 for count in counts.tolist()]
        rows = [settings.kernel(distances[i], width) for i, width in enumerate(widths)]
        weights = torch.stack([_checked("kernel", row, (s,), masks.device) for row in rows])
        check(bool((weights >= 0).all()), "kernel must return weights of 0 or more; got negative ones")
        return weights
    return KERNELS[settings.kernel](distances, settings.kernel_width or 0.75 * k.sqrt())


def _checked(name: str, value: Any, shape: tuple[int, ...], device: torch.device) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device=device)
    check(
        tuple(tensor.shape) == shape,
        f"{name} must return one number per sample, (s,) = {shape}; got {tuple(tensor.shape)}",
    )
    check(bool(tensor.isfinite().all()), f"{name} must return finite numbers; got NaN or infinity")
    return tensor


class Moments:
    """Weighted sums over samples from which every fit follows; add pieces in any sizes, then `solve`; `solved` does both.

    Outputs and masks are taken relative to row 0's, which often outweighs all others: its own part in the sums is then 0, and
    no digits are lost to it.
    """

    def __init__(self, counts: Tensor, k: int, origin: Tensor) -> None:
        """Start with nothing.

        Parameters
        ----------
        counts : (n,) segments of each image
        k : int, columns of the masks to come
        origin : (n, l) outputs of row 0
        """
        (n, l), device = origin.shape, origin.device
        self.counts, self.k, self.origin = counts, k, origin.double()
        self.rounding = torch.finfo(origin.dtype).eps
        self.samples = 0
        self.weight = torch.zeros(n, 1, 1, dtype=torch.float64, device=device)
        self.others = torch.zeros(n, 1, dtype=torch.float64, device=device)  # weight but for row 0's: a narrow kernel's is tiny
        self.x = torch.zeros(n, k, 1, dtype=torch.float64, device=device)
        self.y = torch.zeros(n, l, 1, dtype=torch.float64, device=device)
        self.xx = torch.zeros(n, k, k, dtype=torch.float64, device=device)
        self.xy = torch.zeros(n, k, l, dtype=torch.float64, device=device)
        self.yy = torch.zeros(n, l, 1, dtype=torch.float64, device=device)

    def add(self, masks: Tensor, outputs: Tensor, weights: Tensor) -> None:
        """Add samples, row 0 first: masks (n, s, k) bool, outputs (n, s, l), weights (n, s) float64."""
        x = masks.double() - 1
        y = outputs.double() - self.origin[:, None]
        w = weights[..., None]
        xw, yw = (x * w).mT, (y * w).mT
        self.others += w[:, 0 if self.samples else 1 :].sum(1)
        self.samples += masks.shape[1]
        self.weight += w.sum(1, keepdim=True)
        self.x += xw.sum(-1, keepdim=True)
        self.y += yw.sum(-1, keepdim=True)
        self.xx += xw @ x
        self.xy += xw @ y
        self.yy += (yw * y.mT).sum(-1, keepdim=True)

    def centre(self) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted scatter: of segments (n, k, k), with outputs (n, l, k), of outputs (n, l)."""
        valid = torch.arange(self.k, device=self.counts.device) < self.counts[:, None]
        gram = (self.xx - self.x @ self.x.mT / self.weight) * (valid[:, None] & valid[:, :, None])
        cross = ((self.xy - self.x @ self.y.mT / self.weight) * valid[..., None]).mT
        spread = (self.yy - self.y**2 / self.weight).squeeze(-1).clamp(min=0)
        return gram, cross, spread

    def solve(self, settings: Settings) -> tuple[Surrogate, LeaveOneOut, Tensor]:
        """Fit the weighted ridge with an intercept that is not penalised, after selecting segments.

        The optimum is ``beta = (X'WX + alpha I)^-1 X'Wy`` of centred data. Where the system is singular, as with ``alpha=0``
        and fewer samples than segments, the answer is the one of least norm.

        Returns
        -------
        The models, whose ``scores_loo`` are still NaN; their leave-one-out errors, to which the samples are to be added again;
        and the weighted sum of squares (n, l) that both scores compare with, NaN where the output is constant.
        """
        if callable(settings.kernel):
            check(bool((self.weight > 0).all()), "kernel must return a weight above 0 for some samples; got 0 for all")
        gram, cross, spread = self.centre()
        ranks = select(gram, cross, self.counts, self.samples, settings)
        chosen = (ranks[:, :1] >= 0).expand_as(ranks) if ranks.stride(1) == 0 else ranks >= 0
        beta, root = ridge(gram, cross, chosen, settings.alpha)
        mean, mean_y = (self.x / self.weight + 1).mT, (self.y / self.weight).squeeze(-1)
        intercepts = self.origin + mean_y - (beta * mean).sum(-1)
        residual = spread - 2 * (beta * cross).sum(-1) + ((beta @ gram) * beta).sum(-1)
        constant = spread <= self.others * (CONSTANT * self.rounding * self.origin).square()
        total = spread.masked_fill(constant, torch.nan)
        fitted = Surrogate(
            coefficients=beta,
            intercepts=intercepts,
            scores=1 - residual / total,
            scores_loo=torch.full_like(total, torch.nan),
            spreads=(spread / self.others).sqrt(),
            local_predictions=intercepts + beta.sum(-1),
            ranks=ranks,
        )
        return fitted, LeaveOneOut(self.weight, mean, root, beta, intercepts), total


def solved(moments: Moments, rows: Sequence[T], samples: Callable[[T], Samples], settings: Settings) -> Surrogate:
    """Fit linear models to samples that are given piece by piece: for the moments, and again for the leave-one-out errors.

    Parameters
    ----------
    moments : Moments, still empty
    rows : sequence, names the pieces, row 0's first
    samples : callable, name of a piece -> its samples; called twice for each piece but the last
    settings : Settings
    """
    for some in rows:
        last = samples(some)
        moments.add(*last)
    fitted, left_out, total = moments.solve(settings)
    left_out.add(*last)
    for some in rows[:-1]:
        left_out.add(*samples(some))
    return replace(fitted, scores_loo=1 - left_out.press / total)


def fit(masks: Tensor, outputs: Tensor, counts: Tensor | None = None, settings: Settings | None = None) -> Surrogate:
    """Fit linear models to samples that are all at hand.

    Parameters
    ----------
    masks : (n, s, k) bool, row 0 all True
    outputs : (n, s, l)
    counts : (n,), optional
        Segments of each image where they differ; columns beyond have no meaning.
    settings : Settings, optional

    Returns
    -------
    Surrogate
    """
    settings = settings or Settings()
    n, s, k = masks.shape
    check(
        outputs.ndim == 3 and outputs.shape[:2] == (n, s),
        f"outputs must be (n, s, l) = {(n, s, 'l')}; got {tuple(outputs.shape)}",
    )
    counts = torch.full((n,), k, device=masks.device) if counts is None else counts
    masks = masks & (torch.arange(k, device=masks.device) < counts[:, None])[:, None]
    weights = proximity(masks, counts, settings)
    return solved(Moments(counts, k, outputs[:, 0]), [...], lambda _: (masks, outputs, weights), settings)


def ridge(gram: Tensor, cross: Tensor, chosen: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Solve ``(G + alpha I) beta = c`` on the chosen segments of each label.

    Parameters
    ----------
    gram : (n, k, k), cross : (n, l, k), chosen : (n, l, k) bool

    Returns
    -------
    beta : (n, l, k), exactly 0 where not chosen
    root : (n, l, k, k), or (n, 1, k, k) if all labels have the same segments: ``root' root`` is the inverse of ``G + alpha I``,
        0 where not chosen
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


def select(gram: Tensor, cross: Tensor, counts: Tensor, samples: int, settings: Settings) -> Tensor:
    """Choose the segments each label's model may use, by lime's rules.

    Returns
    -------
    (n, l, k) int64, the order of choice from 0; -1 for those that were not chosen
    """
    n, l, k = cross.shape
    column = torch.arange(k, device=gram.device)
    valid = (column < counts[:, None])[:, None].expand(n, l, k)
    method, wanted = settings.feature_selection, settings.num_features
    if method == "auto":
        method = "forward_selection" if wanted is not None and wanted <= 6 else "highest_weights"
    if method == "none" or (wanted is None and method != "lasso_path"):  # only the lasso's path may still drop some
        return column.expand(n, 1, k).masked_fill(~valid[:, :1], -1).expand(n, l, k)
    wanted = k if wanted is None else min(wanted, k)
    if method == "highest_weights":
        size = ridge(gram, cross, valid, 0.01)[0].abs().masked_fill(~valid, -1)
        order = size.argsort(dim=-1, descending=True, stable=True)
    elif method == "forward_selection":
        order = forward_selection(gram, cross, valid, wanted)
    else:
        chosen = lasso_path(gram, cross, counts, samples, wanted)
        return (chosen.cumsum(-1) - 1).masked_fill(~chosen, -1)
    ranks = torch.full((n, l, k), -1, device=gram.device)
    return ranks.scatter(-1, order[..., :wanted], column[:wanted].expand(n, l, -1)).masked_fill(~valid, -1)


def forward_selection(gram: Tensor, cross: Tensor, valid: Tensor, wanted: int) -> Tensor:
    """Greedy: add the segment that raises the weighted R2 of an unpenalised fit most; the first of equals wins.

    Each choice is swept out of the moments, so that a step costs one rank-one update instead of k fits.

    Returns
    -------
    (n, l, wanted) int64, segments in the order of choice; where an image has fewer, invalid ones stand behind them
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
        taken = taken.scatter(-1, best, True)
        usable = independent.gather(-1, best)
        column = rest.gather(-1, best[..., None, :].expand(n, l, k, 1)).squeeze(-1)
        step = torch.where(usable, column / torch.where(usable, column.gather(-1, best), 1.0), 0.0)
        right = right - step * right.gather(-1, best)
        rest = rest - step[..., None] * column[..., None, :]
    return torch.cat(picks, -1)


def lasso_path(gram: Tensor, cross: Tensor, counts: Tensor, samples: int, wanted: int) -> Tensor:
    """The last point of the lasso's path that uses at most ``wanted`` segments; scikit-learn walks the path on the CPU."""
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
