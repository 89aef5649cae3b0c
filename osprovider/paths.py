"""The directories that osprovider reads and writes, decided once.

Not for: files inside them; each is named by the module that owns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Directories"]

_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Directories:
    """Where things lie.

    Attributes:
        config: the site's own files (``OSPROVIDER_CONFIG_DIR``).
        cache: prepared images; may be lost at any time (``OSPROVIDER_CACHE_DIR``).
        run: locks and mount points; gone after a reboot (``OSPROVIDER_RUN_DIR``).
        shipped: variants, images, hooks and templates that come with osprovider.
    """

    config: Path = Path("/etc/ganeti/osprovider")
    cache: Path = Path("/var/cache/ganeti-osprovider")
    run: Path = Path("/run/ganeti-osprovider")
    shipped: Path = Path("/usr/share/osprovider")

    @property
    def templates(self) -> tuple[Path, ...]:
        """Where Jinja2 templates are looked for: the site's, then the shipped ones."""
        return (self.config / "templates", self.shipped / "templates")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Directories:
        """The production directories, moved by the three ``OSPROVIDER_*_DIR`` variables for tests and trying out.

        Ganeti resets the environment of the scripts that it calls, so none of these leaks into production.
        A checkout ships its own files.
        """
        standard = cls()
        checkout = _PACKAGE.parent
        return cls(
            config=Path(environ.get("OSPROVIDER_CONFIG_DIR") or standard.config).absolute(),
            cache=Path(environ.get("OSPROVIDER_CACHE_DIR") or standard.cache).absolute(),
            run=Path(environ.get("OSPROVIDER_RUN_DIR") or standard.run).absolute(),
            shipped=checkout if (checkout / "variants").is_dir() else standard.shipped,
        )
