"""Rules of thumb: the public ones against datatrove's own filters, the others against planted texts and brute force."""

from random import Random

import numpy as np
import planted_text as texts
import pytest
import steprun
from curate import divergence, heuristics, rules
from llmdata.words import words
from datatrove.pipeline.filters import c4_filters, fineweb_quality_filter, gopher_quality_filter, gopher_repetition_filter
from llmdata.errors import InputError
from seeds import how_often, seed_of
from steprun import document

DATATROVE = {
    heuristics.GopherQuality: (gopher_quality_filter.GopherQualityFilter, {
        "gopher_short_doc": "min_words", "gopher_long_doc": "max_words", "gopher_below_avg_threshold": "min_mean_length",
        "gopher_above_avg_threshold": "max_mean_length", "gopher_too_many_hashes": "hashes_per_word",
        "gopher_too_many_ellipsis": "ellipses_per_word", "gopher_too_many_bullets": "bullet_lines",
        "gopher_too_many_end_ellipsis": "ellipsis_lines", "gopher_below_alpha_threshold": "alphabetic_words",
        "gopher_enough_stop_words": "stop_words"}),
    heuristics.GopherRepetition: (gopher_repetition_filter.GopherRepetitionFilter, {
        "dup_para_frac": "paragraphs", "dup_para_char_frac": "paragraph_characters", "dup_line_frac": "lines",
        "dup_line_char_frac": "line_characters", **{f"top_{n}_gram": f"top_{n}_gram" for n in (2, 3, 4)},
        **{f"duplicated_{n}_n_grams": f"duplicated_{n}_grams" for n in range(5, 11)}}),
    heuristics.FineWeb: (fineweb_quality_filter.FineWebQualityFilter, {
        "line_punct_ratio": "ending_lines", "short_line_ratio": "short_lines", "char_dup_ratio": "duplicate_characters",
        "list_ratio": "newlines_per_word"}),
    heuristics.C4: (c4_filters.C4QualityFilter, {
        "lorem_ipsum": "lorem_ipsum", "curly_bracket": "curly_brackets", "too_few_sentences": "sentences"}),
}  # fmt: skip


def prose(random, paragraphs=6):
    return [texts.paragraph(random, "en") for _ in range(paragraphs)]


def mixed(random, between):
    """Prose, of which some lines are doubled, cut, marked, or other things than prose."""
    lines = prose(random, random.randint(1, 8))
    forbidden = random.choice(["A line with {brackets} that end here.", "Lorem ipsum dolor sit amet, it says."])
    oddities = [
        lambda: random.choice(lines), lambda: " ".join(random.choice(lines).split()[: random.randint(1, 4)]),
        lambda: "- " + texts.sentence(random), lambda: texts.sentence(random)[:-1] + "...",
        lambda: texts.log_lines(random, 1)[0],
        lambda: "# " * random.randint(1, 9), lambda: " ".join(str(random.randint(1, 99999)) for _ in range(60)),
        lambda: "word and " * random.randint(1, 20), lambda: forbidden,
        lambda: " ".join(random.sample(texts.LISTS["thing"], 2)),
    ]  # fmt: skip
    for odd in random.sample(oddities, random.choice([0, 1, 1, 2])):
        lines += [odd() for _ in range(random.choice([1, 2, 12, 40]))]
    return between.join(random.sample(lines, len(lines)))


@pytest.mark.parametrize("step", DATATROVE, ids=lambda step: step.name)
def test_the_public_rules_are_datatroves(step, tmp_path, monkeypatch):
    """With the same words: its own tokenizer is replaced by ours. Shares of lines are of those with text here, of all there."""
    module, (peer, names) = __import__(DATATROVE[step][0].__module__, fromlist=["_"]), DATATROVE[step]
    of, separators = ("tokens", ["\n", "\n\n"]) if step is heuristics.GopherRepetition else ("words", ["\n"])
    monkeypatch.setattr(module, "split_into_words", lambda text, _: getattr(rules.Text(document(text)), of), raising=False)
    monkeypatch.setattr(module, "split_into_sentences", lambda text, _: [part for part in text.split(". ") if part],
        raising=False)
    random, peer, outcomes = Random(seed_of(f"rules {step.name}")), peer(), set()
    for number in range(how_often(200, 10_000)):
        text = mixed(random, random.choice(separators))
        theirs = document(text, language="en")
        verdict = peer.filter(theirs)
        expected = "" if verdict is True else names[verdict[1]]
        (kept,), counts = steprun.run(step, [[document(text, language="en")]], tmp_path)
        found = "" if kept else next(iter(counts.reasons))
        assert found == expected, text
        if kept:
            assert kept[0].text == theirs.text
        outcomes.add(found)
    assert len(outcomes) >= 3


def by_brute_force(text, size):
    found = [("0" if word.isdigit() else word) for word in words(text)]
    runs = [tuple(found[place : place + size]) for place in range(len(found) - size + 1)]
    covered = set()
    for place, run in enumerate(runs):
        if runs.count(run) > 1 and any(word != "0" for word in run):
            covered.update(range(place, place + size))
    return len(covered) / len(found) if runs else 0.0


