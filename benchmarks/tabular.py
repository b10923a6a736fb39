"""``python -m benchmarks.tabular``: rows of tables, explained by gpulime and by lime in turns; and coverage of intervals.

Times are CPU seconds of one thread per row. lime explains fewer rows, since each takes it as long as another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gpulime
from benchmarks.rows import columns, parser, save, where, yes
from gpulime import lime_base
from gpulime.bench.clock import Quantiles, in_turns, timed
from gpulime.engine.selection import select
from gpulime.engine.settings import Settings
from gpulime.engine.surrogate import Moments

Array = np.ndarray[Any, np.dtype[Any]]
LABEL, SEED = 1, 0
NEAR = 1e-9  # difference from lime's coefficients
DRAWS = 5.0  # standard errors between coefficients of different samples
NOT_SLOWER = 0.95  # the model takes most of the time of both sides, and clocks differ by that
COVERED = (0.93, 0.97)
TARGET = 200_000  # samples of the coefficients that intervals should cover


def wide() -> tuple[Array, Array]:
    """1,000 rows of 200 columns, 20 of them informative."""
    found: tuple[Array, Array] = make_classification(1000, 200, n_informative=20, random_state=0)
    return found


TABLES: dict[str, Callable[[], tuple[Array, Array]]] = {
    "iris": lambda: load_iris(return_X_y=True),
    "30 columns": lambda: load_breast_cancer(return_X_y=True),
    "200 columns": wide,
}
MORE = ("30 columns", "200 columns")
MODELS: dict[str, Callable[[], ClassifierMixin]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "forest": lambda: RandomForestClassifier(100, random_state=0),
}


@dataclass(frozen=True)
class Entry:
    """One ratio: lime's time per row over ours must be ``least`` or more.

    ``kind`` is "shared" (one neighbourhood for all rows), "keys" (each its own), "drop-in" (one row) or "selection" (forward
    selection alone).
    """

    name: str
    table: str
    model: str
    kind: str
    least: float
    num_features: int | None = None
    discretize: bool = True
    n: int = 64
    limes: int = 4  # rows that lime explains
    s: int = 5000
    repeats: int = 5

    def tiny(self) -> Entry:
        """The same with few rows and samples, for tests."""
        return replace(self, n=2, limes=2, s=50, repeats=1, least=0)


def entries() -> list[Entry]:
    """The entries, with the bounds that must hold."""
    found = []
    for model in MODELS:
        found += [
            Entry(f"iris_shared_{model}", "iris", model, "shared", 30, limes=16),
            Entry(f"30_shared_{model}", "30 columns", model, "shared", 18, limes=8),
            Entry(f"30_shared_5_features_{model}", "30 columns", model, "shared", 80, num_features=5, repeats=3),
            Entry(f"iris_keys_{model}", "iris", model, "keys", 1.5, limes=16),
            Entry(f"30_keys_{model}", "30 columns", model, "keys", 1.5, limes=8, repeats=3),
        ]
        for table in ("iris", "30 columns"):
            for discretize in (True, False):
                name = f"{table.split()[0]}_drop_in_{'' if discretize else 'gaussian_'}{model}"
                found.append(
                    Entry(name, table, model, "drop-in", NOT_SLOWER, num_features=10, discretize=discretize, repeats=9)
                )
    found.append(Entry("200_shared", "200 columns", "logistic", "shared", 10, limes=4, repeats=3))
    found.append(Entry("200_keys", "200 columns", "logistic", "keys", 1.5, n=8, limes=4, repeats=3))
    for discretize in (True, False):
        name = f"200_drop_in{'' if discretize else '_gaussian'}"
        found.append(Entry(name, "200 columns", "logistic", "drop-in", NOT_SLOWER, num_features=10, discretize=discretize))
    for discretize in (True, False):
        name = f"30_drop_in_5_features{'' if discretize else '_gaussian'}"
        found.append(Entry(name, "30 columns", "logistic", "drop-in", 10, num_features=5, discretize=discretize))
    found.append(Entry("iris_forward_selection", "iris", "logistic", "selection", 20, num_features=3))
    found += [
        Entry(f"{table.split()[0]}_forward_selection", table, "logistic", "selection", 20, num_features=5) for table in MORE
    ]
    return found


@dataclass(frozen=True)
class Coverage:
    """Share of 95 % intervals, at ``s`` samples, that hold the coefficients of `TARGET` samples."""

    name: str
    table: str
    s: int = 1000
    rows: int = 5
    keys: int = 40  # neighbourhoods of each row

    def tiny(self) -> Coverage:
        """The same with few neighbourhoods, for tests."""
        return replace(self, rows=2, keys=2, s=200)


COVERAGES = (Coverage("iris_coverage", "iris"), Coverage("30_coverage", "30 columns"))


class Row(
    columns("entry side table model ms_per_row q20 q80 ratio bound ok error error_limit error_what rows samples repeats")
):
    """One side of an entry; ``ratio`` is lime's median over ours. Coverages have the share as ``ratio`` and no time."""

    FOLDER = "tabular"
    KEY = ("entry", "side")


