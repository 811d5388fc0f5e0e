"""Chapter 06: the moving ankle as sharp as the static scan.

``report_pairs`` holds the report's pairs, ``report`` its networks, ``experiments`` comparisons,
``bound`` what no weights of its network exceed, ``weighting`` the weight g, ``pair_quality`` what
the pairs are worth. ``scenes`` (read by ``cohort``) bring frame, moved static scan and truth onto
one sharp grid, ``pairs`` draws patches of them, ``refiner`` is the network that makes frames sharp,
``trials`` compares, ``evaluation`` scores; ``fitting`` remembers trainings. ``polyrigid`` moves the
static scan, ``guided`` needs no training, ``consistency`` tells whether anything was invented.
"""

from ankle_lib.reconstruction.bound import (
    best_reachable,
    degrees_of_freedom,
    outside_reach,
    reachable_basis,
)
from ankle_lib.reconstruction.cohort import read_scenes
from ankle_lib.reconstruction.evaluation import (
    BASELINES,
    INTERPOLATIONS,
    MOVED_STATIC,
    agreed,
    consistencies,
    fitted_static,
    gains,
    once,
    score_scenes,
    summary,
)
from ankle_lib.reconstruction.experiments import (
    bounds,
    compare_distances,
    compare_proposals,
    shown_patches,
    vary_depth,
    within_reach,
)
from ankle_lib.reconstruction.fitting import Trained
from ankle_lib.reconstruction.nearest_bone import carried_by_nearest_bone
from ankle_lib.reconstruction.pair_quality import (
    flat_weights,
    price_of_no_profile,
    weights_and_truth,
    what_a_shift_costs,
)
from ankle_lib.reconstruction.pairs import CHANNELS, SceneSource
from ankle_lib.reconstruction.refiner import Refiner, refine, refined_by, refiner_of
from ankle_lib.reconstruction.refiner_training import (
    RefineRecipe,
    fit_refiner,
    refine_scene,
    save_refiner,
)
from ankle_lib.reconstruction.report import PATCH_RANGE, ReportRecipe, fit_report
from ankle_lib.reconstruction.report_pairs import Pairs, read_pairs
from ankle_lib.reconstruction.scenes import (
    AROUND_BONE_MM,
    Scene,
    make_scene,
    on_grid,
)
from ankle_lib.reconstruction.trials import (
    FRAME_ALONE,
    Trials,
    answer_of,
    compare_trials,
    final_recipe,
    trial_recipes,
)
from ankle_lib.reconstruction.weighting import LearntWeight, flatness, report_g

__all__ = [
    "AROUND_BONE_MM",
    "BASELINES",
    "CHANNELS",
    "FRAME_ALONE",
    "INTERPOLATIONS",
    "MOVED_STATIC",
    "PATCH_RANGE",
    "LearntWeight",
    "Pairs",
    "RefineRecipe",
    "Refiner",
    "ReportRecipe",
    "Scene",
    "SceneSource",
    "Trained",
    "Trials",
    "agreed",
    "answer_of",
    "best_reachable",
    "bounds",
    "carried_by_nearest_bone",
    "compare_distances",
    "compare_proposals",
    "compare_trials",
    "consistencies",
    "degrees_of_freedom",
    "final_recipe",
    "fit_refiner",
    "fit_report",
    "fitted_static",
    "flat_weights",
    "flatness",
    "gains",
    "make_scene",
    "on_grid",
    "once",
    "outside_reach",
    "price_of_no_profile",
    "reachable_basis",
    "read_pairs",
    "read_scenes",
    "refine",
    "refine_scene",
    "refined_by",
    "refiner_of",
    "report_g",
    "save_refiner",
    "score_scenes",
    "shown_patches",
    "summary",
    "trial_recipes",
    "vary_depth",
    "weights_and_truth",
    "what_a_shift_costs",
    "within_reach",
]
