"""Runs average_llama3 and merge_lora as a user does."""

import subprocess

import checkpoints
import llmc
from hfmodels import load


class Tool:
    def __init__(self, name, mark):
        self.name, self.mark, self.path = name, mark, next(iter(llmc.build_folders().values())) / name

    def run(self, output, *arguments, more=()):
        return subprocess.run([self.path, "--output", output, *map(str, [*arguments, *more])], capture_output=True, text=True, timeout=600)

    def make(self, output, *arguments, more=()):
        """The tensors of the model that it wrote."""
        done = self.run(output, *arguments, more=more)
        assert done.returncode == 0, done.stderr
        assert not list(output.parent.glob("*.tmp"))
        assert (output / self.mark).exists()
        return load(output)

    def refused(self, *words, output, arguments, more=(), code=2):
        """One line that has all the words; the output stays as it was, and nothing is left beside it."""
        before = checkpoints.files(output) if output.exists() else None
        done = self.run(output, *arguments, more=more)
        assert done.returncode == code and done.stdout.count("written") == 0, (done.returncode, done.stderr)
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith(f"{self.name}: "), done.stderr
        for word in words:
            assert str(word) in lines[0], (word, lines[0])
        assert (checkpoints.files(output) if output.exists() else None) == before
        assert not list(output.parent.glob("*.tmp"))


class MergeTool(Tool):
    def run(self, output, adapter, *arguments, more=()):
        return super().run(output, "--adapter", adapter, *arguments, more=more)

    def refused(self, *words, output, adapter, more=(), code=2):
        super().refused(*words, output=output, arguments=[adapter], more=more, code=code)


AVERAGE = Tool("average_llama3", "average.json")
MERGE = MergeTool("merge_lora", "merge.json")
