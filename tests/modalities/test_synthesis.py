from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ankle_lib.modalities import arms, synthesis
from ankle_lib.modalities.unpaired_scans import Regime
from tests.modalities.toy_children import toy_study


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> arms.ModalityStudy:
    return toy_study(tmp_path_factory.mktemp("trainings"))


def test_the_line_is_found_where_there_is_one(study) -> None:
    slope, offset = synthesis.fit_line(study, study.train)
    assert slope == pytest.approx(-1, abs=1e-3)  # the toy's CT is its MR turned over
    assert offset == pytest.approx(0, abs=1e-3)


def test_all_methods_make_images_that_are_judged(study) -> None:
    seen = Regime(1, 2).children(study.train)
    made = synthesis.make_all(study, seen["ct"], seen)
    shape = study.children["E32"].hounsfield.shape
    for images in made.values():
        assert images["E32"].shape == shape
        outside = ~study.children["E32"].scans["mr"].item.region
        assert (images["E32"][outside] == -1000).all()
    alone = study.fit_all([arms.Run(arms.ALONE, Regime(1, 2))])
    judged = synthesis.judge_synthesis(study, made, *alone.values())
    judged = judged.set_index("method")
    # the toy follows the line exactly
    assert judged.loc[synthesis.LINE, "hu_error_bone"] < 1
    assert judged.loc[synthesis.UNPAIRED, "hu_error_bone"] > 100
    assert np.isnan(judged.loc["MR to the network for MR", "hu_error_bone"])
    assert judged["dice"].notna().all()


def test_the_cyclegan_is_trained_once(study) -> None:
    seen = Regime(1, 2).children(study.train)
    first = synthesis.train_without_pairs(study, seen)
    (folder,) = study.folder.glob("cyclegan-*")
    written = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = synthesis.train_without_pairs(study, seen)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    for name, network in first.items():
        image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(again[name](image), network(image))
    assert "losses.csv" in written


def test_there_and_back_leads_home(tmp_path: Path) -> None:
    study = toy_study(tmp_path)
    study = replace(study, sizes=replace(study.sizes, cycle_steps=40))
    synthesis.train_without_pairs(study, Regime(1, 2).children(study.train))
    (losses,) = (pd.read_csv(file) for file in tmp_path.glob("cyclegan-*/losses.csv"))
    assert losses["cycle"].tail(10).mean() < 0.85 * losses["cycle"].head(10).mean()
