"""torch and transformers, told to keep to this machine and to be quiet before they are read.

All rooms that use them take them from here, since both read what they are told in the environment once. They
have no types here: only the engine's own environment holds them.
"""

from __future__ import annotations

import logging
import os
from typing import Any, Final

__all__ = ["continuous_batching_config", "output_router", "torch", "transformers"]

os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"})
# Nothing in them asks a network: workers.hub_download does, where the operator allows it.

import torch as _torch
import transformers as _transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

torch: Final[Any] = _torch
transformers: Final[Any] = _transformers
continuous_batching_config: Final[Any] = ContinuousBatchingConfig
output_router: Final[Any] = OutputRouter

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # what it says, its errors say too
