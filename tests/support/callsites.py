"""Where a program or library calls functions of the CUDA runtime that synchronise, so that a test can take each away.

    for site in callsites.of(library): ...      # .function, .place as "llmc/model/zero.c:120", .skip for LLMC_HOST_SKIP, .line as it is written
"""

import collections
import dataclasses
import re
import subprocess

from checkout import ROOT

SYNCHRONISING = "cudaStreamWaitEvent cudaEventRecord cudaStreamSynchronize cudaEventSynchronize cudaDeviceSynchronize cudaMemcpy".split()
FOREIGN = "_ZN14cudnn_frontend"  # compiled in from a library's headers
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+(call|jmp)?[^<]*(?:<([\w@]+)>)?")


@dataclasses.dataclass(frozen=True)
class Site:
    function: str  # that is called
    place: str
    caller: str
    skip: str  # offsets behind the calls; there are several where the line was inlined

    @property
    def line(self):
        path, number = self.place.split(":")
        return (ROOT / path).read_text().splitlines()[int(number) - 1].strip()

    def __str__(self):
        return f"{self.place} {self.function}"


def calls(binary, functions):
    """[(offset of the call, offset behind it, function)]"""
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", binary], capture_output=True, text=True, check=True).stdout
    found, pending = [], None
    for line in text.splitlines():
        instruction = INSTRUCTION.match(line)
        if not instruction:
            continue
        address, kind, name = instruction.groups()
        if pending:
            found.append((pending[0], address, pending[1]))
            pending = None
        name = (name or "").removesuffix("@plt")
        if kind and name in functions:
            assert kind == "call", f"{binary}: a jump to {name} at {address}: its caller cannot be told"
            pending = address, name
    return found


def in_tree(place):
    """Without the folder of the checkout, which may be another one's whose objects a compiler cache gave."""
    parts = place.split("/")
    suffixes = ("/".join(parts[i:]) for i in range(1 if place.startswith("/") else 0, len(parts)))
    return next((s for s in suffixes if (ROOT / s.split(":")[0]).is_file()), place)


def of(binary, functions=SYNCHRONISING, outside=("llmc/cpu/", "dev/standins/")):
    """The sites outside those folders, ordered by place."""
    found = calls(binary, functions)
    lines = subprocess.run(["addr2line", "-f", "-e", binary], input="\n".join(call for call, _, _ in found),
                           capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    sites = collections.defaultdict(list)
    for (_, behind, function), caller, place in zip(found, lines[::2], lines[1::2]):
        place = in_tree(place.split(" (")[0])
        assert "?" not in place or caller.startswith(FOREIGN), f"{binary}: no line is known for a call in {caller}"
        if "?" not in place and not place.startswith(outside):
            sites[function, place, caller].append(f"0x{behind}")
    return sorted((Site(*key, ",".join(offsets)) for key, offsets in sites.items()), key=lambda s: (s.place.split(":")[0], int(s.place.split(":")[1])))
