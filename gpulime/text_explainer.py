"""TextExplainer: settings, and the stages in order."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gpulime import classes
from gpulime.engine import masks
from gpulime.engine.class_columns import ClassColumns
from gpulime.engine.designs import Design
from gpulime.engine.engine import Engine
from gpulime.engine.masks import Lime
from gpulime.engine.model import Activation, Predictor
from gpulime.engine.proximity import Distance, Kernel
from gpulime.engine.quality import sampling
from gpulime.engine.settings import Settings
from gpulime.engine.stopping import Stopping
from gpulime.errors import check, whole
from gpulime.explanations.texts import ExplainedTexts
from gpulime.texts import models
from gpulime.texts.batch import Batch
from gpulime.texts.hide import Hide
from gpulime.texts.preparation import Preparation, Window
from gpulime.texts.token_model import TokenModel
from gpulime.texts.words import Split, check_split

AUTO = "auto"


class TextExplainer(Engine[ExplainedTexts]):
    r"""LIME for batches of texts.

    Parameters
    ----------
    model : callable, scikit-learn estimator, nn.Module or pipeline of transformers
        A function of strings: list of b strings -> (b, classes) probabilities or scores. One column, (b,) or (b, 1), is the
        probability of the second of two classes if the first outputs are in [0, 1], else a score. A scikit-learn pipeline: its
        ``predict_proba`` is explained, or ``predict`` of a regressor, as one output. If its vectoriser counts single words and
        some masks of each text prove it exact, masked texts are summed from counts of words. A text classification pipeline of
        transformers, or its model with the ``tokenizer``: each text is tokenised once, and its token ids are masked on the
        model's device. A module is never modified and may be in train mode.
    tokenizer : fast tokenizer of transformers, optional
        For a module.
    hide : str or callable
        How words are hidden. "drop", the default, removes them, as lime does. With a tokenizer: "mask" puts the mask token in
        place of each token, "attention" leaves it and clears its attention mask, any other string is a token to put there, and
        a callable ids (t,) int64 -> ids (t,) int64 gives a token for each. Without: a string stands for a hidden word, and a
        callable word -> str gives it. These are different questions with different answers.
    split_expression : str or callable
        A regular expression of what separates words; or a callable text -> words, in their order in the text.
    bow : bool
        True: a word is one part wherever it occurs. False: each occurrence is a part.
    char_level : bool
        True: characters are the parts, in place of words.
    n_samples : int or "auto"
        s, the masks, and so the forwards, per text, including the whole text; 1000 by default. "auto" draws blocks of masks
        until a text is settled; it needs the sampler "blocks", "antithetic" or "exhaustive". Equal masked texts are
        predicted once.
    sampler, estimator, link, quality, tolerance, confidence, max_samples, top_labels, alpha, kernel, distance, \
    feature_selection, num_features
        As for `gpulime.Explainer`, except that "lime" is no sampler here: lime hides a number of words that is uniform in
        1 to k, which `gpulime.lime_text` draws.
    kernel_width : float or None
        Width of the proximity kernel, in cosine distances; lime's 25 is that of distances times 100. None means
        ``0.75 * sqrt(k)``.
    activation : str, callable or None
        Applied to the model's output before it is explained: "softmax", "sigmoid", a callable, or None. "auto" is None for
        functions. For modules it is "softmax"; "sigmoid" if ``config.problem_type`` is "multi_label_classification" or there
        is one label; None for "regression".
    class_names : sequence of str, optional
        By default the ones of ``config.id2label``, or of a scikit-learn model whose classes are strings.
    max_length : int, optional
        The most tokens of a text; by default the least of the limits of tokenizer and model. Words beyond are never seen: a
        warning says so, and `ExplainedTexts.unseen`.
    precision : str
        "float32" runs the model as it is; "bfloat16" and "float16" run it under autocast.
    batch_size : int or "auto"
        The most strings, or rows of token ids, in a call of the model. Rows of all texts are sorted by length. "auto" is 1024
        strings, or rows with about 4096 tokens on a CPU and 65536 on a GPU.
    device : str or torch.device, optional
        By default the model's.
    seed : int
        Seed of the masks.

    Raises
    ------
    GpulimeError
        If a setting is invalid.

    Notes
    -----
    Token ids are masked, and strings are not tokenised again. For WordPiece (BERT) both are the same with "drop". For byte
    level BPE (GPT-2, RoBERTa) and Unigram (XLNet, T5) they differ: a tokenizer merges what is left of a string in another way.
    To explain the tokenizer as well, as lime does, pass a function of strings.

    References
    ----------
    Ribeiro, Singh and Guestrin, "Why should I trust you?", KDD 2016.
    """

    def __init__(
        self,
        model: nn.Module | Callable[..., Any] | Any,
        tokenizer: Any = None,
        hide: Hide = "drop",
        split_expression: Split = r"\W+",
        bow: bool = True,
        char_level: bool = False,
        n_samples: int | str | None = None,
        sampler: str | None = None,
        estimator: str | None = None,
        link: str | None = None,
        quality: str | None = None,
        tolerance: float | None = None,
        confidence: float = 0.95,
        max_samples: int = 4096,
        top_labels: int = 5,
        kernel_width: float | None = 0.25,
        alpha: float = 1.0,
        kernel: Kernel | None = None,
        distance: Distance = "cosine",
        feature_selection: str = "auto",
        num_features: int | None = None,
        activation: Activation = AUTO,
        class_names: Sequence[str] | None = None,
        max_length: int | None = None,
        precision: str = "float32",
        batch_size: int | str = "auto",
        device: torch.device | str | None = None,
        seed: int = 0,
    ) -> None:
        self.sampling = sampling(quality, n_samples=n_samples, sampler=sampler, estimator=estimator, link=link)
        stopping = Stopping.of(self.sampling.n_samples, tolerance, confidence, max_samples)
        expected, self.seed = self.sampling.expected, seed
        draw: masks.Sampler | Design = masks.resolve(self.sampling.sampler, seed, expected)
        check(not isinstance(draw, Lime), "sampler='lime' draws lime's masks of images; lime's of texts: gpulime.lime_text")
        check_split(split_expression)
        max_length = None if max_length is None else whole("max_length", max_length, 1)
        adapted = models.of(model, tokenizer, hide, batch_size, max_length)
        on_host = adapted.tokenisation is not None or device is None or torch.device(device).type == "cpu"
        check(on_host, f"a function of strings is called from the CPU; got device={str(device)!r}")
        names = adapted.class_names if class_names is None else classes.listed(class_names)
        self.class_names = names
        activation = adapted.activation if activation == AUTO else activation
        predictor = Predictor(adapted.rows, activation, precision, device)
        named = None if class_names is None or names is None else len(names)
        predictor.columns = ClassColumns(named, divides=adapted.tokenisation is None and not adapted.regression)
        self.preparation = Preparation(predictor, split_expression, bow, char_level, adapted.tokenisation, hide, names)
        settings = Settings(
            alpha,
            kernel or "exponential",
            kernel_width,
            distance,
            feature_selection,
            num_features,
            self.sampling.estimator,
            self.sampling.link,
        )
        top_labels = whole("top_labels", top_labels, 1)
        super().__init__(predictor, Window(), self.preparation, draw, expected, top_labels, settings, stopping)

    def __repr__(self) -> str:
        model = self.predictor.model
        model = model.model if isinstance(model, TokenModel) else getattr(model, "pipeline", getattr(model, "function", model))
        name = getattr(model, "__qualname__", type(model).__name__)
        facts = f"n_samples: {self.sampling.n_samples}, sampler: {self.sampling.sampler}, hide: {self.preparation.hide!r}"
        return f"TextExplainer({name}, {facts}, device: {self.device})"

    def explain(self, texts: Sequence[str], labels: Any = None, keys: Any = None) -> ExplainedTexts:
        """Explain texts.

        Parameters
        ----------
        texts : sequence of n str
        labels : int, (n,) or (n, l) integers, or a sequence of n entries, optional
            Classes to explain, as for `gpulime.Explainer.explain`. By default the ``top_labels`` with the highest output.
        keys : (n,) int64, optional
            ``gpulime.key(text_id)`` of each text, which seeds its masks; 0 by default. With equal keys, texts with the same
            number of words share masks, and so their sampling noise, which does not average out over texts.

        Returns
        -------
        ExplainedTexts, on the device of the work

        Raises
        ------
        GpulimeError
            If an argument is invalid, or the model's output is not (b, classes).
        """
        divided = self.preparation.divided(Batch(texts, labels, keys))
        sizes = [len(words.text) for words in divided.words]
        order = sorted(range(len(sizes)), key=sizes.__getitem__)  # texts of similar length share batches
        found = ExplainedTexts.cat(list(self.explained(divided.ordered(order))))
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        found = found.ordered(back.tolist())
        self._warn(found)
        return found

    def _warn(self, found: ExplainedTexts) -> None:
        for i in found.non_finite.nonzero().flatten().tolist():
            count = int(found.non_finite[i])
            unusable = "no probabilities, NaN or infinite" if self.sampling.link == "logit" else "NaN or infinite"
            warnings.warn(
                f"text {i}: the model's output was {unusable} for {count} of {int(found.samples[i])} samples; "
                "its coefficients are NaN",
                stacklevel=3,
            )
        tokenisation = self.preparation.tokenisation
        limit = f", which takes {tokenisation.most} tokens" if tokenisation is not None and tokenisation.most else ""
        for i in found.unseen.any(1).nonzero().flatten().tolist():
            places = found.unseen[i].nonzero().flatten().tolist()
            warnings.warn(
                f"text {i}: {len(places)} of its {int(found.counts[i])} words have no token in the model's input{limit}, such "
                f"as {found.words[i][places[0]]!r}: their coefficients are noise around 0; the field `unseen` marks them",
                stacklevel=3,
            )
