"""Training a reward model from human preferences. Data flow from the top of this list to its end:

- `config`, `settings`, `recipes/`: what is asked, every setting with its default, from flags and TOML;
- `data/`, `prepare` (in memory), `prepare_stored` (on disk), `new_data` (a test): files to clean records in parts;
- `encoding`, `token_store`, `groups`, `examples`: records to token sequences, and to batches over a layout;
- `backbone`, `split_package`, `earlier_run`, `text_format`, `fidelity`, `pretrained_head`, `classifier_head`: what
  training begins with, and proof that it computes over blocks what it computes alone;
- `model`, `heads`, `attention`, `dense_attention`, `relative_attention`, `tiles`, `layers`, `adapters`, `freezing`: the
  module that gives the scores;
- `losses`, `objective`, `judgement_weights`, `length`: what is minimised;
- `trainer`, `step_figures`, `fit`, `checkpoint`, `resume`, `processes`, `sharding`, `precision`: the loop, its
  states, its processes;
- `evaluation/`: how good it is; `export/`: the bundle; `feedback/`: policies that learn from a server's scores;
- `pipeline`, `trained_runs`, `averaging`: the commands over a run's folder (`run_folder`); `commands`, `__main__`: the
  command line.
"""

import service  # noqa: F401  # it keeps ONNX Runtime, which the parity gate runs, from reporting its use
