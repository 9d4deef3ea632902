"""What a network is told beside field and time, and what it does where nothing is told.

Fields are put beside the input; numbers and classes become vectors that are added to the embedding of the time. Each
part has a learned vector of its own for "not told", and the fields are zeros then, so that one network learns the law
under every condition and the law of all fields at once (classifier-free guidance: Ho & Salimans, 2022). A part is not
told in a row if the row's condition is not `present`, or if that part of the condition is missing.

Every parameter takes part in every call, told or not: a distributed run waits for the gradient of each of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from physdiff.condition import Condition, Given
from physdiff.grid import Grid
from physdiff.networks.embedding import ScalarEmbedding


class Conditioning(nn.Module):
    """Fields to put beside the input and a vector to add to the embedding, from a condition or its absence.

    Args:
        grid: Where the fields live.
        width: Length of the embedding.
        condition_channels: Channels of the condition's fields; 0 if there are none.
        scalars: How many numbers; 0 if there are none.
        classes: How many classes; 0 if there are none.

    Raises:
        ValueError: one of these is negative.
    """

    def __init__(self, grid: Grid, width: int, condition_channels: int = 0, scalars: int = 0, classes: int = 0) -> None:
        super().__init__()
        counts = {"condition_channels": condition_channels, "scalars": scalars, "classes": classes}
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"a network needs {name} of at least 0; got {count}.")
        self.fields = (condition_channels, *grid.shape)
        self.counts = counts
        told = {"fields": condition_channels, "scalars": scalars, "classes": classes}
        self.absent = nn.ParameterDict({part: _vector(width) for part, count in told.items() if count})
        self.scalar_embedding = ScalarEmbedding(width, scalars) if scalars else None
        self.class_embedding = nn.Embedding(classes, width, _weight=_vector(classes, width)) if classes else None

    def forward(self, x: Tensor, condition: Given | None) -> tuple[Tensor | None, Tensor | None]:
        """The two, for the rows of a batch.

        Args:
            x: The network's input, shape (batch, ...); its type and device are taken.
            condition: What is told; None is nothing.

        Returns:
            Fields, shape (batch, condition_channels, *grid), None without such channels; and a vector, shape
            (batch, width), None if the network takes no condition at all.

        Raises:
            ValueError: a part does not fit, or the network was built without it.
        """
        given = None if condition is None else Condition.of(condition)
        if given is not None:
            self._check(given, x.shape[0])
        present = torch.ones(x.shape[0], dtype=torch.bool, device=x.device)
        if given is not None and given.present is not None:
            present = given.present.to(x.device)
        vector: Tensor | None = None
        fields: Tensor | None = None
        for part, absent in self.absent.items():
            value = None if given is None else getattr(given, part)
            told = present if value is not None else torch.zeros_like(present)
            if part == "fields":
                fields = _where(told, x.new_zeros(x.shape[0], *self.fields) if value is None else value.to(x))
                embedded = torch.zeros_like(absent)
            elif part == "scalars":
                assert self.scalar_embedding is not None
                count = self.counts["scalars"]
                embedded = self.scalar_embedding(
                    _where(told, x.new_zeros(x.shape[0], count) if value is None else value.to(x))
                )
            else:
                assert self.class_embedding is not None
                index = torch.zeros_like(present, dtype=torch.int64) if value is None else value.to(x.device)
                embedded = self.class_embedding(_where(told, index))
            embedded = torch.where(told.unsqueeze(1), embedded, absent)
            vector = embedded if vector is None else vector + embedded
        return fields, vector

    def _check(self, given: Condition, batch: int) -> None:
        expected = {"fields": (batch, *self.fields), "scalars": (batch, self.counts["scalars"]), "classes": (batch,)}
        for part, shape in expected.items():
            value = getattr(given, part)
            if value is None:
                continue
            if part not in self.absent:
                option = "condition_channels" if part == "fields" else part
                raise ValueError(f"this network was built without {option}, but was given a condition by {part}.")
            if tuple(value.shape) != shape:
                raise ValueError(
                    f"this network expected the '{part}' of a condition of shape {shape}; got {tuple(value.shape)}."
                )
        # Where it would not make the device wait, nor break a compiled graph.
        if given.classes is not None and given.classes.device.type == "cpu" and not torch.compiler.is_compiling():
            lowest, highest = (int(bound) for bound in given.classes.aminmax()) if batch else (0, 0)
            if lowest < 0 or highest >= self.counts["classes"]:
                wrong = lowest if lowest < 0 else highest
                raise ValueError(f"this network knows the classes 0 to {self.counts['classes'] - 1}; got {wrong}.")


def _vector(*shape: int) -> nn.Parameter:
    """As large as an embedding is at the start."""
    return nn.Parameter(0.2 * torch.randn(shape))


def _where(told: Tensor, value: Tensor) -> Tensor:
    """Zeros in the rows that are not told, whatever stands there."""
    return torch.where(told.reshape(-1, *[1] * (value.ndim - 1)), value, torch.zeros_like(value))
