"""lime's first tutorial for tables: a random forest on iris, and the columns that it uses for one flower."""

import numpy as np
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from gpulime.lime_tabular import LimeTabularExplainer  # lime: from lime.lime_tabular import LimeTabularExplainer

iris = load_iris()
np.random.seed(1)
train, test, train_labels, test_labels = train_test_split(iris.data, iris.target, train_size=0.80)
forest = RandomForestClassifier(n_estimators=500).fit(train, train_labels)
print(f"accuracy: {forest.score(test, test_labels):.2f}")

explainer = LimeTabularExplainer(
    train, feature_names=iris.feature_names, class_names=iris.target_names, discretize_continuous=True
)
i = np.random.randint(0, test.shape[0])
explanation = explainer.explain_instance(test[i], forest.predict_proba, num_features=2, top_labels=1)
for label in explanation.available_labels():
    print(iris.target_names[label], explanation.as_list(label))
explanation.save_to_file("iris.html", show_table=True)  # in a notebook: explanation.show_in_notebook(show_table=True)
