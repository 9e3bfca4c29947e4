"""The table of a cache's pages against a plain model of it: who holds what, what is kept, which page is taken next."""

import ctypes
import random

import pytest

import llmc
from model import Error
from seeds import how_often

TOKENS = 64  # of a page


class Pages:
    def __init__(self, count):
        self.lib, self.handle = llmc.load(next(iter(llmc.build_folders()))), ctypes.c_void_p()
        assert self.lib.pages_create(ctypes.byref(self.handle), count, None) == 0

    def __del__(self):
        self.lib.pages_destroy(self.handle)

    def __getattr__(self, name):
        """take(), hold(page) ... of pages.h"""
        return lambda *arguments: getattr(self.lib, "pages_" + name)(self.handle, *arguments)

    def keep(self, page, prefix, tokens):
        return self.lib.pages_keep(self.handle, page, prefix, tokens)

    def find(self, prefix, tokens):
        """(page, number of the longer prefix)"""
        number = ctypes.c_uint64(prefix)
        return self.lib.pages_find(self.handle, ctypes.byref(number), tokens), number.value


class Plain:
    """The same with lists. Free pages stand in the order in which they are taken."""

    def __init__(self, count):
        self.free, self.holders, self.kept, self.of = list(range(count)), [0] * count, {}, {}

    def take(self):
        if not self.free:
            return -1
        page = self.free.pop(0)
        if page in self.of:
            del self.kept[self.of.pop(page)]
        self.holders[page] = 1
        return page

    def hold(self, page):
        if page in self.free:
            self.free.remove(page)
        self.holders[page] += 1

    def drop(self, page):
        self.holders[page] -= 1
        if self.holders[page] == 0:
            self.free.insert(len(self.free) if page in self.of else 0, page)

    def keep(self, page, prefix, text, number):
        """number: what pages_keep gave"""
        if (prefix, text) not in self.kept:
            self.kept[prefix, text] = page, number
            self.of[page] = prefix, text
        return self.kept[prefix, text][1]

    def find(self, prefix, text):
        if (prefix, text) not in self.kept:
            return -1, prefix
        page, number = self.kept[prefix, text]
        self.hold(page)
        return page, number


def tokens_of(text):
    """Different pages that begin alike and end alike, so that all of a page counts."""
    tokens = [7] * TOKENS
    tokens[text % TOKENS] = text + 100
    return (ctypes.c_int32 * TOKENS)(*tokens)


@pytest.mark.checked
@pytest.mark.parametrize("count", [1, 2, 13, 64])
def test_against_lists(count):
    pages, plain, held, prefixes = Pages(count), Plain(count), [], [0]
    for _ in range(how_often(3000, 100000)):
        kind, text, prefix = random.randrange(5), random.randrange(40), random.choice(prefixes)
        if kind == 0:
            page = pages.take()
            assert page == plain.take()
            held += [page] if page >= 0 else []
        elif kind == 1 and held:
            page = random.choice(held)
            pages.hold(page), plain.hold(page), held.append(page)
        elif kind == 2 and held:
            page = held.pop(random.randrange(len(held)))
            pages.drop(page), plain.drop(page)
        elif kind == 3 and held:
            page = random.choice(held)
            if page in plain.of:  # it has its tokens
                continue
            number = pages.keep(page, prefix, tokens_of(text))
            assert number == plain.keep(page, prefix, text, number) and number > 0
            prefixes = [0, *prefixes[-5:], number]
        elif kind == 4:
            found = pages.find(prefix, tokens_of(text))
            assert found == plain.find(prefix, text)
            held += [found[0]] if found[0] >= 0 else []
        assert pages.free() == len(plain.free) and pages.count() == count
        assert pages.shared() == sum(holders > 1 for holders in plain.holders)


def test_refused():
    lib, handle, error = llmc.load(next(iter(llmc.build_folders()))), ctypes.c_void_p(), Error()
    for count in (0, -1, 1 << 40):
        assert lib.pages_create(ctypes.byref(handle), count, ctypes.byref(error)) == 2
        assert error.message.decode().startswith(f"a cache of {count} pages, expected 1 to ")
