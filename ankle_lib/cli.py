"""The ``ankle`` command. Each command is a thin cover over one function of the library."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from ankle_lib.files import AnkleError

# What a command needs is imported when it runs: `ankle --help` must not wait for torch.

__all__ = ["app", "main"]

app = typer.Typer(
    name="ankle",
    help="From raw ankle MRI to segmented, reconstructed, moving bones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Simulate, describe, check and fetch cohorts.", no_args_is_help=True)
app.add_typer(data, name="data")

PresetOption = Annotated[str, typer.Option(help="Sizes: smoke, laptop or paper.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ManifestArgument = Annotated[
    Path | None, typer.Argument(help="A manifest; default: data_manifest.yaml of the repository.")
]

DEFAULT_SEED = 2020
INTERRUPTED = 130  # what typer makes of control-C


def main() -> None:
    """Run the command line; a refusal is one line on standard error and exit status 1."""
    try:
        app()
    except (AnkleError, OSError) as error:  # OSError: no space, no permission
        print(f"ankle: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("ankle: interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise


@app.command()
def run(
    preset: PresetOption = "laptop",
    only: Annotated[str | None, typer.Option(metavar="NN", help="Run this chapter alone.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="NN", help="Run from this chapter on.")
    ] = None,
    cohort: Annotated[str, typer.Option(help="A cohort of data_manifest.yaml.")] = "phantom",
    results: Annotated[
        Path | None, typer.Option(help="Folder of all results; default: that of the repository.")
    ] = None,
    device: DeviceOption = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Run chapters even if they are up to date.")
    ] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="A parameter of the notebooks (repeatable)."),
    ] = None,
) -> None:
    """Run the chapters in order, skipping those that are up to date."""
    from ankle_lib import pipeline

    pipeline.run(
        preset,
        only=only,
        start=start,
        cohort=cohort,
        results=results,
        device=device,
        force=force,
        parameters=_parameters(parameter or []),
    )


@data.command("simulate")
def simulate(
    out: Annotated[Path, typer.Option(help="Folder to write the cohort to.")],
    preset: PresetOption = "laptop",
    seed: Annotated[int, typer.Option(help="Same seed, same cohort.")] = DEFAULT_SEED,
    device: DeviceOption = "auto",
) -> None:
    """Write the simulated cohort: what a scanner and a reader would have left."""
    from ankle_lib import pipeline
    from ankle_lib.phantom import cohort
    from ankle_lib.presets import get_preset
    from ankle_lib.running.lock import alone

    sizes, chosen = get_preset(preset), pipeline.resolve_device(device)
    with alone(out):
        print(cohort.simulate(sizes, out, seed=seed, device=chosen))


@data.command("manifest")
def manifest(
    folder: Annotated[Path, typer.Argument(help="A BIDS tree or a folder in the lab's layout.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Manifest to write.")],
) -> None:
    """Write a manifest of the scans in a folder; add its cohort to data_manifest.yaml to use it."""
    from ankle_lib.manifest import manifest_from_folder, save_manifest

    found = manifest_from_folder(folder)
    save_manifest(out, found)
    for cohort in found.cohorts:
        print(f"{out}: cohort {cohort.name!r} with {len(cohort.subjects)} subjects")
        for note in cohort.notes:
            print(f"  {note}")


@data.command("verify")
def verify(file: ManifestArgument = None) -> None:
    """Check existence, checksum and geometry of everything a manifest names."""
    from ankle_lib import manifest as manifests

    path = file or _default_manifest()
    loaded = manifests.load_manifest(path)
    findings = [
        finding
        for cohort in loaded.cohorts
        for finding in manifests.verify(loaded.cohort(cohort.name))
    ]
    for finding in findings:
        subject = f"{finding.cohort}, {finding.subject}" if finding.subject else finding.cohort
        print(f"{subject}: {finding.file}: {finding.problem}")
    if findings:
        raise AnkleError(f"{path}: findings as listed: {len(findings)}")
    print(f"{path}: {len(loaded.cohorts)} cohorts, nothing to report")


@data.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A remote cohort of the manifest.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: the cohort's root.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--manifest", help="The manifest.")] = None,
) -> None:
    """Download a remote cohort; interrupted downloads resume, checksums are compared."""
    from ankle_lib import manifest as manifests

    cohort = manifests.load_manifest(file or _default_manifest()).cohort(name)
    for path in manifests.fetch(cohort, out, progress=True):
        print(path)


def _default_manifest() -> Path:
    from ankle_lib import pipeline

    return pipeline.find_root() / pipeline.MANIFEST


def _parameters(assignments: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts; a value is read as YAML, so 3 is a number and true a bool."""
    parameters = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise AnkleError(f"-p {assignment!r} is not NAME=VALUE, for instance -p radius_mm=2")
        try:
            parameters[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise AnkleError(f"-p {assignment!r}: the value cannot be read, quote it") from None
    return parameters
