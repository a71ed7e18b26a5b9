"""Size is a reviewed quantity: crossing a line is a reason to look, and to move the line in the same commit."""

import ast
import io
import tokenize
from pathlib import Path

import parle

SOURCE = Path(parle.__file__).parent


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    text = path.read_text()
    documented = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    skipped = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - documented)


def test_the_core_stays_small():
    core = [SOURCE / name for name in ("algorithm.py", "replicas.py", "center.py")] + list(SOURCE.glob("communicators/*.py"))
    assert sum(map(code_lines, core)) <= 1395
    beside = ("replica.py", "joining.py", "meeting.py", "pace.py", "refusing.py", "vectors.py", "buffers.py", "optimizer_state.py")
    assert sum(map(code_lines, core + [SOURCE / name for name in beside])) <= 2010


def test_files_and_functions_stay_small():
    for path in SOURCE.rglob("*.py"):
        assert code_lines(path) <= 300, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and path.parent.name != "cli":
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert length <= 50, (path, node.name, length)


def test_an_algorithm_is_mathematics_of_one_page():
    sizes = {path: code_lines(path) for path in SOURCE.glob("algorithms/*.py")}
    assert max(sizes.values()) <= 80, sizes
    assert sum(sizes.values()) <= 30 * len(parle.ALGORITHMS), sizes
