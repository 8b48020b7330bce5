"""Contract suites for anyone who writes an encoder: one call in a test.

Each suite draws tokens, compares results that the role says are equal, and raises AssertionError
with the sentence of the role that does not hold. It works in float64 on a copy of the encoder, in
evaluation mode, on the device of its parameters.
"""

from iai_encoders.testing.memory_encoder import check_memory_encoder
from iai_encoders.testing.running_encoder import check_running_encoder
from iai_encoders.testing.sequence_encoder import check_sequence_encoder
from iai_encoders.testing.set_encoder import check_set_encoder
from iai_encoders.testing.table_encoder import check_table_encoder

__all__ = [
    "check_memory_encoder",
    "check_running_encoder",
    "check_sequence_encoder",
    "check_set_encoder",
    "check_table_encoder",
]
