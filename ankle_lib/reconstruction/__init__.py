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
from ankle_lib.reconstruction.nearest_bone import carried_by_nearest_bone
from ankle_lib.reconstruction.pair_quality import (
    flat_weights,
    price_of_no_profile,
    weights_and_truth,
    what_a_shift_costs,
)
from ankle_lib.reconstruction.refiner import refine, refined_by, refiner_of
from ankle_lib.reconstruction.refiner_training import fit_refiner, refine_scene, save_refiner
from ankle_lib.reconstruction.report import ReportRecipe
from ankle_lib.reconstruction.report_pairs import read_pairs
from ankle_lib.reconstruction.scenes import make_scene, on_grid
from ankle_lib.reconstruction.trials import (
    FRAME_ALONE,
    Trials,
    answer_of,
    compare_trials,
    final_recipe,
    trial_recipes,
)
from ankle_lib.reconstruction.weighting import flatness, report_g
