"""How good the model is, and how far that can be trusted.

`measure` scores what was held out and calls the others: `evaluate` gives the headline figures, `analysis` what the
report has beyond them (`slices`, `probes`, `best_of_n`, `disagreement`, `mistakes`), `report` the page. Under them,
`metrics`, `agreement` and `length_bias` are pure functions. `pair_table` keeps every pair with its scores, `compare`
tests two such tables, and `reward_benchmarks` scores files of RewardBench, RewardBench 2 and RM-Bench.
"""
