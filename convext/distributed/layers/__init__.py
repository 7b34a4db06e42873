"""Layers that take DTensors, and which class each layer of a model gets."""
