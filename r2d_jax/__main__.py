"""`python -m r2d_jax`, the `r2d` command; in: arguments, out: as `r2d_jax.cli.main`."""

from r2d_jax.cli import main

if __name__ == "__main__":
    main()
