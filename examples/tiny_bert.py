"""A tiny BERT that is trained here, in seconds, and the words that it uses; nothing is downloaded."""

import random
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, set_seed

from gpulime.lime_text import LimeTextExplainer  # lime: from lime.lime_text import LimeTextExplainer

BAD, GOOD, PLAIN = ["dull", "bad", "slow"], ["great", "fine", "funny"], ["the", "film", "plot", "was", "and", "music"]
Path("vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *BAD, *GOOD, *PLAIN]))
tokenizer = BertTokenizerFast("vocab.txt")
set_seed(0)
labels = torch.randint(2, (256,))
texts = [" ".join(random.sample(PLAIN + random.sample((BAD, GOOD)[label], 2), 6)) for label in labels]
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
model = BertForSequenceClassification(BertConfig(vocab_size=len(tokenizer), **sizes))
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
predict = lambda texts: model(**tokenizer(texts, return_tensors="pt", padding=True)).logits.softmax(-1)  # noqa: E731
for _ in range(60):
    optimizer.zero_grad()
    torch.nn.functional.nll_loss(predict(texts).log(), labels).backward()
    optimizer.step()
model.eval().requires_grad_(False)
explainer = LimeTextExplainer(class_names=["negative", "positive"], random_state=0)
explanation = explainer.explain_instance("the slow plot and funny music", lambda texts: predict(texts).numpy())
print(explanation.as_list())
explanation.save_to_file("tiny_bert.html")  # in a notebook: explanation.show_in_notebook()
