"""Sizes that the house style sets: past them, look for the second noun."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mcr"
LONGEST_FUNCTION = 60
LONGEST_MODULE = 400


def long_functions(source: Path) -> Iterator[str]:
    """Name the functions of a module that are too long, docstrings and decorators included."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                yield f"{source.name}: {node.name}() has {lines} lines, expected at most {LONGEST_FUNCTION}"


def too_long(source: Path) -> Iterator[str]:
    """Name a module that is too long."""
    lines = len(source.read_text().splitlines())
    if lines > LONGEST_MODULE:
        yield f"{source.name} has {lines} lines, expected at most {LONGEST_MODULE}"


def without_docstring(package: Path) -> Iterator[str]:
    """Name a package that does not say what it is."""
    if not ast.get_docstring(ast.parse((package / "__init__.py").read_text())):
        yield f"{package.name} has no docstring"


MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


def test_there_is_something_to_look_at() -> None:
    assert len(MODULES) > 50
    assert len(PACKAGES) > 8


def test_functions_fit_on_a_screen() -> None:
    assert [problem for module in MODULES for problem in long_functions(module)] == []


def test_modules_are_about_one_noun() -> None:
    assert [problem for module in MODULES for problem in too_long(module)] == []


def test_every_package_says_what_it_is() -> None:
    assert [problem for package in PACKAGES for problem in without_docstring(package)] == []


def test_every_directory_with_modules_is_a_package() -> None:
    assert {module.parent for module in MODULES} == set(PACKAGES)


# ---- that these can fail ----


@pytest.mark.parametrize(("lines", "expected"), [(LONGEST_FUNCTION - 1, 0), (LONGEST_FUNCTION, 1)])
@pytest.mark.parametrize("head", ["def long():\n", "class C:\n async def long():\n"])
def test_a_long_function_is_found(tmp_path: Path, head: str, lines: int, expected: int) -> None:
    source = tmp_path / "module.py"
    source.write_text(head + "  x = 1\n" * lines)
    found = list(long_functions(source))

    assert len(found) == expected
    assert all(problem.startswith("module.py: long() has 61 lines") for problem in found)


@pytest.mark.parametrize(("lines", "expected"), [(LONGEST_MODULE, 0), (LONGEST_MODULE + 1, 1)])
def test_a_long_module_is_found(tmp_path: Path, lines: int, expected: int) -> None:
    source = tmp_path / "module.py"
    source.write_text("x = 1\n" * lines)

    assert len(list(too_long(source))) == expected


@pytest.mark.parametrize(("content", "expected"), [("", 1), ("# a comment\n", 1), ('"""What it is."""\n', 0)])
def test_a_package_without_a_docstring_is_found(tmp_path: Path, content: str, expected: int) -> None:
    (tmp_path / "__init__.py").write_text(content)

    assert len(list(without_docstring(tmp_path))) == expected
