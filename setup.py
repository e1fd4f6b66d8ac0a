"""Packaging of keras_distill; see BUILD.md."""

from pathlib import Path

from setuptools import find_packages, setup

REPORT = ["scikit-learn", "matplotlib", "jinja2"]
EXPORT = ["ai-edge-litert", "tf2onnx", "onnx", "onnxruntime"]
HUB = ["keras-hub", "safetensors"]
# Built for glibc 2.39, which pip cannot check. `.ci/environment` also makes it run on older machines.
BEAM = ["apache-beam>=2.70", "dill"]  # Beam's local runner imports dill without requiring it.
DOCS = ["sphinx>=8", "furo", "myst-nb>=1.2", "sphinx-copybutton", "sphinx-design", "jupytext", "codespell"]
TFX = ["tfx[kfp]==1.21.0", *BEAM, *REPORT]  # DistillationReport writes the page.

setup(
    name="keras-distill",
    version="0.2.0",
    description="Knowledge distillation for Keras 3 on TensorFlow",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    # The folder of the recipes is the package `keras_distill.examples`, so that a wheel has no package `recipes`.
    packages=[*find_packages(include=["keras_distill", "keras_distill.*"]), "keras_distill.examples"],
    # The console script is a module outside the package, since importing the package imports TensorFlow.
    py_modules=["keras_distill_cli"],
    package_dir={"keras_distill": "keras_distill", "keras_distill.examples": "recipes", "": "keras_distill/cli"},
    package_data={"keras_distill": ["py.typed"], "keras_distill.report": ["*.jinja"]},
    entry_points={"console_scripts": ["keras-distill = keras_distill_cli:main"]},
    install_requires=[
        "absl-py",
        "etils[epath]",
        "keras>=3.12",
        "keras-tuner",
        "pyyaml",
        "scipy>=1.15",  # The first with permutation_test(rng=).
        "tensorboard",  # KerasTuner imports it without requiring it.
        "tensorflow>=2.19",
        "tensorflow-datasets",
        "importlib_resources",  # TensorFlow Datasets imports it without requiring it.
    ],
    extras_require={
        "report": REPORT,
        "export": EXPORT,
        "hub": HUB,
        "beam": BEAM,
        "dask": [*BEAM, "dask", "distributed"],
        "tfx": TFX,
        "docs": [*REPORT, *EXPORT, *DOCS],
        "test": [*REPORT, *EXPORT, *HUB, "basedpyright", "pytest", "pytest-xdist", "ruff"],
    },
    keywords="knowledge distillation, model compression, teacher-student, quantization, keras, tensorflow",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
