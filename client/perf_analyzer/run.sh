#!/bin/sh
# Latency and throughput of `generate` over gRPC, at one request at a time and at sixteen.
# Usage: client/perf_analyzer/run.sh [host:8001] [more options for perf_analyzer]
set -eu
here=$(dirname "$0")
url=${1:-localhost:8001}
[ $# -eq 0 ] || shift

for concurrency in 1 16; do
  "${PERF_ANALYZER:-perf_analyzer}" -m generate -i grpc -u "$url" --async \
    --input-data "$here/prompts.json" --concurrency-range $concurrency \
    --measurement-mode count_windows --measurement-request-count $((16 + 3 * concurrency)) \
    --stability-percentage 20 --percentile 95 "$@"
done
