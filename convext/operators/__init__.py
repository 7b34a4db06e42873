"""The faces as torch operators: schema, forward, fake, autograd, autocast, vmap. No kernel and no layer is here."""
