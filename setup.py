"""Name the cffi builder: pyproject.toml has no key for it."""

from setuptools import setup

setup(cffi_modules=["native/build.py:ffibuilder"])
