"""What the runner of stages makes of a trainer that ended, and of settings that changed."""

import json
from pathlib import Path

import pytest

from llmstage.runner import Note, was_stopped
from llmstage.stage import Stage, Step

RECIPE = {"stages": [{"name": "long"}, {"name": "annealing"}]}


def at(step, stage=None, end=None):
    """trainer/state.json of a run that was to take 100 steps."""
    place = {"stage": {"name": stage, "end_step": end}, "recipe": RECIPE} if stage else {}
    return {"step": step, **place}


@pytest.mark.parametrize("state, stopped", [
    (at(99), True), (at(100), False),
    (at(70, "annealing", 70), False),  # the stage before it ended early
    (at(69, "annealing", 70), True), (at(60, "long", 60), True),
])  # fmt: skip
def test_a_trainer_that_ended_before_its_last_step(tmp_path, state, stopped):
    made = tmp_path / "checkpoint/config.json"
    (tmp_path / "checkpoint/trainer").mkdir(parents=True)
    (tmp_path / "checkpoint/trainer/state.json").write_text(json.dumps(state))
    (tmp_path / "trainer_options.json").write_text('{"steps": 100}')
    assert was_stopped(Step("train", [], [], made, trains=True)) == stopped


def test_a_difference_names_the_member_and_both_values(tmp_path):
    note = Note(Stage("a", "a", tmp_path, [], [], []))
    old = {"options of x": ["--lr", "1", "--a"], "recipe": {"stages": [{"steps": 10}, {"steps": 5}]}, "content of f": "1"}
    note.begin(old)
    assert Note(Stage("a", "a", tmp_path, [], [], [])).difference(old) is None
    new = {"options of x": ["--lr", "2", "--a"], "recipe": {"stages": [{"steps": 10}, {"steps": 6}]}, "content of f": "2"}
    assert note.difference(new) == "options of x: 1, now 2; recipe.stages.1.steps was 5 and is 6; content of f is another"
    Path(note.path).write_text("{")
    with pytest.raises(Exception, match="stage.json: not JSON; remove it and"):
        Note(Stage("a", "a", tmp_path, [], [], []))
