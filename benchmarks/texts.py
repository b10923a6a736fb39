"""``python -m benchmarks.texts``: explanations of real texts beside lime's, and the coverage of their 95 % intervals.

The texts are Debian's fortunes (``apt-get install fortunes``), else the documentation of scikit-learn's functions; nothing is
downloaded. Seconds are CPU time of one text, all sides in turns. The error of ``gpulime.lime_text`` is its largest difference
from lime's coefficients, and that of ``gpulime.TextExplainer``, which draws other masks, from a ridge fitted to the strings of
the same masks. The exit code is 1 if a ratio is below its bound, an error above its limit, or a coverage outside its bounds.
"""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline

import gpulime
from benchmarks.rows import columns, parser, save, seconds, where, yes
from gpulime.bench.clock import Quantiles, in_turns, timed
from gpulime.engine.masks import resolve
from gpulime.lime_text import LimeTextExplainer
from gpulime.texts.words import split

FORTUNES = Path("/usr/share/games/fortunes")
TRAINED = 3000  # texts that models are trained on
CLASSES = 2  # labels of models that are not trained
EXACT, SINGLE = 1e-9, 1e-4  # limits of errors: float64, and a model in float32
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """Texts with ``least`` to ``most`` words, explained with a model by lime and by us, with s samples each.

    The ratio of lime's time to that of ``gpulime.TextExplainer`` must be ``bound`` or more.
    """

    name: str
    about: str
    model: str
    bound: float
    least: int = 8
    most: int = 14
    n: int = 16
    s: int = 5000
    limit: float = EXACT


ENTRIES = (
    Entry("function_free", "a function without a model", "free", 2.2),
    Entry("function_logistic", "a function of strings around TF-IDF and logistic regression", "logistic function", 1.3),
    Entry("function_forest", "a function of strings around TF-IDF and a forest of 50", "forest function", 1.3),
    Entry("function_logistic_long", "the same with logistic regression, 40 to 60 words", "logistic function", 1.3, 40, 60, 6),
    Entry("counts_logistic", "a pipeline of TF-IDF and logistic regression", "logistic", 9),
    Entry("counts_forest", "a pipeline of TF-IDF and a forest of 50", "forest", 4),
    Entry("counts_logistic_long", "the same with logistic regression, 40 to 60 words", "logistic", 0, 40, 60, 6),
    Entry("counts_forest_long", "the same with a forest, 40 to 60 words", "forest", 0, 40, 60, 6),
    Entry("bert_drop", "a BERT of 2 layers of 128, token ids dropped", "bert", 1.7, s=1000, limit=SINGLE),
    Entry("bert_drop_long", "the same, 40 to 60 words", "bert", 0, 40, 60, 6, s=1000, limit=SINGLE),
    Entry("bert_without_model", "its tokenizer alone: the model costs nothing", "no bert", 12, s=1000, limit=SINGLE),
)
WORDS, SAMPLES, REPEATED, TEXTS = (12, 40), 1000, 40, 20  # of the coverage
BOUNDS = 0.93, 0.97
REFERENCE = 2**15  # samples of the coefficients that intervals should hold; the ridge's penalty hardly moves these


class Row(columns("entry side about n words samples s q20 q80 ratio bound error error_limit coverage ok")):
    """One side of an entry; the file holds it as text, empty if there is nothing.

    ``ratio`` is lime's time over this side's; ``coverage`` the share of 95 % intervals that hold the coefficient of
    `REFERENCE` samples.
    """

    FOLDER = "texts"

    def __str__(self) -> str:
        if self.coverage:
            return f"    {self.entry:24} {self.coverage} (must be {self.bound}): {self.ok}"
        facts = f"{1000 * float(self.s):8.2f} ms a text, ratio {self.ratio or 1} {self.bound and f'(must be {self.bound})'}"
        return f"    {self.side:24} {facts}; error {self.error or 'none'}: {self.ok or 'the reference'}"


@cache
def corpus() -> tuple[list[str], list[int]]:
    """Texts and their groups, in a fixed random order."""
    pairs = list(_fortunes() if FORTUNES.is_dir() else _documentation())
    order = np.random.RandomState(0).permutation(len(pairs))
    names = sorted({name for _, name in pairs})
    return [pairs[i][0] for i in order], [names.index(pairs[i][1]) for i in order]


def _fortunes() -> Iterator[tuple[str, str]]:
    for path in sorted(FORTUNES.iterdir()):
        if path.is_file() and not path.suffix and not path.is_symlink():
            for text in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
                if re.search(r"\w", text):
                    yield text.strip(), path.name


