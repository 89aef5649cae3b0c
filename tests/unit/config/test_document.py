"""YAML text becomes nodes that know their places, or problems that do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from osprovider.config.document import MAXIMUM_BYTES, Node, merge, parse, read
from osprovider.errors import Problem


def _parse(text: str | bytes) -> tuple[Node | None, list[str]]:
    problems: list[Problem] = []
    node = parse(text if isinstance(text, bytes) else text.encode(), "f.yaml", problems)
    return node, [str(problem) for problem in problems]


def _plain(node: Node | None) -> object:
    assert node is not None
    if isinstance(node.value, dict):
        return {key: _plain(item) for key, item in node.value.items()}
    if isinstance(node.value, tuple):
        return [_plain(item) for item in node.value]
    return node.value


def test_values_and_keys_know_their_lines_and_columns() -> None:
    node, problems = _parse("# heading\nimage: debian\nboot:\n  kernel_args: [quiet,\n    panic=10]\n")
    assert not problems
    assert node is not None
    assert node.keys["boot"] == ("f.yaml", 3, 1)
    assert node.at("image").mark == ("f.yaml", 2, 8)
    assert node.at("boot").keys["kernel_args"] == ("f.yaml", 4, 3)
    assert node.at("boot", "kernel_args", 1).mark == ("f.yaml", 5, 5)


def test_a_path_that_leads_nowhere_ends_at_the_last_node_on_its_way() -> None:
    node, _ = _parse("nics:\n  - {subnet: prod}\n")
    assert node is not None
    assert node.at("nics", 0, "addresses", 3) is node.at("nics", 0)
    assert node.at("nics", 7) is node.at("nics")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x", "x"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("12", 12),
        ("-3", -3),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("none", "none"),
        ("~", None),
        ("null", None),
        ("", None),
        ("2026-11-21", "2026-11-21"),
        ("12:30:45", "12:30:45"),
        ("2GiB", "2GiB"),
        ("1_000", "1_000"),
        ("|\n  a\n  b", "a\nb"),
    ],
)
def test_plain_words_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    node, problems = _parse(f"key: {text}")
    assert not problems
    plain = _plain(node)
    assert plain == {"key": value}
    assert isinstance(plain, dict)
    assert type(plain["key"]) is type(value)


@pytest.mark.parametrize("text", ["010", "+1", "0x10", "0o17", "1.5", "1e3", ".inf", ".nan", "1" * 30, "1" * 5000])
def test_a_number_that_is_not_a_plain_integer_is_a_float_that_keeps_its_text(text: str) -> None:
    node, problems = _parse(f"key: {text}")
    assert not problems
    assert node is not None
    assert isinstance(node.at("key").value, float)
    assert node.at("key").text == text


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "---\n", "~", "\ufeff"])
def test_an_empty_file_is_an_empty_map(text: str) -> None:
    node, problems = _parse(text)
    assert not problems
    assert _plain(node) == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: b: c", "f.yaml:1:5: is not YAML: mapping values are not allowed in this context; a text with ': ' in it"),
        ("a:\n\tb: 1", "f.yaml:2:1: is not YAML: while scanning for the next token"),
        ("a: [b", "f.yaml:2:1: is not YAML: while parsing a flow sequence (from line 1)"),
        ("a: 'b\n\nc: d", "f.yaml:3:5: is not YAML: while scanning a quoted scalar (from line 1)"),
        ("a: b\n c: d", "f.yaml:2:3: is not YAML: mapping values are not allowed"),
        ("a:\n  - b\n c: d", "f.yaml:3:2: is not YAML: while parsing a block mapping (from line 1)"),
        ("a: }", "f.yaml:1:4: is not YAML: while parsing a block node (from line 1)"),
        ("a: *b", "f.yaml:1:4: the alias *b is not taken; write the value out"),
        ("a: &b c", "f.yaml:1:4: the anchor &b is not taken; remove it"),
        (
            "a: !!python/object:os.system x",
            'f.yaml:1:4: the tag "tag:yaml.org,2002:python/object:os.system" is not taken',
        ),
        ("a: !x {}", 'f.yaml:1:4: the tag "!x" is not taken; write the value without it'),
        ("a: 1\nb: 2\na: 3", 'f.yaml:3:1: the key "a" is here a second time, after line 1; keep one'),
        ("a: {b: 1, b: 2}", 'f.yaml:1:11: the key "b" is here a second time, after line 1; keep one'),
        ("1: x", 'f.yaml:1:1: a key must be text; put quotes around it ("1")'),
        ("true: x", 'f.yaml:1:1: a key must be text; put quotes around it ("true")'),
        ("? [a]\n: x", "f.yaml:1:3: a key must be text; put quotes around it"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: starts a second document; a file holds one"),
        (b"a: b\nc: \xe4", "f.yaml:2:4: is not UTF-8 (byte 0xe4); save it as UTF-8"),
        (b"a: \x00", "f.yaml:1:4: holds the control character U+0000; remove it"),
        ("a: b\x1b[31m", "f.yaml:1:5: holds the control character U+001B; remove it"),
        (b"a" * (MAXIMUM_BYTES + 1), "f.yaml: is larger than 1 MiB"),
        ("[" * 500, "f.yaml:1:34: is nested more than 32 levels deep"),
        ("{a: " * 500, "f.yaml:1:1"),
    ],
)
def test_what_a_configuration_must_not_hold_is_refused_at_its_place(text: str | bytes, expected: str) -> None:
    _, problems = _parse(text)
    assert problems[0].startswith(expected)


def test_aliases_cannot_make_a_small_file_large() -> None:
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40))]
    node, problems = _parse("\n".join(lines))
    assert node is None
    assert "f.yaml:2:10: the alias *a0 is not taken; write the value out" in problems


def test_a_message_stays_on_one_line_whatever_a_key_holds() -> None:
    _, problems = _parse('"a\\nb": 1\n"a\\nb": 2\n')
    assert problems == ['f.yaml:2:1: the key "a\\nb" is here a second time, after line 1; keep one']


def test_all_that_is_wrong_with_keys_is_said_at_once() -> None:
    node, problems = _parse("1: x\na: 1\na: 2\n2: y\n")
    assert len(problems) == 3
    assert _plain(node) == {"a": 1}


def test_maps_merge_and_lists_and_scalars_replace() -> None:
    base, _ = _parse("a: {b: 1, c: [1, 2], d: {e: 1}}\nf: x\n")
    over, _ = _parse("a: {c: [3], d: {g: 2}}\nh: y\n")
    assert base is not None
    assert over is not None
    assert _plain(merge(base, over)) == {"a": {"b": 1, "c": [3], "d": {"e": 1, "g": 2}}, "f": "x", "h": "y"}


def test_merged_values_keep_the_places_they_came_from() -> None:
    problems: list[Problem] = []
    base = parse(b"a:\n  b: 1\n  c: 2\n", "base.yaml", problems)
    over = parse(b"a: {c: 3}\n", "over.yaml", problems)
    assert base is not None
    assert over is not None
    merged = merge(base, over)
    assert merged.at("a", "b").mark == ("base.yaml", 2, 6)
    assert merged.at("a", "c").mark == ("over.yaml", 1, 8)
    assert merged.at("a").keys["b"].file == "base.yaml"
    assert merged.at("a").keys["c"].file == "over.yaml"


def test_a_null_replaces_a_map() -> None:
    base, _ = _parse("a: {b: 1}")
    over, _ = _parse("a: ~")
    assert base is not None
    assert over is not None
    assert _plain(merge(base, over)) == {"a": None}


def test_a_directory_and_a_fifo_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "directory.yaml").mkdir()
    problems: list[Problem] = []
    assert read(tmp_path / "fifo.yaml", problems) is None
    assert read(tmp_path / "directory.yaml", problems) is None
    assert [problem.message for problem in problems] == [
        "is not a regular file; put the YAML text there",
        "cannot be read: is a directory; put a file there that root can read",
    ]


def test_a_file_that_does_not_exist_is_for_the_caller_to_judge(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "missing.yaml", [])