def trained(table: str, model: str) -> tuple[Array, ClassifierMixin]:
    """The table's rows and a model fitted to them."""
    data, target = TABLES[table]()
    return data, MODELS[model]().fit(data, target)


def sides(entry: Entry) -> dict[str, tuple[int, Callable[[], Any]]]:
    """For each side its number of rows and its call, which returns the explanations."""
    from lime.lime_tabular import LimeTabularExplainer

    data, model = trained(entry.table, entry.model)
    rows, d = data[: entry.n], data.shape[1]
    settings = {"discretize_continuous": entry.discretize}
    call = {"labels": (LABEL,), "num_features": entry.num_features or max(d, 10), "num_samples": entry.s}

    def limes(module: Any, n: int) -> list[Any]:
        made = module(data, random_state=SEED, **settings)
        state = made.random_state.get_state()
        found = []
        for row in rows[:n]:
            made.random_state.set_state(state)
            found.append(made.explain_instance(row, model.predict_proba, **call))
        return found

    if entry.kind == "selection":
        return selections(entry, rows[0], model, data)
    if entry.kind == "drop-in":
        drop_in = gpulime.lime_tabular.LimeTabularExplainer
        return {"gpulime": (1, lambda: limes(drop_in, 1)), "lime": (1, lambda: limes(LimeTabularExplainer, 1))}
    explainer = gpulime.TableExplainer(model, data, n_samples=entry.s, num_features=entry.num_features, seed=SEED)
    keys = list(range(entry.n)) if entry.kind == "keys" else None
    ours = lambda: explainer.explain(rows, labels=LABEL, keys=keys)  # noqa: E731
    return {"gpulime": (entry.n, ours), "lime": (entry.limes, lambda: limes(LimeTabularExplainer, entry.limes))}


def selections(entry: Entry, row: Array, model: ClassifierMixin, data: Array) -> dict[str, tuple[int, Callable[[], Any]]]:
    """Both sides' forward selection for the samples of one row: the columns in the order of choice."""
    from lime.lime_base import LimeBase

    asked: list[Array] = []
    made = gpulime.lime_tabular.LimeTabularExplainer(data, random_state=SEED)
    made.explain_instance(row, lambda rows: asked.append(rows) or model.predict_proba(rows), num_samples=entry.s)
    bins = made.discretizer.discretize(asked[0])
    masks = (bins == bins[0]).astype(float)
    distances, width = np.sqrt((masks == 0).sum(1)), 0.75 * data.shape[1] ** 0.5
    weights, outputs = lime_base.exponential_kernel(distances, width), model.predict_proba(asked[0])[:, LABEL]
    settings = Settings(feature_selection="forward_selection", num_features=entry.num_features)
    limes = LimeBase(None)

    def ours() -> list[int]:
        x, y, w = (torch.from_numpy(values)[None] for values in (masks, outputs[:, None], weights))
        moments = Moments(torch.tensor([x.shape[2]]), x.shape[2], y[:, 0], x[:, 0])
        moments.add(x, y, w)
        gram, cross, _ = moments.centre()
        ranks = select(gram, cross, moments.counts, entry.s, settings, moments.x0)[0, 0]
        return ranks.argsort()[-entry.num_features :].tolist()

    def theirs() -> list[int]:
        chosen = limes.feature_selection(masks, outputs, weights, entry.num_features, "forward_selection")
        return [int(column) for column in chosen]

    return {side: (n, partial(again, call, n)) for side, call, n in (("gpulime", ours, 16), ("lime", theirs, 2))}


def again(call: Callable[[], Any], n: int) -> Any:
    """Call n times: a single call of less than a millisecond measures the caches that the other side has left."""
    return [call() for _ in range(n)][-1]


def coefficients(found: Any, d: int) -> Array:
    """Coefficients (n, d) of either side."""
    if isinstance(found, gpulime.Explanations):
        return found.coefficients[:, 0].numpy()
    dense = np.zeros((len(found), d))
    for row, one in zip(dense, found, strict=True):
        for part, weight in one.local_exp[LABEL]:
            row[part] = weight
    return dense


