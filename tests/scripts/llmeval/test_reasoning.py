"""Questions of reasoning-gym: drawn by seed, judged by its scorers, of which none runs what a model writes."""

import pytest
from llmdata.errors import InputError
from llmeval.client import Answer
from suites import judged, only

gym = pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed: pip install reasoning-gym")


def sums(folder, **settings):
    return only(folder, kind="reasoning", **{"dataset": "chain_sum", "size": 6} | settings)


def test_questions_are_the_generators(tmp_path):
    task = sums(tmp_path, seed=5, config={"min_terms": 3, "max_terms": 3})
    theirs = gym.create_dataset("chain_sum", size=6, seed=5, min_terms=3, max_terms=3)
    assert [item.row for item in task.items] == [{"question": each["question"], "answer": each["answer"]} for each in theirs]
    system, asked = task.items[0].request.messages
    assert system["content"] == gym.utils.SYSTEM_PROMPTS["default"] and asked["content"] == theirs[0]["question"]
    assert task.kind.chats and task.kind.right(task.items[2]) == theirs[2]["answer"]
    assert sums(tmp_path, seed=6).items[0].row != task.items[0].row


def test_scores_are_the_scorers(tmp_path):
    task = sums(tmp_path)
    right, theirs = task.items[0].row["answer"], gym.create_dataset("chain_sum", size=6, seed=1)
    partly = f"about {right}"
    graded = theirs.score_answer(partly, theirs[0])
    assert 0 < graded < 1
    last = f"Let me see. <answer>1x</answer> No: <answer> {right}\n</answer>"
    score = judged(task, last, f"<answer>{partly}</answer>", right, "")
    assert score.value == pytest.approx((1 + graded) / 4) and score.parts == {"solved": 0.25}
    assert score.note == "no answer in the text"


def test_examples_without_a_chat(tmp_path):
    task = sums(tmp_path, few_shot=2, chat=False, stop=["!"])
    first, second, third = (gym.create_dataset("chain_sum", size=8, seed=1)[number] for number in range(3))
    shown = "".join(f"Question: {each['question']}\nAnswer: {each['answer']}\n\n" for each in (first, second))
    request = task.items[0].request
    assert request.prompt == f"{shown}Question: {third['question']}\nAnswer:" and request.stop == ("!", "\nQuestion:")
    assert len(task.items) == 6 and not task.kind.chats
    assert [judged(task, text).value for text in (f" {third['answer']}\n", "")] == [1, 0]
    chat = sums(tmp_path, few_shot=1, system="Be brief.").items[0].request.messages
    assert [message["role"] for message in chat] == ["system", "user", "assistant", "user"]
    assert chat[0]["content"] == "Be brief." and chat[2]["content"] == f"<answer>{first['answer']}</answer>"


def test_questions_that_come_again(tmp_path):
    """Of sums of one digit: those that stand among the examples are not asked, others once."""
    few = {"min_terms": 2, "max_terms": 2, "max_digits": 1}
    task = sums(tmp_path, size=300, few_shot=3, config=few)
    assert task.duplicates > 0
    assert {item.fault for item in task.items} == {"", "stands among the solved examples"}


def test_scorers_that_fail(tmp_path):
    task = only(tmp_path, kind="reasoning", dataset="prime_factorization", size=1)
    score = judged(task, "<answer>a prime</answer>")
    assert score.value == 0 and score.note.startswith("the scorer fails: ValueError")


class Running:
    """A dataset whose scorer runs what answers say, and passes over the exception."""

    def score_answer(self, answer, entry):
        try:
            return eval(answer)
        except Exception:  # noqa: BLE001
            return 1.0


def test_nothing_is_run(tmp_path):
    task = sums(tmp_path)
    task.kind.dataset = Running()
    mark = tmp_path / "ran"
    score = judged(task, f"<answer>open({str(mark)!r}, 'w').close()</answer>")
    assert score.value is None and score.note == "the scorer runs texts as programs" and not mark.exists()
    assert eval("1 + 1") == 2
    task.kind.dataset = gym.create_dataset("chain_sum", size=1, seed=1)
    assert judged(task, f"<answer>{task.items[0].row['answer']}</answer>").value == 1


BAD = {
    "another name": ({"dataset": "chain_sums"}, "expected one of reasoning-gym's 106, as chain_sum,"),
    "another member": ({"dataset": "chain_sum", "config": {"terms": 3}}, "unexpected keyword argument 'terms'"),
    "a bad member": ({"dataset": "chain_sum", "config": {"min_terms": 0}}, "AssertionError: min_terms must be positive"),
    "no answers": ({"dataset": "graph_color", "few_shot": 1, "size": 1}, "questions without an answer"),
    "a scorer that runs answers": ({"dataset": "n_queens", "size": 1}, "n_queens: the scorer runs texts as programs"),
    "one of sympy": ({"dataset": "simple_integration", "size": 1}, "simple_integration: the scorer runs texts as programs"),
}  # fmt: skip


@pytest.mark.parametrize("settings, words", BAD.values(), ids=BAD)
def test_refused(tmp_path, settings, words):
    with pytest.raises(InputError) as error:
        only(tmp_path, kind="reasoning", **settings)
    assert words in str(error.value)


def test_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "reasoning_gym", None)
    with pytest.raises(InputError, match="reasoning_gym: not installed: pip install reasoning-gym"):
        sums(tmp_path)
