import ast
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT_IMPORTS = Path(sysconfig.get_path("scripts")) / "lint-imports"
COLOURS = re.compile(r"\x1b\[[\d;]*m")  # it prints them to a pipe as well


def lint(tree: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Check the contracts on *tree*; lint-imports takes the package from its working directory."""
    command = [
        sys.executable,
        str(LINT_IMPORTS),
        "--no-cache",
        "--config",
        str(ROOT / "pyproject.toml"),
        *options,
    ]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    done.stdout = COLOURS.sub("", done.stdout)
    return done


def copy_of_the_package(into: Path, added: dict[str, str]) -> Path:
    """Copy the Python files below ``mcr``, then append *added*: lines by module path."""
    for source in (ROOT / "mcr").rglob("*.py"):
        target = into / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    for module, lines in added.items():
        target = into / "mcr" / module
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a") as stream:
            stream.write(f"\n{lines}\n")
    return into


def test_all_contracts_are_kept() -> None:
    result = lint(ROOT)

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("errors.py", "from mcr import model", "Imports go down"),
        ("model/rule.py", "import mcr.wire", "Imports go down"),
        ("supervisor/main.py", "import mcr.worker", "Imports go down"),
        ("config/load.py", "import mcr.wire", "Only the two ends of a channel"),
        ("worker/main.py", "import mcr.config", "Only the supervisor and mcrctl"),
        ("supervisor/main.py", "import mcr.client", "Of the processes only mcrctl"),
        ("cli/main.py", "import mcr.runtime", "Only the daemon's processes"),
        ("supervisor/main.py", "import mcr._native", "Only what handles packets"),
        ("model/rule.py", "import time", "Values do no I/O"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, module: str, line: str, contract: str) -> None:
    tree = copy_of_the_package(tmp_path, {module: line})

    result = lint(tree)

    assert result.returncode == 1, result.stdout + result.stderr
    assert any(
        row.startswith(contract) and row.rstrip().endswith("BROKEN") for row in result.stdout.splitlines()
    ), result.stdout


def test_a_package_without_a_place_in_the_layers_is_found(tmp_path: Path) -> None:
    tree = copy_of_the_package(tmp_path, {"novelty/__init__.py": ""})

    result = lint(tree)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "novelty" in result.stdout


def third_party_imports(tree: Path, *packages: str) -> set[str]:
    """Give the top-level names that *packages* import from outside mcr and the standard library."""
    names = set[str]()
    for package in packages:
        path = tree / package.replace(".", "/")
        for source in path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
            for node in ast.walk(ast.parse(source.read_text())):
                if isinstance(node, ast.Import):
                    names |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"mcr"}


def test_values_and_errors_need_the_standard_library_only() -> None:
    assert third_party_imports(ROOT, "mcr.errors", "mcr.model") == set()


def test_a_third_party_import_in_a_value_is_found(tmp_path: Path) -> None:
    tree = copy_of_the_package(tmp_path, {"model/rule.py": "from pydantic import BaseModel"})

    assert third_party_imports(tree, "mcr.errors", "mcr.model") == {"pydantic"}
