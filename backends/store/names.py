"""Names for flow runs that nobody has named."""

from __future__ import annotations

import random

__all__ = ["random_name"]

_ADJECTIVES = """
amber bold brisk calm civil clear coral crisp dapper eager fair fleet gentle glad golden hardy hasty honest humble
jolly keen kind lively loyal lucid mellow merry mighty modest neat nimble noble patient placid proud quick quiet
rapid ready robust rosy sage serene sharp silver sleek smart snug sober spry stately steady sunny swift tidy vivid
warm wise witty zesty
""".split()  # noqa: SIM905

_NOUNS = """
adder badger bear beaver bison bittern buzzard condor coyote crane curlew dingo dolphin eagle egret falcon ferret
finch fox gannet gecko gibbon heron hornet ibex ibis jackal jaguar kestrel kite koala lark lemur lynx magpie marmot
marten merlin mole moose newt ocelot orca oriole osprey otter owl panther petrel plover puffin puma quail raven
salmon seal shrew stoat swan tapir teal tern tiger toucan trout vole walrus weasel wren yak zebra
""".split()  # noqa: SIM905


def random_name() -> str:
    """Return two words, such as ``quiet-otter``; several runs may have the same."""
    return f"{random.choice(_ADJECTIVES)}-{random.choice(_NOUNS)}"  # noqa: S311
