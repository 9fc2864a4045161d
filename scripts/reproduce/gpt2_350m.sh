#!/bin/sh
# GPT-2 350M on 31 billion tokens of FineWeb, with the recipe of llm.c: 60,000 steps of 524,288 tokens.
# What should come out: a validation loss of 2.928 (data/curves/gpt2_350m_llmc.csv), on the first 10 x 2^20 validation tokens.
#
# The intended place is a GPU build. The run is 6 x 355e6 parameters x 31.5e9 tokens plus attention = 7.6e19 operations:
# 53 hours at 400 TFLOP/s, but 73 months on a CPU at a steady 0.4 TFLOP/s.
# Needs 64 GB of token shards:  sh scripts/get_corpus.sh fineweb100B --shards 320
#
# usage: sh scripts/reproduce/gpt2_350m.sh [--dry-run] [more options of ./train]
# BATCH_SIZE sets the sequences of a micro-batch (default 64): it changes memory and speed, not the recipe.
exec sh "$(dirname "$0")/llmc.sh" 350m fineweb100B 320 "$@"
