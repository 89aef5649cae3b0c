"""Copies of the shipped Debian image."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from osprovider.config.model import User
from tests.support.leftovers import no_leftovers
from tests.support.ssh import make_key
from tests.support.template import shared_cache
from tests.system.hooks.debian import Debian


@pytest.fixture(scope="session")
def template(run_directory: Path) -> Path:
    """The template's directory in the run's store."""
    (found,) = (path.parent for path in shared_cache(run_directory).glob("templates/*/manifest.json"))
    return found


@pytest.fixture(scope="module")
def copies(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Debian]:
    """Makes a copy of the template for the tests of a module."""
    place, numbers = tmp_path_factory.mktemp("debian"), count()
    return lambda: Debian.copy(template, place / str(next(numbers)))


@pytest.fixture(scope="module")
def pristine(copies: Callable[[], Debian]) -> Debian:
    """A Debian as it was built."""
    return copies()


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, User], Path]:
    """Root with a locked password and an administrator, and the private key of both."""
    path = tmp_path_factory.mktemp("key") / "id"
    key = make_key(path)
    root = User(ssh_authorized_keys=(key,))
    admin = User(groups=("sudo", "adm"), comment="The Admin", sudo="nopasswd", ssh_authorized_keys=(key,))
    return {"root": root, "admin": admin}, path


@pytest.fixture(scope="module")
def with_ifupdown(copies: Callable[[], Debian], users: tuple[dict[str, User], Path]) -> Debian:
    """A Debian that was customised."""
    made = copies()
    with no_leftovers([made.directory / "run"]):
        said = made.customise(made.context(users=users[0]))
    assert "refused" not in said
    return made


@pytest.fixture(scope="module")
def with_networkd(copies: Callable[[], Debian]) -> Debian:
    """A Debian that was customised for systemd-networkd."""
    made = copies()
    assert "refused" not in made.customise(made.context(stack="networkd"))
    return made
