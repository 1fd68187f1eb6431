# shellcheck shell=bash disable=SC2034  # tpu/pod reads these
# What tpu/pod needs to know: the one file to edit. Fill in what is empty.

PROJECT=""                    # as in `gcloud projects list`
ZONE=""                       # one that has the accelerator, such as us-west4-a
BUCKET=""                     # gs://NAME, in the same region; the run lives in BUCKET/NAME
NAME="wsdjax"                 # of the request, of the TPU and of the run: a-z, 0-9 and -

ACCELERATOR="v5litepod-16"    # v5litepod-256, v6e-16, v5p-32, v4-32, v3-256, ...
RUNTIME="v2-alpha-tpuv5-lite" # v6e: v2-alpha-tpuv6e, v5p: v2-alpha-tpuv5, v4 and older: tpu-ubuntu2204-base
SPOT=true                     # cheaper, and may be taken away at any time; else on demand
CREATE_FLAGS=()               # further flags of `queued-resources create`, such as --reserved

REVISION="HEAD"               # the commit that runs; what is not committed stays behind
DATA=""                       # gs://..., copied into data/ of every host: text that was prepared; may be empty

CONFIG="experiments/configs/lm_pythia160m.py"
FLAGS=()                      # such as --config.accumulate=8 '--config.tree.decay.steps=10%'

POLL_SECONDS=60               # how often watch looks
COPY_SECONDS=60               # how often the rows of metrics go to the bucket; less than between two checkpoints
