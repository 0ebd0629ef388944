"""`python -m coconut_latent …` is `coconut …`."""

import os
import sys

from ._program import program


def main() -> None:
    path = str(program())
    os.execv(path, [path, *sys.argv[1:]])


if __name__ == "__main__":
    main()
