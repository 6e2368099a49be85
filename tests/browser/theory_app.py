"""The page "Theory vs network" alone, on the made-up surveys of the folder that `LM_TEST_SURVEYS` names."""

import os
import runpy
from pathlib import Path

from lm_core import survey
from pages.components import look
from tests.surveys import finder

survey.result_file = finder(Path(os.environ["LM_TEST_SURVEYS"]))
look.style()
runpy.run_path(str(Path(__file__).resolve().parents[2] / "pages" / "theory_vs_network.py"))
