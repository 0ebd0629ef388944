"""The `coconut` program from Python: run it, and read what it leaves.

    import coconut_latent as coconut

    coconut.run("train", "mine.yaml", set={"seed": 1})
    run = coconut.Run("runs/mine")
    run.metrics()                                   # a pandas data frame
    coconut.run("generate", run.latest, prompt="3+5*2-7+1", thoughts=True)
    coconut.thoughts(run.latest, "test.json").thoughts      # numpy, [questions, latents, d_model]

Importing this needs nothing beside Python; data frames need pandas, arrays numpy (`pip install coconut-latent[data]`).
"""

from ._program import CoconutError, program, run
from ._runs import Run
from ._thoughts import Thoughts, read_thoughts, thoughts

__all__ = ["CoconutError", "Run", "Thoughts", "program", "read_thoughts", "run", "thoughts"]
