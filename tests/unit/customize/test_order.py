"""In which order hooks run."""

from pathlib import Path

import pytest

from osprovider.config import model
from osprovider.customize.hooks import Hook, arrange
from osprovider.errors import ConfigurationError


def hook(name: str, **values: str | bool) -> Hook:
    words = {key: frozenset(value.split()) for key, value in values.items() if isinstance(value, str)}
    return Hook(name, Path("/hooks") / name, shipped=bool(values.get("shipped", False)), **words)  # type: ignore[arg-type]


def order(*hooks: Hook, event: str = "create", **settings: object) -> str:
    chosen = arrange({each.name: each for each in hooks}, model.Hooks(**settings), event)  # type: ignore[arg-type]
    return " ".join(each.name for each in chosen)


def test_what_nothing_decides_goes_by_name_and_the_shipped_ones_first() -> None:
    assert order(hook("b"), hook("a"), hook("z", shipped=True), hook("y", shipped=True)) == "y z a b"


def test_a_hook_runs_after_what_it_names_and_before_what_it_names() -> None:
    assert order(hook("a", after="c"), hook("b"), hook("c", after="b")) == "b c a"
    assert order(hook("a"), hook("b", before="a")) == "b a"


def test_a_sites_hook_between_shipped_ones_leaves_their_order() -> None:
    shipped = [hook(name, shipped=True) for name in ("fstab", "hostname", "network")]
    assert order(*shipped, hook("aaa", before="network", after="fstab")) == "fstab hostname aaa network"


def test_references_to_hooks_that_do_not_run_are_void() -> None:
    assert order(hook("a", after="gone b", before="never"), hook("b", events="rename")) == "a"
    assert order(hook("a", after="b"), hook("b"), disable=("b",)) == "a"


def test_hooks_run_at_their_events_only() -> None:
    both = hook("both", events="create rename")
    assert order(both, hook("one"), event="rename") == "both"


def test_the_configuration_orders_and_disables() -> None:
    hooks = [hook("network", shipped=True), hook("ssh", shipped=True), hook("mine")]
    assert order(*hooks, order={"mine": "before ssh"}) == "network mine ssh"
    assert order(*hooks, order={"network": "after mine"}) == "mine network ssh"
    assert order(*hooks, disable=("network",), order={"mine": "after network"}) == "ssh mine"


def test_a_circle_is_refused_and_named() -> None:
    with pytest.raises(ConfigurationError, match="b after c after d after b"):
        order(hook("a", after="b"), hook("b", after="c"), hook("c", after="d"), hook("d", after="b"))
