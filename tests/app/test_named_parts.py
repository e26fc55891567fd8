"""Parts of a combined objective: short forms, free names, and errors before anything starts."""

import pytest

from epitaxy.app.components import check_components
from epitaxy.app.compose import compose
from epitaxy.app.runs import settings_of
from epitaxy.build import build
from epitaxy.errors import ConfigError

COMBINED = ["data=x", "run.name=a", "objective=combined"]
FORCES = "objective.parts.forces.use=energy_force_stress"


def parts_of(*overrides, config_dirs=()):
    return compose("pretrain", [*COMBINED, *overrides], config_dirs).require()["objective"]["parts"]


def test_a_short_form_stands_for_the_option_with_its_changes():
    known = compose("pretrain", ["objective=energy_force_stress"]).config["objective"]
    expected = {
        "forces": {"weight": 2, "objective": {**known, "hidden": [4], "force_weight": 0.5}},
        "gap": {
            "weight": {"start": 1, "end": 0.1},
            "share": True,
            "objective": {
                **compose("finetune", []).config["objective"],
                "label": "gap",
            },
        },
    }
    inline = (
        "objective.parts={forces: {use: energy_force_stress, weight: 2, hidden: [4], "
        "force_weight: 0.5}, gap: {use: regression, label: gap, share: true, "
        "weight: {start: 1, end: 0.1}}}"
    )
    assert parts_of(inline) == expected
    one_by_one = (
        FORCES, "objective.parts.forces.weight=2", "objective.parts.forces.hidden=[4]",
        "objective.parts.forces.objective.force_weight=0.5",  # as `--cfg` prints it
        "objective.parts.gap={use: regression, label: gap, share: true}",
        "objective.parts.gap.weight={start: 1, end: 0.1}",
    )  # fmt: skip
    found = parts_of(*one_by_one)
    assert found == expected


def test_the_order_in_which_parts_are_written_is_kept():
    words = ["objective.parts.b.use=regression", "objective.parts.a.use=regression"]
    assert compose("pretrain", [*COMBINED, *words]).config["objective"]["order"] == ["b", "a"]
    given = compose("pretrain", [*COMBINED, *words, "objective.order=[a,b]"])
    assert given.config["objective"]["order"] == ["a", "b"]


def test_what_is_composed_can_be_built(epitaxy_home):
    config = compose("pretrain", [*COMBINED, FORCES, "objective.balance.every=4",
                                  "objective.parts.gap={use: regression, label: gap}"])  # fmt: skip
    settings = settings_of(config)
    objective = build(settings.objective)
    assert objective.labels == ("energy", "forces", "stress", "gap")
    assert objective.balance.every == 4


def test_options_of_the_user_are_parts_too(tmp_path):
    (tmp_path / "objective").mkdir()
    text = "defaults: [energy_force_stress, _self_]\nforce_weight: 500\n"
    (tmp_path / "objective" / "mine.yaml").write_text(text)
    found = parts_of("objective.parts.a.use=mine", config_dirs=[str(tmp_path)])
    assert found["a"]["objective"]["force_weight"] == 500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.parts.a.use=regresion", "no objective 'regresion'; did you mean 'regression'"),
        (
            "objective.parts.a={use: energy_force_stress, forc_weight: 1}",
            r"parts\.a \(energy_force_stress\) takes no argument 'forc_weight'; did you mean",
        ),
        (
            "objective.parts.a={use: regression, objective: {_target_: x.Y}}",
            r"parts\.a says both use: and objective",
        ),
        ("objective.parts.a.use=regression", r"objective\.parts\.a\.objective\.label=… is missing"),
        ("objective.partz.a.use=regression", r"takes no argument 'partz'; did you mean 'parts'"),
        ("loop.epochs.a=1", "unknown option 'loop.epochs.a'"),
    ],
)
def test_mistakes_get_the_closest_name(override, message):
    with pytest.raises(ConfigError, match=message):
        parts_of(override)


def test_parts_are_checked_like_any_component():
    parts = parts_of(FORCES, "objective.parts.forces.reference=7")
    with pytest.raises(ConfigError, match=r"parts\.forces\.objective\.reference must be of type"):
        check_components({"objective": {"parts": parts}})
    with pytest.raises(ConfigError, match=r"objective\.parts=… is missing"):
        parts_of()
