"""Every block of the documents runs, and so does every example in a docstring.

In a Markdown file, blocks of `python` run one after the other in one namespace; in blocks of `sh`, the lines that begin with
`parle ` run. A block below a comment `<!-- not run: reason -->` is left out.
"""

import doctest
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import pytest

import parle

ROOT = Path(parle.__file__).parent.parent.parent
DOCUMENTS = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("experiments/**/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("examples/**/*.md"),
    )
]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n+)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MODULES = [name for _, name, _ in pkgutil.walk_packages(parle.__path__, "parle.") if not name.endswith("__main__")]


def blocks(path: Path, language: str) -> list[str]:
    return [text for skipped, its, text in BLOCK.findall(path.read_text()) if its == language and not skipped]


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_python_of_a_document_runs(path):
    namespace = {"__name__": "document"}
    for text in blocks(path, "python"):
        exec(compile(text, str(path), "exec", dont_inherit=True), namespace)


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "sh")], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_document_run(path, parle_command):
    for text in blocks(path, "sh"):
        for line in text.splitlines():
            if line.startswith("parle "):
                done = parle_command(*shlex.split(line, comments=True)[1:])
                assert done.code == 0, (line, done.err)


def anchors(path: Path) -> set[str]:
    """The names by which a code host links to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_document_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", path.read_text()):
        found = path.parent / target if target else path
        assert found.exists(), target
        assert not anchor or found.suffix != ".md" or anchor in anchors(found), f"{target}#{anchor}"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    try:
        module = importlib.import_module(name)
    except parle.SetupError as error:
        pytest.skip(str(error))
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert failed == 0


def test_every_public_class_and_function_has_an_example_that_runs():
    without = ["Algorithm", "ALGORITHMS", "Communicator", "ReplicaLost", "Replicas", "Schedule", "__version__"]  # abstract, raised, or made by join
    for name in parle.__all__:
        if name not in without and not name.endswith("Error"):
            assert ">>>" in getattr(parle, name).__doc__, name


def test_the_pages_of_the_algorithms_say_what_the_classes_say():
    path = ROOT / "docs" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate", path)
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    made = generate.pages()
    stale = sorted(path.name for path, text in made.items() if not path.exists() or path.read_text() != text)
    assert not stale and set((ROOT / "docs" / "algorithms").iterdir()) == set(made), f"run `make docs`: {stale}"


def test_the_file_tree_in_the_readme_is_the_file_tree():
    tree = re.search(r"```text\nsrc/parle/\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.strip()}
    found = {path.name for path in (ROOT / "src" / "parle").iterdir() if not path.name.startswith("__")}
    assert listed == found
