"""A template's bill of materials: its packages and where it came from, as CycloneDX 1.6 in JSON.

The document is the library's (cyclonedx-python-lib), which knows the standard and its versions. The same template has
the same one each time.
Sources: CycloneDX 1.6, ecma-424; the package URL types deb, rpm, apk and alpm (package-url/purl-spec).
Not for: which packages there are (:mod:`osprovider.images.packages`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import osprovider
from osprovider.errors import ImageError
from osprovider.images.packages import Package
from osprovider.log import plain
from osprovider.manifest import Distribution, Manifest

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

__all__ = ["bill_of_materials"]

_MISSING = (
    "a bill of materials takes cyclonedx-python-lib, which is not installed: apt install python3-cyclonedx-lib, which "
    "Debian has since 13; on Debian 12, pip install --break-system-packages cyclonedx-python-lib"
)
_ID = re.compile(r"[a-z0-9._-]+", re.ASCII)


def bill_of_materials(manifest: Manifest, packages: Sequence[Package]) -> str:
    """The document.

    Args:
        manifest: the template's.
        packages: what is installed in it.

    Raises:
        ImageError: the library is not installed; says how to install it.
    """
    try:
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise ImageError(_MISSING) from error
    bom = _bom(manifest, packages)
    return str(make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)) + "\n"


def _bom(manifest: Manifest, packages: Sequence[Package]) -> Bom:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType

    components = [_component(package, manifest.distribution) for package in packages]
    image = _image(manifest)
    identity = uuid.uuid5(uuid.NAMESPACE_OID, f"{manifest.key} {manifest.created}")
    bom = Bom(serial_number=identity, components=components)
    bom.metadata.timestamp = datetime.fromisoformat(manifest.created)
    bom.metadata.tools.components.add(
        Component(name="osprovider", type=ComponentType.APPLICATION, version=osprovider.__version__)
    )
    bom.metadata.component = image
    bom.register_dependency(image, components)
    return bom


def _image(manifest: Manifest) -> Component:
    """The image itself, and what it was made of."""
    from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
    from cyclonedx.model.component import Component, ComponentType

    origin, references = manifest.origin, []
    if origin is not None:
        digest = HashType(alg=HashAlgorithm.SHA_256, content=origin.digest.removeprefix("sha256:"))
        reference = ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION, url=XsUri(origin.location), hashes=[digest]
        )
        references.append(reference)
    said = {
        "architecture": manifest.architecture,
        "prepared": manifest.created,
        "template": manifest.key,
        "verified": origin.verified if origin else "",
        **{f"tool:{tool}": version for tool, version in manifest.tools.items()},
    }
    return Component(
        bom_ref=f"image:{manifest.key}",
        name=manifest.image,
        version=manifest.distribution.version_id or None,
        type=ComponentType.OPERATING_SYSTEM,
        description=plain(manifest.distribution.pretty_name),
        external_references=references,
        properties=[Property(name=f"osprovider:{name}", value=plain(value)) for name, value in said.items() if value],
    )


def _component(package: Package, distribution: Distribution) -> Component:
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    namespace = distribution.id if _ID.fullmatch(distribution.id) else "linux"
    epoch, colon, rest = package.version.partition(":")
    is_rpm = package.type == "rpm" and bool(colon)  # a package URL has the epoch of an rpm beside its version
    qualifiers = {
        "arch": package.architecture,
        "distro": "-".join(filter(None, (namespace, distribution.version_id))),
        **({"epoch": epoch} if is_rpm else {}),
    }
    version = rest if is_rpm else package.version
    url = PackageURL(
        package.type, namespace, package.name, version, {key: value for key, value in qualifiers.items() if value}
    )
    return Component(
        bom_ref=url.to_string(),
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        purl=url,
        licenses=[LicenseFactory().make_from_string(package.license)] if package.license else [],
        properties=[Property(name="osprovider:source", value=package.source)] if package.source else [],
    )
