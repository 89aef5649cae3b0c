"""The prepared images of this node: found, made where missing, kept whole.

Not for: how a template lies in the cache (:mod:`osprovider.images.place`), what is in it
(:mod:`osprovider.images.prepare`), what goes when the cache is full (:mod:`osprovider.images.pruning`), or how damage
is found (:mod:`osprovider.disk.integrity`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from osprovider.config.load import load_cache
from osprovider.config.model import Image, Variant
from osprovider.errors import ImageError, NodeError
from osprovider.images.place import Fault, Identity, Place, TemplateInfo, Unusable, places, sweep
from osprovider.images.recipe import Recipe
from osprovider.log import reporter
from osprovider.manifest import Manifest, Template
from osprovider.paths import Directories

if TYPE_CHECKING:
    from osprovider.images.packages import Package
    from osprovider.images.prepare import Job, Made
    from osprovider.images.sources.cache import Pin
    from osprovider.images.sources.obtain import Obtained, Sources

__all__ = ["Store", "TemplateInfo", "Unusable", "Verdict"]

_TRIES = 3  # how often a template may vanish between its making and its use


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of checking a template.

    Attributes:
        directory: where it lies, or lay.
        image: the definition's name; None where the manifest does not say it any more.
        damage: what is wrong, with the place; None where it is whole, or another version's.
        outdated: that another version of osprovider made it, in words; it is prepared anew when it is needed.
        removed: it was removed because of that; it is not where the file system refuses.
    """

    directory: Path
    image: str | None
    damage: str | None
    outdated: str | None = None
    removed: bool = False


