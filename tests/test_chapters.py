"""All chapters at `smoke`: they ran, and left the tables that others read."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas as pd
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

TABLES = {
    "01_data_cleaning/tables/inclusion.csv": ["subject", "group", "side", "included", "reasons"],
    "01_data_cleaning/tables/corrections.csv": ["subject", "file", "correction"],
    "02_masking/tables/foot_masks.csv": ["subject", "image", "threshold", "foot_fraction"],
    "02_masking/tables/bone_volumes.csv": ["subject", "bone", "volume_cm3"],
    "03_registration/tables/registration.csv": [
        *("subject", "sequence", "frame", "bone", "engine", "correlation", "dice", "tre_mm"),
        *("rotation_error_deg", "accepted", "seconds"),
    ],
    "04_patch_extraction/tables/patches.csv": ["task", "group", "bone", "n_patches"],
    "05_static_segmentation/tables/table_6_1.csv": [
        *("network", "parameters", "bone", "dice_validation"),
        *("report_parameters", "report_dice_validation"),
    ],
    **{
        f"05_static_segmentation/tables/{table}.csv": [
            *("network", "bone", "dice_mean", "dice_low", "dice_high", "report_dice"),
        ]
        for table in ("table_6_2", "table_6_3", "table_6_4")
    },
    "05_static_segmentation/tables/postmortem.csv": [
        *("step", "bone", "dice_mean", "dice_low", "dice_high", "hd95_mm"),
    ],
    "06_hr_reconstruction/tables/table_6_5.csv": [
        "method",
        "bone",
        "correlation",
        "psnr_db",
        "ssim",
    ],
    "06_hr_reconstruction/tables/reconstruction.csv": [
        *("method", "bone", "correlation", "psnr_db", "ssim"),
    ],
    "07_dynamic_segmentation/tables/dynamic_segmentation.csv": [
        *("method", "subject", "bone", "dice", "hd95_mm", "assd_mm"),
    ],
    "08_few_children/tables/label_efficiency.csv": [
        *("arm", "n_labelled", "dice_mean", "dice_low", "dice_high"),
    ],
    "08_few_children/tables/constraints.csv": ["constraint", "dice_mean", "dice_low", "dice_high"],
    "08_few_children/tables/adaptation.csv": ["method", "bone", "dice_mean"],
    "08_few_children/tables/implicit.csv": ["method", "bone", "correlation", "psnr_db"],
    "09_contrast_agent/tables/oracle.csv": ["world", "bound", "auc", "auc_low", "auc_high"],
    "09_contrast_agent/tables/detection.csv": ["method", "auc", "auc_low", "auc_high"],
    "09_contrast_agent/tables/retention.csv": ["method", "retained", "brier"],
    "09_contrast_agent/tables/shapley.csv": ["method", "sequence", "shapley", "alone"],
    "09_contrast_agent/tables/attribution.csv": ["method", "weights", "region", "mean", "std"],
    "09_contrast_agent/tables/generated.csv": ["auc", "auc_low", "auc_high", "patients", "arm"],
    "09_contrast_agent/tables/leakage.csv": ["split", "sees", "repeat", "auc"],
    "10_blind_to_the_modality/tables/modalities.csv": [
        *("arm", "regime", "modality", "dice_mean", "dice_low", "dice_high"),
        *("assd_mm_mean", "assd_mm_low", "assd_mm_high"),
        *("hd95_mm_mean", "hd95_mm_low", "hd95_mm_high", "parameters", "seconds"),
    ],
    "10_blind_to_the_modality/tables/class_relations.csv": [
        *("arm", "modality", "class", "looks_like", "probability"),
    ],
    "10_blind_to_the_modality/tables/synthesis.csv": ["method", "hu_error_bone_mean"],
    "11_transformers/tables/contest.csv": ["arm", "budget", "dice_mean", "dice_low", "dice_high"],
    "11_transformers/tables/learning_curve.csv": ["arm", "n_train", "dice_mean"],
    "11_transformers/tables/identity.csv": [
        *("arm", "against", "difference", "low", "high", "verdict"),
    ],
    "11_transformers/tables/size_bins.csv": ["arm", "size", "found_mean"],
    "03_registration/tables/gate.csv": ["dice_threshold", "correlation_threshold"],
    "03_registration/qc_sheet.csv": [
        *("subject", "sequence", "frame", "bone", "correlation"),
        *("verdict", "reviewer", "time", "note"),
    ],
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_chapter_ran(smoke_results: Path) -> None:
    for notebook in NOTEBOOKS:
        folder = smoke_results / notebook.stem
        executed = nbformat.read(folder / "notebook.ipynb", as_version=4)
        counts = [c.execution_count for c in executed.cells if c.cell_type == "code" and c.source]
        assert counts == list(range(1, len(counts) + 1))
        shown = [o for c in executed.cells for o in c.get("outputs", []) if "data" in o]
        assert any("image/png" in output.data for output in shown), "no figure is shown"
        record = json.loads((folder / "run.json").read_text())
        assert record["preset"] == "smoke"
        assert all((folder / name).is_file() for name in record["outputs"])
        assert record["peak_rss_mb"] < 6000


@pytest.mark.parametrize("path", TABLES)
def test_tables_have_the_promised_columns(smoke_results: Path, path: str) -> None:
    columns = list(pd.read_csv(smoke_results / path).columns)
    assert columns[: len(TABLES[path])] == TABLES[path]


def test_nothing_temporary_is_left(smoke_results: Path) -> None:
    assert not list(smoke_results.rglob(".partial-*"))
    assert not list(smoke_results.rglob("*.failed.ipynb"))
