"""Draws docs/images/schedules.png: the learning rate over a run, by the schedules themselves.

python docs/drawings/schedules.py
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from epitaxy.train.schedule import Plateau, factor, judge
from epitaxy.train.settings import ScheduleSettings

OUT = Path(__file__).parents[1] / "images" / "schedules.png"
EPOCHS, STEPS = 60, 20
CURVES = {
    "cosine, warmup 0.02 (default)": ScheduleSettings(),
    "one_cycle, warmup 0.3": ScheduleSettings("one_cycle", warmup=0.3),
    "multi_step at 0.5 and 0.8, gamma 0.3": ScheduleSettings(
        "multi_step", warmup=0.0, milestones=(0.5, 0.8), gamma=0.3
    ),
    "plateau, gamma 0.8, patience 5": ScheduleSettings(
        "plateau", warmup=0.0, gamma=0.8, patience=5
    ),
    "constant, warmup 0.1": ScheduleSettings("constant", warmup=0.1),
}


def rates(settings: ScheduleSettings) -> list[float]:
    """Returns the factor of each step; plateaus judge made-up losses that level off."""
    rng = np.random.default_rng(0)
    plateau, found = Plateau(), []
    for epoch in range(EPOCHS):
        for step in range(STEPS):
            progress = (epoch * STEPS + step + 1) / (EPOCHS * STEPS)
            found.append(factor(settings, progress, plateau.reduction))
        loss = 0.1 + np.exp(-epoch / 3) + rng.uniform(0.0, 0.03)
        plateau = judge(settings, plateau, loss, peak=1.0)
    return found


def main() -> None:
    figure, every = plt.subplots(1, len(CURVES), figsize=(12.5, 2.3), sharey=True)
    progress = (np.arange(EPOCHS * STEPS) + 1) / (EPOCHS * STEPS)
    for axes, (name, settings) in zip(every, CURVES.items(), strict=True):
        axes.plot(progress, rates(settings), color="#3b6fb6", linewidth=1.6)
        axes.set_title(name, fontsize=8)
        axes.set_ylim(0, 1.08)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    every[0].set_ylabel("rate / optimizer.lr", fontsize=8)
    every[2].set_xlabel("fraction of the run's records", fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(OUT, dpi=110)


if __name__ == "__main__":
    main()
