"""Writing an image definition: the file ``CONFIG/images/NAME.yaml``, checked, whole or not at all.

Not for: reading definitions (:mod:`osprovider.config.load`).
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from osprovider.config import checks, consistency, document
from osprovider.config.files import NO_IMAGE
from osprovider.config.load import image_names
from osprovider.config.model import Image
from osprovider.config.schema import bind
from osprovider.config.wording import quote
from osprovider.errors import ConfigurationError, ImageError, Problem, UsageError, reason_of
from osprovider.log import reporter
from osprovider.paths import Directories

__all__ = ["check_definition", "checksum_of", "refuse_taken", "write_definition"]

_PIECE = 4 << 20


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what a reader of YAML 1.2 would take for a number, such as 1e9; PyYAML knows those of 1.1."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{document.NUMBER.pattern})$"), list("-+.0123456789")
)


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
    text = check_definition(name, values)
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)
    except OSError as error:
        raise ImageError(f"{path}: cannot be written: {reason_of(error)}") from error
    return path


def check_definition(name: str, values: Mapping[str, object]) -> str:
    """See that a definition is right.

    Args:
        name: the image's.
        values: what the definition says, by key.

    Returns:
        its text.

    Raises:
        ConfigurationError: it is not; all that is wrong with it.
    """
    problems = [
        Problem.of_file(
            f"image {name}", f"{key}: {quote(str(value))} is not UTF-8; write it, or name the file, in UTF-8"
        )
        for key, value in values.items()
        if not _is_utf8(str(value))
    ]
    if problems:
        raise ConfigurationError(problems)
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    node = document.parse(text.encode(), name, problems)
    image = bind(Image, node, problems) if node else None
    if node and image:
        consistency.check_image(image, node, problems)
    if problems:  # which are at no place yet where anybody could look
        raise ConfigurationError([Problem.of_file(f"image {name}", problem.message) for problem in problems])
    return text


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


def _is_utf8(text: str) -> bool:
    """Has it no bytes in it that Python could not read as UTF-8 (PEP 383)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
