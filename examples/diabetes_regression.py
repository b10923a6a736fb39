"""Regression: a random forest on scikit-learn's diabetes data, and the columns that raise and lower one prediction."""

from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split

from gpulime.lime_tabular import LimeTabularExplainer  # lime: from lime.lime_tabular import LimeTabularExplainer

diabetes = load_diabetes()
train, test, train_targets, test_targets = train_test_split(diabetes.data, diabetes.target, train_size=0.80, random_state=0)
forest = RandomForestRegressor(n_estimators=200, random_state=0).fit(train, train_targets)
print(f"MSE: {mean_squared_error(test_targets, forest.predict(test)):.0f}, of the mean: {test_targets.var():.0f}")

explainer = LimeTabularExplainer(
    train, feature_names=diabetes.feature_names, class_names=["progression"], mode="regression", random_state=0
)
explanation = explainer.explain_instance(test[25], forest.predict, num_features=5)
print(explanation.as_list())
explanation.save_to_file("diabetes.html")  # in a notebook: explanation.show_in_notebook()
