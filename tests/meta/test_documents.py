# SPDX-License-Identifier: BSD-3-Clause
"""What README, CONTRIBUTING and the site show runs, and what they name exists."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# As a reader has it: other tests choose Keras' backend.
ENVIRONMENT = {name: text for name, text in os.environ.items() if name != "KERAS_BACKEND"}
FRAMEWORKS = ("keras", "torch", "tensorflow", "jax", "scipy", "dask")


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


def needs(code: str) -> list[str]:
    return [name for name in FRAMEWORKS if re.search(rf"^(import|from) {name}\b", code, re.M)]


def run(code: str) -> None:
    for name in needs(code):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name)
def test_the_blocks_of_a_page_run_one_after_another(page):
    plain = [b for b in blocks(page, "python") if not needs(b)]
    if page.name == "README.md":  # each of its frameworks is a beginning of its own
        run("\n".join(plain))
        for block in blocks(page, "python"):
            if needs(block):
                run(block)
    else:
        run("\n".join(blocks(page, "python")))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "text")], ids=name)
def test_the_output_that_a_page_shows_is_what_comes(page):
    pairs = re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", page.read_text(), re.M | re.S
    )
    assert len(pairs) == len(blocks(page, "text"))
    for code, shown in pairs:
        command = [sys.executable, "-W", "ignore", "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == shown


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "c")], ids=name)
def test_the_c_of_a_page_compiles_and_prints_what_it_says(page, tmp_path):
    (code,) = blocks(page, "c")
    source, program = tmp_path / "yours.c", tmp_path / "yours"
    source.write_text(code)
    sources = [str(p) for p in [*(ROOT / "csrc").glob("*.c"), *(ROOT / "csrc/isa").glob("*.c")]]
    command = ["cc", "-O1", "-fopenmp", f"-I{ROOT / 'csrc'}", *sources, str(source)]
    subprocess.run([*command, "-o", str(program), "-lpthread"], check=True)
    said = re.search(r"^prints `(.+?)`", page.read_text(), re.M)
    printed = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert said
    assert printed == said[1] + "\n"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_has_the_targets_that_are_named(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", page.read_text(), re.M)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_nobody_is_told_to_install_the_other_fastreg(page):
    assert not re.search(r"pip install fastreg(?!-)", page.read_text())


def test_every_page_of_the_site_can_be_reached():
    index = (ROOT / "docs" / "index.md").read_text()
    pages = {name(p)[len("docs/") : -len(".md")] for p in PAGES if p.parts[-2] != ROOT.name}
    pages = {p for p in pages if p != "index"}
    assert pages <= set(re.findall(r"^([a-z/-]+)$", index, re.M))


def test_the_readme_can_be_read_in_three_minutes():
    text = re.sub(r"<!-- (bench|inside):begin -->.*?<!-- \1:end -->", "", README, flags=re.S)
    assert len(text.split()) <= 700
    inside = README.partition("<!-- inside:begin -->")[2].partition("<!-- inside:end -->")[0]
    assert inside.count("\n| ") <= 12