def _documentation() -> Iterator[tuple[str, str]]:
    from sklearn import cluster, decomposition, linear_model, metrics, preprocessing

    for module in (cluster, decomposition, linear_model, metrics, preprocessing):
        for name in module.__all__:
            for paragraph in (inspect.getdoc(getattr(module, name)) or "").split("\n\n"):
                if re.search(r"\w", paragraph):
                    yield paragraph.strip(), module.__name__


def texts_of(least: int, most: int, n: int) -> list[str]:
    """The first n texts with so many different words that no model was trained on."""
    found = [text for text in corpus()[0][TRAINED:] if least <= len(set(re.findall(r"\w+", text))) <= most]
    return found[:n]


@cache
def pipeline(name: str) -> Any:
    """TF-IDF and a classifier."""
    texts, groups = corpus()
    classifier = {"logistic": LogisticRegression(max_iter=100), "forest": RandomForestClassifier(50, random_state=0)}[name]
    return make_pipeline(TfidfVectorizer(), classifier).fit(texts[:TRAINED], groups[:TRAINED])


class Free(torch.nn.Module):
    """A model of token ids that costs nothing: the share of ids that are even."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        """Logits (b, 2)."""
        share = ((input_ids % 2) * attention_mask).sum(1) / attention_mask.sum(1)
        return torch.stack([share, -share], 1)


@cache
def bert() -> tuple[Any, Any]:
    """A model of 2 layers of 128 with random weights, and its WordPiece tokenizer, both made here."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = tokenizers.normalizers.BertNormalizer(), tokenizers.pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=8000, special_tokens=special, show_progress=False)
    made.train_from_iterator(corpus()[0][:TRAINED], trainer)
    ends = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{token[1:-1].lower()}_token": token for token in special}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
    config = transformers.BertConfig(vocab_size=len(tokenizer), initializer_range=0.2, num_labels=CLASSES, **sizes)
    return transformers.BertForSequenceClassification(config).eval(), tokenizer


def of_strings(model: torch.nn.Module, tokenizer: Any) -> Callable[[Sequence[str]], np.ndarray]:
    """The function that users of lime write around a model: batches of 64 strings as they come."""

    def function(strings: Sequence[str]) -> np.ndarray:
        found = []
        for start in range(0, len(strings), 64):
            batch = tokenizer(list(strings[start : start + 64]), padding=True, truncation=True, return_tensors="pt")
            with torch.no_grad():
                output = model(**batch)
            found.append(getattr(output, "logits", output).softmax(-1).numpy())
        return np.concatenate(found)

    return function


def model_of(name: str) -> tuple[Callable[[list[str]], Any], dict[str, Any]]:
    """The function for lime, and the arguments of a TextExplainer."""
    if name == "free":

        def function(strings: list[str]) -> np.ndarray:
            share = np.array([len(string) for string in strings]) / 1000
            return np.stack([share, 1 - share], 1)

        return function, {"model": function}
    if "bert" in name:
        model, tokenizer = bert()
        model = Free() if name == "no bert" else model
        return of_strings(model, tokenizer), {"model": model, "tokenizer": tokenizer}
    kind, _, is_function = name.partition(" ")
    made = pipeline(kind)
    if is_function:
        called = partial(made.predict_proba)  # not known as a pipeline's
        return called, {"model": called}
    return made.predict_proba, {"model": made}


