"""The last samples of a signal, in a ring: a new sample takes the place of the oldest.

      ring   [reach, N, C]     | 8 | 9 | 2 | 3 | 4 | 5 | 6 | 7 |       reach 8, sample 10 comes
                                         ^ oldest                      3 taps 4 apart read 2, 6, 10

However far the taps reach back, one more sample reads one place a tap and writes one place.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Past:
    """What a stage remembers of its input [N, C, L]: the last `reach` samples, zeros before the first.

    The samples are copies without gradients: derivatives end at a chunk's beginning.
    """

    def __init__(self, samples: Tensor) -> None:
        """`samples` [N, C, reach], the oldest first."""
        with torch.inference_mode(False), torch.no_grad():  # a later step may be outside of inference mode
            self.ring = samples.new_empty(samples.shape[-1], *samples.shape[:-1])
            self.ring.copy_(samples.permute(2, 0, 1))
        self.reach = samples.shape[-1]
        self.oldest = 0
        self._places: list[Tensor] = []

    @staticmethod
    def of_zeros(like: Tensor, reach: int) -> Past:
        """The past of a signal that begins now, with the batch, channels, dtype and device of `like` [N, C, *]."""
        return Past(like.new_zeros(*like.shape[:-1], reach))

    @property
    def places(self) -> list[Tensor]:
        """Views [N, C, 1] of the ring, one a sample. Made once: a view costs as much as a copy of one sample."""
        if not self._places:
            self._places = [self.ring[i].unsqueeze(-1) for i in range(self.reach)]
        return self._places

    def since(self, start: int, count: int) -> Tensor:
        """`count` samples from the `start` oldest on, [N, C, count]."""
        begin = (self.oldest + start) % self.reach
        samples = self.ring[begin : begin + count]
        if begin + count > self.reach:
            samples = torch.cat((samples, self.ring[: begin + count - self.reach]))
        return samples.permute(1, 2, 0)

    def every(self, distance: int) -> list[Tensor]:
        """Each `distance`-th sample from the oldest on, [N, C, 1]."""
        places, oldest = self.places, self.oldest
        return places[oldest::distance] + places[oldest % distance : oldest : distance]

    def samples(self) -> Tensor:
        """All of it, [N, C, reach], the oldest first."""
        return torch.cat((self.ring[self.oldest :], self.ring[: self.oldest])).permute(1, 2, 0)

    def append(self, chunk: Tensor) -> None:
        """`chunk` [N, C, n] takes the place of the n oldest samples."""
        chunk, count = chunk.detach() if chunk.requires_grad else chunk, chunk.size(-1)
        if count == 1:
            self.places[self.oldest].copy_(chunk)
            self.oldest = (self.oldest + 1) % self.reach
        elif count >= self.reach:
            self.ring.copy_(chunk[..., count - self.reach :].permute(2, 0, 1))
            self.oldest = 0
        else:
            samples, whole = chunk.permute(2, 0, 1), min(count, self.reach - self.oldest)
            self.ring[self.oldest : self.oldest + whole].copy_(samples[:whole])
            self.ring[: count - whole].copy_(samples[whole:])
            self.oldest = (self.oldest + count) % self.reach
