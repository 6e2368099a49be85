"""Fit the detectors of these concepts in the default model, and put them into `assets/detectors/`.

    python assets/ship_detectors.py [ID …]          Spanish if none is named

A detector's file is named by the hash of what it is fitted to; one of older examples goes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lm_core.concept_detectors import AGGREGATE, METHOD, detector_path, fit_source, source_of  # noqa: E402
from lm_core.device import choose_device  # noqa: E402
from lm_core.llm.model import open_model  # noqa: E402
from lm_core.steer_params import DEFAULT_MODEL  # noqa: E402


def main() -> None:
    lm = open_model(DEFAULT_MODEL, choose_device("auto"))
    for name in sys.argv[1:] or ["spanish"]:
        source = source_of(name)
        path = detector_path(source)
        found = fit_source(source, lm, METHOD, AGGREGATE)
        for old in path.parent.glob(f"{path.name.split('.')[0]}.*.safetensors"):
            old.unlink()
        found.write(path)
        print(path.relative_to(ROOT), f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
