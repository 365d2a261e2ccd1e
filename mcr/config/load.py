"""From a path to what the file there says, or to everything that is wrong with it."""

from pathlib import Path

from mcr.config.compile import Configuration, compile_tree
from mcr.config.tree import read_tree, repeated_keys
from mcr.errors import ConfigError


def load_configuration(path: Path) -> Configuration:
    """
    Read and check a whole configuration file; nothing is done with it.

    Raises:
        ConfigError: every problem in it, each ``file: path.to.key: got X, expected Y``.
    """
    tree = read_tree(path)
    problems = [f"{key}: got this key twice, expected it once" for key in repeated_keys(tree)]
    configuration, more = compile_tree(tree)
    problems += more
    if problems:
        raise ConfigError([f"{path}: {problem}" for problem in problems])
    return configuration
