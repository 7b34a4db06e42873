"""Convolutions of tensors that lie on several ranks, on torch.distributed and its DTensors."""
