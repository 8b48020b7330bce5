"""Sets and sequences of tokens to memories, and reads from a memory."""

from iai_encoders.causal_transformer import CausalTransformer
from iai_encoders.deep_set import DeepSet, DeepSetMemory
from iai_encoders.interfaces import Memory, SequenceEncoder, SetEncoder
from iai_encoders.memory import TransformerMemory
from iai_encoders.set_transformer import SetTransformer

__all__ = [
    "CausalTransformer",
    "DeepSet",
    "DeepSetMemory",
    "Memory",
    "SequenceEncoder",
    "SetEncoder",
    "SetTransformer",
    "TransformerMemory",
]
