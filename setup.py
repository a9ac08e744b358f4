"""What setup.cfg cannot say: every package is found, and the topics beside them are installed as a part of taco_ir."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["taco_ir", "taco_ir.*"]), "taco_ir.topics"],
    package_dir={"taco_ir.topics": "topics"},
)