def error(entry: Entry, found: dict[str, Any]) -> tuple[float, float, str]:
    """The largest difference of the coefficients, its limit and its unit; of a selection, the columns that differ."""
    if entry.kind == "selection":
        differ = sum(one != other for one, other in zip(found["gpulime"], found["lime"], strict=True))
        return float(differ), 0.0, "columns other than lime's"
    d = TABLES[entry.table]()[0].shape[1]
    ours, theirs = (coefficients(found[side], d) for side in ("gpulime", "lime"))
    difference = np.abs(ours[: len(theirs)] - theirs)
    if entry.kind != "keys":
        return float(difference.max()), NEAR, "from lime's coefficients"
    errors = found["gpulime"].standard_errors[: len(theirs), 0].numpy() * 2**0.5
    return float((difference / errors).max()), DRAWS, "standard errors from lime's other samples"


def measure(entry: Entry, repeats: int, place: dict[str, str]) -> list[Row]:
    """A row for each side; a wrong answer gets no time."""
    both = sides(entry)
    worst, limit, what = error(entry, {side: call() for side, (_, call) in both.items()})
    same = {"entry": entry.name, "table": entry.table, "model": entry.model, "samples": str(entry.s), "repeats": str(repeats)}
    same |= place
    bound = f"at least {entry.least:g}"
    judged = {"bound": bound, "error": f"{worst:.2g}", "error_limit": f"{limit:g}", "error_what": what}
    if worst > limit:
        return [Row(side="gpulime", ok="no", rows=str(both["gpulime"][0]), **judged, **same)]
    calls = {side: lambda n=n, call=call: 1e3 * timed(call, torch.device("cpu")).cpu / n for side, (n, call) in both.items()}
    found, _ = in_turns(calls, calls, torch.device("cpu"), repeats)
    times = {side: Quantiles.of(values) for side, values in found.items()}
    ratio = times["lime"].median / times["gpulime"].median
    made = []
    for side, (n, _) in both.items():
        time = times[side]
        own = {"ms_per_row": f"{time.median:.3g}", "q20": f"{time.low:.3g}", "q80": f"{time.high:.3g}", "rows": str(n)}
        more = {"ratio": f"{ratio:.1f}", "ok": yes(ratio >= entry.least), **judged} if side == "gpulime" else {}
        made.append(Row(side=side, **own, **more, **same))
    return made


def covered(coverage: Coverage, place: dict[str, str]) -> Row:
    """The share of intervals that hold their target."""
    data, model = trained(coverage.table, "forest")
    rows = data[:: len(data) // coverage.rows][: coverage.rows]
    made = {"model": model, "training_data": data, "seed": SEED}
    target = gpulime.TableExplainer(n_samples=TARGET if coverage.s >= 1000 else 2000, **made).explain(rows, labels=LABEL)
    explainer = gpulime.TableExplainer(n_samples=coverage.s, **made)
    held = []
    for i in range(coverage.rows):
        again = np.repeat(rows[i : i + 1], coverage.keys, axis=0)
        found = explainer.explain(again, labels=LABEL, keys=list(range(i * coverage.keys, (i + 1) * coverage.keys)))
        off = (found.coefficients[:, 0] - target.coefficients[i, 0]).abs()
        held.append((off <= 1.96 * found.standard_errors[:, 0]).double().mean().item())
    share = float(np.mean(held))
    low, high = COVERED
    return Row(
        entry=coverage.name,
        side="gpulime",
        table=coverage.table,
        model="forest",
        ratio=f"{share:.3f}",
        bound=f"{low:g} to {high:g}",
        ok=yes(low <= share <= high),
        error_what=f"95 % intervals that hold the coefficients of {TARGET:,} samples",
        rows=str(coverage.rows * coverage.keys),
        samples=str(coverage.s),
        **place,
    )


def said(rows: Sequence[Row]) -> str:
    """An entry in one line."""
    first = rows[0]
    times = ", ".join(f"{row.side} {row.ms_per_row} ms" for row in rows if row.ms_per_row)
    error = f", error {first.error} {first.error_what}" if first.error else ""
    return f"{first.entry}: {times or 'share'}, {first.ratio} ({first.bound}){error}: {first.ok}"


def main(argv: Sequence[str] | None = None) -> int:
    """Return 1 if a bound is missed or an error is too large."""
    given = parser("tabular", __doc__, [one.name for one in (*entries(), *COVERAGES)]).parse_args(argv)
    place, rows = where(), []
    for entry in (*entries(), *COVERAGES):
        if given.only and entry.name not in given.only:
            continue
        if isinstance(entry, Coverage):
            rows.append(covered(entry, place))
        else:
            rows += measure(entry, given.repeats or entry.repeats, place)
        print(said([row for row in rows if row.entry == entry.name]), flush=True)
    if given.save and rows:
        save(rows)
    return int(not all(row.ok in ("yes", "") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
