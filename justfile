# `just` is in .venv/bin after scripts/setup. What starts workers or sends packets needs root.

set positional-arguments

bin := justfile_directory() / ".venv/bin"

# list the recipes
default:
    @"{{ bin }}/just" --list

# prepare system packages, .venv and the compiled extension
setup:
    scripts/setup

# format Python and C
fmt: setup
    "{{ bin }}/ruff" check --select I --fix
    "{{ bin }}/ruff" format
    find native -name '*.[ch]' -exec "{{ bin }}/clang-format" -i {} +

# format, lint, types, layers and unit tests, without root
check: setup
    "{{ bin }}/ruff" format --check
    find native -name '*.[ch]' -exec "{{ bin }}/clang-format" --dry-run -Werror {} +
    "{{ bin }}/ruff" check
    "{{ bin }}/mypy"
    "{{ bin }}/lint-imports"
    "{{ bin }}/pytest" --numprocesses auto tests/unit

# pure functions and values
unit *args: setup
    "{{ bin }}/pytest" tests/unit "$@"

# real processes, without packets
process *args: setup
    "{{ bin }}/pytest" tests/process "$@"

# real packets in network namespaces
netns *args: setup
    "{{ bin }}/pytest" tests/netns "$@"

# the rules of the source tree
architecture *args: setup
    "{{ bin }}/pytest" tests/architecture "$@"

# mcrd beside its peers: just bench [SCENARIO...] [--list] [--rounds N] [--seconds S] [--out DIR]; needs root
bench *args: setup
    scripts/setup-bench
    "{{ bin }}/python" -m tests.bench.main "$@"

# what features cost a packet, in instructions: just count [--out DIR]
count *args: setup
    scripts/setup-bench
    scripts/build-count
    "{{ bin }}/python" -m tests.bench.instructions "$@"

# rules that come and go and workers that are killed under traffic: just soak MINUTES [--seed N]; needs root
soak minutes="5" *args: setup
    "{{ bin }}/python" -m tests.soak.main "$@"

# the C code: warnings, tests and fuzz targets with sanitizers, in bounded time
native: setup
    scripts/check-native

# every fuzz target for SECONDS each
fuzz seconds="60" *targets: setup
    scripts/check-native fuzz "$@"

# everything; what continuous integration runs
test *args:
    scripts/test "$@"

# the documents that are made from tables in the code
docs: setup
    "{{ bin }}/python" -m mcr.runtime.privileges > developer_docs/privileges.md

# a relay between two network namespaces
demo *args:
    scripts/demo "$@"

# remove everything that is built
clean:
    rm -rf .venv build dist mcr.egg-info mcr/_native/_mcr*
    rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
    find native -name '*.o' -delete
    find mcr native scripts tests -name __pycache__ -prune -exec rm -rf {} +
