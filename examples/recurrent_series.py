"""A recurrent network that tells if the first of two signals rises at its end, on (n, T, F) series, and the steps it uses."""

import numpy as np
import torch
from torch import nn

from gpulime.lime_tabular import RecurrentTabularExplainer  # lime: from lime.lime_tabular import RecurrentTabularExplainer

random = np.random.default_rng(0)
torch.manual_seed(0)
series = random.normal(size=(600, 12, 2)).cumsum(1)
labels = (series[:, -1, 0] > series[:, -4, 0]).astype(np.int64)
recurrent, last = nn.GRU(2, 16, batch_first=True), nn.Linear(16, 2)
optimizer = torch.optim.Adam([*recurrent.parameters(), *last.parameters()], 1e-2)
predict = lambda inputs: last(recurrent(torch.as_tensor(inputs, dtype=torch.float32))[0][:, -1]).softmax(-1)  # noqa: E731
for _ in range(150):
    optimizer.zero_grad()
    nn.functional.nll_loss(predict(series[:500]).log(), torch.from_numpy(labels[:500])).backward()
    optimizer.step()
print(f"accuracy: {(predict(series[500:]).argmax(1).numpy() == labels[500:]).mean():.2f}")

names = {"feature_names": ["signal", "noise"], "class_names": ["falls", "rises"]}
explainer = RecurrentTabularExplainer(series[:500], training_labels=labels[:500], random_state=0, **names)
explanation = explainer.explain_instance(series[500], lambda inputs: predict(inputs).detach().numpy(), num_features=6)
print(explanation.as_list())
explanation.save_to_file("series.html")  # in a notebook: explanation.show_in_notebook()
