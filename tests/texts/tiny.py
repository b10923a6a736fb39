"""Small models of texts, made here: nothing is downloaded."""

from __future__ import annotations

import re

import pytest
import torch

TEXTS = [
    "the engine of this car makes a loud noise at every start",
    "the goalkeeper saved the last shot of the game, and the crowd cheered loudly!",
    "my car needs a new engine and new tyres",
    "a game without a shot is no game",
    "noise",
]
WORDS = sorted({word for text in TEXTS for word in re.findall(r"\w+", text)} - {"goalkeeper", "loudly"})
PIECES = ["goal", "##keep", "##er", "loud", "##ly"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def tokenizer(max_length=512, special=True, corpus=TEXTS):
    """A WordPiece tokenizer with a few words in several pieces."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = sorted({word for text in corpus for word in re.findall(r"\w+|[^\w\s]", text.lower())} - {"goalkeeper", "loudly"})
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *PIECES, *words]))}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    if special:
        ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=max_length, **names)


def bert(tokenizer, labels=3, size=32, seed=0, **settings):
    """A BERT of two layers with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    sizes = {"hidden_size": size, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4 * size}
    config = transformers.BertConfig(vocab_size=len(tokenizer), num_labels=labels, initializer_range=0.5, **sizes, **settings)
    return transformers.BertForSequenceClassification(config)
