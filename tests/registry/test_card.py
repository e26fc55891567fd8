"""Cards: what they say, and that they are never trusted."""

import json

import pytest

from epitaxy.errors import RegistryError
from epitaxy.registry.card import build_card, check_targets, render_card


def test_card_says_what_is_predicted_and_where_it_comes_from(model_folder):
    lineage = {
        "run": {"name": "r1"},
        "parent": {"reference": "base@2", "digest": "ff"},
        "teacher": {"reference": "twin@1", "weights": "aa"},
        "schemes": {"gap": "PBE", "energy": "r2SCAN"},
        "metrics": {"val/gap_mae": {"value": 0.25, "unit": "eV"}},
    }

    card = build_card(model_folder(), "t", lineage)

    assert card["labels"] == {"gap": {"unit": "eV", "scheme": "PBE"}}
    assert card["data"]["licence"] == "CC-BY-4.0"
    text = render_card(card)
    assert "| val/gap_mae | 0.25 | eV |" in text
    assert "| parent: reference | `base@2` |" in text
    assert "| teacher: reference | `twin@1` |" in text


def test_a_copy_keeps_its_lineage(model_folder):
    folder = model_folder()
    card = build_card(folder, "t", {"run": {"name": "r1"}, "notes": "by hand"})
    (folder / "card.json").write_text(json.dumps(card))

    copy = build_card(folder, "other", {"notes": "copied"})

    assert copy["name"] == "other"
    assert copy["run"] == {"name": "r1"}
    assert copy["notes"] == "copied"


def test_unknown_lineage_and_broken_model_are_refused(model_folder):
    folder = model_folder()
    with pytest.raises(RegistryError, match="lineage key 'parnet'"):
        build_card(folder, "t", {"parnet": {}})
    (folder / "model.json").write_text("[1]")
    with pytest.raises(RegistryError, match="must hold a JSON object"):
        build_card(folder, "t", None)


@pytest.mark.parametrize("target", ["os.system", "epitaxy.foreign.x", "epitaxy.encodersx.A", 3])
def test_foreign_code_is_refused_however_deep(target):
    encoder = {"_target_": "epitaxy.encoders.cgcnn.CGCNN", "a": [{"_target_": target}]}

    with pytest.raises(RegistryError, match="not trusted"):
        check_targets({"encoder": encoder}, "model.json")


def test_the_user_can_vouch_for_a_package():
    check_targets({"_target_": "mine.encoders.Foo"}, "model.json", trusted=("mine.",))


def test_markdown_of_a_hostile_card_stays_one_table(model_folder):
    card = build_card(model_folder(), "t", {"run": {"name": "x\n# Heading | cell `tick`"}})

    assert "\n# Heading" not in render_card(card)
