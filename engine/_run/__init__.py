"""One run of a flow, from the inside: what is ready, what follows from a state, and who starts it.

The decisions (`ledger`, `rules`, `mapping`, `release`, `restart`) are functions of facts; the `drive` acts on them.
"""
