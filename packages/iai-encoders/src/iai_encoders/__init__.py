"""Encoders of sets and sequences of tokens to memories that queries read, and of tables."""

from iai_encoders.interfaces import Memory, SequenceEncoder, SetEncoder, TableEncoder
from iai_encoders.memories.causal_transformer import CausalTransformer
from iai_encoders.memory import TransformerMemory
from iai_encoders.sets.axial_transformer import AxialTransformer
from iai_encoders.sets.deep_set import DeepSet, DeepSetMemory
from iai_encoders.sets.set_transformer import SetTransformer

__all__ = [
    "AxialTransformer",
    "CausalTransformer",
    "DeepSet",
    "DeepSetMemory",
    "Memory",
    "SequenceEncoder",
    "SetEncoder",
    "SetTransformer",
    "TableEncoder",
    "TransformerMemory",
]
