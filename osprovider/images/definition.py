"""Writing an image definition: the file ``CONFIG/images/NAME.yaml``, checked, whole or not at all.

Not for: reading definitions (:mod:`osprovider.config.load`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from osprovider.config import checks, consistency, document
from osprovider.config.files import NO_IMAGE
from osprovider.config.load import image_names
from osprovider.config.model import Image
from osprovider.config.schema import bind
from osprovider.errors import ConfigurationError, ImageError, Problem, UsageError, reason_of
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["checksum_of", "refuse_taken", "write_definition"]

_PIECE = 4 << 20


def write_definition(directories: Directories, name: str, values: Mapping[str, object], *, force: bool) -> Path:
    """Write a definition of the site's.

    Args:
        directories: ``config`` gets the file.
        name: the image's.
        values: what the definition says, by key.
        force: take the place of one that is there, or of a shipped one.

    Returns:
        the file.

    Raises:
        UsageError: the name is none, or is taken.
        ConfigurationError: the definition is not right; all that is wrong with it.
        ImageError: the file cannot be written.
    """
    path = refuse_taken(directories, name, force=force)
    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)
    _check(text, name)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            with new.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {reason_of(error)}") from error
    return path


def refuse_taken(directories: Directories, name: str, *, force: bool) -> Path:
    """See that an image may be called so; returns the file that will define it.

    Raises:
        UsageError: the name is none, or is taken and ``force`` is not given.
    """
    path = directories.config / "images" / f"{name}.yaml"
    _check_name(name)
    if not force and name in image_names(directories):
        whose = path if path.exists() else directories.shipped / "images" / f"{name}.yaml"
        raise UsageError(f"there is an image {name} already, {whose}; give another name, or use --force")
    return path


def checksum_of(path: Path, called: Path | None = None) -> str:
    """The checksum of a local file, as definitions have it.

    Args:
        path: the file.
        called: what it is going to be called.

    Raises:
        ImageError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with (
            path.open("rb", buffering=0) as file,
            reporter.progress(f"checksum of {called or path}", path.stat().st_size) as advance,
        ):
            while data := file.read(_PIECE):
                digest.update(data)
                advance(len(data))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {reason_of(error)}") from error
    return f"sha256:{digest.hexdigest()}"


def _check_name(name: str) -> None:
    try:
        checks.name(name)
    except ValueError as error:
        raise UsageError(f"--name: {error}") from error
    if name == NO_IMAGE:
        raise UsageError(f'--name: "{NO_IMAGE}" means no image; give another name')


def _check(text: str, name: str) -> None:
    problems: list[Problem] = []
    node = document.parse(text.encode(), name, problems)
    image = bind(Image, node, problems) if node else None
    if node and image:
        consistency.check_image(image, node, problems)
    if problems:  # which are at no place yet where anybody could look
        raise ConfigurationError([Problem(f"image {name}", 0, 0, problem.message) for problem in problems])
