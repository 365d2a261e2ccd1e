"""The configuration file to values."""

from mcr.config.compile import Configuration
from mcr.config.load import load_configuration

__all__ = ["Configuration", "load_configuration"]
