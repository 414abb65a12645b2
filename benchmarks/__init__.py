"""The benchmarks: one module per claim, each measured against a named baseline in the same run.

``python -m benchmarks`` runs them all in their quick sizes; ``python -m benchmarks --help`` says what else there is.
"""
