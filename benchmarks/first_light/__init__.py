"""Steps of first_light.sh, the first run on a GPU, that nothing else needs."""
