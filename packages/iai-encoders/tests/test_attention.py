import torch
from hypothesis import given
from hypothesis import strategies as st
from iai_encoders.attention import attend_memory_and_self


def draw(seed, num_queries, num_slots):
    generator = torch.Generator().manual_seed(seed)

    def randn(n):
        return torch.randn(2, 3, n, 4, generator=generator, dtype=torch.float64)

    own = [randn(num_queries) for _ in range(3)]
    memory = [randn(num_slots) for _ in range(2)]
    mask = torch.rand(2, num_slots, generator=generator) < 0.7
    return own[0], *memory, *own[1:], mask


def one_by_one(queries, keys, values, own_keys, own_values, mask):
    out = torch.empty_like(queries)
    num_tasks, num_heads, num_queries, key_dim = queries.shape
    for task in range(num_tasks):
        for head in range(num_heads):
            for m in range(num_queries):
                seen = (task, head, mask[task])
                slots = torch.cat([keys[seen], own_keys[task, head, m, None]])
                contents = torch.cat([values[seen], own_values[task, head, m, None]])
                weights = (slots @ queries[task, head, m] / key_dim**0.5).exp()
                out[task, head, m] = weights @ contents / weights.sum()
    return out


# Up to two queries a slot go one way, and more the other.
@given(seed=st.integers(0, 2**32), num_queries=st.integers(0, 9), num_slots=st.integers(0, 5))
def test_each_query_sees_the_memory_and_itself(seed, num_queries, num_slots):
    arguments = draw(seed, num_queries, num_slots)
    torch.testing.assert_close(
        attend_memory_and_self(*arguments), one_by_one(*arguments), rtol=1e-12, atol=1e-12
    )


def test_the_two_ways_have_the_same_gradients():
    *tensors, mask = draw(0, num_queries=6, num_slots=3)
    queries, keys, values, own_keys, own_values = (leaf.requires_grad_() for leaf in tensors)
    joined = attend_memory_and_self(queries, keys, values, own_keys, own_values, mask)
    apart = attend_memory_and_self(  # the same queries in company that makes them too many
        *(
            leaf if leaf is keys or leaf is values else torch.cat([leaf, leaf.detach()], 2)
            for leaf in (queries, keys, values, own_keys, own_values)
        ),
        mask,
    )[:, :, :6]
    weights = torch.randn(joined.shape, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(
        torch.autograd.grad((joined * weights).sum(), tensors),
        torch.autograd.grad((apart * weights).sum(), tensors),
        rtol=1e-10,
        atol=1e-12,
    )
