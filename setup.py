"""Packaging of keras_distill; BUILD.md says how it is used."""

from setuptools import find_packages, setup

RECIPES = ["scikit-learn", "matplotlib", "jinja2"]
EXPORT = ["ai-edge-litert", "tf2onnx", "onnx", "onnxruntime"]
HUB = ["keras-hub", "safetensors"]
# Built for glibc 2.39, which pip cannot be told: `.ci/environment` makes it run on older machines, too.
BEAM = ["apache-beam>=2.70", "dill"]  # Beam's local runner imports dill and does not say so.
TFX = ["tfx[kfp]==1.21.0", *BEAM]

setup(
    name="keras-distill",
    version="0.2.0",
    description="Knowledge distillation for Keras 3 on TensorFlow",
    long_description=open("README.md", encoding="utf-8").read(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["keras_distill", "keras_distill.*"]),
    # The console script is a module of its own, outside the package: importing the package imports TensorFlow.
    py_modules=["keras_distill_cli"],
    package_dir={"keras_distill": "keras_distill", "": "keras_distill/cli"},
    package_data={"keras_distill": ["py.typed"], "keras_distill.report": ["*.jinja"]},
    entry_points={"console_scripts": ["keras-distill = keras_distill_cli:main"]},
    install_requires=[
        "absl-py",
        "etils[epath]",
        "keras>=3.12",
        "keras-tuner",
        "tensorboard",  # KerasTuner imports it and does not say so.
        "tensorflow>=2.19",
        "tensorflow-datasets",
        "importlib_resources",  # TensorFlow Datasets imports it and does not say so.
    ],
    extras_require={
        "recipes": RECIPES,
        "export": EXPORT,
        "hub": HUB,
        "beam": BEAM,
        "dask": [*BEAM, "dask", "distributed"],
        "tfx": TFX,
        "test": [*RECIPES, *EXPORT, *HUB, "pytest", "pytest-xdist", "ruff"],
    },
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
