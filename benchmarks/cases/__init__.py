"""What is measured: layers of real networks, grids, and one case of them."""
