# SPDX-License-Identifier: BSD-3-Clause
"""What mutants.toml excuses can still be made: a line that has changed is judged again."""

from __future__ import annotations

import mutate


def test_every_excuse_fits_a_mutant():
    known = mutate.explained()
    files = {place.file for place in known}
    made = set()
    for file in files:
        lines = (mutate.ROOT / file).read_text().splitlines()
        made |= {mutate.place(mutant, lines) for mutant in mutate.mutants_of(file)}
    stale = [place for place in known if place not in made]
    assert not stale, f"run tests/meta/mutate.py on these again: {stale[:5]}"


def test_a_mutant_is_made_and_named():
    mutants = mutate.mutants_of("csrc/walk.c")
    lines = (mutate.ROOT / "csrc/walk.c").read_text().splitlines()
    places = {mutate.place(mutant, lines) for mutant in mutants}
    assert len(mutants) > 300
    line = next(p for p in places if p.function == "fr_walk_next" and p.old == "return 1;")
    assert line.new in ("return 0;", "return 2;", ";")
