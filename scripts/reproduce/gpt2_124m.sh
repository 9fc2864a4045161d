#!/bin/sh
# GPT-2 124M on 10 billion tokens of FineWeb, with the recipe of llm.c: 19,560 steps of 524,288 tokens.
# What should come out: a validation loss of 3.272 (data/curves/gpt2_124m_llmc.csv), on the first 10 x 2^20 validation tokens.
#
# The intended place is a GPU build. The run is 6 x 124e6 parameters x 10.3e9 tokens plus attention = 8.8e18 operations:
# 6 hours at 400 TFLOP/s, but 8 months on a CPU at a steady 0.4 TFLOP/s.
# Needs 21 GB of token shards:  sh scripts/get_corpus.sh fineweb10B --shards 103
#
# usage: sh scripts/reproduce/gpt2_124m.sh [--dry-run] [more options of ./train]
# BATCH_SIZE sets the sequences of a micro-batch (default 64): it changes memory and speed, not the recipe.
exec sh "$(dirname "$0")/llmc.sh" 124m fineweb10B 103 "$@"