def measured(entry: Entry, repeats: int, place: dict[str, str]) -> Iterator[Row]:
    """The rows of an entry: lime, the drop-in and TextExplainer."""
    from lime.lime_text import LimeTextExplainer as Theirs

    texts, (function, settings) = texts_of(entry.least, entry.most, entry.n), model_of(entry.model)
    explainer = gpulime.TextExplainer(n_samples=entry.s, **settings)
    arguments = {"labels": (0,), "num_samples": entry.s}

    def lime() -> list[Any]:
        made = Theirs(random_state=0)
        return [made.explain_instance(text, function, **arguments) for text in texts]

    def drop_in() -> list[Any]:
        return LimeTextExplainer(random_state=0).explain_instances(texts, function, **arguments)

    def ours() -> Any:
        return explainer.explain(texts, labels=0)

    pairs = zip(lime(), drop_in(), strict=True)
    differences = [weights(one) - weights(other) for one, other in pairs]
    errors = {
        "gpulime.lime_text": float(np.abs(differences).max()),
        "gpulime.TextExplainer": difference(ours(), texts[:2], function, entry.s),
    }
    sides = {"lime": lime, "gpulime.lime_text": drop_in, "gpulime.TextExplainer": ours}
    runs, _ = in_turns({name: lambda side=side: timed(side, CPU) for name, side in sides.items()}, sides, CPU, repeats)
    took = {name: Quantiles.of([one.cpu / len(texts) for one in found]) for name, found in runs.items()}
    about = {"about": entry.about, "n": str(len(texts)), "words": f"{entry.least} to {entry.most}", "samples": str(entry.s)}
    yield Row(entry.name, "lime", **about, **seconds(took["lime"]), **place)
    for name, error in errors.items():
        ratio, judged = took["lime"].median / took[name].median, name == "gpulime.TextExplainer" and entry.bound
        told = {"ratio": f"{ratio:.2f}", "error": f"{error:.2g}", "error_limit": f"{entry.limit:g}"}
        told |= {"bound": f"at least {entry.bound:g}"} if judged else {}
        ok = error <= entry.limit and (not judged or ratio >= entry.bound)
        yield Row(entry.name, name, **about, **seconds(took[name]), **told, ok=yes(ok), **place)


def weights(explanation: Any) -> np.ndarray:
    """The ten weights (10,) of the first label, by part; 0 for missing ones."""
    found = [weight for _, weight in sorted(explanation.as_map()[0])]
    return np.array(found + [0.0] * (10 - len(found)))


def difference(found: Any, texts: Sequence[str], function: Callable[[list[str]], Any], s: int) -> float:
    """The largest difference of coefficients from a ridge on the strings of the same masks."""
    most = 0.0
    for i, text in enumerate(texts):
        words = split(text)
        k = len(words)
        masks = resolve("bernoulli", 0, s)(torch.tensor(0), torch.arange(s), torch.tensor(k), k).numpy()
        y = np.asarray(function(list(words.strings(masks))))[:, 0]
        weights = np.exp(-((1 - np.sqrt(masks.mean(1))) ** 2) / (2 * 0.25**2))
        fitted = Ridge(alpha=1.0).fit(masks.astype(float), y, sample_weight=weights)
        most = max(most, float(np.abs(found.coefficients[i, 0, :k].numpy() - fitted.coef_).max()))
    return most


def covered(k: int, place: dict[str, str]) -> Row:
    """The share of 95 % intervals, of texts with k words, that hold the coefficient of many more samples."""
    texts, model = texts_of(k, k, TEXTS), pipeline("logistic")
    labels = model.predict_proba(texts).argmax(1).tolist()
    reference = gpulime.TextExplainer(model, n_samples=REFERENCE, seed=1).explain(texts, labels=labels)
    keys = torch.arange(REPEATED).repeat(len(texts))
    repeated = [text for text in texts for _ in range(REPEATED)]
    wanted = [label for label in labels for _ in range(REPEATED)]
    found = gpulime.TextExplainer(model, n_samples=SAMPLES).explain(repeated, wanted, keys)
    distance = (found.coefficients - reference.coefficients.repeat_interleave(REPEATED, 0)).abs()
    share = float((distance <= 1.96 * found.standard_errors).double().mean())
    low, high = BOUNDS
    return Row(
        f"coverage_{k}",
        "gpulime.TextExplainer",
        "95 % intervals, TF-IDF and logistic regression",
        str(len(texts)),
        str(k),
        str(SAMPLES),
        bound=f"{low:g} to {high:g}",
        coverage=f"{share:.4f}",
        ok=yes(low <= share <= high),
        **place,
    )


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] = ENTRIES, words: Sequence[int] = WORDS) -> int:
    """Return 1 if a bound does not hold."""
    names = [*(entry.name for entry in entries), *(f"coverage_{k}" for k in words)]
    options = parser("texts", __doc__, names, repeats=5).parse_args(argv)
    wanted, place, rows = options.only or names, where(), []
    warnings.filterwarnings("ignore", module="sklearn")
    for entry in entries:
        if entry.name in wanted:
            print(f"{entry.name}: {entry.about}", flush=True)
            for row in measured(entry, options.repeats, place):
                rows.append(row)
                print(row, flush=True)
    for k in words:
        if f"coverage_{k}" in wanted:
            rows.append(covered(k, place))
            print(rows[-1], flush=True)
    if options.save:
        save(rows)
    return int(any(row.ok == "no" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
