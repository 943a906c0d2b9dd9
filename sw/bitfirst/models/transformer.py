"""Transformers whose linear layers a device computes: Vaswani et al., "Attention is all you need" (NIPS 2017).

Scores and weighted sums of the attention are products of two activations; they stay on the host, with softmax and
layer norm. Sublayers with a shortcut may be skipped by sample (`blocks.Residual`).
"""

import math

import torch
from torch import nn
from torch.nn import functional

from ..blocks import Residual
from ..errors import UsageError


class Attention(nn.Module):
    """Of `heads` heads: queries of x [n, t, width], keys and values of `memory` [n, s, width], x itself if None."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"width = {width} is not a multiple of heads = {heads}")
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: torch.Tensor, memory: torch.Tensor | None = None) -> torch.Tensor:
        memory = x if memory is None else memory
        parts = self.query(x), self.key(memory), self.value(memory)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        p = self.dropout if self.training else 0.0
        y = functional.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=self.causal)
        return self.output(y.transpose(1, 2).flatten(2))


class FeedForward(nn.Sequential):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))


class Sublayer(Residual):
    """norm(x + body(x)): what comes last is the norm, as in the paper."""

    def __init__(self, body: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.body, self.norm, self.dropout = body, nn.LayerNorm(width), nn.Dropout(dropout)
        self.shortcut = nn.Sequential()

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.body(x))

    def join(self, residual: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return self.norm(residual + shortcut)


class CrossAttention(nn.Module):
    """norm(x + attention of x to memory)."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.body, self.norm = Attention(width, heads, False, dropout), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.dropout(self.body(x, memory)))


class Embedding(nn.Module):
    """Tokens int64 [n, t] to [n, t, width]: an embedding times sqrt(width), and sines of the places."""

    def __init__(self, vocabulary: int, width: int, dropout: float) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        width = self.table.embedding_dim
        places = torch.arange(tokens.shape[1], device=tokens.device)[:, None]
        rates = torch.exp(torch.arange(0, width, 2, device=tokens.device) * (-math.log(10_000.0) / width))
        sines = torch.stack(((places * rates).sin(), (places * rates).cos()), -1).flatten(1)[:, :width]
        return self.dropout(self.table(tokens) * math.sqrt(width) + sines)


def _classifier(embedding: Embedding) -> nn.Linear:
    """Of the embedding's own weights."""
    table = embedding.table
    linear = nn.Linear(table.embedding_dim, table.num_embeddings, bias=False)
    linear.weight = table.weight
    return linear


class Transformer(nn.Module):
    """Encoder and decoder, `layers` each; one table for both embeddings and the classifier."""

    def __init__(self, vocabulary: int, width: int, inner: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, dropout)

        def sublayer(body: nn.Module) -> Sublayer:
            return Sublayer(body, width, dropout)

        def attention(causal: bool) -> Sublayer:
            return sublayer(Attention(width, heads, causal, dropout))

        self.encoder = nn.Sequential()
        self.decoder = nn.ModuleList()
        for _ in range(layers):
            self.encoder.extend([attention(False), sublayer(FeedForward(width, inner))])
            across = CrossAttention(width, heads, dropout)
            self.decoder.extend([attention(True), across, sublayer(FeedForward(width, inner))])
        self.linear = _classifier(self.embedding)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [n, s] and [n, t] -> scores [n, t, vocabulary] of what follows each target token."""
        memory, x = self.encoder(self.embedding(source)), self.embedding(target)
        for layer in self.decoder:
            x = layer(x, memory) if isinstance(layer, CrossAttention) else layer(x)
        return self.linear(x)


class TextTransformer(nn.Module):
    """The decoder alone, for plain text."""

    def __init__(self, vocabulary: int, width: int, inner: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = Embedding(vocabulary, width, dropout)
        self.decoder = nn.Sequential()
        for _ in range(layers):
            bodies = Attention(width, heads, True, dropout), FeedForward(width, inner)
            self.decoder.extend(Sublayer(body, width, dropout) for body in bodies)
        self.linear = _classifier(self.embedding)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64 [n, t] -> scores [n, vocabulary, t] of what follows each token, as `cross_entropy` takes them."""
        return self.linear(self.decoder(self.embedding(tokens))).transpose(1, 2)


def transformer_base(vocabulary: int = 37_000) -> Transformer:
    """The paper's base model: 6 layers, width 512, 8 heads, inner width 2048, dropout 0.1. With its 37,000 tokens 63.1
    million parameters, where the paper rounds to 65.
    """
    return Transformer(vocabulary, 512, 2048, 8, 6, 0.1)


def transformer_small(vocabulary: int = 256) -> TextTransformer:
    """For plain text, byte by byte: 2 layers, width 64, 4 heads, inner width 256; 0.12 million parameters."""
    return TextTransformer(vocabulary, 64, 256, 4, 2, 0.0)
