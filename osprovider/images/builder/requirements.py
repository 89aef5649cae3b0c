"""What a build needs of the node, and of its definition: asked before anything is begun.

Not for: what only the build itself can find (:mod:`osprovider.images.builder.causes`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from osprovider.errors import ImageError
from osprovider.images.builder.distributions import KEYRINGS, distribution
from osprovider.images.recipe import Recipe
from osprovider.run import BASE_ENVIRONMENT, run

__all__ = ["require_tools", "tool_version"]


def require_tools(recipe: Recipe) -> None:
    """See that what the build needs is there, and is what it should be.

    Raises:
        ImageError: the tool, keys or a file is missing or wrong, or the definition contradicts the variant.
    """
    for problem in _problems(recipe, f"images/{recipe.image}.yaml"):
        raise ImageError(f"image {recipe.image}: {problem}")


def tool_version(tool: str) -> str:
    """The version that the tool says it has (``1.3.5``)."""
    return run([tool, "--version"]).text.split()[-1]


def _problems(recipe: Recipe, definition: str) -> Iterator[str]:
    """What is wrong, with the way out; ``definition`` is the file to correct."""
    build = recipe.build
    if shutil.which(build.tool, path=BASE_ENVIRONMENT["PATH"]) is None:
        other = "debootstrap" if build.tool == "mmdebstrap" else "mmdebstrap"
        yield f"{build.tool} is not installed; apt install {build.tool}, or say build.tool: {other} in {definition}"
    if not recipe.keyring.is_file():
        way_out = "put the keys there"
        if build.keyring is None:
            keys = KEYRINGS[distribution(build)]
            way_out = f"apt install {keys.package}{keys.hint}, or put the keys into keys/ and name the file in "
            way_out += f"build.keyring of {definition}"
        yield f"{recipe.keyring} is missing; {way_out}"
    named = {
        **{f"build.repositories.{name}.keyring": path for name, path in recipe.repository_keyrings.items()},
        **{f"build.debs[{number}]": path for number, path in enumerate(recipe.debs)},
        **{f"build.scripts[{number}]": path for number, path in enumerate(recipe.scripts)},
    }
    for key, path in named.items():
        if not path.is_file():
            yield f"{path} is missing; put it there, or correct {key} of {definition}"
    for path in recipe.scripts:
        with path.open("rb") as script:
            if script.read(2) != b"#!":
                yield f"{path} does not say what runs it; begin it with #!/bin/sh or the like"
    for name in sorted({*build.exclude} & {*build.packages}):
        yield f"{name} is among build.exclude of {definition}, and the variant's packages"
