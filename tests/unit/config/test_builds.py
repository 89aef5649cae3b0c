"""What of a build's keys does not go together."""

from __future__ import annotations

import pytest

from osprovider.config.consistency import check_image
from osprovider.config.document import parse
from osprovider.config.model import Image
from osprovider.config.schema import bind
from osprovider.errors import Problem

SHOP = "build: {{suite: x, repositories: {{{}: {{url: 'https://h/', suite: {}, keyring: a.gpg, components: {}}}}}}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "build: {suite: x, packages: [vim, nano], exclude: [emacs, nano]}",
            "1:59: build.exclude[1]: nano is among the packages as well; keep one",
        ),
        (
            "build: {suite: x, security_mirror: 'http://h/'}",
            "1:36: build.security_mirror: goes with a mirror and with security; add them, or remove it",
        ),
        (
            "build: {suite: x, mirror: 'http://h/', security: false, security_mirror: 'http://h/'}",
            "1:74: build.security_mirror: goes with a mirror and with security; add them, or remove it",
        ),
        (
            SHOP.format("shop", "./", "[main]"),
            "1:40: build.repositories.shop: ./ is a path, which has no components; write components: []",
        ),
        (
            SHOP.format("shop", "stable", "[]"),
            "1:40: build.repositories.shop: the suite stable has components; write some, or a path such as ./",
        ),
        (
            SHOP.format("archive", "stable", "[main]"),
            "1:43: build.repositories.archive: archive is what the distribution's own keys are called; choose another",
        ),
    ],
)
def test_a_contradiction_is_named_at_its_place(text: str, expected: str) -> None:
    problems: list[Problem] = []
    node = parse(text.encode(), "f.yaml", problems)
    assert node is not None
    image = bind(Image, node, problems)
    assert image is not None, problems
    check_image(image, node, problems)
    assert [str(problem).startswith(f"f.yaml:{expected}") for problem in problems] == [True], problems
