"""The ``ankle`` command. Each command is a thin cover over one function of the library."""

import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

from ankle_lib.files import AnkleError

if TYPE_CHECKING:
    from ankle_lib.foot.results import Outcome

# What a command needs is imported when it runs: `ankle --help` must not wait for torch.


def _device(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for the option of a command that computes."""
    from ankle_lib.running.chapter import resolve_device

    return resolve_device(device)


app = typer.Typer(
    name="ankle",
    help="From raw ankle MRI to segmented, reconstructed, moving bones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data = typer.Typer(help="Simulate, describe, check and fetch cohorts.", no_args_is_help=True)
app.add_typer(data, name="data")
networks = typer.Typer(help="Networks for scans of any contrast.", no_args_is_help=True)
app.add_typer(networks, name="networks")
course_commands = typer.Typer(
    help="The notebooks for students, and the site.", no_args_is_help=True
)
app.add_typer(course_commands, name="course")

PresetOption = Annotated[str, typer.Option(help="Sizes: smoke, laptop, paper or rehearsal.")]
ResultsOption = Annotated[
    Path | None, typer.Option(help="Folder of all results; default: that of the repository.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.", callback=_device)]
StaticOption = Annotated[Path, typer.Option(help="The static scan: one 3D NIfTI file.")]
MASK = typer.Option(
    metavar="BONE=FILE[:LABEL]",
    help="Mask on the static scan, of calcaneus, talus or tibia (repeat); labels of "
    "`ankle segment` are known, of other label files give the number.",
)
MaskOption = Annotated[list[str], MASK]
ManifestArgument = Annotated[
    Path | None, typer.Argument(help="A manifest; default: data_manifest.yaml of the repository.")
]

DEFAULT_SEED = 2020
SIDES = ("auto", "left", "right")
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
            print("ankle: interrupted; what was finished is kept", file=sys.stderr)
        raise


@app.command()
def run(
    preset: PresetOption = "laptop",
    part: Annotated[str, typer.Option(help="1 (the ankle), 2 (beyond it) or all.")] = "all",
    only: Annotated[str | None, typer.Option(metavar="NN", help="Run this chapter alone.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="NN", help="Run from this chapter on.")
    ] = None,
    cohort: Annotated[str, typer.Option(help="A cohort of data_manifest.yaml.")] = "phantom",
    results: ResultsOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",  # see Place.find
    force: Annotated[
        bool, typer.Option("--force", help="Run chapters even if they are up to date.")
    ] = False,
    check: Annotated[
        Path | None,
        typer.Option(metavar="REFERENCE", help="Then compare the tables with these."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", metavar="NAME=VALUE", help="A parameter of the notebooks (repeatable)."),
    ] = None,
) -> None:
    """Run the chapters in order, skipping those that are up to date."""
    from ankle_lib.running import course

    course.run(
        preset,
        part=part,
        only=only,
        start=start,
        cohort=cohort,
        results=results,
        device=device,
        force=force,
        parameters=_parameters(parameter or []),
        reference=check,
    )


@app.command("compare")
def compare_command(
    old: Annotated[Path, typer.Argument(help="A run: results/PRESET, or its tables alone.")],
    new: Annotated[Path, typer.Argument(help="Another run of that preset.")],
    page: Annotated[
        Path | None, typer.Option(help="Page to write; default: comparison.html in NEW.")
    ] = None,
    other_machine: Annotated[
        bool,
        typer.Option("--other-machine", help="Allow what short trainings differ by elsewhere."),
    ] = False,
) -> None:
    """Tell which numbers moved between two runs, and by how much; more than may be is an error.

    Writes a page with all changes, and the figures that differ side by side. Timings are left out.
    """
    from ankle_lib.running.compare import check

    check(old, new, page, other_machine=other_machine)


@app.command("foot")
def foot_command(
    static: Annotated[Path, typer.Argument(help="The static scan: a NIfTI file or DICOM folder.")],
    dynamic: Annotated[
        list[Path], typer.Argument(help="Each sequence of frames: a 4D NIfTI file or DICOM folder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; a stopped run goes on.")],
    mask: Annotated[list[str] | None, MASK] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A network to find bones with; default: the package's own.")
    ] = None,
    side: Annotated[str, typer.Option(help="auto (by the bones' shape), left or right.")] = "auto",
    sharp: Annotated[
        bool, typer.Option("--sharp", help="Also make the frames as sharp as the static scan.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """From raw scans of one foot to its moving bones, joint angles and a page about them.

    A network finds the bones, unless masks are given. Writes report.html, labels.nii.gz, and for
    each sequence what `ankle register` writes, angles.csv, helical_axes.csv and joint_gaps.csv.
    Verdicts that a person writes into its qc_sheet.csv count when the command is given again.
    """
    from ankle_lib.foot.whole import foot_files
    from ankle_lib.running.records import one_writer

    masks, known = _masks(mask or []), _side(side)
    with one_writer(out):
        _tell(
            foot_files(
                static,
                dynamic,
                out,
                masks=masks,
                checkpoint=checkpoint,
                side=known,
                sharp=sharp,
                device=device,
                tell=typer.echo,
            )
        )


@app.command("register")
def register_command(
    static: StaticOption,
    dynamic: Annotated[
        list[Path],
        typer.Option(help="The frames: one 4D file, or one 3D file each (repeat the option)."),
    ],
    mask: MaskOption,
    out: Annotated[Path, typer.Option(help="Folder for the results; an earlier one is replaced.")],
    engine: Annotated[str, typer.Option(help="torch, simpleitk or flirt.")] = "torch",
    device: DeviceOption = "auto",
    gate: Annotated[
        float | None,
        typer.Option(
            min=-1,
            max=1,
            help="Correlation that a fit must have, too; 0.5 for simpleitk and flirt, none for "
            "torch, which compares each fit with the bone elsewhere.",
        ),
    ] = None,
    high_resolution: Annotated[
        bool, typer.Option(help="Also write each bone at the static scan's resolution.")
    ] = True,
) -> None:
    """Move the bones of one's own static scan onto every frame; no cohort is needed.

    Writes transforms.json, FLIRT and ITK exports, moved masks and images, and contact_sheet.png.
    """
    from ankle_lib.foot.register import register_files
    from ankle_lib.foot.results import check_result_folder
    from ankle_lib.running.records import one_writer

    masks = _masks(mask)
    check_result_folder(out)  # before a lock is put beside it
    with one_writer(out):
        outcome = register_files(
            static,
            dynamic,
            masks,
            out,
            engine=engine,
            device=device,
            gate=gate,
            high_resolution=high_resolution,
        )
    _tell(outcome)


@app.command("segment")
def segment_command(
    image: Annotated[
        Path, typer.Argument(help="A static scan or the frames: one 3D or 4D NIfTI file.")
    ],
    out: Annotated[Path, typer.Option(metavar="SEG", help="Labels to write, .nii.gz or .nii.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A network of chapter 05 or 07; default: the package's own.")
    ] = None,
    device: DeviceOption = "auto",
    side: Annotated[
        str, typer.Option(help="auto, or left or right: bones of the other side are noted.")
    ] = "auto",
) -> None:
    """Segment calcaneus, talus and tibia on any scan or series of frames; no cohort is needed.

    Orientation, side, voxel size and intensities may be any. Writes the labels on the scan's own
    grid, their names and colours for ITK-SNAP (SEG_labels.txt), how far to trust each frame and
    bone (SEG_confidence.csv) and a picture (SEG_overlay.png).
    """
    from ankle_lib.foot.segment import segment_file

    _tell(segment_file(image, checkpoint, out, device=device, side=_side(side)))


@app.command("reconstruct")
def reconstruct_command(
    dynamic: Annotated[Path, typer.Argument(help="The frames: one 4D NIfTI file.")],
    static: StaticOption,
    mask: MaskOption,
    transforms: Annotated[
        Path, typer.Option(help="transforms.json, as `ankle register` writes it.")
    ],
    out: Annotated[Path, typer.Option(help="Series to write, .nii.gz or .nii.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="A network of chapter 06 that refines every frame.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="The static scan's whole grid, not the bones' part.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Make every frame as sharp as the static scan; no cohort is needed.

    Writes the series (4D), beside it OUT_consistency.csv (does averaging it over the slices give
    the frames back?), OUT_residual.nii.gz and OUT_filmstrip.png.
    """
    from ankle_lib.foot.reconstruct import reconstruct_file

    _tell(
        reconstruct_file(
            dynamic,
            static,
            _masks(mask),
            transforms,
            out,
            checkpoint=checkpoint,
            whole=whole,
            device=device,
        )
    )


@app.command("summary")
def summary_command(
    preset: PresetOption = "laptop",
    results: ResultsOption = None,
    readme_only: Annotated[
        bool, typer.Option("--readme-only", help="Take the summary as it is; read no results.")
    ] = False,
) -> None:
    """Set the results of a finished run beside the report's, in one table of the README.

    Writes summary/results.csv, and from it the table in README.md.
    """
    from ankle_lib import summary
    from ankle_lib.presets import get_preset
    from ankle_lib.running.chapter import failed_claims, find_root, list_chapters

    root = find_root()
    if not readme_only:
        folder = (results or root / "results").absolute() / get_preset(preset).name
        print(summary.write_summary(folder, root))
        for chapter in list_chapters(root):
            for claim in failed_claims(folder / chapter.stem):
                print(f"{chapter.stem}: does not hold: {claim}")
    print(summary.write_readme(root))


@networks.command("train")
def train_command(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the trainings; the networks go there.")
    ],
    small: Annotated[
        bool, typer.Option("--small", help="In a minute, to see whether everything runs.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Train networks for thin and for thick slices of any contrast, on simulated and random feet.

    So the networks of the package were made. A run that was stopped goes on where it was.
    """
    from ankle_lib.running.records import one_writer
    from ankle_lib.weights.making import FULL, SMALL, make_networks

    with one_writer(out):
        for network in make_networks(out, SMALL if small else FULL, device=device):
            print(network)


@course_commands.command("exercises")
def exercises_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write them to.")],
) -> None:
    """Write the notebooks with their exercises unsolved, and checks that tell right from wrong."""
    from ankle_lib.running.student_copy import write_exercises

    for notebook in write_exercises(folder):
        print(notebook)


@course_commands.command("site")
def site_command(
    preset: PresetOption = "laptop",
    results: ResultsOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the site; default: site-PRESET in the results.")
    ] = None,
) -> None:
    """Make the static site from the chapters that a run has executed."""
    from ankle_lib.running.website import build_site

    first = build_site(preset, results=results, out=out)
    size = sum(path.stat().st_size for path in first.parent.rglob("*") if path.is_file())
    print(f"{first} ({size / 1e6:.0f} MB)")


@data.command("simulate")
def simulate(
    out: Annotated[Path, typer.Option(help="Folder to write the cohort to.")],
    preset: PresetOption = "laptop",
    seed: Annotated[int, typer.Option(help="Same seed, same cohort.")] = DEFAULT_SEED,
    device: DeviceOption = "auto",
) -> None:
    """Write the simulated cohort: what a scanner and a reader would have left."""
    from ankle_lib.phantom import simulate as phantom
    from ankle_lib.presets import get_preset
    from ankle_lib.running.records import one_writer

    sizes = get_preset(preset)
    with one_writer(out):
        print(phantom.simulate(sizes, out, seed=seed, device=device))


@data.command("manifest")
def manifest(
    folder: Annotated[Path, typer.Argument(help="A BIDS tree or a folder in the lab's layout.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Manifest to write.")],
) -> None:
    """Write a manifest of the scans in a folder; add its cohort to data_manifest.yaml to use it."""
    from ankle_lib.manifest.document import manifest_from_folder, save_manifest

    found = manifest_from_folder(folder)
    save_manifest(out, found)
    for cohort in found.cohorts:
        print(f"{out}: cohort {cohort.name!r} with {len(cohort.subjects)} subjects")
        for note in cohort.notes:
            print(f"  {note}")
        for subject in cohort.subjects:
            for note in subject.notes:
                print(f"  {subject.code}: {note}")


@data.command("verify")
def verify(
    file: ManifestArgument = None,
    privacy: Annotated[
        bool, typer.Option("--privacy", help="Also list what tells who was scanned.")
    ] = False,
) -> None:
    """Check existence, checksum and geometry of everything a manifest names."""
    from ankle_lib.manifest import document

    path = file or _default_manifest()
    loaded = document.load_manifest(path)
    checks = [document.verify, document.privacy] if privacy else [document.verify]
    waiting = {one.name: where for one in loaded.cohorts if (where := loaded.waits(one.name))}
    for name, where in waiting.items():
        print(f"{name}: not here; its files are at {where}")
    cohorts = [loaded.cohort(one.name) for one in loaded.cohorts if one.name not in waiting]
    findings = [found for cohort in cohorts for check in checks for found in check(cohort)]
    for finding in findings:
        subject = f"{finding.cohort}, {finding.subject}" if finding.subject else finding.cohort
        print(": ".join(filter(None, (subject, finding.file, finding.problem))))
    if findings:
        raise AnkleError(f"{path}: findings as listed: {len(findings)}")
    print(f"{path}: {len(cohorts)} cohorts, nothing to report")


@data.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="A remote cohort of the manifest.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; default: the cohort's root.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--manifest", help="The manifest.")] = None,
) -> None:
    """Download what is missing of a remote cohort; checksums are compared."""
    from ankle_lib.manifest.document import fetch, load_manifest

    cohort = load_manifest(file or _default_manifest()).cohort(name)
    for path in fetch(cohort, out):
        print(path)


def _tell(outcome: "Outcome") -> None:
    """Print what a command found and wrote; what could not be done is an error."""
    for line in outcome.lines:
        print(line)
    for note in outcome.notes:
        print(f"note: {note}")
    for path in outcome.files:
        print(path)
    if outcome.problem:
        raise AnkleError(outcome.problem)


def _default_manifest() -> Path:
    from ankle_lib.running.chapter import MANIFEST, find_root

    return find_root() / MANIFEST


def _side(side: str) -> str | None:
    if side not in SIDES:
        raise AnkleError(f"there is no side {side!r}: choose one of {', '.join(SIDES)}")
    return None if side == "auto" else side


def _masks(assignments: list[str]) -> dict[str, Path]:
    """Read ``BONE=FILE`` texts."""
    masks: dict[str, Path] = {}
    for bone, path in _pairs("--mask", assignments, "BONE=FILE, as in talus=talus.nii.gz"):
        if bone in masks:
            raise AnkleError(f"--mask {bone} is given twice: {masks[bone]} and {path}")
        masks[bone] = Path(path)
    return masks


def _parameters(assignments: list[str]) -> dict[str, Any]:
    """Read ``NAME=VALUE`` texts."""
    parameters = {}
    for name, value in _pairs("-p", assignments, "NAME=VALUE, for instance -p radius_mm=2"):
        try:
            parameters[name] = _value(value)
        except yaml.YAMLError:
            raise AnkleError(f"-p {name}={value}: the value cannot be read, quote it") from None
    return parameters


def _value(text: str) -> Any:
    """Read a number as Python does (to YAML 1e3 is a text, and 010 is eight), all else as YAML."""
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        if math.isfinite(number := float(text)):
            return number
    return yaml.safe_load(text)


def _pairs(option: str, assignments: list[str], form: str) -> Iterator[tuple[str, str]]:
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.isidentifier():
            raise AnkleError(f"{option} {assignment!r} is not {form}")
        yield name, value
