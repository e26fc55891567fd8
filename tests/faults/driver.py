"""A user's process: launches the run that a settings file describes, prints how it ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from epitaxy.train.launch import launch
from epitaxy.train.settings import RunSettings, from_dict

if __name__ == "__main__":
    settings = from_dict(RunSettings, json.loads(Path(sys.argv[1]).read_text()))
    result = launch(settings)
    sys.stdout.write(json.dumps({"resumed": result.resumed, "metrics": result.metrics}) + "\n")
