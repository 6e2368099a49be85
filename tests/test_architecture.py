"""The shape of the code, read from its syntax trees: who may import whom, and that importing starts nothing."""

import ast
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "diffusers", "transformers", "safetensors")
BASE = (
    *("errors", "params", "results", "artifacts", "formats", "cifar", "mosaic", "jobs", "device", "progress"),
    *("steer_params", "steer_results", "concepts", "judges", "writing", "edits", "ink"),
    *("exhibit_params", "exhibit_results", "evaluation", "benchmarks", "ranking", "detection_results"),
    *("user_concepts", "user_source", "example_rows", "text_files", "lab_params", "lab_results"),
)
TOP = (
    "lm_core.run",
    "lm_core.run_llm",
    "lm_core.run_survey",
    "lm_core.run_calibrate",
    "lm_core.run_edits",
    "lm_core.run_limits",
    "lm_core.run_mechanics",
    "lm_core.run_detection",
    "lm_core.run_lab",
    "lm_core.run_compare",
    "lm_core.run_monitor",
    "lm_core.run_index",
    "lm_core.concept_detectors",
    "lm_core.bench_detection",
    "lm_core.survey",
    "lm_core.shelf",
    "lm_core.doctor",
    "lm_core.bench",
    "lm_core.bench_fast",
    "lm_core.bench_gpu",
    "lm_core.bench_index",
    "lm_core.__main__",
)
# What every engine may read: the noise schedule, and the recursive feature machine, the same for a toy and for an LLM.
SHARED_MATHS = ("lm_core.diffusion.schedule", "lm_core.llm.rfm")


@dataclass(frozen=True)
class Import:
    """One imported module; `at_import` tells that importing the file imports it, `line` where."""

    module: str
    line: int
    at_import: bool

    def within(self, *packages: str) -> bool:
        return any(self.module == package or self.module.startswith(f"{package}.") for package in packages)


def read_imports(source: str) -> list[Import]:
    """Return every import of a file; `from a import b` counts as a and as a.b, for b may be a module."""
    found: list[Import] = []

    def visit(node: ast.AST, at_import: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(name.name, node.lineno, at_import) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide their direction"
            assert node.module
            found.append(Import(node.module, node.lineno, at_import))
            found.extend(Import(f"{node.module}.{name.name}", node.lineno, at_import) for name in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                visit(child, at_import)
        else:
            deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, at_import and not deferred)

    visit(ast.parse(source), True)
    return found


def files(*patterns: str) -> list[Path]:
    return sorted({path for pattern in patterns for path in ROOT.glob(pattern)})


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offences(paths: list[Path], forbidden, *, only_at_import: bool = False) -> list[str]:
    """Return "file:line imports module" for each import that `forbidden(file's module name, import)` refuses."""
    return [
        f"{path.relative_to(ROOT)}:{item.line} imports {item.module}"
        for path in paths
        for item in read_imports(path.read_text("utf-8"))
        if (item.at_import or not only_at_import) and forbidden(name_of(path), item)
    ]


CORE = files("lm_core/**/*.py")
TORCH_FREE = files("lm_core/*.py")  # everything but the engines
PAGES = files("app.py", "pages/**/*.py")
ENGINES = sorted(path.parent.name for path in ROOT.glob("lm_core/*/__init__.py"))


def test_the_reader_sees_every_kind_of_import():
    source = """
import a.b as c
from d import e
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import types_only
try:
    import tried
except ImportError:
    pass
def f():
    import late
class G:
    import early
    def g(self):
        from much import later
"""
    found = {item.module: item.at_import for item in read_imports(source)}
    early = {"a.b", "d", "d.e", "typing", "typing.TYPE_CHECKING", "tried", "early"}
    late = {"late", "much", "much.later"}
    assert found == dict.fromkeys(early, True) | dict.fromkeys(late, False)


def test_there_is_something_to_read():
    assert len(CORE) > 8
    assert len(PAGES) > 4
    assert {"diffusion", "score"} <= set(ENGINES)


def test_pages_import_no_torch():
    assert offences(PAGES, lambda _, item: item.within(*HEAVY)) == []


def test_pages_reach_engines_only_through_run():
    engines = [f"lm_core.{engine}" for engine in ENGINES]
    assert offences(PAGES, lambda _, item: item.within(*engines)) == []


def test_the_core_imports_neither_streamlit_nor_pages():
    assert offences(CORE, lambda _, item: item.within("streamlit", "plotly", "pages", "app")) == []


def test_torch_free_modules_import_torch_only_inside_functions():
    assert offences(TORCH_FREE, lambda _, item: item.within(*HEAVY), only_at_import=True) == []


def test_the_base_imports_no_engine_and_nothing_above_it():
    above = [f"lm_core.{engine}" for engine in ENGINES]
    assert offences([ROOT / "lm_core" / f"{name}.py" for name in BASE], lambda _, item: item.within(*above, *TOP)) == []


def test_engines_import_neither_each_other_nor_what_is_above_them():
    def forbidden(importer: str, item: Import) -> bool:
        own = ".".join(importer.split(".")[:2])
        siblings = [f"lm_core.{engine}" for engine in ENGINES if f"lm_core.{engine}" != own]
        shared = item.within(*SHARED_MATHS) or any(module.startswith(f"{item.module}.") for module in SHARED_MATHS)
        return item.within(*TOP) or (item.within(*siblings) and not shared)

    assert offences([path for path in CORE if path.parent.name in ENGINES], forbidden) == []


def test_every_module_says_what_it_is():
    silent = [
        str(path.relative_to(ROOT)) for path in CORE + PAGES if not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def run_python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_importing_the_torch_free_core_leaves_torch_out():
    names = ", ".join(name_of(path) for path in TORCH_FREE if path.name != "__main__.py")
    assert run_python(f"import sys, {names}; print(*sorted({{'torch', 'streamlit'}} & set(sys.modules)))") == ""


@pytest.mark.slow
def test_importing_the_core_starts_nothing():
    left_out = ["__main__.py"] + ([] if find_spec("triton") else ["fused.py"])  # Triton has no build for some platforms
    code = f"""
import logging, random, sys, threading
import numpy, torch
before = threading.active_count(), torch.initial_seed(), random.getstate(), len(logging.root.handlers)
events = []
watched = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.mkdir", "urllib.Request")
def watch(event, args):
    own_cache = event == "os.mkdir" and str(args[0]).endswith("__pycache__")  # numba keeps code where Python does
    if event in watched and not own_cache:
        events.append((event, args))
sys.addaudithook(watch)
for name in {[name_of(path) for path in CORE if path.name not in left_out]}:
    __import__(name)
assert (threading.active_count(), torch.initial_seed(), random.getstate(), len(logging.root.handlers)) == before
assert not torch.cuda.is_initialized()
assert "streamlit" not in sys.modules
print(events)
"""
    assert run_python(code) == "[]"