class Store:
    """The templates beneath a cache directory.

    Args:
        directories: ``cache`` holds the templates, ``run`` their locks.
    """

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._opened: dict[Place, Identity] = {}

    # -- templates for use --------------------------------------------------------------------------------------------

    def look_up(self, name: str, image: Image, variant: Variant) -> tuple[str | None, Manifest | None]:
        """The key of an image's template, and its manifest where it is ready. Changes nothing, waits for nobody.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.

        Returns:
            the key is None while the image's source was never obtained, or a file has changed since.
        """
        recipe = self._recipe(name, image, variant)
        if recipe is None:
            return None, None
        place = self._place(recipe)
        return place.key, place.manifest()

    @contextmanager
    def opened(self, name: str, image: Image, variant: Variant) -> Iterator[Template]:
        """Use an image's template, made now where it is missing; nobody removes it meanwhile.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.

        Raises:
            ImageError: it cannot be made; names the image, the cause and the way out.
        """
        sweep(self._directories)
        with ExitStack() as stack:
            for _ in range(_TRIES):
                recipe = self._recipe(name, image, variant)
                if recipe is not None and (template := self._use(stack, recipe)):
                    break
                with self._prepared(name, image, variant, force=False) as recipe:
                    template = self._use(stack, recipe)
                self._make_room(recipe)
                if template is not None:
                    break
            else:
                cache = self._directories.cache
                raise ImageError(f"image {name}: something removes its template from {cache} again and again")
            yield template

    def build(
        self, name: str, image: Image, variant: Variant, *, force: bool = False, pin: Pin | None = None
    ) -> TemplateInfo:
        """Make an image's template where it is missing.

        Args:
            name: the definition's name.
            image: the definition.
            variant: merged.
            force: also where it is there. The old one stays until the new one takes its place.
            pin: of its source, where that was found just now, and may not be what the node keeps to yet.

        Raises:
            ImageError: it cannot be made; names the image, the cause and the way out.
        """
        sweep(self._directories)
        recipe = None if force else self._recipe(name, image, variant, pin)
        if recipe is not None and isinstance(ready := self._place(recipe).info(), TemplateInfo):
            return ready  # without its source, which may have gone from the cache
        with self._prepared(name, image, variant, force=force, pin=pin) as recipe:
            made = self._place(recipe).info()
        self._make_room(recipe)
        if not isinstance(made, TemplateInfo):
            raise ImageError(f"image {name}: something removed its template from {self._directories.cache}; try again")
        return made

    def invalidate_opened(self) -> None:
        """Remove a template that this store opened and that turned out damaged; waits until nobody uses it.

        Where somebody else has noticed before us and made it again, the new one stays.
        """
        for place, identity in self._opened.items():
            place.remove("the damaged template", only=identity)
        self._opened.clear()

    def _place(self, recipe: Recipe) -> Place:
        return Place(self._directories, recipe.key())

    def _recipe(self, name: str, image: Image, variant: Variant, pin: Pin | None = None) -> Recipe | None:
        """What the image's template is made from; None while its source has to be obtained to know."""
        if image.source is None:
            return Recipe.of(name, image, variant, site=self._directories.config)
        pin = pin or self._sources().pinned(name, image)
        return Recipe.of(name, image, variant, pin.digest) if pin else None

    def _sources(self, proxy: str | None = None) -> Sources:
        from osprovider.images.sources.obtain import Sources  # what is built from packages needs not is not imported

        return Sources(self._directories, proxy=proxy)

    def _use(self, stack: ExitStack, recipe: Recipe) -> Template | None:
        """Open a template until ``stack`` is closed; None where there is none."""
        place = self._place(recipe)
        with ExitStack() as attempt:
            attempt.enter_context(place.in_use(f"image {recipe.image}"))
            manifest = place.manifest()
            if manifest is None:
                return None
            fd = os.open(place.image, os.O_RDONLY | os.O_CLOEXEC)
            attempt.callback(os.close, fd)
            self._opened[place] = place.identity()
            with suppress(OSError):  # it serves, on a file system that is read-only as well
                os.utime(place.directory)
            stack.enter_context(attempt.pop_all())
            return Template(manifest, fd, place.image)

    @contextmanager
    def _prepared(
        self, name: str, image: Image, variant: Variant, *, force: bool, pin: Pin | None = None
    ) -> Iterator[Recipe]:
        """Make a template, unless another process is quicker; its source is obtained first.

        Within, nobody evicts it.
        """
        cache = load_cache(self._directories)  # its problems are said before the long work
        with ExitStack() as stack:
            obtained = None
            recipe = Recipe.of(name, image, variant, site=self._directories.config)
            if image.source is not None:
                obtained = stack.enter_context(self._sources(cache.proxy).obtain(name, image, pin))
                if obtained.is_known or (not force and self._has_alike(name, obtained)):
                    recipe = recipe.of_content(obtained.pin.digest)
            place = self._place(recipe)
            stack.enter_context(place.preparing(name))
            if force or place.manifest() is None:
                recipe = self._make(stack, recipe, place, _maker(obtained, variant), force=force)
            yield recipe

    def _has_alike(self, name: str, obtained: Obtained) -> bool:
        """Is there a template that may be of the same content: then it does not have to be prepared."""
        size = obtained.size_bytes
        origins = [info.manifest.origin for info in self.list() if info.manifest.image == name]
        return any(origin is not None and origin.size_bytes == size for origin in origins)

    def _make(
        self, stack: ExitStack, recipe: Recipe, place: Place, maker: Callable[[Job], Made], *, force: bool
    ) -> Recipe:
        """Make a template in its place, or in the one that it has while nobody knows the content of its source.

        Returns:
            the recipe with that content. Until ``stack`` is closed, nobody evicts its template.
        """
        from osprovider.images.prepare import prepare  # what a warm create needs not is not imported

        with place.making() as (scratch, image):
            manifest = prepare(recipe, place.key, image, scratch, self._directories, maker)
            if manifest.origin is not None and recipe.digest is None:
                recipe = recipe.of_content(manifest.origin.digest)
                manifest = replace(manifest, key=recipe.key(), definition=recipe.to_json())
                place = self._place(recipe)
                stack.enter_context(place.preparing(recipe.image))
                if not force and place.manifest() is not None:
                    reporter.info(f"image {recipe.image}: is prepared already, of the same content from elsewhere")
                    return recipe
            place.publish(manifest, scratch)
        if isinstance(place.examine(), Fault):  # where nothing is, somebody has removed it
            raise NodeError(f"image {recipe.image}: {place.directory} is damaged when new; check its disk")
        return recipe

    def _make_room(self, recipe: Recipe) -> None:
        """Have what was used least recently go where the cache is too large, but not what was just made."""
        from osprovider.images.pruning import make_room

        make_room(self._directories, keep=recipe.key())

    # -- all that is there --------------------------------------------------------------------------------------------

    def list(self) -> tuple[TemplateInfo, ...]:
        """The templates that are ready, by image and age."""
        found = (info for place in places(self._directories) if isinstance(info := place.info(), TemplateInfo))
        return tuple(sorted(found, key=lambda info: (info.manifest.image, info.manifest.created)))

    def listed(self, key: str) -> tuple[TemplateInfo, tuple[Package, ...]] | None:
        """A template with its packages, which belong together also where it is replaced meanwhile; waits for nobody.

        Args:
            key: the template's.

        Returns:
            None where there is none.

        Raises:
            ImageError: the list is damaged.
        """
        from osprovider.images import packages

        place = Place(self._directories, key)
        while isinstance(info := place.info(), TemplateInfo):
            try:
                return info, packages.load(place.directory, info.manifest)
            except ImageError:
                if place.examine() == info.manifest:
                    raise
        return None

    def unusable(self) -> tuple[Unusable, ...]:
        """What looks damaged, or was left by another version of osprovider."""
        found = (place.info() for place in places(self._directories))
        return tuple(info for info in found if isinstance(info, Unusable))

    def remove(self, name: str) -> tuple[TemplateInfo, ...]:
        """Remove an image's templates; waits until nobody uses them.

        Args:
            name: the definition's name.

        Returns:
            what was removed.
        """
        sweep(self._directories)
        meant = tuple(info for info in self.list() if info.manifest.image == name)
        for info in meant:
            Place(self._directories, info.manifest.key).remove(f"image {name}")
        return meant

    def verify(self, name: str | None = None) -> tuple[Verdict, ...]:
        """Read templates whole, compare them with their manifests, and remove what is damaged: it is made again.

        Args:
            name: of the one image whose templates are meant; all when None.
        """
        sweep(self._directories)
        return tuple(verdict for place in places(self._directories) if (verdict := _verify(place, name)))


def _maker(obtained: Obtained | None, variant: Variant) -> Callable[[Job], Made]:
    """What makes a template of this source, or of packages where there is none."""
    if obtained is None:
        from osprovider.images.built import build

        return build
    from osprovider.images.foreign import take

    return lambda job: take(job, obtained, variant.isolation)


def _verify(place: Place, name: str | None) -> Verdict | None:
    """Verify a template; None where it is another image's, or gone."""
    from osprovider.disk import integrity  # a warm create checks while it copies
    from osprovider.images import packages

    with place.in_use():
        identity = place.identity()
        found = place.examine()
        if found is None or name not in {None, found.image}:
            return None
        if isinstance(found, Fault) and not found.is_damage:
            return Verdict(place.directory, found.image, None, outdated=found.reason)
        if isinstance(found, Fault):
            damage: str | None = found.reason
        else:
            damage = integrity.find_damage(place.image, found) or packages.find_damage(place.directory, found)
    removed = False
    if damage is not None:
        with suppress(OSError):
            place.remove("the damaged template", only=identity)
            removed = True
    return Verdict(place.directory, found.image, damage, removed=removed)
