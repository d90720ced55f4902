"""
The chain from a recipe to an image.

    kernel ─► rootfs/<inputs>/tree of the first base ─► … ─► of the recipe ─► templates/<name>/<digest>/root.ext4

What is there already is not made again. A newer Debian package changes no input: `force` asks for it.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path

from terpd.model.errors import NotOffered
from terpd.node.template import artifact, clients, image, trust
from terpd.node.template.catalog import Catalog, Image, record_of
from terpd.node.template.command import BuildFailed
from terpd.node.template.kernel import Kernel, ensure_kernel
from terpd.node.template.layer import Layer, Layers, environment, folder
from terpd.node.template.progress import Progress, megabytes, step
from terpd.node.template.recipe import Recipe, bases, disk_bytes, load_chain, merged_services, merged_warm


def build(
    template: str,
    *,
    home: Path,
    recipes: Path,
    force: bool = False,
    progress: Progress,
    authorities: Path = trust.DEFAULT_AUTHORITIES,
) -> Image:
    """
    Build a template's image, or return the one that stands for the same inputs.

    Blocks for seconds to minutes: run it in a thread or a process of its own. Needs root.

    Args:
        home: TERP_HOME.
        recipes: The folder of `<name>.toml`.
        force: Make the kernel, every layer and the image anew, with the packages that are current now.
        authorities: Folder with certificates of authorities that guests trust besides Debian's.

    Raises:
        TemplateNotFound, InvalidRequest: There is no such recipe, or it breaks a rule.
        NotOffered: The recipe starts from an OCI image.
        BuildFailed: A step failed. What was current before is current still.
    """
    chain = load_chain(recipes, template)
    if chain[0].oci is not None:
        raise NotOffered(
            f"Template {template} starts from the OCI image {chain[0].oci}: that needs an OCI registry within reach, "
            "and this build of Terp has no OCI puller configured. Use one based on Debian, such as debian-12"
        )
    if os.geteuid() != 0:
        raise BuildFailed("Building a template needs root, for owners and chroot of its root file system: use sudo")
    try:
        kernel = ensure_kernel(home, progress, refresh=force)
        # One builder at a time: a layer must not be replaced while another build copies it.
        with artifact.locked(folder(home), "layer"):
            layers = Layers(home, kernel, authorities, force=force, progress=progress)
            found = None if force else _find_built(chain, layers.name(chain), home)
            if found is not None:
                return found
            layer = layers.ensure(chain)
            before = Catalog(home).find(template)
            built = _make_image(chain, layer, home=home, kernel=kernel, progress=progress)
            layers.prune(layer, bases(recipes))
            # A machine may just be starting from the one before; what is older keeps no file that is not open.
            Catalog(home).prune(template, {before.digest} if before else ())
    except OSError as error:
        raise BuildFailed(f"Building {template} failed: {error}") from error
    return built


def _find_built(chain: Sequence[Recipe], layer: str, home: Path) -> Image | None:
    current = Catalog(home).find(chain[-1].name)
    return current if current is not None and current.inputs == _inputs(chain, layer) else None


def _inputs(chain: Sequence[Recipe], layer: str) -> str:
    """Names all that an image and its record are made of."""
    return artifact.digest_of(
        {
            "layer": layer,
            "disk_bytes": disk_bytes(chain),
            "warm": merged_warm(chain),
            "env": environment(chain),
            "description": chain[-1].description,
            # Nothing is said of services where there are none: so were images named before there were any.
            **({"services": services} if (services := merged_services(chain)) else {}),
        }
    )


def _make_image(chain: Sequence[Recipe], layer: Layer, *, home: Path, kernel: Kernel, progress: Progress) -> Image:
    template = chain[-1].name
    parent = home / "templates" / template
    with artifact.locked(parent, "image"), artifact.building(parent, "image") as temporary:
        with step(progress, "image") as making:
            root = temporary / "root.ext4"
            image.make(layer.tree, root, disk_bytes(chain))
            making.note = megabytes(artifact.allocated_bytes(root))
        with step(progress, "digest"):
            digest = image.digest(root)[: artifact.DIGEST_LENGTH]
        built = Image(
            template=template,
            description=chain[-1].description,
            digest=digest,
            inputs=_inputs(chain, layer.inputs),
            root=parent / digest / "root.ext4",
            kernel=kernel,
            warm=merged_warm(chain),
            services=merged_services(chain),
            env=environment(chain),
            package_hosts=tuple(clients.package_hosts(layer.tree)),
            size_bytes=artifact.allocated_bytes(root),
            disk_bytes=disk_bytes(chain),
            built_at=dt.datetime.now(dt.UTC),
        )
        artifact.write_json(temporary / "image.json", record_of(built))
        artifact.commit(temporary, parent / digest)
        artifact.point(parent / "current", digest)
    return built
