"""torch and transformers, told to keep to this machine and to be quiet before they are read.

All rooms that use them take them from here, since both read what they are told in the environment once.
"""

from __future__ import annotations

import logging
import os

__all__ = ["ContinuousBatchingConfig", "OutputRouter", "torch", "transformers"]

os.environ.update({"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"})
# Nothing in them asks a network: workers.hub_download does, where the operator allows it.

import torch  # see above
import transformers
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.generation.continuous_batching.continuous_api import OutputRouter

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
logging.getLogger("ContinuousBatchingLogger").setLevel(logging.CRITICAL)  # what it says, its errors say too
