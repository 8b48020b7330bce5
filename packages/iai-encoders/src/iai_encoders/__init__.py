"""Encoders of sets and sequences of tokens to memories that queries read, and of tables."""

from iai_encoders.interfaces import (
    Association,
    LowerMemory,
    Memory,
    MemoryEncoder,
    RunningEncoder,
    SequenceEncoder,
    SetEncoder,
    TableEncoder,
    TracingMemory,
)
from iai_encoders.memories.causal_transformer import CausalTransformer
from iai_encoders.memories.linear_attention import LinearAttention
from iai_encoders.memories.memory_transformer import AssociativeMemory, MemoryTransformer
from iai_encoders.memories.ridge import Ridge
from iai_encoders.memory import TransformerMemory
from iai_encoders.sets.axial_transformer import AxialTransformer
from iai_encoders.sets.deep_set import DeepSet, DeepSetMemory
from iai_encoders.sets.running_transformer import RunningMemory, RunningTransformer
from iai_encoders.sets.set_transformer import SetTransformer

__all__ = [
    "Association",
    "AssociativeMemory",
    "AxialTransformer",
    "CausalTransformer",
    "DeepSet",
    "DeepSetMemory",
    "LinearAttention",
    "LowerMemory",
    "Memory",
    "MemoryEncoder",
    "MemoryTransformer",
    "Ridge",
    "RunningEncoder",
    "RunningMemory",
    "RunningTransformer",
    "SequenceEncoder",
    "SetEncoder",
    "SetTransformer",
    "TableEncoder",
    "TracingMemory",
    "TransformerMemory",
]
