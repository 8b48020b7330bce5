"""A soft prompt of a Transformer that learns in context: a few tokens in place of examples."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iai_regimes.check import check_role, check_sizes
from iai_regimes.example_embedding import ExampleEmbedding
from iai_regimes.interfaces import RunningEncoder
from iai_regimes.precision import as_module, as_weights


class SoftPrompt(nn.Module):
    """An in-context learner that reads `num_tokens` free tokens where it would read examples.

        outputs = head(read(question(x), encode(prompt)))

    As an example, a token of the prompt has a question and what it tells: two vectors, whose sum it
    is (one, where examples have no targets).

    The encoder, the embedding and the head are those of a trained `RunningAttention`. Freeze them
    (`regime.requires_grad_(False)`), and adapt the prompt alone, by any rule:
    `Predictor(SoftPrompt(...), adapt=["prompt"])`. The prompt then holds what the examples of a
    task would tell the learner, in the same few numbers for any number of examples.

    It starts as examples of random inputs, x ~ N(0, 1), each feature of a target (each class) in
    turn: so the learner meets what it was trained on. From tokens that mean nothing to it, tuning
    takes many times as many steps.

    Args:
        encoder: Reads tokens, as in the trained regime.
        embed: Makes the token of a question, as in the trained regime.
        head: Makes outputs of what is read, as in the trained regime.
        num_tokens: Tokens of the prompt.

    Raises:
        ValueError: If `num_tokens` is below 1.
        TypeError: If `encoder` lacks a member of its role.

    Source:
        Lester et al. (2021), arXiv 2104.08691: tokens of a frozen language model are tuned. Feuer
        et al. (2024), arXiv 2402.11137: the same for a prior-fitted network, in place of examples.
    """

    def __init__(
        self, encoder: RunningEncoder, embed: ExampleEmbedding, head: nn.Module, *, num_tokens: int
    ) -> None:
        super().__init__()
        check_role(RunningEncoder, encoder=encoder)
        check_sizes(num_tokens=num_tokens)
        self.encoder, self.embed, self.head = encoder, embed, head
        with torch.no_grad():
            x = torch.randn(num_tokens, embed.x_dim).to(next(embed.inputs.parameters()))
            parts = [embed.inputs(x)]
            if embed.target is not None:
                columns = embed.target.weight.mT
                parts.append(columns[torch.arange(num_tokens) % len(columns)])
            self.prompt = nn.Parameter(torch.stack(parts, 1))  # token part dim

    def forward(self, x: Float[Tensor, "n *x_shape"]) -> Float[Tensor, "n num_outputs"]:
        """Outputs of one task at its inputs; gradients of any order flow."""
        queries = as_module(self.embed.questions(x[None]), self.encoder)
        questions, *told = as_weights(self.prompt, queries)[None].unbind(2)
        mask = torch.ones(questions.shape[:2], dtype=torch.bool, device=x.device)
        minibatch = self.encoder.encode(
            sum(told, questions), questions=questions if told else None, mask=mask
        )
        answers, _ = self.encoder.read(queries, minibatch, self.encoder.start(1, len(x)))
        outputs: Tensor = self.head(as_module(answers, self.head))[0]
        return outputs
