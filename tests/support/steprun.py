"""Steps of curation, run on documents in memory as a run would: all tasks collect, then decide."""

from curate.counts import Counts
from curate.documents import DocumentReader
from curate.step import Barrier, Context
from curate.settings import schema
from datatrove.data import Document


def document(text, number=0, **metadata):
    return Document(text=text, id=f"id{number}", metadata=metadata)


def settings_of(step, **given):
    """With the defaults of the step's schema."""
    members = schema()["properties"]["steps"]["properties"][step.name]["properties"]
    return {name: member["default"] for name, member in members.items() if "default" in member} | given


def collect(barrier, tasks):
    for rank, documents in enumerate(tasks):
        list(barrier.collect().run(iter(documents), rank, len(tasks)) or ())


def run_between(barrier):
    for each in barrier.between():
        for rank in range(each.tasks):
            for step in each.pipeline:
                list(step.run(None, rank, each.tasks) or ())


def filtered(make, tasks):
    """(documents that stay, by task; counts of all tasks). `make()` is a filter for one task."""
    kept, counts = [], Counts()
    for rank, documents in enumerate(tasks):
        step = make()
        kept.append(list(step.run(iter(documents), rank, len(tasks))))
        counts.merge(step.counts)
    return kept, counts


def run(step, tasks, folder, left_out=(), **given):
    """The same for a step of either kind; `folder` is its folder. `left_out`: documents, by id, at which a later process dies."""
    context, settings = Context(folder, len(tasks), document_seconds=600), settings_of(step, **given)
    if not issubclass(step, Barrier):
        return filtered(lambda: step(settings, context), tasks)
    collect(step(settings, context), tasks)
    run_between(step(settings, context))
    for documents in tasks:
        for place, each in enumerate(documents):
            each.metadata[DocumentReader.PLACE] = place
    read = [[each for each in documents if each.id not in left_out] for documents in tasks]
    return filtered(step(settings, context).decide, read)


def spread(documents, tasks, random):
    """The documents in their order, cut into so many tasks at random; some may be empty."""
    cuts = sorted(random.choices(range(len(documents) + 1), k=tasks - 1))
    return [documents[first:last] for first, last in zip([0, *cuts], [*cuts, len(documents)])]
