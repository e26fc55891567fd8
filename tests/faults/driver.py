"""A user's process: launches the run that a settings file describes, prints how it ended."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from epitaxy.train.launch import launch
from epitaxy.train.settings import RunSettings, from_dict

if __name__ == "__main__":
    settings = from_dict(RunSettings, json.loads(Path(sys.argv[1]).read_text()))
    kill_at = int(os.environ.get("EPITAXY_TEST_KILL_AT", "0"))
    if kill_at:
        sys.path.append(str(Path(__file__).resolve().parents[1] / "shared"))
        from kill_suite import kill_before_file_operation

        kill_before_file_operation(kill_at, Path(settings.directory))
    result = launch(settings)
    sys.stdout.write(json.dumps({"resumed": result.resumed, "metrics": result.metrics}) + "\n")