def test_repeated_share_by_brute_force():
    random = Random(seed_of("repeated share"))
    for _ in range(how_often(50, 1000)):
        text = " ".join(random.choice(["a", "b", "12", "7"]) for _ in range(random.randint(0, 60)))
        size = random.randint(2, 6)
        assert heuristics.repeated_share(text, size) == pytest.approx(by_brute_force(text, size)), (text, size)


def test_logs_go_and_tables_of_numbers_stay(tmp_path):
    random = Random(seed_of("logs"))
    log = "\n".join(texts.log_lines(random, 40))
    table = "\n".join(" ".join(str(random.randint(0, 9)) for _ in range(12)) for _ in range(40))
    long_line = " ".join(texts.log_lines(random, 12))
    good = prose(random)
    given = [document(log, 0), document(table, 1), document("\n".join([*good[:3], long_line, *good[3:]]), 2),
        document(long_line, 3)]
    (kept,), counts = steprun.run(heuristics.Repetition, [given], tmp_path)
    assert [each.id for each in kept] == ["id1", "id2"]
    assert kept[1].text == "\n".join(good)
    assert counts.reasons == {"repeated content": 1, "no line left": 1}


def test_dirty_words(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("# listed\nfoul\nvery bad thing  # a phrase\n")
    words_of = lambda dirty: " ".join(["fine"] * 95 + dirty)  # noqa: E731
    given = [words_of(["FOUL!"] * 3), words_of(["foul"] * 2), words_of(["a very bad, thing"] * 3), words_of(["very bad"] * 9),
        "foul foul"]
    (kept,), counts = steprun.run(heuristics.DirtyWords, [[document(text, n) for n, text in enumerate(given)]], tmp_path,
        list=str(path))
    assert [each.id for each in kept] == ["id1", "id3", "id4"]
    assert counts.dropped.items[0]["threshold"] == 0.01
    with pytest.raises(InputError, match="steps.dirty_words.list: found no file .*none.txt"):
        steprun.run(heuristics.DirtyWords, [[]], tmp_path, list=str(tmp_path / "none.txt"))


def test_a_kept_document_tells_the_rule_that_it_came_closest_to_breaking(tmp_path):
    text = "\n".join(" ".join(["some words of the kind that people have"] * 1 + [f"x{n}"]) + "." for n in range(6))
    (kept,), counts = steprun.run(heuristics.GopherQuality, [[document(text, language="en")]], tmp_path)
    (example,) = counts.kept.items
    assert kept and (example["reason"], example["value"], example["threshold"]) == ("min_words", 54, 50)
    (kept,), _ = steprun.run(heuristics.GopherQuality, [[document("short")]], tmp_path, min_words=None, stop_words=None)
    assert kept


def test_languages_without_spaces_have_longer_runs_and_no_length_of_words(tmp_path):
    random = Random(seed_of("unspaced"))
    letters = [chr(0x4E00 + random.randrange(3000)) for _ in range(400)]
    again = "".join(letters[:300]) + "".join("".join(letters[place : place + 8]) + str(place) for place in range(0, 300, 8))
    for code, left in (("zh", 1), ("en", 0)):
        (kept,), counts = steprun.run(heuristics.GopherQuality, [[document("".join(letters), language=code)]], tmp_path,
            stop_words=None)
        assert len(kept) == left
        for step, given in ((heuristics.Repetition, {"line": None}), (heuristics.GopherRepetition, {})):
            (kept,), counts = steprun.run(step, [[document(again, language=code)]], tmp_path, **given)
            assert len(kept) == left, step.name


# ---- divergence


def test_divergence_is_the_textbook_one():
    corpus = divergence.count_words("the cat sat on the mat and the dog lay on the rug " * 50)
    counts = divergence.count_words("the cat and the dog")
    p = np.array([2, 1, 1, 1]) / 5
    q = (np.array([200, 50, 50, 50]) + 1) / (650 + divergence.CLASSES)
    assert divergence.divergence(counts, corpus) == pytest.approx(float(np.sum(p * np.log(p / q))) - 3 / 10)


def test_strange_words_go_by_language(tmp_path, monkeypatch):
    """However the documents are spread over tasks; German is no strange English, as it has a corpus of its own."""
    monkeypatch.setattr(divergence, "CLASSES", 1 << 12)  # so that a small corpus fills them
    random = Random(seed_of("divergence"))
    given = [document("\n".join(texts.paragraph(random, language) for _ in range(6)), n, language=language)
             for n, language in enumerate((["en"] * 49 + ["de"]) * 6)]  # fmt: skip
    given += [document("\n".join(texts.gibberish(random) for _ in range(4)), 300, language="en"),
        document("zyx qwv", 301, language="en")]
    random.shuffle(given)
    outcomes = []
    for tasks in (1, 3):
        kept, counts = steprun.run(divergence.Divergence, steprun.spread(given, tasks, random), tmp_path / str(tasks),
            least_corpus=500, most=3)
        outcomes.append([each.id for part in kept for each in part])
        assert counts.reasons == {"words unlike the corpus'": 1}
    assert outcomes[0] == outcomes[1] == [each.id for each in given if each.id != "id300"]
    kept, _ = steprun.run(divergence.Divergence, [given], tmp_path / "small", least_corpus=10**9)
    assert len(kept[0]) == len(given)
