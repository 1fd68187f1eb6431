"""Training of a tree: the loop, how it begins, what is checked before, and how a workdir grows."""

from wsdjax.trainer.growth import Trainer, fork, grow, resolved_in
from wsdjax.trainer.loop import Diverged, Stopped
from wsdjax.trainer.replay import replay
from wsdjax.trainer.watch import Progress, Watch
