"""Which words tell two groups of fortunes apart: TF-IDF and a random forest on the texts of Debian's package fortunes."""

from pathlib import Path

from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from gpulime.lime_text import LimeTextExplainer  # lime: from lime.lime_text import LimeTextExplainer

FOLDER, CLASS_NAMES = Path("/usr/share/games/fortunes"), ["science", "computers"]
if not all((FOLDER / name).is_file() for name in CLASS_NAMES):
    raise SystemExit(f"{FOLDER} has no texts of {CLASS_NAMES}: apt-get install fortunes")
groups = [(FOLDER / name).read_text(encoding="utf-8").split("\n%\n") for name in CLASS_NAMES]
texts, labels = [*groups[0], *groups[1]], [label for label, group in enumerate(groups) for _ in group]
train, test, train_labels, test_labels = train_test_split(texts, labels, random_state=0)
pipeline = make_pipeline(TfidfVectorizer(lowercase=False), RandomForestClassifier(n_estimators=500, random_state=0))
pipeline.fit(train, train_labels)
print(f"F1 on the test texts: {f1_score(test_labels, pipeline.predict(test)):.2f}")

explainer = LimeTextExplainer(class_names=CLASS_NAMES, random_state=0)
explanation = explainer.explain_instance(test[229], pipeline.predict_proba, num_features=6)
print(explanation.as_list())
explanation.save_to_file("fortunes.html", text=True)  # in a notebook: explanation.show_in_notebook(text=True)
