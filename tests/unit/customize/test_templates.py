"""Rendering templates."""

from pathlib import Path

import pytest

from osprovider.customize.templates import compile_all, render
from osprovider.errors import HookError


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    site, shipped = tmp_path / "site", tmp_path / "shipped"
    site.mkdir()
    shipped.mkdir()
    return site, shipped


def test_blocks_leave_no_lines_behind_and_the_last_newline_stays(places: tuple[Path, Path]) -> None:
    (places[1] / "a.j2").write_text(
        "{% for word in words %}\n  {% if word %}\n{{ word }}\n  {% endif %}\n{% endfor %}\n"
    )
    assert render(places, "a.j2", {"words": ["<a>", "", "b"]}) == "<a>\nb\n"


def test_the_sites_template_wins_and_may_include_shipped_ones(places: tuple[Path, Path]) -> None:
    (places[1] / "a.j2").write_text("shipped")
    (places[1] / "b.j2").write_text("part")
    (places[0] / "a.j2").write_text("site {% include 'b.j2' %}")
    assert render(places, "a.j2", {}) == "site part"


def test_a_missing_template_is_named_with_the_places(places: tuple[Path, Path]) -> None:
    with pytest.raises(HookError, match=rf"there is no template none.j2 in {places[0]}, {places[1]}"):
        render(places, "none.j2", {})


def test_an_undefined_value_is_an_error_with_file_and_line(places: tuple[Path, Path]) -> None:
    (places[0] / "a.j2").write_text("one\n{{ nothing }}\n")
    with pytest.raises(HookError, match=rf"template {places[0]}/a.j2:2: 'nothing' is undefined"):
        render(places, "a.j2", {})


def test_a_syntax_error_is_an_error_with_file_and_line(places: tuple[Path, Path]) -> None:
    (places[0] / "a.j2").write_text("one\n\n{% if %}\n")
    with pytest.raises(HookError, match=rf"template {places[0]}/a.j2:3: Expected an expression"):
        render(places, "a.j2", {})


def test_an_exception_inside_is_an_error_with_file_and_line(places: tuple[Path, Path]) -> None:
    (places[0] / "a.j2").write_text("one\n{{ 1 / zero }}\n")
    with pytest.raises(HookError, match=rf"template {places[0]}/a.j2:2: ZeroDivisionError: division by zero"):
        render(places, "a.j2", {"zero": 0})


def test_templates_are_compiled_beforehand_and_what_is_none_is_told_when_it_is_used(tmp_path: Path) -> None:
    good, bad, missing = tmp_path / "good.j2", tmp_path / "bad.j2", tmp_path / "missing"
    good.write_text("{{ word }}\n")
    bad.write_text("{% if %}\n")
    (tmp_path / "binary.j2").write_bytes(b"\xff")
    compile_all([missing, tmp_path])
    good.write_text("read too late")
    assert render([missing, tmp_path], "good.j2", {"word": "compiled"}) == "compiled\n"
    with pytest.raises(HookError, match=r"bad\.j2:1"):
        render([missing, tmp_path], "bad.j2", {})
