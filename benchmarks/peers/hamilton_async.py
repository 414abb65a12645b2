"""Apache Hamilton's async driver: a node for each task, the graph built before, telemetry off. It has no
mapping for async functions (a node for each element instead), and keeps no states.
"""

from _peer import MODULUS, NAP, TEN_KB, layer_plan, main
from hamilton import ad_hoc_utils, async_driver, telemetry

telemetry.disable_telemetry()


def module(workload, size):
    """Return a module with a function for each node, the last one named `answer`."""
    lines = ["import asyncio", f"TEN_KB = {TEN_KB!r}"]

    def node(name, upstream, body, kind="int", taken="int", before=""):
        parameters = ", ".join(f"{one}: {taken}" for one in upstream)
        lines.append(f"async def {name}({parameters}) -> {kind}:\n    {before}\n    return {body}\n")

    if workload == "chain":
        node("n0", [], "1")
        for number in range(1, size):
            node(f"n{number}", [f"n{number - 1}"], f"n{number - 1} + 1")
        node("answer", [f"n{size - 1}"], f"n{size - 1}")
    elif workload == "layers":
        names = [f"n0_{number}" for number in range(len(layer_plan(size)[0]))]
        for number, name in enumerate(names):
            node(name, [], str(number))
        for depth, plan in enumerate(layer_plan(size), 1):
            made = []
            for number, upstream in enumerate(plan):
                made.append(f"n{depth}_{number}")
                chosen = [names[one] for one in upstream]
                node(made[-1], chosen, f"({' + '.join(chosen)}) % {MODULUS}")
            names = made
        node("answer", names, f"sum([{', '.join(names)}])")
    elif workload == "two-maps":
        for number in range(size // 2):
            node(f"a{number}", [], f"{number} + 1")
            node(f"b{number}", [f"a{number}"], f"a{number} + 1")
        names = [f"b{number}" for number in range(size // 2)]
        node("answer", names, f"sum([{', '.join(names)}])")
    elif workload == "diamond":
        node("source", [], "TEN_KB", kind="bytes")
        names = [f"n{number}" for number in range(size)]
        for name in names:
            node(name, ["source"], "source[::-1]", kind="bytes", taken="bytes")
        node("answer", names, f"sum(map(len, [{', '.join(names)}]))", taken="bytes")
    elif workload == "sleepers":
        names = [f"n{number}" for number in range(size)]
        for name in names:
            node(name, [], "1", before=f"await asyncio.sleep({NAP})")
        node("answer", names, f"sum([{', '.join(names)}])")
    else:
        names = [f"n{number}" for number in range(size)]
        for number, name in enumerate(names):
            node(name, [], str(number))
        node("answer", names, f"sum([{', '.join(names)}])")
    return ad_hoc_utils.module_from_source("\n".join(lines))


async def prepare(workload, size):
    driver = await async_driver.Builder().with_modules(module(workload, size)).build()

    async def run():
        return (await driver.execute(["answer"]))["answer"]

    return run


if __name__ == "__main__":
    main("apache-hamilton", prepare)
